"""The learning rate, and what one step does with it."""

from __future__ import annotations

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.accounting.trained import param_groups
from scaling.config import AdamW, Cosine, WarmupStableDecay
from scaling.config.objectives import Causal
from scaling.objectives import FUNCTIONS, causal_losses
from scaling.objectives.base import LossTerms, ObjectiveFunctions
from scaling.optim.optimizers import make_optimizer, optimizer_numbers
from scaling.optim.schedule import learning_rate
from scaling.training import step as step_module
from scaling.training.step import (
    TrainState,
    _losses,
    init_state,
    make_train_step,
    step_seeds,
)


def rates(schedule, steps=100, peak=2.0):
    return np.array([learning_rate(schedule, peak, step, steps) for step in range(steps)])


def some_tokens():
    return np.random.default_rng(0).integers(0, 257, (4, 17)).astype(np.int32)


def test_warmup_stable_decay():
    values = rates(WarmupStableDecay(warmup_steps=10, decay_fraction=0.2))
    np.testing.assert_allclose(values[:10], 2.0 * np.arange(1, 11) / 10)
    assert (values[9:81] == 2.0).all()
    # Haegele et al. 2024: 1 - sqrt of how far the cool-down is.
    np.testing.assert_allclose(values[80:], 2.0 * (1 - np.sqrt(np.arange(20) / 20)))
    linear = rates(WarmupStableDecay(warmup_steps=10, decay_fraction=0.2, decay_shape="linear"))
    np.testing.assert_allclose(linear[80:], 2.0 * (1 - np.arange(20) / 20))


def test_cosine():
    values = rates(Cosine(warmup_steps=10, final_fraction=0.1), steps=110)
    assert values[10] == 2.0
    assert values[60] == pytest.approx(2.0 * 0.55)
    assert 0.2 < values[109] < 0.202
    assert (np.diff(values[10:]) < 0).all()
    np.testing.assert_allclose(values[:10], 2.0 * np.arange(1, 11) / 10)
    higher = rates(Cosine(warmup_steps=4, final_fraction=0.3), steps=12)
    # After a quarter of the decay, half a cosine is at (1 + sqrt(1/2)) / 2.
    assert higher[6] == pytest.approx(2.0 * (0.3 + 0.7 * (1 + math.sqrt(0.5)) / 2))
    assert rates(Cosine(warmup_steps=0, final_fraction=0), steps=2)[1] == pytest.approx(1.0)


def test_the_first_update_is_adams_and_only_matrices_decay(make_run):
    """After one step Adam's direction is the sign of the gradient (Kingma & Ba 2015), which makes
    the whole update a formula."""
    run = make_run("optimizer.weight_decay=0.5", "optimizer.clip_norm=1e9",
                   "model.norm=layer", "model.use_bias=true")
    state = init_state(run)
    tokens = some_tokens()
    gradient = jax.jit(jax.grad(lambda m: causal_losses(m, tokens).mean()))(state.model)
    before = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.array, state.model))
    numbers = optimizer_numbers(run.optimizer, 0.1)
    after, metrics = make_train_step()(state, {"ids": tokens}, numbers)
    seen = set()
    for (path, old), new, slope in zip(
        before, jax.tree.leaves(after.model), jax.tree.leaves(gradient), strict=True
    ):
        name = jax.tree_util.keystr(path)
        matrix = not ("gain" in name or "bias" in name)
        seen.add(matrix)
        clear = np.abs(slope) > 1e-4  # where epsilon does not matter
        expected = old - 0.1 * (np.sign(slope) + 0.5 * matrix * old)
        np.testing.assert_allclose(new[clear], expected[clear], rtol=2e-3, atol=2e-4, err_msg=name)
    assert seen == {True, False}
    norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-5)


def test_clipping_scales_the_gradient_down(make_run):
    state = init_state(make_run())
    gradient = jax.tree.map(lambda p: 100.0 * np.ones_like(p), state.model)
    numbers = optimizer_numbers(AdamW(clip_norm=2.0, weight_decay=0.0), 0)
    optimizer = make_optimizer("adamw", numbers)
    _, after = optimizer.update(gradient, state.optimizer, state.model)
    moments = jax.tree.leaves(after[1].mu)
    norm = math.sqrt(sum(float((m**2).sum()) for m in moments))
    assert norm == pytest.approx(2.0 * (1 - 0.9), rel=1e-4)


def test_loss_falls_and_every_parameter_moves(make_run):
    run = make_run()
    state = init_state(run)
    start = [np.array(leaf) for leaf in jax.tree.leaves(state.model)]
    tokens = some_tokens()
    step = make_train_step()
    losses = []
    for _ in range(30):
        state, metrics = step(state, {"ids": tokens}, optimizer_numbers(run.optimizer, 0.01))
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.6 * losses[0]
    for old, new in zip(start, jax.tree.leaves(state.model), strict=True):
        assert not np.array_equal(old, new)


def test_dropout_is_drawn_by_seed_and_step(make_run):
    run = make_run("model.dropout=0.5")
    tokens = some_tokens()
    step = make_train_step()

    def loss(run, number):
        return float(step(
            init_state(run), {"ids": tokens}, optimizer_numbers(run.optimizer, 0),
            step_seeds(run, number))[1].loss)

    first = loss(run, 0)
    assert loss(run, 0) == first
    assert loss(run, 1) != first
    other = run.model_copy(update={"seed": 1})
    assert (step_seeds(other, 0) != step_seeds(run, 0)).any()
    whole = make_run()
    assert loss(whole, 0) == loss(whole, 1)


def test_routers_learn_from_balance_too(make_run):
    """The gradient by a router is that of the loss and of what ExpertsConfig weighs in; the loss
    that is told is the loss alone."""
    tokens = some_tokens()

    def gradient(*overrides):
        model = init_state(make_run("model.experts={count: 4}", *overrides)).model
        loss, _ = _losses(FUNCTIONS["causal"], Causal())
        grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, ((losses, _), _)), g = grad(model, ({"ids": tokens}, None))
        router = g.decoder.layers.kinds[1].feed_forward.router
        return float(losses["causal"]), np.array(router.weight[...])

    def parts(of):
        model = init_state(make_run("model.experts={count: 4}")).model
        g = jax.jit(jax.grad(lambda m: of(m.states(tokens[:, :-1]).routing)))(model)
        return np.array(g.decoder.layers.kinds[1].feed_forward.router.weight[...])

    loss, plain = gradient("model.experts.balance_weight=0")
    same, mixed = gradient("model.experts.balance_weight=0.3", "model.experts.z_weight=0.2")
    assert same == loss
    added = parts(lambda r: 0.3 * r.balance + 0.2 * r.z)
    assert abs(added).max() > 0.001
    np.testing.assert_allclose(mixed - plain, added, atol=1e-6)


def test_what_a_run_says_of_its_computation_reaches_the_model(make_run):
    """Each option is another program; nothing is compiled."""
    programs = {}
    for change in ("seed=1", "precision=bfloat16", "execution.scan_layers=true",
                   "execution.remat=full", "execution.remat=dots", "execution.attention=blocked",
                   "execution.cross_entropy=blocked"):
        model = jax.eval_shape(partial(init_state, make_run(change))).model
        programs[change] = str(jax.make_jaxpr(jax.grad(
            lambda m: FUNCTIONS["causal"].terms(Causal(), m, {"ids": some_tokens()}, None)
            .losses["causal"].mean()))(model))
    same = [(a, b) for a, b in itertools.combinations(programs, 2) if programs[a] == programs[b]]
    assert not same
    assert {change for change, program in programs.items() if "bf16" in program} == {
        "precision=bfloat16"}


def test_parts_of_a_loss_are_added_by_their_weights(make_run):
    """Of means over sequences; a part of the whole batch has its own."""
    model = init_state(make_run()).model
    weights = {"one": 2.0, "other": 0.5, "whole": 3.0, "unused": 7.0}
    losses = {"one": jnp.array([1.0, 2.0, 6.0]), "other": jnp.array([4.0, 8.0, 0.0])}
    functions = ObjectiveFunctions(
        lambda objective: weights, FUNCTIONS["causal"].examples,
        lambda *_: LossTerms(losses, features=jnp.ones(3)),
        lambda objective, features: {"whole": features.sum()})
    part_loss, batch_loss = _losses(functions, Causal())
    total, ((means, routing), features) = part_loss(model, ({"ids": some_tokens()}, None))
    assert float(total) == 2.0 * 3.0 + 0.5 * 4.0
    assert {part: float(mean) for part, mean in means.items()} == {"one": 3.0, "other": 4.0}
    assert routing is None
    whole, parts = batch_loss(features)
    assert (float(whole), float(parts["whole"])) == (9.0, 3.0)


def test_a_model_that_accounting_counts_otherwise_is_refused(make_run, monkeypatch):
    """Laws are fitted to the counts."""
    run = make_run()
    monkeypatch.setattr(step_module, "param_groups", lambda model: param_groups(model)[1:])
    step_module._initializer.cache_clear()
    with pytest.raises(RuntimeError, match="accounting counts the parameters"):
        init_state(run)
    step_module._initializer.cache_clear()


def test_gains_and_biases_are_not_decayed(make_run):
    run = make_run("model.use_bias=true", "model.norm=layer", "model.positions=transformer_xl",
                   "model.experts={count: 2}")
    model = jax.tree.map(np.ones_like, init_state(run).model)
    nothing = jax.tree.map(np.zeros_like, model)
    optimizer = make_optimizer("adamw", optimizer_numbers(AdamW(weight_decay=0.5), 0))
    step, _ = jax.jit(optimizer.update)(nothing, optimizer.init(model), model)
    by_path = {jax.tree_util.keystr(path): float(leaf.max())
               for path, leaf in jax.tree_util.tree_leaves_with_path(step)}
    still = {path for path, size in by_path.items() if size == 0}
    assert {path for path in by_path if "bias" in path or "gain" in path} == still
    assert any("distance_bias" in path for path in still)


def test_the_state_is_donated(make_run):
    run = make_run()
    state = init_state(run)
    leaf = jax.tree.leaves(state)[0]
    tokens = np.zeros((4, 17), np.int32)
    numbers = optimizer_numbers(run.optimizer, 0.01)
    after, _ = make_train_step()(state, {"ids": tokens}, numbers)
    assert isinstance(after, TrainState)
    assert leaf.is_deleted()
