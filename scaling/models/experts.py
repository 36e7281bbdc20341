"""Mixture of experts: feed-forward layers to which a router sends each token."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.feed_forward import ACTIVATIONS
from scaling.models.layers import Linear, reshape, residual_gain, weight_std
from scaling.models.params import ParamInfo, constant_param, init_param
from scaling.parallel import out_sharding, shard


class Routing(NamedTuple):
    """Router statistics of a model."""

    balance: Float[Array, ""]
    """Load-balancing loss (Fedus et al. 2021, eq. 4, unweighted), 1 for a uniform load: its mean
    over sequences."""
    z: Float[Array, ""]
    """Router z-loss: mean square of the logsumexp of the logits (Zoph et al. 2022, eq. 5)."""
    dropped: Float[Array, ""]
    """Fraction of assignments that exceed the capacity of their expert."""


class Experts(nnx.Module):
    """Feed-forward layers among which a learned router distributes the tokens.

    Tokens are routed within their sequence: an expert takes tokens in the order of the sequence up
    to its capacity, and drops the rest. So the output of a sequence depends neither on the rest of
    the batch nor on the mesh, and that of a token not on later tokens. (If all first choices came
    before any second choice, as in Lepikhin et al. 2020, arXiv 2006.16668, later tokens would
    influence a decoder through full experts.) Padding takes capacity too, and packed documents
    share it.
    """

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        assert config.experts is not None
        D, F, E = config.d_model, config.ff_width, config.experts.count
        router_key, up_key, gate_key, down_key = jax.random.split(key, 4)
        self.experts, self.activation, self.dtype = config.experts, config.activation, dtype
        # Routers stay in float32 (Fedus et al. 2021, section 2.4).
        self.router = Linear(
            config, router_key, (D,), (E,), ("embed", None), jnp.dtype("float32"), bias=False,
            role="readout",
        )
        std = weight_std(config.init, D, F)
        wide = ParamInfo("hidden", (None, "embed", "ff"), fan_in=(1,), fan_out=(2,))
        narrow = ParamInfo("hidden", (None, "ff", "embed"), fan_in=(1,), fan_out=(2,))
        distribution = config.init.distribution
        self.up = init_param(up_key, (E, D, F), wide, std, distribution)
        self.gate = (
            init_param(gate_key, (E, D, F), wide, std, distribution) if config.gated else None
        )
        down_std = residual_gain(config) * weight_std(config.init, F, D)
        self.down = init_param(down_key, (E, F, D), narrow, down_std, distribution)
        self.up_bias = constant_param(0.0, (E, F), (None, "ff")) if config.use_bias else None
        self.down_bias = constant_param(0.0, (E, D), (None, "embed")) if config.use_bias else None

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> tuple[Float[Array, "B T D"], Routing]:
        """The sum of the experts' outputs for each token, weighted by the gates, and router
        statistics."""
        k, E, C = self.experts.top_k, self.experts.count, self.experts.slots(x_BTD.shape[1])
        logits_BTE = self.router(x_BTD)
        probs_BTE = jax.nn.softmax(logits_BTE)
        gate_BTk, expert_BTk = jax.lax.top_k(probs_BTE, k)
        if self.experts.renormalise:
            gate_BTk = gate_BTk / gate_BTk.sum(axis=-1, keepdims=True)
        slot_BTk = _slots_before(expert_BTk, E)
        kept_BTk = slot_BTk < C
        # Dropped assignments get the slot after the last.
        flat_BTk = jnp.where(kept_BTk, expert_BTk * C + slot_BTk, E * C)
        slots_BED = jax.vmap(lambda x_TD, flat_Tk: _gather(x_TD, flat_Tk, E * C))(
            x_BTD, flat_BTk
        )
        B, _, D = x_BTD.shape
        y_BECD = self._apply(reshape(slots_BED, (B, E, C, D), ("batch", None, None, None)))
        y_BED = reshape(y_BECD, (B, E * C, D), ("batch", None, None))
        back_BTkD = jax.vmap(_scatter)(y_BED, flat_BTk)
        y_BTD = (back_BTkD * (gate_BTk * kept_BTk)[..., None]).sum(axis=2)
        return y_BTD, self._routing(logits_BTE, probs_BTE, expert_BTk, kept_BTk)

    def _apply(self, x_BECD: Float[Array, "B E C D"]) -> Float[Array, "B E C D"]:
        """The layer of each expert, on the tokens in its slots."""
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
        self, logits_BTE: Array, probs_BTE: Array, expert_BTk: Array, kept_BTk: Array
    ) -> Routing:
        E = logits_BTE.shape[-1]
        share_BE = jax.nn.one_hot(expert_BTk[..., 0], E).mean(axis=1)
        balance = E * (share_BE * probs_BTE.mean(axis=1)).sum(axis=-1).mean()
        z = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)).mean()
        return Routing(balance, z, 1 - kept_BTk.mean(dtype=jnp.float32))


def _slots_before(expert_BTk: Int[Array, "B T k"], count: int) -> Int[Array, "B T k"]:
    """Number of assignments to the same expert that come before each: those of earlier tokens, and
    the token's own better choices."""
    B, T, k = expert_BTk.shape
    hit_BNE = jax.nn.one_hot(expert_BTk.reshape(B, T * k), count, dtype=jnp.int32)
    before_BNE = jnp.cumsum(hit_BNE, axis=1) - hit_BNE
    return (before_BNE * hit_BNE).sum(axis=-1).reshape(B, T, k)


def _gather(
    x_TD: Float[Array, "T D"], flat_Tk: Int[Array, "T k"], slots: int
) -> Float[Array, "N D"]:
    """Tokens in the slots of the experts; empty slots are zero."""
    T, k = flat_Tk.shape
    token_Tk = jnp.broadcast_to(jnp.arange(T)[:, None], (T, k))
    token_N = jnp.full((slots + 1,), T).at[flat_Tk.reshape(-1)].set(token_Tk.reshape(-1))[:slots]
    return jnp.concatenate([x_TD, jnp.zeros_like(x_TD[:1])])[token_N]


def _scatter(
    y_ND: Float[Array, "N D"], flat_Tk: Int[Array, "T k"]
) -> Float[Array, "T k D"]:
    """Outputs of the slots of each token; zero for dropped assignments."""
    return jnp.concatenate([y_ND, jnp.zeros_like(y_ND[:1])])[flat_Tk]
