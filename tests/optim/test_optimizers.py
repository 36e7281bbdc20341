"""Optimizers against the papers' formulas."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from scaling.config import AdamW, Lion
from scaling.models.params import params_by_path
from scaling.optim.optimizers import (
    OPTIMIZERS,
    decay_mask,
    init_optimizer,
    make_optimizer,
    optimizer_numbers,
)
from scaling.training.step import init_state, make_train_step, step_seeds


def adamw(config, number, parameter, gradient, first, second):
    """Loshchilov & Hutter 2019, algorithm 2, in step `number`, from 1: the direction and both
    moments."""
    first = config.b1 * first + (1 - config.b1) * gradient
    second = config.b2 * second + (1 - config.b2) * gradient**2
    unbiased = first / (1 - config.b1**number), second / (1 - config.b2**number)
    direction = unbiased[0] / (np.sqrt(unbiased[1]) + config.epsilon)
    return direction + config.weight_decay * parameter, first, second


def lion(config, number, parameter, gradient, momentum, _):
    """Chen et al. 2023, algorithm 2."""
    direction = np.sign(config.b1 * momentum + (1 - config.b1) * gradient)
    momentum = config.b2 * momentum + (1 - config.b2) * gradient
    return direction + config.weight_decay * parameter, momentum, None


@pytest.mark.parametrize(("config", "formula"), [
    (AdamW(b1=0.7, b2=0.8, epsilon=0.01, weight_decay=0.3, clip_norm=0.5), adamw),
    (Lion(kind="lion", b1=0.6, b2=0.75, weight_decay=0.3, clip_norm=0.5), lion),
])
def test_updates_are_those_of_the_papers(make_run, config, formula):
    """With numbers that are nobody's defaults, in float64, and gradients of which the second is not
    clipped."""
    model = init_state(make_run("model.use_bias=true", "model.norm=layer")).model
    optimizer = make_optimizer(config.kind, optimizer_numbers(config, 0.01))
    state, update = init_optimizer(config.kind, model), jax.jit(optimizer.update)
    values = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(model)]
    roles = [param.info.role for param in params_by_path(model).values()]
    assert {"gain", "bias"} < set(roles)
    draw = np.random.default_rng(0)
    past = [(np.zeros_like(value), np.zeros_like(value)) for value in values]
    for number, size in enumerate((3.0, 0.1, 2.0), 1):
        drawn = [draw.standard_normal(value.shape) for value in values]
        norm = np.sqrt(sum((each**2).sum() for each in drawn))
        drawn = [size / norm * each for each in drawn]  # of norm `size`, clipped to 0.5
        gradient = jax.tree.unflatten(jax.tree.structure(model),
                                      [each.astype(np.float32) for each in drawn])
        direction, state = update(gradient, state, model)
        for place, (found, role) in enumerate(zip(jax.tree.leaves(direction), roles, strict=True)):
            decayed = 0 * values[place] if role in ("gain", "bias") else values[place]
            expected, *past[place] = formula(
                config, number, decayed, min(1, 0.5 / size) * drawn[place], *past[place])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


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
