"""Routed experts: several feed-forward layers, of which each token goes through a few."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.feed_forward import ACTIVATIONS
from scaling.models.layers import (
    Linear,
    constant,
    matrix,
    reshape,
    residual_gain,
    weight_std,
)
from scaling.parallel import out_sharding, shard


class Routing(NamedTuple):
    """What the routers of a model say about themselves, summed over layers until `mean_over`."""

    balance: Float[Array, ""]
    """Load-balancing loss (Fedus et al. 2021, eq. 4, unweighted): 1 where every expert gets as
    many tokens as the others. Taken over each sequence, and then their mean."""
    z: Float[Array, ""]
    """Mean square of the log of the sum of the router's exponentials (Zoph et al. 2022, eq. 5)."""
    dropped: Float[Array, ""]
    """The part of the tokens' assignments that found their expert full."""


class Experts(nnx.Module):
    """Feed-forward layers that share the tokens out among them by a learned router.

    Every sequence is shared out by itself: an expert takes tokens in the order of the sequence
    until it is full, and the rest are dropped. So what becomes of a sequence depends neither on its
    neighbours in the batch nor on the mesh, and what becomes of a token not on later ones. (With
    all first choices before any second one, as in Lepikhin et al. 2020, arXiv 2006.16668, a decoder
    would see through a full expert what comes next.) Padding takes room, too, and packed documents
    share it.
    """

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        assert config.experts is not None
        D, F, E = config.d_model, config.ff_width, config.experts.count
        router_key, up_key, gate_key, down_key = jax.random.split(key, 4)
        self.experts, self.activation, self.dtype = config.experts, config.activation, dtype
        # Routers stay in float32 (Fedus et al. 2021, section 2.4).
        self.router = Linear(
            config, router_key, (D,), (E,), ("embed", None), jnp.dtype("float32"), bias=False
        )
        std = weight_std(config.init, D, F)
        wide, narrow = (None, "embed", "ff"), (None, "ff", "embed")
        draw = config.init.distribution
        self.up = matrix(up_key, (E, D, F), wide, std, draw)
        self.gate = matrix(gate_key, (E, D, F), wide, std, draw) if config.gated else None
        down_std = residual_gain(config) * weight_std(config.init, F, D)
        self.down = matrix(down_key, (E, F, D), narrow, down_std, draw)
        self.up_bias = constant(0.0, (E, F), (None, "ff")) if config.biases else None
        self.down_bias = constant(0.0, (E, D), (None, "embed")) if config.biases else None

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> tuple[Float[Array, "B T D"], Routing]:
        """What the experts add to each token, and how they were shared out."""
        k, E, C = self.experts.top_k, self.experts.count, self.experts.room(x_BTD.shape[1])
        logits_BTE = self.router(x_BTD)
        chance_BTE = jax.nn.softmax(logits_BTE)
        gate_BTk, expert_BTk = jax.lax.top_k(chance_BTE, k)
        if self.experts.renormalise:
            gate_BTk = gate_BTk / gate_BTk.sum(axis=-1, keepdims=True)
        slot_BTk = _slots(expert_BTk, E)
        kept_BTk = slot_BTk < C
        # Where each assignment is computed: one slot after the last for those that are dropped.
        place_BTk = jnp.where(kept_BTk, expert_BTk * C + slot_BTk, E * C)
        slots_BED = jax.vmap(lambda x_TD, place_Tk: _gather(x_TD, place_Tk, E * C))(
            x_BTD, place_BTk
        )
        B, _, D = x_BTD.shape
        y_BECD = self._apply(reshape(slots_BED, (B, E, C, D), ("batch", None, None, None)))
        y_BED = reshape(y_BECD, (B, E * C, D), ("batch", None, None))
        back_BTkD = jax.vmap(_give_back)(y_BED, place_BTk)
        y_BTD = (back_BTkD * (gate_BTk * kept_BTk)[..., None]).sum(axis=2)
        return y_BTD, self._routing(logits_BTE, chance_BTE, expert_BTk, kept_BTk)

    def _apply(self, x_BECD: Float[Array, "B E C D"]) -> Float[Array, "B E C D"]:
        """Each expert's layer on the tokens in its slots."""
        h_BECF = self._product("BECD,EDF->BECF", x_BECD, self.up, "ff")
        if self.up_bias is not None:
            h_BECF = h_BECF + shard(self.up_bias[...], None, "ff")[:, None]
        f = ACTIVATIONS[self.activation]
        if self.gate is None:
            h_BECF = f(h_BECF)
        else:
            h_BECF = f(self._product("BECD,EDF->BECF", x_BECD, self.gate, "ff")) * h_BECF
        y_BECD = self._product("BECF,EFD->BECD", h_BECF, self.down, None)
        if self.down_bias is not None:
            y_BECD = y_BECD + shard(self.down_bias[...], None, None)[:, None]
        return y_BECD

    def _product(
        self, equation: str, x: Array, weight: nnx.Param[Array], out: str | None
    ) -> Array:
        names = (None, None, "ff") if out == "ff" else (None, "ff", None)
        shape = (*x.shape[:3], weight.shape[2])
        return jnp.einsum(
            equation, x.astype(self.dtype), shard(weight[...].astype(self.dtype), *names),
            preferred_element_type=jnp.float32,
            out_sharding=out_sharding(shape, "batch", None, None, out),
        )

    def _routing(
        self, logits_BTE: Array, chance_BTE: Array, expert_BTk: Array, kept_BTk: Array
    ) -> Routing:
        E = logits_BTE.shape[-1]
        share_BE = jax.nn.one_hot(expert_BTk[..., 0], E).mean(axis=1)
        balance = E * (share_BE * chance_BTE.mean(axis=1)).sum(axis=-1).mean()
        z = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)).mean()
        return Routing(balance, z, 1 - kept_BTk.mean(dtype=jnp.float32))


def _slots(expert_BTk: Int[Array, "B T k"], count: int) -> Int[Array, "B T k"]:
    """How many assignments to the same expert come before each: those of earlier tokens, and the
    token's own better choices."""
    B, T, k = expert_BTk.shape
    hit_BNE = jax.nn.one_hot(expert_BTk.reshape(B, T * k), count, dtype=jnp.int32)
    before_BNE = jnp.cumsum(hit_BNE, axis=1) - hit_BNE
    return (before_BNE * hit_BNE).sum(axis=-1).reshape(B, T, k)


def _gather(
    x_TD: Float[Array, "T D"], place_Tk: Int[Array, "T k"], slots: int
) -> Float[Array, "N D"]:
    """Tokens into slots; empty slots hold nought."""
    T, k = place_Tk.shape
    token_Tk = jnp.broadcast_to(jnp.arange(T)[:, None], (T, k))
    token_N = jnp.full((slots + 1,), T).at[place_Tk.reshape(-1)].set(token_Tk.reshape(-1))[:slots]
    return jnp.concatenate([x_TD, jnp.zeros_like(x_TD[:1])])[token_N]


def _give_back(
    y_ND: Float[Array, "N D"], place_Tk: Int[Array, "T k"]
) -> Float[Array, "T k D"]:
    """What is in each token's slots; nought for a token that was dropped."""
    return jnp.concatenate([y_ND, jnp.zeros_like(y_ND[:1])])[place_Tk]
