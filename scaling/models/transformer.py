"""A Transformer from tokens to what its heads say."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.experts import Routing
from scaling.models.heads import MODULES, ClassesHead
from scaling.models.layers import Linear, embedding, keys_for
from scaling.models.tokens import Tokens, as_tokens
from scaling.models.tower import Tower
from scaling.parallel import out_sharding, shard

Ids = Int[Array, "B T"]


class States(NamedTuple):
    """What a model makes of its tokens, before its heads."""

    x_BTD: Float[Array, "B T D"]
    """Hidden states of the last stack."""
    tokens: Tokens
    """What was read there."""
    routing: Routing | None
    """What the routers say, a mean over the layers that have one."""


class Transformer(nnx.Module):
    """An embedding, an encoder or a decoder or both, and heads.

    Called with tokens it gives logits over the vocabulary. `states` and `head` are the two halves
    of that, for other heads than the first.
    """

    def __init__(
        self,
        config: ModelConfig,
        key: PRNGKeyArray,
        *,
        precision: str = "float32",
        execution: ExecutionConfig | None = None,
        own_embedding: bool = True,
    ) -> None:
        """Draw the parameters.

        Args:
            config: a model whose vocabulary is known.
            key: seeds the parameters, which are the same on every mesh.
            precision: type that matrix products read, "float32" or "bfloat16".
            execution: scanned or unrolled, with or without rematerialisation.
            own_embedding: whether it has a table of embeddings; without, it is given one with
                every call.
        """
        self.config, dtype = config, jnp.dtype(precision)
        execution = execution or ExecutionConfig()
        embed_key, position_key, stack_key, head_key = jax.random.split(key, 4)
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embedding = (
            embedding(embed_key, config.init, config.vocabulary, config.embedding_width)
            if own_embedding else None
        )
        # A model with both sides draws its encoder from keys that the decoder alone does not use.
        encoder_keys = [jax.random.fold_in(key, 17) for key in (position_key, stack_key)]
        decoder_keys = [position_key, stack_key]
        self.encoder = (
            Tower(config, dtype, execution, *encoder_keys, side="encoder")
            if config.encoder_layers else None
        )
        self.decoder = (
            Tower(config, dtype, execution, *decoder_keys, side="decoder")
            if config.decoder_layers else None
        )
        head_keys = [head_key] + [
            jax.random.fold_in(head_key, place) for place in range(1, len(config.outputs))
        ]
        self.heads = nnx.Dict({
            head.kind: MODULES.get(head.kind, ClassesHead)(config, dtype, key, head)
            for head, key in zip(config.outputs, head_keys, strict=True)
        })
        D = config.d_model
        self.pooler = (
            Linear(config, jax.random.fold_in(head_key, 99), (D,), (D,), ("embed", None), dtype)
            if config.has_pooler else None
        )

    def __call__(
        self,
        tokens: Tokens | Ids,
        source: Tokens | Int[Array, "B S"] | None = None,
        keys_B: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits over the vocabulary (float32), of the first head.

        Args:
            tokens: what the decoder reads, or an encoder alone.
            source: what an encoder-decoder's encoder reads.
            keys_B: a key for each sequence, in training; without, nothing is dropped.
        """
        return self.head(self.config.outputs[0].kind, self.states(tokens, source, keys_B))

    def states(
        self,
        tokens: Tokens | Ids,
        source: Tokens | Int[Array, "B S"] | None = None,
        keys_B: PRNGKeyArray | None = None,
        table_VP: Float[Array, "V P"] | None = None,
    ) -> States:
        """Hidden states; the arguments are those of a call, and embeddings in place of its own."""
        tokens, memory_BSD, said = as_tokens(tokens), None, []
        if self.encoder is not None and self.decoder is not None:
            assert source is not None, "an encoder-decoder reads a source too"
            source = as_tokens(source)
            memory_BSD, routing = self.encoder(
                self.embed(source.ids_BT, table_VP), source, keys_B=keys_for(keys_B, 2))
            said.append(routing)
        last = self.decoder or self.encoder
        x_BTD, routing = last(
            self.embed(tokens.ids_BT, table_VP), tokens, memory_BSD, source, keys_B)
        return States(x_BTD, tokens, self._mean([*said, routing]))

    def head(
        self, kind: str, states: States, spans_BM3: Array | None = None,
        table_VP: Float[Array, "V P"] | None = None,
    ) -> Array:
        """What a head says of hidden states (see scaling.models.heads).

        Args:
            kind: which of the configured heads.
            states: hidden states.
            spans_BM3: for `span_boundary`, the spans.
            table_VP: embeddings in place of its own.
        """
        module, x_BTD = self.heads[kind], states.x_BTD
        if isinstance(module, ClassesHead) and module.pool == "first":
            x_BTD = jnp.tanh(self.pooler(x_BTD[:, :1]))
        return module(x_BTD, self.embedding[...] if table_VP is None else table_VP,
                      states.tokens if spans_BM3 is None else spans_BM3)

    def embed(
        self, ids_BT: Ids, table_VP: Float[Array, "V P"] | None = None
    ) -> Float[Array, "B T P"]:
        """The tokens' vectors, from its own table or from another."""
        table_VP = shard(self.embedding[...] if table_VP is None else table_VP, None, None)
        layout = out_sharding((*ids_BT.shape, table_VP.shape[1]), "batch", None, None)
        x_BTP = table_VP.at[ids_BT].get(out_sharding=layout)
        return x_BTP * self.scale if self.scale != 1 else x_BTP

    def _mean(self, said: list[Routing | None]) -> Routing | None:
        """The mean over layers of what was summed over them."""
        sums = [routing for routing in said if routing is not None]
        if not sums:
            return None
        every = self.config.experts.every
        layers = (self.config.encoder_layers + self.config.decoder_layers) // every
        return jax.tree.map(lambda *parts: sum(parts) / layers, *sums)
