"""Held-out losses, and how sure they are."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from scaling.config import MeshConfig, ModelConfig
from scaling.config.objectives import ReplacedTokens
from scaling.models import Transformer
from scaling.objectives import FUNCTIONS, heldout
from scaling.parallel import batch_sharding, make_mesh
from scaling.runs.record import ratio_estimate
from scaling.training import evaluation
from scaling.training.evaluation import evaluate
from scaling.training.step import Scores, init_state
from tests.objectives.cases import run_of


def test_equal_weights_give_a_mean_and_its_error():
    losses = np.random.default_rng(0).gamma(2.0, size=50)
    found = ratio_estimate(3 * losses, np.full(50, 3.0))
    assert found.loss == pytest.approx(losses.mean())
    assert found.se == pytest.approx(losses.std(ddof=1) / math.sqrt(50))


def test_the_error_of_a_ratio_is_what_a_bootstrap_finds():
    """Sequences with more predictions lose more on each, so that a mean of means would be wrong."""
    draw = np.random.default_rng(1)
    weights = draw.integers(1, 30, 400).astype(np.float64)
    losses = weights * (2 + 0.05 * weights + draw.normal(0, 0.5, 400))
    found = ratio_estimate(losses, weights)
    again = draw.integers(0, 400, (4000, 400))
    bootstrap = losses[again].sum(axis=1) / weights[again].sum(axis=1)
    # The standard deviation of 4,000 numbers is known to 1.1%.
    assert found.se == pytest.approx(bootstrap.std(), rel=0.05)
    assert found.loss == pytest.approx(bootstrap.mean(), abs=0.1 * found.se)
    assert abs((losses / weights).mean() - found.loss) > 5 * found.se


def test_the_first_part_is_what_tables_call_the_loss(monkeypatch):
    """ELECTRA's generator, which predicts tokens, though a compiled program sorts its results."""
    scores = Scores(*({"discriminator": np.ones(2), "generator": np.ones(2)} for _ in range(2)))
    monkeypatch.setattr(evaluation, "make_eval_step", lambda _: lambda *_: scores)
    arrays, sharding = {"ids": np.zeros((2, 3))}, batch_sharding(make_mesh(MeshConfig()))
    model = jax.eval_shape(lambda: Transformer(
        ModelConfig(d_model=8, n_layers=1, n_heads=2, context=4, vocab_size=9), jax.random.key(0)))
    found = evaluate(model, ReplacedTokens(), arrays, 2, sharding)
    assert list(found) == ["generator", "discriminator"]


@pytest.mark.parametrize("batch", [8, 3])
def test_every_part_is_a_mean_over_its_predictions_in_whatever_batches(special_store, batch):
    """Eight sequences, three at once: the last batch is filled up, and the filling left out."""
    run = run_of("bert", special_store)
    arrays, model = heldout(run, special_store), init_state(run).model
    sharding = batch_sharding(make_mesh(MeshConfig()))
    found = evaluate(model, run.objective, arrays, batch, sharding)
    terms = jax.jit(lambda m, b: FUNCTIONS["masked"].terms(run.objective, m, b, None).losses)
    losses = jax.device_get(terms(model, arrays))
    weights = {"masked": arrays["weights"]["masked"].sum(axis=1), "next_sentence": np.ones(8)}
    assert len(set(weights["masked"].tolist())) > 1
    assert set(found) == set(weights)
    for part, score in found.items():
        mean = losses[part].sum() / weights[part].sum()
        assert score.loss == pytest.approx(mean, rel=1e-5)
        residual = losses[part] - mean * weights[part]
        error = math.sqrt(8 / 7 * (residual**2).sum()) / weights[part].sum()
        assert score.se == pytest.approx(error, rel=1e-3)
