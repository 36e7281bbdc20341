"""A decoder and its training step in plain jax.numpy, the baseline of benchmarks/train_step.py.

It has the shape, the arithmetic and the optimizer of the decoder of `scaling`, without any
optimisation for speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = dict[str, Any]


def init(d: int, layers: int, heads: int, vocab: int, key: jax.Array) -> Parameters:
    """Initial parameters: nested dictionaries, with one dictionary per layer in `blocks`."""
    def draw(*shape: int) -> jax.Array:
        nonlocal key
        key, subkey = jax.random.split(key)
        return jax.random.normal(subkey, shape) * shape[0] ** -0.5

    return {
        "embedding": draw(vocab, d),
        "norm": jnp.ones(d),
        "blocks": [
            {
                "norm1": jnp.ones(d), "norm2": jnp.ones(d),
                "q": draw(d, heads, d // heads), "k": draw(d, heads, d // heads),
                "v": draw(d, heads, d // heads), "o": draw(heads, d // heads, d),
                "up": draw(d, 4 * d), "down": draw(4 * d, d),
            }
            for _ in range(layers)
        ],
    }


def rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    """RMS norm over the last axis."""
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


def rotate(x: jax.Array) -> jax.Array:
    """Queries or keys with rotary positions; [batch, position, head, width]."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def loss(p: Parameters, tokens: jax.Array) -> jax.Array:
    """Mean next-token loss in nats per token, of token ids [batch, position]."""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    d, length = p["embedding"].shape[1], ids.shape[1]
    x = p["embedding"][ids] * d**0.5
    mask = jnp.tril(jnp.ones((length, length), bool))
    for block in p["blocks"]:
        h = rms_norm(x, block["norm1"])
        q, k, v = (jnp.einsum("btd,dhk->bthk", h, block[name]) for name in "qkv")
        scores = jnp.einsum("bthk,bshk->bhts", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v)
        x = x + jnp.einsum("bthk,hkd->btd", mixed, block["o"])
        x = x + jax.nn.gelu(rms_norm(x, block["norm2"]) @ block["up"]) @ block["down"]
    logits = rms_norm(x, p["norm"]) @ p["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def make_step() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The optimizer's `init`, and the jitted step from (state, token ids) to (state, loss), which
    donates the state. A state is (parameters, optimizer state)."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.95, weight_decay=0.1)
    )

    def step(state: Any, tokens: jax.Array) -> Any:
        parameters, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(parameters, tokens)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
        return (optax.apply_updates(parameters, updates), optimizer_state), value

    return optimizer.init, jax.jit(step, donate_argnums=0)
