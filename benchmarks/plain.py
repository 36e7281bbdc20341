"""A decoder as one would write it first, in jax.numpy: what benchmarks/train_step.py measures
scaling's step against. Same shape, same arithmetic, same optimizer; nothing done for speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = dict[str, Any]


def init(d: int, layers: int, heads: int, vocab: int, key: jax.Array) -> Parameters:
    """Parameters as nested dictionaries, one for each layer."""
    def draw(*shape: int) -> jax.Array:
        nonlocal key
        key, mine = jax.random.split(key)
        return jax.random.normal(mine, shape) * shape[0] ** -0.5

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


def rms(x: jax.Array, gain: jax.Array) -> jax.Array:
    """RMS norm."""
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


def turn(x: jax.Array) -> jax.Array:
    """Rotary positions on [batch, position, head, width]."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def loss(p: Parameters, tokens: jax.Array) -> jax.Array:
    """Mean next-token loss, nats."""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    d, length = p["embedding"].shape[1], ids.shape[1]
    x = p["embedding"][ids] * d**0.5
    mask = jnp.tril(jnp.ones((length, length), bool))
    for block in p["blocks"]:
        h = rms(x, block["norm1"])
        q, k, v = (jnp.einsum("btd,dhk->bthk", h, block[name]) for name in "qkv")
        scores = jnp.einsum("bthk,bshk->bhts", turn(q), turn(k)) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v)
        x = x + jnp.einsum("bthk,hkd->btd", mixed, block["o"])
        x = x + jax.nn.gelu(rms(x, block["norm2"]) @ block["up"]) @ block["down"]
    logits = rms(x, p["norm"]) @ p["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def make_step() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(optimizer's init, donated and jitted step)."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.95, weight_decay=0.1)
    )

    def step(state: Any, tokens: jax.Array) -> Any:
        parameters, moments = state
        value, gradient = jax.value_and_grad(loss)(parameters, tokens)
        updates, moments = optimizer.update(gradient, moments, parameters)
        return (optax.apply_updates(parameters, updates), moments), value

    return optimizer.init, jax.jit(step, donate_argnums=0)
