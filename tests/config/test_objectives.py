"""What objectives need of a model, and the keys of objectives in a run's identity."""

from __future__ import annotations

import pytest

from scaling.config import RunConfig, override, run_identity, validate
from scaling.errors import UserError

pytestmark = pytest.mark.quick

SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4, "context": 128, "vocab_size": 300}
ENCODER = SIZES | {"mode": "encoder-only"}
BOTH = SIZES | {"mode": "encoder-decoder"}
HEADS = {"next": ["masked_lm", "next_sentence"], "order": ["masked_lm", "sentence_order"],
         "boundary": ["masked_lm", "span_boundary"], "replaced": ["replaced_token"]}


def content(model, objective):
    return {"model": model, "data": {"store": "somewhere"}, "tokens": 1_000_000,
            "schedule": {"kind": "wsd", "warmup_steps": 20}, "objective": objective}


def headed(name, base=ENCODER):
    return base | {"heads": [{"kind": kind} for kind in HEADS[name]]}


FITTING = {
    "causal": (SIZES, {"kind": "causal"}),
    "prefix": (SIZES | {"attention": "prefix"}, {"kind": "prefix"}),
    "masked": (ENCODER, {"kind": "masked"}),
    "bert": (headed("next") | {"n_token_types": 2}, {"kind": "masked", "pairs": "next_sentence"}),
    "spanbert": (headed("boundary"), {"kind": "masked", "unit": "span", "span_boundary": True}),
    "ngrams": (headed("boundary"), {"kind": "masked", "unit": "ngram", "span_boundary": True}),
    "t5": (BOTH | {"source_context": 512, "context": 114}, {"kind": "span_corruption"}),
    "bart": (BOTH | {"source_context": 129}, {"kind": "denoising"}),
    "ul2": (BOTH, {"kind": "mixture"}),
    "electra": (headed("replaced"), {"kind": "replaced_tokens"}),
    "distillation": (ENCODER, {"kind": "distillation", "teacher": "runs/teacher"}),
}

WRONG = [
    # the model, the objective, the field, words of the message
    (ENCODER, {"kind": "causal"}, "objective.kind",
     ["causal trains decoder-only models", "encoder-only", "masked or replaced_tokens"]),
    (SIZES, {"kind": "masked"}, "objective.kind",
     ["trains encoder-only models", "choose causal or prefix"]),
    (SIZES, {"kind": "replaced_tokens"}, "objective.kind", ["choose causal or prefix"]),
    (SIZES, {"kind": "mixture"}, "objective.kind", ["trains encoder-decoder models"]),
    (ENCODER, {"kind": "denoising"}, "objective.kind", ["masked or replaced_tokens"]),
    (BOTH, {"kind": "prefix"}, "objective.kind", ["span_corruption or denoising or mixture"]),
    (ENCODER, {"kind": "replaced_tokens"}, "model.heads",
     ["needs the head replaced_token", "has masked_lm"]),
    (headed("replaced"), {"kind": "masked"}, "model.heads", ["needs the head masked_lm"]),
    (headed("replaced"), {"kind": "distillation", "teacher": "t"}, "model.heads",
     ["needs the head masked_lm"]),
    (SIZES, {"kind": "prefix"}, "model.attention", ["prefix and the objective prefix"]),
    (SIZES | {"attention": "prefix"}, {"kind": "causal"}, "model.attention", ["go together"]),
    (ENCODER, {"kind": "masked", "pairs": "next_sentence"}, "model.heads",
     ["objective.pairs = next_sentence", "the head next_sentence", "it has masked_lm"]),
    (headed("order") | {"n_token_types": 2}, {"kind": "masked", "pairs": "next_sentence"},
     "model.heads", ["the head next_sentence", "sentence_order"]),
    (headed("next") | {"n_token_types": 2}, {"kind": "masked"}, "model.heads",
     ["no head for pairs", "next_sentence"]),
    (headed("order"), {"kind": "masked", "pairs": "sentence_order"}, "model.n_token_types",
     ["0, and the two segments", "two types"]),
    (headed("order") | {"n_token_types": 1}, {"kind": "masked", "pairs": "sentence_order"},
     "model.n_token_types", ["is 1, and the two segments"]),
    (ENCODER, {"kind": "masked", "unit": "span", "span_boundary": True}, "objective.span_boundary",
     ["span_boundary and objective.span_boundary go together"]),
    (headed("boundary"), {"kind": "masked", "unit": "span"}, "objective.span_boundary",
     ["go together"]),
    (headed("boundary"), {"kind": "masked", "span_boundary": True}, "objective.unit",
     ["token has no spans", "span or ngram"]),
    (BOTH | {"source_context": 512, "context": 128}, {"kind": "span_corruption"}, "model.context",
     ["is 128, and 512 corrupted tokens have 114 targets", "set it to 114"]),
    (BOTH | {"source_context": 2, "context": 3}, {"kind": "span_corruption"}, "model.context",
     ["no room for text"]),
    (BOTH | {"source_context": 128}, {"kind": "denoising"}, "model.source_context",
     ["is 128, and the 128 targets", "to 129"]),
    (BOTH | {"context": 3}, {"kind": "mixture"}, "model.context", ["3 tokens have no room"]),
    (ENCODER | {"context": 3}, {"kind": "masked"}, "model.context", ["3 tokens have no room"]),
    (headed("replaced") | {"d_model": 4, "n_heads": 2},
     {"kind": "replaced_tokens", "generator_size": 0.1}, "objective.generator_size",
     ["0.1 of the width 4 rounds to zero", "larger fraction"]),
    (headed("replaced") | {"d_model": 12, "n_heads": 2}, {"kind": "replaced_tokens"},
     "objective.generator_size", ["0.25 gives a generator of width 3", "head of width 3"]),
    (ENCODER, {"kind": "masked", "mask_share": 0.8, "random_share": 0.3},
     "objective.random_share", ["0.3 and mask_share 0.8 add up to more than 1", "more than 1"]),
    (ENCODER, {"kind": "masked", "rate": 0}, "objective.rate", ["greater than 0"]),
    (ENCODER, {"kind": "masked", "rate": 1}, "objective.rate", ["less than 1"]),
    (BOTH, {"kind": "mixture", "denoisers": []}, "objective.denoisers",
     ["is empty", "at least one"]),
    (BOTH, {"kind": "mixture", "denoisers": [{"mode": "R", "rate": 0.1}]},
     "objective.denoisers.0.mean_span", ["mode R needs a number of at least 1"]),
    (BOTH, {"kind": "mixture", "denoisers": [{"mode": "S", "rate": 0.7}]},
     "objective.denoisers.0.rate",
     ["mode S removes at most half"]),
    (ENCODER, {"kind": "distillation"}, "objective.teacher", ["missing"]),
    (SIZES, {"kind": "casual"}, "objective", ["causal"]),
]


@pytest.mark.parametrize(("model", "objective", "field", "words"), WRONG)
def test_a_model_that_does_not_fit_the_objective_is_refused(model, objective, field, words):
    with pytest.raises(UserError) as error:
        validate(RunConfig, content(model, objective), "test")
    message = str(error.value)
    assert "\n" not in message, message
    for word in [field, *words]:
        assert word in message, message


@pytest.mark.parametrize("name", FITTING)
def test_models_that_fit_the_objective_are_accepted(name):
    run = validate(RunConfig, content(*FITTING[name]), "test")
    assert run.steps > 0


@pytest.mark.parametrize(("name", "text", "asked"), [
    ("causal", 128, 128),
    ("prefix", 128, 128),
    ("masked", 126, 19),      # <cls> and <sep>; 15% of 126 are 18.9
    ("bert", 125, 19),        # and one more <sep>
    ("t5", 568, 114),         # Raffel et al. 2020, the released code's lengths for 512
    ("bart", 127, 128),       # the targets end with eos
    ("electra", 126, 19),
])
def test_tokens_of_text_and_predictions_by_hand(name, text, asked):
    run = validate(RunConfig, content(*FITTING[name]), "test")
    assert (run.objective.text_tokens(run.model), run.sequence_tokens) == (text, text)
    assert run.objective.n_predictions(run.model) == asked
    assert run.trained_tokens == run.steps * run.batch_sequences * text


def test_the_generator_is_a_narrower_model_with_the_same_embeddings():
    run = validate(RunConfig, content(*FITTING["electra"]), "test")
    generator = run.objective.generator(run.model)
    assert (generator.d_model, generator.n_heads, generator.ff_width) == (16, 1, 64)
    assert generator.embedding_width == run.model.embedding_width == 64
    assert generator.head_width == run.model.head_width
    assert (generator.n_layers, generator.context, generator.vocab_size) == (2, 128, 300)
    assert [head.kind for head in generator.outputs] == ["masked_lm"]
    wide = headed("replaced") | {"d_head": 10, "n_kv_heads": 2}
    run = validate(RunConfig, content(wide, {"kind": "replaced_tokens", "generator_size": 0.5}),
                   "test")
    generator = run.objective.generator(run.model)
    assert (generator.n_heads, generator.kv_heads, generator.head_width) == (2, 2, 10)


def identity(name, *overrides):
    run = validate(RunConfig, override(content(*FITTING[name]), overrides), "test")
    return run_identity(run, "hash")


DEFAULTS = {
    "causal": ["separate_documents=false"],
    "masked": ["rate=0.15", "mask_share=0.8", "random_share=0.1", "unit=token",
               "span_boundary=false",
               "pairs=none", "static_masks=null"],
    "t5": ["rate=0.15", "mean_span=3"],
    "bart": ["noises=[permutation, infilling]", "rate=0.3", "mean_span=3.0"],
    "electra": ["rate=0.15", "generator_size=0.25", "weight=50"],
    "distillation": ["temperature=2", "soft_weight=5", "masked_weight=2", "cosine_weight=1",
                     "rate=0.15"],
}
CHANGES = {
    "causal": ["separate_documents=true"],
    "masked": ["rate=0.2", "mask_share=0.7", "random_share=0.2", "unit=word", "static_masks=10"],
    "bart": ["noises=[infilling]", "rate=0.4", "mean_span=2"],
    "electra": ["rate=0.25", "generator_size=0.5", "weight=20"],
    "ul2": ["denoisers=[{mode: S, rate: 0.25}]",
            "denoisers=[{mode: R, mean_span: 3, rate: 0.15, share: 2}, {mode: S, rate: 0.25}]",
            "denoisers=[{mode: R, mean_span: 3, rate: 0.15}, {mode: S, rate: 0.25}]"],
    "distillation": ["temperature=3", "soft_weight=4", "masked_weight=1", "cosine_weight=0",
                     "rate=0.2", "teacher_run=ab12"],
}


@pytest.mark.parametrize(("name", "default"), [(n, s) for n in DEFAULTS for s in DEFAULTS[n]])
def test_explicit_defaults_do_not_change_the_identity(name, default):
    assert identity(name, f"objective.{default}") == identity(name)


def test_every_option_of_an_objective_changes_the_identity():
    for name, changes in CHANGES.items():
        found = {identity(name), *(identity(name, f"objective.{change}") for change in changes)}
        assert len(found) == 1 + len(changes), name
    assert len({identity(name) for name in FITTING}) == len(FITTING)


def test_identity_has_the_teachers_run_not_its_path():
    assert identity("distillation", "objective.teacher=elsewhere") == identity("distillation")
    known = override(content(*FITTING["distillation"]), ["objective.teacher_run=ab12"])
    read = override(known, [])
    read["objective"]["teacher_model"] = ENCODER | {"n_layers": 4}
    assert len({run_identity(validate(RunConfig, each, "test"), "hash")
                for each in (known, read)}) == 1  # the teacher's run tells its model
    taught, other = (
        identity("distillation", f"objective.teacher_run={run}") for run in ("ab12", "cd34"))
    assert taught != other


T5 = {"preset": "t5/small", "d_model": 64, "n_layers": 2, "n_heads": 4, "d_head": None,
      "vocab_size": 300}


@pytest.mark.parametrize(("model", "objective", "lengths"), [
    (SIZES | {"context": None}, {"kind": "span_corruption"}, None),
    (T5 | {"source_context": 128}, {"kind": "span_corruption"}, (128, 29)),  # not T5's 114
    (T5 | {"source_context": 128}, {"kind": "span_corruption", "rate": 0.5}, (128, 128)),
    (T5, {"kind": "span_corruption"}, (512, 114)),
    (BOTH | {"context": None, "source_context": 512}, {"kind": "span_corruption"}, (512, 114)),
    (BOTH, {"kind": "denoising"}, (129, 128)),
    (BOTH | {"context": None, "source_context": 65}, {"kind": "denoising"}, (65, 64)),
])
def test_lengths_that_follow_from_the_objective_are_filled_in(model, objective, lengths):
    model = {key: value for key, value in model.items() if value is not None or key != "context"}
    if lengths is None:
        with pytest.raises(UserError, match=r"model\.context: missing"):
            validate(RunConfig, content(model, objective), "test")
        return
    run = validate(RunConfig, content(model, objective), "test")
    assert (run.model.source_length, run.model.context) == lengths
    explicit = model | dict(zip(("source_context", "context"), lengths, strict=True))
    same = validate(RunConfig, content(explicit, objective), "test")
    assert run_identity(same, "hash") == run_identity(run, "hash")


def test_a_target_length_in_place_of_the_source_s_is_explained():
    with pytest.raises(UserError) as caught:
        validate(RunConfig, content(BOTH, {"kind": "span_corruption"}), "test")
    assert "give the latter as model.source_context, and leave context out" in str(caught.value)
