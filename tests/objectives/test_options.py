"""Every option of an objective has its effect, and no random number is used twice."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scaling.config.objectives import NoiseKind, Objective
from scaling.config.spans import UL2
from scaling.data import random
from scaling.objectives import FUNCTIONS, Examples, heldout, normalised
from scaling.objectives import masked as masked_objective
from scaling.objectives.noise import masking
from tests.models.variants import draws_of
from tests.objectives.cases import CASES, ENCODER, NOISED, content_of, run_of

UNLIKELY = 1e-4


def batch_of(name: str, store: Any, sequences: int = 8, **options: Any) -> dict[str, Any]:
    """A batch of a case whose objective has further options."""
    objective = CASES[name][1] | options
    run = run_of(name, store, batch_sequences=sequences, objective=objective)
    return Examples.of(run, store).at(0)


def equal(left: Any, right: Any) -> bool:
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"separate_documents": True},
    "prefix": {},
    "masked": {
        "rate": 0.3,
        "mask_share": 0.5,
        "random_share": 0.2,
        "static_masks": 3,
        "unit": "word",
    },
    "t5": {"rate": 0.2, "mean_span": 2.0},
    "bart": {"rate": 0.2, "mean_span": 2.0, "noises": ["masking"]},
    "ul2": {"denoisers": [{"mode": "R", "rate": 0.2, "mean_span": 3}]},
    "electra": {"rate": 0.3},
    "distillation": {"rate": 0.3},
}
"""By case, another value of each option that the batch depends on."""
OF_THE_LOSS = {
    "electra": {"weight", "generator_size"},
    "distillation": {
        "teacher",
        "teacher_run",
        "teacher_model",
        "temperature",
        "soft_weight",
        "masked_weight",
        "cosine_weight",
    },
    "masked": {"pairs", "span_boundary"},
}
"""Options that act on the model or the loss, or have cases of their own (`CASES`)."""


def test_no_option_is_passed_over():
    named = {
        CASES[case][1]["kind"]: {*given, *OF_THE_LOSS.get(case, ())}
        for case, given in OPTIONS.items()
    }
    classes = get_args(get_args(Objective)[0])
    assert named == {
        cls.model_fields["kind"].default: {*cls.model_fields} - {"kind"} for cls in classes
    }


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, given in OPTIONS.items() for option in given]
)
def test_each_option_changes_the_batch(name, option, special_store):
    value = OPTIONS[name][option]
    # Masks take turns epochs later; with three, the fourth epoch's is the first's.
    at = 200 if option == "static_masks" else 0
    contexts = {"rate": 21, "mean_span": 16} if name == "t5" else {}  # the number of targets
    model = CASES[name][0]
    other_model = model | ({"context": contexts[option]} if contexts else {})
    runs = [
        run_of(name, special_store, batch_sequences=32, model=m, objective=CASES[name][1] | o)
        for m, o in ((model, {}), (other_model, {option: value}))
    ]
    one, other = (Examples.of(run, special_store).at(at) for run in runs)
    assert not equal(one, other)


@pytest.mark.parametrize("name", NOISED)
def test_no_key_seeds_two_draws(monkeypatch, name, special_store):
    """What is chosen says nothing about how it is spoilt: all draws of a sequence have keys of
    their own."""
    seen: list[int] = []
    bits_at = random.bits_at

    def watched(key, place):
        seen.extend(np.ravel(key)[:1].tolist())
        return bits_at(key, place)

    objective = CASES[name][1] | ({"noises": get_args(NoiseKind)} if name == "bart" else {})
    run = run_of(name, special_store, batch_sequences=1, objective=objective)
    examples = Examples.of(run, special_store)
    drawn = examples.batches.at(0)
    monkeypatch.setattr(random, "bits_at", watched)
    monkeypatch.setattr(masking, "bits_at", watched)
    examples.functions.examples(examples.context, examples.batches.sequences, drawn)
    assert seen
    assert len(set(seen)) == len(seen)


def test_each_objective_draws_from_a_stream_of_its_own(special_store):
    keys = set()
    for name in ("masked", "distillation", "electra"):
        examples = Examples.of(run_of(name, special_store), special_store)
        keys.add(int(examples.context.keys(examples.batches.at(0))[0]))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("name", "options", "shares"),
    [
        ("masked", {"rate": 0.5}, (0.8, 0.1)),
        ("masked", {"rate": 0.5, "mask_share": 0.3, "random_share": 0.6}, (0.3, 0.6)),
        ("distillation", {}, (0.8, 0.1)),
        ("electra", {}, (1.0, 0.0)),
    ],
)
def test_hidden_tokens_become_what_the_shares_say(name, options, shares, special_store):
    batch = batch_of(name, special_store, 64, **options)
    real = batch["weights"].get("masked", batch["weights"].get("generator")) > 0
    became = np.take_along_axis(batch["ids"], batch["positions"], axis=1)[real]
    was = batch["targets"][real]
    masks, same = became == special_store.special.mask, became == was
    n = len(was)
    assert stats.binomtest(int(masks.sum()), n, shares[0]).pvalue > UNLIKELY
    # One of 256 random bytes is what was there.
    kept = 1 - sum(shares) + shares[1] / 256
    assert stats.binomtest(int(same.sum()), n, kept).pvalue > UNLIKELY


@pytest.mark.parametrize(("unit", "mean", "longest"), [("span", 3.8, 10), ("ngram", 18 / 11, 3)])
def test_spans_have_the_published_lengths_of_their_unit(
    monkeypatch, unit, mean, longest, special_store
):
    given = []
    choose = masked_objective.choose_spans

    def watched(*arguments):
        given.append(arguments[-1])
        return choose(*arguments)

    monkeypatch.setattr(masked_objective, "choose_spans", watched)
    batch_of("masked", special_store, unit=unit)
    (lengths,) = given
    assert len(lengths) == longest
    assert lengths @ np.arange(1, longest + 1) == pytest.approx(mean, abs=0.05)


def test_no_more_places_of_a_span_are_asked_for_than_the_head_has(special_store):
    boundary = {"kind": "span_boundary", "max_span": 2, "d_position": 4}
    model = ENCODER | {"heads": [{"kind": "masked_lm"}, boundary]}
    run = run_of("spanbert", special_store, batch_sequences=8, model=model)
    batch = Examples.of(run, special_store).at(0)
    asked = batch["weights"]["span_boundary"] > 0
    assert set(batch["spans"][asked][:, 2].tolist()) == {0, 1}


@pytest.mark.parametrize("mode", ["R", "S", "X"])
def test_each_mode_has_its_sentinel(mode, special_store):
    """The last three of the vocabulary, in the order R, S, X."""
    denoiser = next(each for each in UL2 if each.mode == mode)
    batch = batch_of("ul2", special_store, denoisers=[denoiser.model_dump()])
    assert set(batch["source"][:, 0].tolist()) == {
        special_store.special.sentinels["RSX".index(mode) - 3]
    }


def test_the_parts_of_a_loss_have_their_weights(special_store):
    def parts(name, **options):
        content = content_of(name, special_store.path)
        objective = type_of(name).model_validate(content["objective"] | options)
        return FUNCTIONS[objective.kind].parts(objective)

    def type_of(name):
        kinds = {cls.model_fields["kind"].default: cls for cls in get_args(get_args(Objective)[0])}
        return kinds[CASES[name][1]["kind"]]

    assert parts("distillation") == {"masked": 2.0, "soft": 5.0, "cosine": 1.0}
    given = {"masked_weight": 0.3, "soft_weight": 0.7, "cosine_weight": 0.2}
    assert parts("distillation", **given) == {"masked": 0.3, "soft": 0.7, "cosine": 0.2}
    assert parts("distillation", cosine_weight=0) == {"masked": 2.0, "soft": 5.0}
    assert parts("electra") == {"generator": 1.0, "discriminator": 50.0}
    assert parts("electra", weight=3.0) == {"generator": 1.0, "discriminator": 3.0}
    assert parts("bert") == {"masked": 1.0, "next_sentence": 1.0}
    assert parts("albert") == {"masked": 1.0, "sentence_order": 1.0}
    assert parts("spanbert") == {"masked": 1.0, "span_boundary": 1.0}
    for name, part in {
        "causal": "causal",
        "prefix": "prefix",
        "t5": "span_corruption",
        "bart": "denoising",
        "ul2": "mixture",
    }.items():
        assert parts(name) == {part: 1.0}


def test_a_batch_in_which_nothing_is_predicted_stays_finite():
    weights = {"masked": np.zeros((2, 3), np.float32), "other": np.ones((2, 3), np.float32)}
    scaled = normalised({"weights": weights})["weights"]
    assert (np.asarray(scaled["masked"]) == 0).all()
    np.testing.assert_allclose(scaled["other"], 1 / 3)


def test_held_out_text_is_of_the_validation_split_from_end_to_end(special_store):
    """Every window is of that split, in its order, the first at its start and the last at its
    end."""
    run = run_of("causal", special_store)
    split = special_store.split("validation")
    text = split.read(0, split.tokens).tolist()
    rows = heldout(run, special_store)["ids"].tolist()
    windows = {tuple(text[at : at + 33]): at for at in range(0, len(text) - 32, 32)}
    places = [windows[tuple(row)] for row in rows]
    assert places == sorted(set(places))
    assert len(places) == 8
    spacing = np.diff(places)
    assert spacing.max() - spacing.min() <= 32
    assert places[0] == 0
    assert len(text) - places[-1] <= spacing.max() + 64


@pytest.mark.parametrize(
    ("name", "masks"),
    [("prefix", 4), ("bert", 4), ("t5", 4 + 6), ("distillation", 4), ("electra", 4 + 4)],
)
def test_every_model_of_an_objective_is_trained_with_dropout(name, masks, special_store):
    """One layer drops its input, weights of attention and what two branches add; a decoder's
    cross-attention drops twice more. Of an ELECTRA both models drop, and samples are drawn
    besides. A teacher's outputs are given."""
    from scaling.training.step import init_state

    model = CASES[name][0] | {"dropout": 0.1}
    run = run_of(name, special_store, model=model)
    batch = jax.tree.map(jnp.asarray, Examples.of(run, special_store).at(0))
    shapes = jax.eval_shape(lambda: init_state(run).model)
    if name == "distillation":
        B, T = batch["ids"].shape
        M, V, D = batch["positions"].shape[1], special_store.vocab_size, 16
        batch |= {"teacher_logits": jnp.zeros((B, M, V)), "teacher_states": jnp.zeros((B, T, D))}

    def program(model, keys):
        return FUNCTIONS[run.objective.kind].terms(run.objective, model, batch, keys).losses

    keys = jax.random.split(jax.random.key(0), 4)
    calm = draws_of(jax.make_jaxpr(lambda m: program(m, None))(shapes).jaxpr)
    assert calm == (name == "electra")  # its samples
    assert draws_of(jax.make_jaxpr(program)(shapes, keys).jaxpr) == masks + calm
