"""Routed experts against routing written down slowly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.models.experts import Experts
from tests.models import plain
from tests.models.variants import SMALL, config_of, filled, random_ids

TIGHT = [  # the last has room for all
    {"count": 4, "top_k": 1, "capacity_factor": 1.0, "every": 1},
    {"count": 3, "top_k": 2, "capacity": 3, "every": 1},
    {"count": 3, "top_k": 2, "capacity_factor": 0.5, "every": 1, "renormalise": True},
    {"count": 2, "top_k": 2, "every": 1},
]


def layer_and_output(settings, **changes):
    """A layer of experts with gains for the router that make some experts popular, its input [2,
    12, 8], output and routing."""
    config = ModelConfig(**SMALL | {"experts": settings} | changes)
    layer = jax.eval_shape(lambda: Experts(config, jnp.dtype("float32"), jax.random.key(0)))
    draw = np.random.default_rng(4)
    layer = jax.tree.map(lambda p: draw.standard_normal(p.shape).astype(np.float32), layer)
    x = draw.standard_normal((2, 12, 8)).astype(np.float32) + 0.3
    return config, layer, x, *jax.jit(lambda layer, x: layer(x))(layer, x)


@pytest.mark.parametrize("settings", TIGHT)
def test_tokens_go_where_a_slow_router_sends_them(settings):
    """Outputs, the dropped part, the balance loss and the z-loss."""
    config, layer, x, y, routing = layer_and_output(settings, use_bias=True)
    dropped, balance, z, E = 0, 0.0, 0.0, settings["count"]
    for row in range(2):
        np.testing.assert_allclose(y[row], plain.experts(config, layer, None, x[row]),
                                   rtol=1e-3, atol=1e-4)
        logit = x[row].astype(float) @ np.asarray(layer.router.weight[...], float)
        chance = np.exp(logit) / np.exp(logit).sum(-1, keepdims=True)
        kept, lost = plain.route(config, chance)
        dropped += lost
        experts = [e for _, e, _ in kept]
        room = settings.get("capacity") or max(1, -(-int(
            settings.get("capacity_factor", 1.25) * 12 * settings["top_k"]) // E))
        assert max(experts.count(e) for e in range(E)) <= room
        first = np.bincount(chance.argmax(-1), minlength=E) / 12
        balance += E * first @ chance.mean(axis=0) / 2
        z += (np.log(np.exp(logit).sum(-1)) ** 2).mean() / 2
    assert routing.dropped == pytest.approx(dropped / (2 * 12 * settings["top_k"]), abs=1e-6)
    assert (dropped > 0) == (settings != TIGHT[-1])
    assert routing.balance == pytest.approx(balance, rel=1e-4)
    assert routing.z == pytest.approx(z, rel=1e-4)


@pytest.mark.parametrize("settings", TIGHT)
def test_routing_is_causal(settings):
    """Other tokens behind change nothing in front, though they compete for room; no gradient would
    show it."""
    _, layer, x, y, _ = layer_and_output(settings)
    x = x.copy()  # the first call may still read the other
    x[:, 3:] = np.random.default_rng(5).standard_normal((2, 9, 8))
    other, _ = jax.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(other[:, :3], y[:, :3], atol=1e-5)
    assert np.abs(other[:, 3:] - y[:, 3:]).max() > 0.1


def test_a_full_expert_adds_nothing_to_those_that_come_late():
    """All tokens want one expert, which takes three: the first three of the sequence."""
    config, layer, x, *_ = layer_and_output({"count": 4, "capacity": 3, "every": 1})
    weight = np.zeros((8, 4), np.float32)
    weight[0, 2] = 5.0
    layer.router.weight[...] = weight
    x[..., 0] = 1.0
    y, routing = jax.jit(lambda layer, x: layer(x))(layer, x)
    assert (np.abs(y[:, :3]).sum(-1) > 0).all()
    assert (np.asarray(y[:, 3:]) == 0).all()
    assert routing.dropped == pytest.approx(0.75)
    assert config.experts.top_k == 1


def test_balance_is_one_where_routing_is_uniform_and_the_count_where_it_is_not():
    """Eq. 4 of Fedus et al. 2021, unweighted: E x sum of 1/E x 1/E = 1; with all on one expert that
    is certain of itself, E."""
    _, layer, x, *_ = layer_and_output({"count": 4, "every": 1})
    run = jax.jit(lambda layer, x: layer(x)[1])
    layer.router.weight[...] = np.zeros((8, 4), np.float32)
    routing = run(layer, x)
    assert routing.balance == pytest.approx(1, rel=1e-6)
    assert routing.z == pytest.approx(np.log(4) ** 2, rel=1e-5)
    certain = np.zeros((8, 4), np.float32)
    certain[0] = [100, 0, 0, 0]
    layer.router.weight[...] = certain
    x[..., 0] = 1.0
    assert run(layer, x).balance == pytest.approx(4, rel=1e-5)


def test_experts_stand_in_every_second_layer_and_the_mean_is_over_them():
    """Routing of the whole model is a mean over layers with experts: 1 where all are uniform."""
    config = config_of("switch", n_layers=4)
    assert [config.has_experts(layer) for layer in range(4)] == [False, True, False, True]
    model = filled(config_of("switch"))
    kinds = [type(block.feed_forward).__name__ for block in model.decoder.layers.kinds]
    assert kinds == ["FeedForward", "Experts"]
    for side in (model.encoder, model.decoder):
        router = side.layers.kinds[1].feed_forward.router
        router.weight[...] = np.zeros_like(router.weight[...])
    ids = random_ids(2, 12)
    routing = jax.jit(lambda m: m.states(ids, ids[:, :10]).routing)(model)
    assert routing.balance == pytest.approx(1, rel=1e-6)
    dense = filled(ModelConfig(**SMALL))
    assert jax.eval_shape(lambda m: m.states(ids).routing, dense) is None


def test_a_router_learns_from_its_gates_and_from_the_balance():
    _, layer, x, *_ = layer_and_output({"count": 3, "every": 1})
    x = jnp.asarray(x)
    for loss in (lambda layer: jnp.square(layer(x)[0]).sum(), lambda layer: layer(x)[1].balance):
        gradient = jax.jit(jax.grad(loss))(layer)
        assert np.abs(gradient.router.weight[...]).max() > 1e-4
