"""Optimizers against optax's own, and against the papers' formulas."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from scaling.config import AdamW, Lion
from scaling.optim.optimizers import (
    OPTIMIZERS,
    decay_mask,
    init_optimizer,
    make_optimizer,
    optimizer_numbers,
)
from scaling.training.step import init_state, make_train_step, step_seeds


def gradients(model, count):
    draw = np.random.default_rng(0)
    return [jax.tree.map(lambda p: draw.standard_normal(p.shape).astype(np.float32), model)
            for _ in range(count)]


@pytest.mark.parametrize(("config", "theirs"), [
    (AdamW(clip_norm=1e9), lambda c, mask: optax.adamw(
        0.01, c.b1, c.b2, c.epsilon, weight_decay=c.weight_decay, mask=mask)),
    (Lion(kind="lion", clip_norm=1e9), lambda c, mask: optax.lion(
        0.01, c.b1, c.b2, weight_decay=c.weight_decay, mask=mask)),
])
def test_updates_are_those_of_optax(make_run, config, theirs):
    model = init_state(make_run("model.use_bias=true", "model.norm=layer")).model
    ours = make_optimizer(config.kind, optimizer_numbers(config, 0.01))
    reference = theirs(config, decay_mask)
    state, their_state = init_optimizer(config.kind, model), reference.init(model)
    for gradient in gradients(model, 3):
        direction, state = ours.update(gradient, state, model)
        update, their_state = reference.update(gradient, their_state, model)
        for d, u in zip(jax.tree.leaves(direction), jax.tree.leaves(update), strict=True):
            np.testing.assert_allclose(-0.01 * d, u, rtol=1e-5, atol=1e-8)


def test_lion_moves_every_number_by_the_rate(make_run):
    """Chen et al. 2023, algorithm 2: the sign of an interpolation, and decoupled decay."""
    run = make_run("optimizer.kind=lion", "optimizer.weight_decay=0.5", "optimizer.b1=0.9",
                   "optimizer.b2=0.99")
    state = init_state(run)
    before = jax.tree.map(np.array, state.model)
    tokens = np.random.default_rng(0).integers(0, 50, (4, 17)).astype(np.int32)
    step = make_train_step(run.objective, optimizer="lion")
    after, metrics = step(state, {"ids": tokens}, optimizer_numbers(run.optimizer, 0.01),
                          step_seeds(run, 0))
    decayed = jax.tree.leaves(decay_mask(before))
    for old, new, decays in zip(jax.tree.leaves(before), jax.tree.leaves(after.model), decayed,
                                strict=True):
        moved = np.abs(np.asarray(new) - old * (1 - 0.01 * 0.5 * decays))
        np.testing.assert_allclose(moved[moved > 1e-6], 0.01, rtol=1e-3)
        assert (moved > 1e-6).mean() > 0.2  # rows of tokens that are not there stand still
    assert np.isfinite(float(metrics.loss))


@pytest.mark.parametrize("config", [AdamW(), Lion(kind="lion")])
def test_the_state_is_what_accounting_takes_it_for(make_run, config):
    model = init_state(make_run()).model
    sizes = [leaf.size for leaf in jax.tree.leaves(init_optimizer(config.kind, model))]
    params = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert sum(size for size in sizes if size > 1) == config.moments * params


def test_every_number_of_the_configuration_is_used():
    for config in (AdamW(), Lion(kind="lion")):
        fields = set(type(config).model_fields) - {"kind", "learning_rate"}
        assert set(OPTIMIZERS[config.kind].numbers) == fields
        assert len(optimizer_numbers(config, 0.5)) == 1 + len(fields)
