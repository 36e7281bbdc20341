"""Properties of the model, and its logits against a plain numpy writing-down of the formulas."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models import Transformer
from scaling.objectives import causal_losses

SMALL = {"d_model": 16, "n_layers": 3, "n_heads": 2, "context": 12, "vocab_size": 19}
VARIANTS = [  # every pair of choices meets
    {"positions": p, "norm": n, "activation": a, "biases": b, "tied_head": t}
    for p, n, a, b, t in [
        ("rotary", "rms", "gelu", False, True),
        ("rotary", "layer", "swiglu", True, False),
        ("learned", "rms", "swiglu", True, True),
        ("learned", "layer", "gelu", True, False),
        ("learned", "layer", "swiglu", False, True),
        ("rotary", "rms", "swiglu", False, False),
    ]
]


def make(execution=None, precision="float32", **changes):
    config = ModelConfig(**(SMALL | changes))
    key = jax.random.key(3)
    return jax.jit(
        lambda key: Transformer(config, key, precision=precision, execution=execution)
    )(key)


@jax.jit
def apply(model, ids):
    return model(ids)


def tokens(batch=2, length=12, seed=0):
    return np.random.default_rng(seed).integers(0, 19, (batch, length)).astype(np.int32)


def jitter(model):
    """The model with every parameter moved, so that gains are not one and biases not nought."""
    leaves, structure = jax.tree.flatten(model)
    draw = np.random.default_rng(1)
    moved = [leaf + 0.1 * draw.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return structure.unflatten(moved)


@pytest.mark.parametrize("changes", VARIANTS)
def test_causality(changes):
    """Logits at a position have no gradient in the embeddings of later positions, and one in all
    earlier ones and its own."""
    model = jitter(make(**changes))
    x = model.embed(tokens(batch=1))
    sums = jax.jit(jax.jacobian(lambda x: model.logits(model.hidden(x))[0].sum(axis=-1)))
    reach = sums(x)[:, 0]
    influence = np.abs(reach).sum(axis=-1)  # [logits' position, embedding's position]
    assert (influence[np.triu_indices(12, k=1)] == 0).all()
    assert (influence[np.tril_indices(12)] > 0).all()


@pytest.mark.parametrize("changes", VARIANTS[1:3])
def test_scan_remat_and_unroll_are_one_model(changes):
    batch = np.concatenate([tokens(), tokens(seed=1)[:, :1]], axis=1)

    def loss_and_gradient(execution):
        model = jitter(make(execution, **changes))
        loss, gradient = jax.jit(
            jax.value_and_grad(lambda m: causal_losses(m, batch).mean())
        )(model)
        return float(loss), jax.tree.leaves(gradient)

    loss, gradient = loss_and_gradient(ExecutionConfig())
    for scan, remat in ((True, False), (False, True), (True, True)):
        other, other_gradient = loss_and_gradient(ExecutionConfig(scan_layers=scan, remat=remat))
        assert other == pytest.approx(loss, rel=1e-6)
        for a, b in zip(gradient, other_gradient, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def numpy_logits(model, config, ids):
    """The model written down in numpy, one token and one head after the other."""
    def value(param):
        return None if param is None else np.asarray(param[...], np.float64)

    def add(x, bias):
        return x if bias is None else x + value(bias)

    def norm(x, layer, parts):
        gain, bias = value(layer.gain), value(layer.bias)
        gain = gain if parts is None else gain[parts]
        if config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * gain
        return x if bias is None else x + (bias if parts is None else bias[parts])

    def linear(x, layer, i):
        weight = value(layer.weight)[i]
        y = x @ weight.reshape(x.shape[-1], -1)
        return y if layer.bias is None else y + value(layer.bias)[i].reshape(-1)

    def turn(x, position):
        half = len(x) // 2
        angle = position * config.rotary_base ** (-np.arange(half) / half)
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag])

    H, K, T = config.n_heads, config.head_width, len(ids)
    x = value(model.embedding)[ids]
    if config.positions == "learned":
        x = x + value(model.positions)[:T]
    x = x * model.scale
    for i in range(config.n_layers):
        blocks = model.stack.blocks
        h = norm(x, blocks.attention_norm, i)
        q, k, v = (
            linear(h, layer, i).reshape(T, H, K)
            for layer in (blocks.attention.query, blocks.attention.key, blocks.attention.value)
        )
        mixed = np.zeros((T, H, K))
        for t, head in itertools.product(range(T), range(H)):
            def at(a, s, head=head):
                return turn(a[s, head], s) if config.positions == "rotary" else a[s, head]

            scores = np.array([at(q, t) @ at(k, s) for s in range(t + 1)]) / np.sqrt(K)
            weights = np.exp(scores - scores.max())
            mixed[t, head] = weights / weights.sum() @ v[: t + 1, head]
        x = x + linear(mixed.reshape(T, H * K), blocks.attention.out, i)
        h = norm(x, blocks.feed_forward_norm, i)
        up = linear(h, blocks.feed_forward.up, i)
        if config.activation == "swiglu":
            gate = linear(h, blocks.feed_forward.gate, i)
            up = gate / (1 + np.exp(-gate)) * up
        else:
            up = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        x = x + linear(up, blocks.feed_forward.down, i)
    head = model.embedding if model.head is None else model.head
    return norm(x, model.norm, None) @ value(head).T


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_are_the_formulas(changes):
    config = ModelConfig(**(SMALL | changes))
    model = jitter(make(**changes))
    ids = tokens(batch=3)
    logits = apply(model, ids)
    for row, sequence in zip(logits, ids, strict=True):
        np.testing.assert_allclose(row, numpy_logits(model, config, sequence), atol=2e-5)


def test_losses_are_log_probabilities():
    model = make()
    batch = np.concatenate([tokens(), tokens(seed=1)[:, :1]], axis=1)
    log_probability = jax.nn.log_softmax(apply(model, batch[:, :-1]))
    expected = -np.take_along_axis(np.asarray(log_probability), batch[:, 1:, None], axis=-1)
    np.testing.assert_allclose(causal_losses(model, batch), expected[..., 0], rtol=1e-5)


def test_a_sequence_does_not_see_its_neighbours_in_the_batch():
    model = make()
    batch = tokens(batch=4)
    np.testing.assert_allclose(apply(model, batch)[::-1], apply(model, batch[::-1]), atol=1e-6)


def test_rotary_positions_are_relative():
    """Attention turns by differences: the same tokens further along give the same logits, if
    nothing stands before them that they could see."""
    from scaling.models.attention import rotary_angles, rotate

    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 8, 20))
    constant = jnp.broadcast_to(q[..., :1], q.shape), jnp.broadcast_to(k[..., :1], k.shape)
    turned = [rotate(x, rotary_angles(20, 8, 100.0))[0, 0] for x in constant]
    products = np.asarray(turned[0].T @ turned[1])
    for offset in range(-19, 20):
        diagonal = np.diagonal(products, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(products) > 0.1


def test_initial_logits_are_of_order_one_at_every_width():
    for d_model, n_layers in ((16, 1), (64, 4), (256, 2)):
        model = make(d_model=d_model, n_layers=n_layers, vocab_size=200)
        assert 0.5 < np.std(apply(model, tokens())) < 2.0


def test_bfloat16_reads_bfloat16_and_keeps_float32_parameters():
    model = make(precision="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    logits = apply(model, tokens())
    assert logits.dtype == jnp.float32
    difference = np.abs(logits - apply(make(), tokens())).max()
    assert 1e-4 < difference < 0.1


def test_the_seed_decides_the_parameters():
    config = ModelConfig(**SMALL)
    a, b, c = (Transformer(config, jax.random.key(s)).embedding[...] for s in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).all()
