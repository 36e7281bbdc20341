"""Scanned or unrolled, with or without rematerialisation: one model, its gradients and its dropout;
and layers that are shared are."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ExecutionConfig, ModelConfig
from tests.models.variants import SMALL, batch_for, config_of, filled, random_ids


def value_and_gradients(config, execution):
    """A loss over a batch that has a row of nothing but padding, and its gradients."""
    tokens, source = batch_for(config)
    keys = jax.random.split(jax.random.key(0), len(tokens.ids_BT))
    weights = np.random.default_rng(5).standard_normal(config.vocabulary)

    def loss(model):
        states = model.states(tokens, source, keys)
        logits = model.head(config.outputs[0].kind, states)
        extra = 0 if states.routing is None else states.routing.balance + states.routing.z
        return (logits @ weights).mean() + extra

    value, gradients = jax.jit(jax.value_and_grad(loss))(filled(config, execution))
    return float(value), jax.tree.leaves(gradients)


@pytest.mark.parametrize(("name", "changes", "others"), [
    ("gpt3", {}, [(True, "dots"), (False, "full")]),
    ("experts", {"experts": {"count": 3}, "n_layers": 4, "activation": "relu", "use_bias": False},
     [(True, "full")]),
    ("gpt", {"dropout": 0.2}, [(True, "none")]),
])
def test_scanned_unrolled_and_rematerialised_are_one_model(name, changes, others):
    """With two kinds of layer in turn, with routers that say something, with dropout."""
    config = config_of(name, **changes)
    loss, gradients = value_and_gradients(config, ExecutionConfig())
    assert all(np.isfinite(g).all() for g in gradients)
    for scan, remat in others:
        execution = ExecutionConfig(scan_layers=scan, remat=remat)
        other, other_gradients = value_and_gradients(config, execution)
        assert other == pytest.approx(loss, rel=1e-5)
        for one, two in zip(gradients, other_gradients, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5 * np.abs(one).max() + 1e-7)


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialisation_keeps_less(scan):
    """Numbers kept for the backward pass, and the primitive in the program; nothing is computed."""
    ids = random_ids(2, 12)

    def kept(remat):
        execution = ExecutionConfig(scan_layers=scan, remat=remat)
        model = filled(ModelConfig(**SMALL | {"n_layers": 4}), execution)
        forward = lambda model: model(ids)  # noqa: E731
        saved = jax.eval_shape(lambda model: jax.vjp(forward, model)[1], model)
        program = str(jax.make_jaxpr(jax.grad(lambda model: forward(model).sum()))(model))
        return (sum(math.prod(x.shape) for x in jax.tree.leaves(saved)),
                "checkpoint" in program or "remat" in program)

    (none, off), (dots, on), (full, too) = (kept(remat) for remat in ("none", "dots", "full"))
    assert (off, on, too) == (False, True, True)
    assert full < dots < none
    assert none - full > 4 * 2 * 12 * 8 * 4  # at least the hidden widths of 4 feed-forward layers


@pytest.mark.parametrize("shared", ["all", "attention", "feed_forward"])
def test_shared_layers_are_one_layer_used_often(shared):
    """The gradient is the sum over layers of the gradients of unshared layers that hold equal
    values, and there are as many parameters fewer."""
    scan = ExecutionConfig(scan_layers=True)
    sizes = SMALL | {"n_layers": 3, "norm": "layer", "use_bias": True, "positions": "learned"}
    config = ModelConfig(**sizes, share_layers=shared)
    model, apart = filled(config, scan), filled(ModelConfig(**sizes), scan)
    # Everything but the stack, and what the layers do not share, is the same in both.
    whole, names = apart.decoder.layers, {
        "attention": ("attention", "attention_norm"),
        "feed_forward": ("feed_forward", "feed_forward_norm"),
    }
    parts = sum(names.values(), ()) if shared == "all" else names[shared]
    ours = model.decoder.layers
    for name in sum(names.values(), ()):
        if name in parts:
            copies = jax.tree.map(lambda a: np.repeat(a[None], 3, axis=0),
                                  getattr(ours.shared, name))
        else:
            copies = getattr(ours.kinds[0], name)
        setattr(whole.kinds[0], name, copies)
    for name in ("embedding", "heads"):
        setattr(apart, name, getattr(model, name))
    apart.decoder.positions, apart.decoder.norm = model.decoder.positions, model.decoder.norm
    ids = random_ids(2, 12)
    run = jax.jit(jax.value_and_grad(lambda m: jnp.square(m(ids)).mean()))
    (loss, gradient), (loss_apart, gradient_apart) = run(model), run(apart)
    assert float(loss) == pytest.approx(float(loss_apart), rel=1e-5)
    for name in parts:
        once = jax.tree.leaves(getattr(gradient.decoder.layers.shared, name))
        often = jax.tree.leaves(getattr(gradient_apart.decoder.layers.kinds[0], name))
        for one, many in zip(once, often, strict=True):
            np.testing.assert_allclose(one, many.sum(axis=0), rtol=1e-3, atol=1e-4)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    layer = sum(count(getattr(ours.shared, name)) for name in parts)
    assert count(apart) - count(model) == 2 * layer
