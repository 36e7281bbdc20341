"""What each objective loses, written down plainly from the logits of the whole model."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from scaling.data.batches import SequenceBatch
from scaling.models import Tokens
from scaling.objectives import FUNCTIONS, Examples, normalised, weight_sums, with_teacher
from scaling.optim.optimizers import optimizer_numbers
from scaling.training.step import init_state, make_train_step
from tests.objectives.cases import CASES, run_of

HEADS = {"causal": ["lm"], "separate": ["lm"], "prefix": ["lm"], "masked": ["masked_lm"],
         "bert": ["masked_lm", "next_sentence"], "spanbert": ["masked_lm", "span_boundary"],
         "t5": ["lm"], "bart": ["lm"], "ul2": ["lm"], "distillation": ["masked_lm"]}
SEQUENCES = 8


@pytest.fixture(scope="module")
def prepared(special_store):
    """From a case's name: its run, a batch, its model, what the model says of each token of the
    batch by head, and the terms of the batch, of the batch with its weights normalised."""

    @cache
    def prepare(name):
        run = run_of(name, special_store, batch_sequences=SEQUENCES)
        batch = Examples.of(run, special_store).at(1)
        model = init_state(run).model
        functions = FUNCTIONS[run.objective.kind]
        teacher = None
        if name == "distillation":
            teacher = init_state(run.model_copy(update={"seed": 1})).model

        @jax.jit
        def say(model, teacher, batch):
            source = None
            if "source" in batch:
                source = Tokens(batch["source"], batch.get("source_documents"))
            ids = batch["ids"] if "targets" in batch else batch["ids"][:, :-1]
            tokens = Tokens(ids, batch.get("documents"), types_BT=batch.get("types"),
                            prefix_BT=batch.get("prefix"))
            states = model.states(tokens, source)
            said = {head: model.head(head, states, batch.get("spans")
                                     if head == "span_boundary" else None)
                    for head in HEADS[name]}
            if teacher is not None:
                other = teacher.states(tokens)
                said |= {"teacher": teacher.head("masked_lm", other),
                         "teacher_x": other.x_BTD, "x": states.x_BTD}
                batch = with_teacher(teacher, batch)
            terms = [functions.terms(run.objective, model, b, None)
                     for b in (batch, normalised(batch))]
            return said, [t.losses for t in terms]

        return run, batch, model, *jax.device_get(say(model, teacher, batch))

    return prepare


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def loss_of(logits, target) -> float:
    return float(-log_softmax(logits)[target])


def plain(name, run, batch, said) -> dict[str, list[list[tuple[float, float]]]]:
    """By part and sequence, the loss and the weight of each prediction, one after the other."""
    parts: dict[str, list[list[tuple[float, float]]]] = {}
    for row in range(SEQUENCES):
        here: dict[str, list[tuple[float, float]]] = {}
        if "positions" not in batch:
            targets = batch["targets"] if "targets" in batch else batch["ids"][:, 1:]
            weights = np.ones(targets.shape)
            if name == "ul2":
                weights = targets != run_pad(batch)
            if name == "prefix":
                # Target t is token t + 1, and weighs if that is behind the prefix.
                weights = np.arange(1, 33) >= batch["prefix"].sum(axis=1, keepdims=True)
            here[run.objective.kind] = [
                (loss_of(said["lm"][row, t], targets[row, t]), float(weights[row, t]))
                for t in range(targets.shape[1])]
        else:
            masked = batch["weights"]["masked"][row]
            asked = [(m, int(batch["positions"][row, m]), int(batch["targets"][row, m]))
                     for m in range(len(masked)) if masked[m]]
            here["masked"] = [
                (loss_of(said["masked_lm"][row, place], target), 1.0) for _, place, target in asked]
        if name == "bert":
            here["next_sentence"] = [
                (loss_of(said["next_sentence"][row], batch["labels"][row]), 1.0)]
        if name == "spanbert":
            here["span_boundary"] = [
                (loss_of(said["span_boundary"][row, m], target),
                 float(batch["weights"]["span_boundary"][row, m])) for m, _, target in asked]
        if name == "distillation":
            here["soft"] = []
            for _, place, _ in asked:
                teacher, student = (
                    log_softmax(said[who][row, place] / 2.0) for who in ("teacher", "masked_lm"))
                divergence = float((np.exp(teacher) * (teacher - student)).sum())
                here["soft"].append((2.0**2 * divergence, 1.0))
            x, y = (said[who][row].astype(np.float64) for who in ("x", "teacher_x"))
            cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
            here["cosine"] = [(1 - float(cosine.mean()), 1.0)]
        for part, losses in here.items():
            parts.setdefault(part, []).append(losses)
    return parts


def run_pad(batch) -> int:
    """The padding of a mixture: what the decoder begins with."""
    return int(batch["ids"][0, 0])


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_means_over_what_is_predicted(prepared, name):
    run, batch, _, said, (own, scaled) = prepared(name)
    expected = plain(name, run, batch, said)
    parts = FUNCTIONS[run.objective.kind].parts(run.objective)
    assert set(expected) == set(own) == set(scaled) == set(parts)
    sums = weight_sums(parts, batch)
    for part, rows in expected.items():
        losses = np.array([sum(loss * weight for loss, weight in row) for row in rows])
        weights = np.array([sum(weight for _, weight in row) for row in rows])
        whole = batch.get("weights", {}).get(part) is None
        # Without weights a sequence's loss is a mean already.
        np.testing.assert_allclose(own[part], losses / weights if whole else losses, rtol=2e-4,
                                   atol=1e-5)
        np.testing.assert_allclose(sums[part], 1.0 if whole else weights)
        # The mean over sequences of the normalised batch is the mean over all predictions.
        assert scaled[part].mean() == pytest.approx(losses.sum() / weights.sum(), rel=1e-4)
    if name in ("bert", "ul2", "prefix", "distillation", "spanbert"):
        first = next(iter(expected))
        assert len({sum(weight for _, weight in row) for row in expected[first]}) > 1


def test_separate_documents_do_not_see_each_other(prepared, special_store):
    """What the second document loses is the same after another first one: losses of A B and A' B
    differ as those of A C and A' C do, as long as B and C begin alike (their first token is
    predicted from the end of A)."""
    draw = np.random.default_rng(0)
    firsts = draw.integers(97, 123, (2, 16))
    seconds = draw.integers(97, 123, (2, 16))
    firsts[:, -1], seconds[:, 0] = special_store.special.eos, 97
    ids = np.stack([np.concatenate([a, b]) for a in firsts for b in seconds])
    ids = np.tile(np.pad(ids, ((0, 0), (0, 1)), constant_values=97), (2, 1)).astype(np.uint16)
    zeros = np.zeros(SEQUENCES, np.int64)
    surplus = {}
    for name in ("causal", "separate"):
        run, _, model, *_ = prepared(name)
        examples = Examples.of(run, special_store)
        batch = examples.functions.examples(
            examples.context, examples.batches.sequences,
            SequenceBatch(ids, zeros, zeros, zeros))
        terms = jax.jit(lambda m, b, o=run.objective: FUNCTIONS[o.kind].terms(o, m, b, None).losses)
        ab, ac, other_b, other_c = np.asarray(terms(model, batch)["causal"])[:4]
        assert abs(ab - other_b) > 1e-3
        surplus[name] = abs((ab - other_b) - (ac - other_c))
    assert surplus["separate"] < 1e-6 < 1e-5 < surplus["causal"]


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(prepared):
    run, batch, model, *_ = prepared("distillation")
    own = jax.jit(lambda m, b: FUNCTIONS["distillation"].terms(
        run.objective, m, with_teacher(m, b), None).losses)(model, batch)
    assert abs(np.asarray(own["soft"])).max() < 1e-5
    assert abs(np.asarray(own["cosine"])).max() < 1e-5
    assert np.asarray(own["masked"]).min() > 1


def test_a_teacher_is_not_taught(prepared):
    run, batch, _, *_ = prepared("distillation")
    teacher = init_state(run.model_copy(update={"seed": 1})).model
    before = [np.array(leaf) for leaf in jax.tree.leaves(teacher)]
    state, step = init_state(run), make_train_step(run.objective)
    numbers = optimizer_numbers(run.optimizer, 0.01)
    start = [np.array(leaf) for leaf in jax.tree.leaves(state.model)]
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch, numbers, teacher=teacher)
        losses.append({part: float(loss) for part, loss in metrics.losses.items()})
        assert float(metrics.loss) == losses[-1]["masked"]
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(teacher), strict=True))
    assert not any(
        np.array_equal(a, b) for a, b in zip(start, jax.tree.leaves(state.model), strict=True))
    assert losses[-1]["soft"] < losses[0]["soft"]
    assert losses[-1]["cosine"] < losses[0]["cosine"]


def test_all_kinds_are_here():
    kinds = {CASES[name][1]["kind"] for name in HEADS} | {"replaced_tokens"}
    assert kinds == set(FUNCTIONS)  # ELECTRA has a file of its own
