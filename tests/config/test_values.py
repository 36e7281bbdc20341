"""What the values of a configuration give, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from scaling.config import (
    EVERYTHING,
    AdamW,
    Cosine,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    Lion,
    MeshConfig,
    ModelConfig,
    ParamSelection,
    RunConfig,
    SweepConfig,
    WarmupStableDecay,
    canonical_json,
    is_trained,
    override,
    semantic_model,
    sweep,
    validate,
)
from scaling.config.base import check_name
from scaling.config.explain import format_value
from scaling.config.grids import Cross, Cuts, IsoFlop, IsoLoss, Ladder, Points, Product, Ratio
from scaling.config.objectives import Denoising, Distillation, Masked
from scaling.config.objectives.base import length_of
from scaling.config.parts import ExpertsConfig, InitConfig
from scaling.config.presets import _nearest
from scaling.config.spans import UL2, max_suffix, mixture_lengths, mixture_text_length, span_lengths
from scaling.config.sweep import ConstantLearningRate, PowerLearningRate
from scaling.config.training import CheckpointConfig, LoggingConfig
from scaling.errors import UserError
from tests.config.test_objectives import BOTH, FITTING, content

pytestmark = pytest.mark.quick

SIZES: dict[str, Any] = {
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "context": 128,
    "vocab_size": 257,
}
ENCODER: dict[str, Any] = {"mode": "encoder-only"}

# Every key of a model: the keys that it needs beside it, two values, the first of them the default.
KEYS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "d_model": ({}, 64, 128),
    "n_layers": ({}, 4, 6),
    "n_heads": ({}, 4, 2),
    "d_head": ({}, 16, 8),
    "n_kv_heads": ({}, 4, 2),
    "d_ff": ({}, 256, 200),
    "d_embedding": ({}, 64, 32),
    "context": ({}, 128, 64),
    "vocab_size": ({}, 257, 300),
    "n_token_types": ({}, 0, 2),
    "n_encoder_layers": ({"mode": "encoder-decoder"}, 4, 2),
    "source_context": ({"mode": "encoder-decoder"}, 128, 100),
    "mode": ({}, "decoder-only", "encoder-decoder"),
    "attention": ({}, "causal", "prefix"),
    "attention_pattern": ({"window": 3}, "alternating", "local"),
    "window": ({"attention_pattern": "local"}, 3, 4),
    "positions": ({}, "rotary", "alibi"),
    "position_offset": ({"positions": "learned"}, 0, 2),
    "rotary_base": ({}, 10_000.0, 500.0),
    "rotary_fraction": ({}, 1.0, 0.5),
    "rotary_pairs": ({}, "halves", "adjacent"),
    "relative_buckets": ({"positions": "relative"}, 32, 16),
    "relative_max_distance": ({"positions": "relative"}, 128, 64),
    "norm": ({}, "rms", "layer"),
    "norm_epsilon": ({}, 1e-6, 1e-5),
    "norm_place": ({}, "pre", "post"),
    "final_norm": ({}, True, False),
    "embedding_norm": ({}, False, True),
    "activation": ({}, "gelu", "relu"),
    "parallel": ({}, "no", "one_norm"),
    "use_bias": ({}, False, True),
    "scale_attention": ({}, True, False),
    "experts": ({}, None, {"count": 2, "top_k": 2}),
    "share_layers": ({}, "none", "all"),
    "dropout": ({"attention_dropout": 0}, 0.0, 0.1),
    "attention_dropout": ({"dropout": 0.2}, 0.2, 0.1),
    "heads": ({}, [{"kind": "lm"}], [{"kind": "lm", "bias": True}]),
    "tied_head": ({}, True, False),
    "scale_embedding": ({}, True, False),
    "scale_output": ({}, False, True),
    "embedding_projection_bias": ({"d_embedding": 32}, False, True),
    "embedding_projection": ({"d_embedding": 32}, "last", "first"),
    "init": ({}, {}, {"std": 0.02}),
}
REQUIRED = {"attention_pattern", "window"}
"""Keys for which there is no default beside the others."""


def model(**changes: Any) -> ModelConfig:
    return validate(ModelConfig, SIZES | changes, "test")


def test_every_key_of_a_model_is_compared():
    assert set(KEYS) == set(ModelConfig.model_fields) - {"preset"}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_model_is_part_of_its_identity(key):
    beside, usual, other = KEYS[key]
    given, changed = (
        canonical_json(semantic_model(model(**beside | {key: value}))) for value in (usual, other)
    )
    assert given != changed
    if key not in REQUIRED | set(SIZES):
        assert canonical_json(semantic_model(model(**beside))) == given


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (
            {},
            {
                "head_width": 16,
                "kv_heads": 4,
                "ff_width": 256,
                "embedding_width": 64,
                "rotary_width": 16,
                "encoder_layers": 0,
                "decoder_layers": 4,
                "source_length": 128,
                "attention_mask": "causal",
                "has_final_norm": True,
                "attention_dropout_rate": 0,
                "has_pooler": False,
                "period": 1,
                "vocabulary": 257,
                "gated": False,
            },
        ),
        (
            {"d_head": 10, "n_kv_heads": 2, "d_ff": 7, "d_embedding": 6, "rotary_fraction": 0.5},
            # Half of ten dimensions are five, of which two pairs are rotated.
            {
                "head_width": 10,
                "kv_heads": 2,
                "ff_width": 7,
                "embedding_width": 6,
                "rotary_width": 4,
            },
        ),
        ({"activation": "geglu"}, {"ff_width": 176, "gated": True}),  # 8/3 x 64 = 170.7
        ({"activation": "swiglu", "d_model": 48}, {"ff_width": 128, "gated": True}),  # 128 exactly
        ({"norm_place": "post"}, {"has_final_norm": False}),
        ({"norm_place": "none"}, {"has_final_norm": False}),
        ({"norm_place": "none", "final_norm": True}, {"has_final_norm": True}),
        ({"final_norm": False}, {"has_final_norm": False}),
        ({"dropout": 0.3}, {"attention_dropout_rate": 0.3}),
        ({"dropout": 0.3, "attention_dropout": 0}, {"attention_dropout_rate": 0}),
        ({"attention_dropout": 0.2}, {"attention_dropout_rate": 0.2, "dropout": 0}),
        (
            {"mode": "encoder-decoder", "n_encoder_layers": 2, "source_context": 99},
            {
                "encoder_layers": 2,
                "decoder_layers": 4,
                "source_length": 99,
                "attention_mask": "causal",
            },
        ),
        (
            ENCODER | {"heads": [{"kind": "masked_lm"}, {"kind": "choice"}]},
            {
                "encoder_layers": 4,
                "decoder_layers": 0,
                "attention_mask": "full",
                "has_pooler": True,
            },
        ),
        (
            ENCODER | {"heads": [{"kind": "span"}, {"kind": "token", "classes": 3}]},
            {"has_pooler": False},
        ),
        (
            {
                "attention_pattern": "alternating",
                "window": 3,
                "n_layers": 6,
                "experts": {"count": 2, "every": 3},
            },
            {"period": 6},
        ),
        ({"attention_pattern": "local", "window": 3}, {"period": 1}),
    ],
)
def test_values_that_follow_from_others(values, found):
    config = model(**values)
    assert {name: getattr(config, name) for name in found} == found


def test_the_kinds_of_layers():
    alternating = model(
        attention_pattern="alternating", window=3, n_layers=6, experts={"count": 2, "every": 3}
    )
    # As in GPT-3 the first layer is dense; of experts every third layer is one.
    assert [alternating.is_local(layer) for layer in range(4)] == [False, True, False, True]
    assert [alternating.has_experts(layer) for layer in range(6)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert all(model(attention_pattern="local", window=3).is_local(layer) for layer in range(4))
    assert not any(model().is_local(layer) or model().has_experts(layer) for layer in range(4))


@pytest.mark.parametrize(
    ("mode", "head", "token"),
    [
        ("encoder-only", {"kind": "sequence", "classes": 2}, "first"),
        ("decoder-only", {"kind": "sequence", "classes": 2}, "last"),
        ("encoder-decoder", {"kind": "sequence", "classes": 2}, "last"),
        ("encoder-only", {"kind": "sequence", "classes": 2, "pool": "last"}, "last"),
        ("encoder-only", {"kind": "choice"}, "first"),
        ("decoder-only", {"kind": "choice"}, "last"),
        ("encoder-only", {"kind": "next_sentence"}, "first"),
        ("encoder-only", {"kind": "sentence_order"}, "first"),
        ("encoder-only", {"kind": "masked_lm"}, None),
        ("encoder-only", {"kind": "span"}, None),
        ("encoder-only", {"kind": "replaced_token"}, None),
        ("decoder-only", {"kind": "lm"}, None),
        ("decoder-only", {"kind": "token", "classes": 2}, None),
    ],
)
def test_the_token_that_a_head_reads(mode, head, token):
    config = model(mode=mode, heads=[head])
    assert config.pooling(config.outputs[0]) == token


@pytest.mark.parametrize(
    ("experts", "tokens", "slots"),
    [
        ({"count": 4}, 10, 4),  # 1.25 x 2.5 = 3.1
        ({"count": 4, "top_k": 2}, 10, 7),  # 1.25 x 5 = 6.25
        ({"count": 5, "capacity_factor": 1.0}, 10, 2),
        ({"count": 4, "capacity": 3}, 10, 3),
        ({"count": 4, "capacity": 30}, 10, 10),
        ({"count": 2, "capacity_factor": 9.0}, 10, 10),
    ],
)
def test_slots_of_an_expert(experts, tokens, slots):
    assert ExpertsConfig(**experts).slots(tokens) == slots


RUN = {"model": SIZES, "data": {"store": "s"}, "tokens": 100_000, "batch_sequences": 3}


def test_tokens_are_rounded_down_to_whole_batches():
    run = validate(RunConfig, RUN, "test")
    assert (run.sequence_tokens, run.batch_tokens, run.steps, run.trained_tokens) == (
        128,
        384,
        260,
        99_840,
    )
    for tokens, steps in ((99_840, 260), (99_839, 259), (100_223, 260)):
        assert validate(RunConfig, RUN | {"tokens": tokens}, "test").steps == steps


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.attention_dropout=0.1"], "blocked cannot drop attention weights (dropout 0.1)"),
        (["model.dropout=0.2"], "blocked cannot drop attention weights (dropout 0.2)"),
        (["model.positions=transformer_xl"], "blocked cannot compute the scores of transformer_xl"),
        (["model.dropout=0.2", "model.attention_dropout=0"], ""),
    ],
)
def test_what_a_blocked_kernel_cannot_compute_is_refused(changes, words):
    plain = override(RUN, changes)
    validate(RunConfig, plain, "test")
    blocked = override(plain, ["execution.attention=blocked"])
    if not words:
        validate(RunConfig, blocked, "test")
        return
    with pytest.raises(UserError) as caught:
        validate(RunConfig, blocked, "test")
    assert f"execution.attention: {words}" in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "n_layers", "chosen"),
    [
        ({"layers": "first 2"}, 5, {0, 1}),
        ({"layers": "last 2"}, 5, {3, 4}),
        ({"layers": "first 9"}, 3, {0, 1, 2}),
        ({"layers": "last 9"}, 3, {0, 1, 2}),
        ({"layers": "last 1"}, 1, {0}),
        ({"layers": [3, 0]}, 5, {0, 3}),
        ({}, 5, None),
    ],
)
def test_layers_that_are_chosen(selection, n_layers, chosen):
    assert ParamSelection(**selection).chosen_layers(n_layers) == chosen


def test_a_parameter_meets_every_criterion_of_some_selection():
    config = validate(ModelConfig, BOTH | {"n_layers": 3, "n_encoder_layers": 2}, "test")

    def trained(part, role, layer, *selections):
        return is_trained(tuple(ParamSelection(**s) for s in selections), config, part, role, layer)

    last = {"layers": "last 1"}  # of each side its own
    assert trained("decoder", "bias", 2, last)
    assert not trained("decoder", "bias", 1, last)
    assert trained("encoder", "bias", 1, last)
    assert not trained("decoder", "gain", None, last)
    assert not trained("head", "readout", None, last)
    both = {"parts": ["encoder"], "roles": ["bias"], "layers": [0]}
    assert trained("encoder", "bias", 0, both)
    for part, role, layer in (
        ("decoder", "bias", 0),
        ("encoder", "gain", 0),
        ("encoder", "bias", 1),
    ):
        assert not trained(part, role, layer, both)
        assert trained(part, role, layer, both, {"parts": [part], "roles": [role]})
    assert is_trained(EVERYTHING, config, "head", "bias", None)


def test_one_set_of_trained_parameters_is_one_value():
    def given(trainable):
        return validate(RunConfig, RUN | {"trainable": trainable}, "test").trainable

    assert given("all") == given({}) == given([{"parts": ["head"]}, {}]) == EVERYTHING
    assert given({"roles": ["hidden", "bias"]}) == given({"roles": ["bias", "hidden"]})
    assert given([{"parts": ["head"]}, {"parts": ["head"]}]) == given({"parts": ["head"]})
    assert given({"layers": [1, 0]}) == given({"layers": [0, 1]}) != given({"layers": "first 2"})


def test_the_longest_text_that_fits():
    """Of T5 and of UL2: with one token more, some source or target would be too long."""
    for inputs in (3, 10, 64, 129):
        for rate, mean in ((0.15, 3.0), (0.5, 3.0), (0.3, 1.0), (0.9, 8.0)):
            text, targets = span_lengths(inputs, rate, mean)

            def sides(length, rate=rate, mean=mean):
                noise = min(max(round(length * rate), 1), length - 1)
                spans = min(max(round(noise / mean), 1), noise, length - noise)
                return length - noise + spans + 1, noise + spans + 1

            fitting = [length for length in range(2, 40 * inputs) if sides(length)[0] <= inputs]
            assert text in (max(fitting), max(fitting) - (rate == 0.5))
            assert targets == sides(text)[1]
            assert rate != 0.5 or targets <= inputs
    # UL2's text of 20 tokens: of the suffix 2 x 5 - 1 = 9 are removed at most, and of the spans
    # half of 20 in spans of three; both sides have an eos, the source also a token of the mode.
    assert max_suffix(20, 0.25) == 9
    assert (max_suffix(2, 0.25), max_suffix(3, 0.5)) == (1, 2)
    assert mixture_lengths(20) == (20 + 2, 10 + 3 + 1)
    assert mixture_text_length(22, 14) == 20
    assert (mixture_text_length(21, 99), mixture_text_length(99, 14)) == (19, 21)
    assert mixture_lengths(40, UL2[:1]) == (40 - 6 + 2 + 2, 6 + 2 + 1)


@pytest.mark.parametrize(
    ("name", "roles", "sentinels", "needs"),
    [
        ("causal", (), 0, ()),
        ("prefix", (), 0, ()),
        ("masked", ("cls", "sep", "mask"), 0, ()),
        ("bert", ("cls", "sep", "mask", "pad"), 0, ("reads_documents",)),
        ("spanbert", ("cls", "sep", "mask"), 0, ("needs_word_starts",)),
        ("t5", ("pad",), 28, ()),  # 85 of 568 tokens, in spans of three
        ("bart", ("cls", "mask", "pad"), 0, ("needs_sentence_ends",)),
        # Half of the 128 - 2 tokens of a source in spans of three, and three modes.
        ("ul2", ("pad",), 21 + 3, ()),
        ("electra", ("cls", "sep", "mask"), 0, ()),
        ("distillation", ("cls", "sep", "mask"), 0, ("compares_hidden_states",)),
    ],
)
def test_what_an_objective_needs_of_the_text(name, roles, sentinels, needs):
    run = validate(RunConfig, content(*FITTING[name]), "test")
    assert run.objective.special_roles() == roles
    assert run.objective.n_sentinels(run.model) == sentinels
    found = {
        each
        for each in (
            "reads_documents",
            "needs_word_starts",
            "needs_sentence_ends",
            "compares_hidden_states",
        )
        if getattr(run.objective, each)
    }
    assert found == set(needs)


def test_objectives_that_need_less():
    assert not Distillation(teacher=Path("t"), cosine_weight=0).compares_hidden_states
    assert not Denoising(noises=("infilling", "masking")).needs_sentence_ends
    assert Denoising(noises=("permutation",)).needs_sentence_ends
    assert [Masked(unit=unit).needs_word_starts for unit in ("token", "word", "span", "ngram")] == [
        False,
        True,
        True,
        True,
    ]


AT = [{"rung": 0, "tokens": 1000}, {"rung": 1, "tokens": 1000}]


@pytest.mark.parametrize(
    ("grid", "points"),
    [
        (Product(kind="product", tokens=[1, 2, 3]), 5 * 3),
        (IsoFlop(kind="isoflop", budgets=[1e15, 1e16]), 5 * 2),
        (IsoLoss(kind="isoloss", losses=[3, 4], law="laws.json"), 5 * 2),
        (Ratio(kind="ratio", tokens_per_parameter=[20, 10, 5]), 5 * 3),
        (Cuts(kind="cuts", tokens=[1, 2, 3]), 5 + 3 + 5),  # all sizes, all tokens, the diagonal
        (Points(kind="points", at=AT), 2),
        (Cross(kind="cross", at=AT), 2),
        (Cross(kind="cross", at=AT, rate_factors=[0.5, 1, 2], batch_sequences=[8, 16]), 2 * 3 * 2),
    ],
)
def test_points_of_a_grid(grid, points):
    assert grid.max_points(5) == points


SWEEP = {
    "name": "s",
    "run": {"model": {"context": 128}, "data": {"store": "s"}},
    "sizes": [{"d_model": 16, "n_layers": 1, "n_heads": 2}],
    "learning_rate": 1e-3,
    "grids": [
        {"kind": "product", "tokens": [10**7, 2 * 10**7]},
        {"kind": "cuts", "tokens": [10**7]},
    ],
    "seeds": [0, 1],
    "vary": {"optimizer.b2": [0.9, 0.95, 0.99]},
    "heldout": [{"rung": 0, "tokens": 10**8}],
}


def test_the_most_runs_of_a_sweep(monkeypatch):
    runs = 3 * (2 * (2 + 3) + 1)  # held-out runs have one seed
    monkeypatch.setattr(sweep, "MAX_RUNS", runs)
    validate(SweepConfig, SWEEP, "test")
    monkeypatch.setattr(sweep, "MAX_RUNS", runs - 1)
    with pytest.raises(UserError, match=f"give {runs} runs, and a sweep has at most {runs - 1}"):
        validate(SweepConfig, SWEEP, "test")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["vary={model.dropout: [0, 0.0, false]}"], ""),  # three values, whatever equals what
        (["vary={model.dropout: [0, 0.0, 0]}"], "vary.model.dropout: lists 0 twice"),
        (["vary={model: [{}]}"], "vary.model: is set by the sweep's sizes"),
        (
            ["vary={optimizer: [{b1: 1}], optimizer.b2: [1]}"],
            "vary.optimizer: and vary.optimizer.b2 set the same key",
        ),
        (["vary={optimizer.b: [1], optimizer.b2: [1]}"], ""),
        (["vary={tokenss: [1]}"], ""),
        (["vary={batch_sequences: [8]}"], ""),
        (
            [
                "vary={batch_sequences: [8]}",
                "grids=[{kind: cross, at: [{rung: 0, tokens: 1e7}], batch_sequences: [4]}]",
            ],
            "a cross grid sets batch_sequences too",
        ),
        (
            ["vary={batch_sequences: [8]}", "grids=[{kind: cross, at: [{rung: 0, tokens: 1e7}]}]"],
            "",
        ),
        (
            ["heldout=[{rung: 0, tokens: 10, size: {d_model: 2, n_layers: 1, n_heads: 1}}]"],
            "heldout.0: a point has either a size or a rung",
        ),
        (["heldout=[{tokens: 10}]"], "heldout.0: a point has either a size or a rung"),
        (["run.tokens=5", "vary={}"], "run.tokens: is set by the sweep"),
        (
            ["sizes={kind: ladder, params: [1e6, 1e6], count: 3}"],
            "sizes.params: goes from 1e+06 to",
        ),
        (["pack=1"], ""),
        (["pack=10000"], ""),
        (["pack=10001"], "pack: auto, or the number"),
        (["pack=0"], "pack: auto"),
        (["pack=true"], "pack: auto"),
    ],
)
def test_what_a_sweep_may_vary(changes, words):
    changed = override(SWEEP, changes)
    if not words:
        validate(SweepConfig, changed, "test")
        return
    with pytest.raises(UserError) as caught:
        validate(SweepConfig, changed, "test")
    assert words in str(caught.value)


def test_the_rate_of_a_size():
    rule = PowerLearningRate(learning_rate=0.003, reference_params=10**6, exponent=-0.25)
    assert rule.at(16 * 10**6) == 0.0015
    assert rule.at(10**6) == 0.003
    assert rule.at(3 * 10**6) == 0.00227951  # 0.003 / 3^(1/4) = 0.002279507
    assert ConstantLearningRate(rule="constant", learning_rate=0.1).at(5) == 0.1
    for exponent in (10, -10):
        steep = PowerLearningRate(learning_rate=1e-30, reference_params=10**15, exponent=exponent)
        if exponent > 0:
            assert steep.at(10**15) == 1e-30
        with pytest.raises(ValueError, match="the rule gives"):
            PowerLearningRate(
                learning_rate=1e-300 if exponent > 0 else 1e300,
                reference_params=10**10,
                exponent=exponent,
            ).at(10)


LARGEST = 2**63 - 1
TINY, NOTHING = math.ulp(0.0), 0.0

# The smallest and largest values, and those beyond: None where there is no bound.
BOUNDS: list[tuple[type, str, list[Any], list[Any]]] = [
    (RunConfig, "tokens", [1, LARGEST], [0, LARGEST + 1]),
    (RunConfig, "batch_sequences", [1, 2**31 - 1], [0, 2**31]),
    (RunConfig, "seed", [0, LARGEST], [-1, LARGEST + 1]),
    (ModelConfig, "d_model", [1, 2**24], [0, 2**24 + 1]),
    (ModelConfig, "n_layers", [1, 10_000], [0, 10_001]),
    (ModelConfig, "n_encoder_layers", [1, 10_000, None], [0, 10_001]),
    (ModelConfig, "n_token_types", [0, 2**24], [-1, 2**24 + 1]),
    (ModelConfig, "position_offset", [0, 2**24], [-1, 2**24 + 1]),
    (ModelConfig, "rotary_base", [TINY, 1e300], [NOTHING, math.inf]),
    (ModelConfig, "rotary_fraction", [TINY, 1], [NOTHING, 1.1]),
    (ModelConfig, "norm_epsilon", [TINY], [NOTHING]),
    (ModelConfig, "dropout", [0, 1], [-0.1, 1.1]),
    (ExpertsConfig, "count", [1], [0]),
    (ExpertsConfig, "capacity_factor", [TINY], [NOTHING]),
    (ExpertsConfig, "balance_weight", [0], [-0.1, math.inf]),
    (InitConfig, "std", [TINY], [NOTHING]),
    (AdamW, "learning_rate", [1e-37, 3e38], [9e-38, 3.1e38]),
    (AdamW, "b1", [0, 0.999], [-0.1, 1]),
    (AdamW, "b2", [0, 0.999], [-0.1, 1]),
    (Lion, "b1", [0, 0.999], [-0.1, 1]),
    (Lion, "b2", [0, 0.999], [-0.1, 1]),
    (AdamW, "epsilon", [TINY], [NOTHING]),
    (AdamW, "clip_norm", [TINY], [NOTHING]),
    (AdamW, "weight_decay", [0], [-0.1]),
    (Lion, "clip_norm", [TINY], [NOTHING]),
    (WarmupStableDecay, "decay_fraction", [TINY, 1], [NOTHING, 1.1]),
    (WarmupStableDecay, "warmup_steps", [0, LARGEST], [-1]),
    (WarmupStableDecay, "warmup", [0, 0.999, None], [1, -0.1]),
    (Cosine, "final_fraction", [0, 1], [-0.1, 1.1]),
    (DataConfig, "epochs", [1], [0]),
    (DataConfig, "store", ["a/b"], ["", ".", "a\nb", "a\x7f"]),
    (EvaluationConfig, "sequences", [1], [0]),
    (EvaluationConfig, "every_steps", [1, None], [0]),
    (CheckpointConfig, "every_seconds", [0, 1e9], [-1, math.inf, math.nan]),
    (LoggingConfig, "every_steps", [1], [0]),
    (MeshConfig, "data", [1, 2**20, None], [0, 2**20 + 1]),
    (MeshConfig, "fsdp", [1, 2**20], [0]),
    (MeshConfig, "tensor", [1, 2**20], [0]),
    (ExecutionConfig, "microbatch_sequences", [1, None], [0]),
    (Masked, "rate", [TINY, 0.999], [NOTHING, 1]),
    (Masked, "mask_share", [0, 1], [-0.1, 1.1]),
    (Masked, "static_masks", [1, None], [0]),
    (Distillation, "temperature", [TINY], [NOTHING]),
    (Distillation, "soft_weight", [0], [-1]),
    (Ladder, "count", [2, 100], [1, 101]),
    (Ladder, "aspect_ratio", [TINY, 1e6], [NOTHING, 1.1e6]),
    (Ladder, "params", [[1, 1e15]], [[0, 1], [1, 1.1e15]]),
    (IsoFlop, "budgets", [[TINY, 1e40]], [[], [NOTHING], [1.1e40]]),
    (Cuts, "diagonal", [TINY, 1e6], [NOTHING]),
    (Product, "tokens", [[1, LARGEST]], [[], [0]]),
    (PowerLearningRate, "exponent", [-10, 0, 10], [-10.1, 10.1]),
    (
        ParamSelection,
        "layers",
        [[0, 9_999], "last 1", "first 9999", None],
        [[-1], [10_000], [], [1, 1], "last 0", "last", "middle 2", "last 10000", 3],
    ),
    (ParamSelection, "roles", [["bias"], None], [[], ["bias", "bias"], ["weight"]]),
]


@pytest.mark.parametrize(
    ("cls", "name", "accepted", "refused"),
    BOUNDS,
    ids=[f"{cls.__name__}.{name}" for cls, name, *_ in BOUNDS],
)
def test_the_bounds_of_a_value(cls, name, accepted, refused):
    field = cls.model_fields[name]
    adapter = TypeAdapter(
        Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    )
    for value in accepted:
        adapter.validate_python(value)
    for value in refused:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_names_of_files():
    for name in ("a", "A9", "_a", "0", "a.b-c_d", "x" * 64):
        assert check_name(name) == name
    for name in ("", ".a", "-a", "a b", "a/b", "é", "a\n", "x" * 65):
        with pytest.raises(ValueError, match="cannot be used as a name"):
            check_name(name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ({}, "a mapping"),
        ([], "a list"),
        ((), "a list"),
        (0.1, "0.1"),
        (2**100, str(2**100)),
        (3, "3"),
        ("a", "'a'"),
        (10**70, "a number of more than 60 digits"),
        ("x" * 70, "'" + "x" * 59 + "..."),
    ],
)
def test_values_in_messages(value, shown):
    assert format_value(value) == shown


MODES = {
    "lm": "decoder-only, encoder-decoder",
    "masked_lm": "encoder-only",
    "next_sentence": "encoder-only",
    "sentence_order": "encoder-only",
    "replaced_token": "encoder-only",
    "span_boundary": "encoder-only",
    "span": "encoder-only",
    "token": "decoder-only, encoder-only",
    "choice": "decoder-only, encoder-only",
    "sequence": "decoder-only, encoder-decoder, encoder-only",
}


@pytest.mark.parametrize("kind", MODES)
def test_models_that_may_have_a_head(kind):
    head = {"kind": kind} | ({"classes": 2} if kind in ("token", "sequence") else {})
    for mode in ("decoder-only", "encoder-decoder", "encoder-only"):
        if mode in MODES[kind]:
            assert model(mode=mode, heads=[head]).outputs[0].kind == kind
            continue
        with pytest.raises(UserError, match=f"{kind} cannot be a head of a {mode} model"):
            model(mode=mode, heads=[head])


def test_lengths_in_plain_data():
    assert [length_of(value, 10) for value in (3, 10, 2.0, 11, 0, -1, 2.5, True, "3", None)] == [
        3,
        10,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]


def test_a_size_is_near_by_its_ratio():
    assert _nearest("50M", ["30M", "80M", "1B"]) == ["80M", "30M"]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({"run": "a", "checkpoint": "b"}, "and it has run and checkpoint; keep one"),
        ({"run": "a", "checkpoint": "b", "hf": "c"}, "run and checkpoint and hf"),
        ({}, "and it has none of them"),
        ({"layers": [0]}, "and it has none of them"),
        ("drawn", "is expected, not 'drawn'"),
        (3, "is expected, not 3"),
        ({"run": "a", "layers": [0, 1, 2]}, "lists 3 layers, and the model has 4"),
        ({"kind": "draw", "layers": [0]}, "unknown key"),
    ],
)
def test_one_way_to_begin(init, words):
    for given, kind in (
        ("draw", "draw"),
        ({"run": "a"}, "from_run"),
        ({"hf": "a", "layers": [0, 1, 2, 3]}, "from_hf"),
        ({"checkpoint": "a"}, "from_checkpoint"),
    ):
        begun = validate(RunConfig, RUN | {"init": given}, "test").init
        assert begun.kind == kind
        assert begun.path == (None if kind == "draw" else Path("a"))
    with pytest.raises(UserError) as caught:
        validate(RunConfig, RUN | {"init": init}, "test")
    assert words in str(caught.value)
