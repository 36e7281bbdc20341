"""Losses that compare the sequences of a batch are exact in any split into microbatches. Meshes are
tested in tests/parallel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.objectives import FUNCTIONS
from scaling.optim.optimizers import optimizer_numbers
from scaling.parallel import batch_sharding, make_mesh
from scaling.training.evaluation import evaluate
from scaling.training.packed import copies
from scaling.training.step import init_state, make_eval_step, make_train_step, step_seeds
from tests.training.contrastive import CONTRASTIVE, TEMPERATURE


@pytest.fixture(autouse=True)
def _contrastive(monkeypatch):
    monkeypatch.setitem(FUNCTIONS, "causal", CONTRASTIVE)
    for compiled in (make_train_step, make_eval_step):
        compiled.cache_clear()
    yield
    for compiled in (make_train_step, make_eval_step):
        compiled.cache_clear()


def ids(batch, seed=0):
    return {"ids": np.random.default_rng(seed).integers(0, 50, (batch, 17)).astype(np.int32)}


def step_of(run, microbatch, batch, state=None, **how):
    state = init_state(run) if state is None else state
    return make_train_step(run.objective, microbatch, **how)(
        state, batch, optimizer_numbers(run.optimizer, 0.01), step_seeds(run, 0))


def test_it_is_the_loss_of_the_whole_batch(make_run):
    run, batch = make_run(), ids(8)
    model = init_state(run).model
    x = np.asarray(model.states(batch["ids"][:, :-1]).x_BTD, np.float64)
    left, right = (h / np.linalg.norm(h, axis=1, keepdims=True)
                   for h in (x[:, :8].mean(axis=1), x[:, 8:].mean(axis=1)))
    scores = left @ right.T / TEMPERATURE
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(scores)])
    _, metrics = step_of(run, None, batch)
    assert float(metrics.losses["contrast"]) == pytest.approx(expected, rel=1e-5)
    assert metrics.loss == metrics.losses["causal"]


def test_microbatches_change_nothing(make_run):
    run, batch = make_run("model.dropout=0.2", "model.n_layers=1"), ids(8)
    whole, expected = step_of(run, None, batch)
    for microbatch in (1, 2, 4):
        parts, metrics = step_of(run, microbatch, batch)
        for part, loss in expected.losses.items():
            assert float(metrics.losses[part]) == pytest.approx(float(loss), rel=1e-5)
        assert float(metrics.grad_norm) == pytest.approx(float(expected.grad_norm), rel=1e-4)
        for ours, theirs in zip(jax.tree.leaves(parts.optimizer[1].mu),
                                jax.tree.leaves(whole.optimizer[1].mu), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_a_microbatch_alone_would_lose_something_else(make_run):
    """The negatives of a microbatch are fewer: averaging over microbatches is another loss."""
    run, batch = make_run(), ids(8)
    model = init_state(run).model

    def contrast(arrays):
        features = CONTRASTIVE.terms(run.objective, model, arrays, None).features
        return float(CONTRASTIVE.batch_terms(run.objective, features)["contrast"])

    _, metrics = step_of(run, None, batch)
    assert float(metrics.losses["contrast"]) == pytest.approx(contrast(batch), rel=1e-5)
    parts = [contrast({"ids": batch["ids"][n : n + 2]}) for n in range(0, 8, 2)]
    assert abs(np.mean(parts) - float(metrics.losses["contrast"])) > 0.1


def test_packs_change_nothing(make_run):
    run = make_run()
    batches = [ids(8, seed) for seed in range(3)]
    alone = [step_of(run, 2, batch)[1] for batch in batches]
    numbers = np.stack([optimizer_numbers(run.optimizer, 0.01)] * 3)
    _, metrics = make_train_step(run.objective, 2, packed=True)(
        copies(3, init_state(run)), {"ids": np.stack([b["ids"] for b in batches])}, numbers,
        np.stack([step_seeds(run, 0)] * 3), None)
    for index, expected in enumerate(alone):
        assert float(metrics.losses["contrast"][index]) == pytest.approx(
            float(expected.losses["contrast"]), rel=1e-5)
        assert float(metrics.grad_norm[index]) == pytest.approx(
            float(expected.grad_norm), rel=1e-4)


def test_held_out_losses_are_of_groups(make_run):
    run, arrays = make_run(), ids(11)
    model, mesh = init_state(run).model, make_mesh(run.execution.mesh)
    scores = evaluate(model, run.objective, arrays, 3, batch_sharding(mesh), together=4)
    assert list(scores) == ["causal", "contrast"]
    groups = []
    for start in (0, 4):
        group = {"ids": arrays["ids"][start : start + 4]}
        groups.append(float(CONTRASTIVE.batch_terms(
            run.objective, CONTRASTIVE.terms(run.objective, model, group, None).features)
            ["contrast"]))
    assert scores["contrast"].loss == pytest.approx(np.mean(groups), rel=1e-5)
    assert scores["contrast"].se == pytest.approx(np.std(groups, ddof=1) / np.sqrt(2), rel=1e-4)
    assert jnp.isfinite(scores["causal"].loss)
    with pytest.raises(UserError, match=r"= 11 makes 1 batch.*a standard error needs at least 2"):
        evaluate(model, run.objective, arrays, 3, batch_sharding(mesh), together=6)
