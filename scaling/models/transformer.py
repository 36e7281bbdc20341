"""The Transformer: embedding, encoder and decoder, heads."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.encoder import Decoder, Encoder
from scaling.models.experts import Routing
from scaling.models.heads import MODULES, ClassesHead
from scaling.models.layers import Linear, embedding, fold_in_keys
from scaling.models.params import with_info
from scaling.models.tokens import AnyArray, Ids, Tokens, as_tokens
from scaling.parallel import out_sharding, shard


class States(NamedTuple):
    """Final hidden states, the inputs of heads."""

    x_BTD: Float[Array, "B T D"]
    """Hidden states of the decoder, or of an encoder alone."""
    tokens: Tokens
    """The tokens that it read."""
    routing: Routing | None
    """Router statistics, averaged over the layers with experts."""


class Transformer(nnx.Module):
    """An embedding, an encoder or a decoder or both, and heads.

    Called with tokens it returns logits over the vocabulary. `states` and `head` (or `losses`) are
    the two halves of that, for several heads and for losses.
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
        """Initialise the parameters.

        Args:
            config: the model, with its vocabulary size.
            key: seeds the parameters, which are the same on every mesh.
            precision: type in which matrix products read their operands, "float32" or "bfloat16".
            execution: kernels, scanned or unrolled layers, rematerialisation.
            own_embedding: whether the model has an embedding table; otherwise every call is given
                one.
        """
        self.config, dtype = config, jnp.dtype(precision)
        execution = execution or ExecutionConfig()
        embed_key, position_key, layers_key, head_key = jax.random.split(key, 4)
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embedding = with_info(
            embedding(embed_key, config.init, config.vocabulary, config.embedding_width)
            if own_embedding else None,
            part="embedding",
        )
        # Keys of the encoder differ from those of a decoder with the same seed.
        encoder_keys = [jax.random.fold_in(key, 17) for key in (position_key, layers_key)]
        self.encoder = with_info(
            Encoder(config, dtype, execution, *encoder_keys) if config.encoder_layers else None,
            part="encoder",
        )
        self.decoder = with_info(
            Decoder(config, dtype, execution, position_key, layers_key)
            if config.decoder_layers else None,
            part="decoder",
        )
        # The first head derives keys from head_key, so those of further heads must not.
        further_key = jax.random.fold_in(head_key, 98)
        head_keys = [head_key] + [
            jax.random.fold_in(further_key, index) for index in range(1, len(config.outputs))
        ]
        self.heads = nnx.Dict({
            head.kind: with_info(
                MODULES.get(head.kind, ClassesHead)(
                    config, dtype, key, head, kernel=execution.cross_entropy),
                part="head")
            for head, key in zip(config.outputs, head_keys, strict=True)
        })
        D = config.d_model
        self.pooler = with_info(
            Linear(config, jax.random.fold_in(head_key, 99), (D,), (D,), ("embed", None), dtype)
            if config.has_pooler else None,
            part="head",
        )

    def __call__(
        self,
        tokens: Tokens | Ids,
        source: Tokens | Int[AnyArray, "B S"] | None = None,
        keys_B: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits over the vocabulary (float32), of the first head.

        Args:
            tokens: input of the decoder, or of an encoder alone.
            source: input of the encoder in an encoder-decoder.
            keys_B: a key for each sequence, in training; without, nothing is dropped.
        """
        return self.head(self.config.outputs[0].kind, self.states(tokens, source, keys_B))

    def states(
        self,
        tokens: Tokens | Ids,
        source: Tokens | Int[AnyArray, "B S"] | None = None,
        keys_B: Key[Array, " B"] | None = None,
        table_VP: Float[Array, "V P"] | None = None,
    ) -> States:
        """Final hidden states.

        Args:
            tokens: input of the decoder, or of an encoder alone.
            source: input of the encoder in an encoder-decoder.
            keys_B: a key for each sequence, in training; without, nothing is dropped.
            table_VP: embedding table; by default the model's own.
        """
        tokens, memory_BSD, routings = as_tokens(tokens), None, []
        source_tokens = None
        if self.encoder is not None and self.decoder is not None:
            assert source is not None, "an encoder-decoder needs a source"
            source_tokens = as_tokens(source)
            memory_BSD, routing = self.encoder(
                self.embed(source_tokens.ids_BT, table_VP), source_tokens,
                keys_B=fold_in_keys(keys_B, 2))
            routings.append(routing)
        last = self.decoder or self.encoder
        assert last is not None
        x_BTD, routing = last(
            self.embed(tokens.ids_BT, table_VP), tokens, memory_BSD, source_tokens, keys_B)
        return States(x_BTD, tokens, self._mean([*routings, routing]))

    def head(
        self, kind: str, states: States, spans_BM3: Int[AnyArray, "B M 3"] | None = None,
        table_VP: Float[Array, "V P"] | None = None,
    ) -> Array:
        """Output of a head (see scaling.models.heads).

        Args:
            kind: one of the configured heads.
            states: final hidden states.
            spans_BM3: the spans, for `span_boundary`.
            table_VP: embedding table; by default the model's own.
        """
        module, x_BTD = self.heads[kind], states.x_BTD
        if isinstance(module, ClassesHead) and module.pool == "first":
            assert self.pooler is not None  # `has_pooler` follows from the heads
            x_BTD = jnp.tanh(self.pooler(x_BTD[:, :1]))
        output: Array = module(
            x_BTD, self.table(table_VP), states.tokens if spans_BM3 is None else spans_BM3)
        return output

    def losses(
        self, kind: str, states: States, targets_BM: Int[AnyArray, "B M"],
        spans_BM3: Int[AnyArray, "B M 3"] | None = None,
    ) -> Float[Array, "B M"]:
        """Cross-entropy of a head over the vocabulary, in nats, by the kernel of
        `execution.cross_entropy`.

        Args:
            kind: a head over the vocabulary.
            states: final hidden states, at the positions that are predicted.
            targets_BM: the tokens to be predicted there.
            spans_BM3: the spans, for `span_boundary`.
        """
        losses_BM: Array = self.heads[kind].losses(
            states.x_BTD, self.table(), targets_BM,
            states.tokens if spans_BM3 is None else spans_BM3)
        return losses_BM

    def embed(
        self, ids_BT: Ids, table_VP: Float[Array, "V P"] | None = None
    ) -> Float[Array, "B T P"]:
        """Embedded tokens, from the model's own table by default."""
        table_VP = shard(self.table(table_VP), None, None)
        layout = out_sharding((*ids_BT.shape, table_VP.shape[1]), "batch", None, None)
        x_BTP = table_VP.at[ids_BT].get(out_sharding=layout)
        return x_BTP * self.scale if self.scale != 1 else x_BTP

    def table(self, table_VP: Float[Array, "V P"] | None = None) -> Float[Array, "V P"]:
        """The embedding table: the given one, or the model's own.

        Raises:
            ValueError: neither exists.
        """
        if table_VP is not None:
            return table_VP
        if self.embedding is None:
            raise ValueError("the model has no embedding of its own; give a table")
        return self.embedding[...]

    def _mean(self, routings: list[Routing | None]) -> Routing | None:
        """Router statistics averaged over layers, from their sums over layers."""
        sums = [routing for routing in routings if routing is not None]
        if not sums or self.config.experts is None:
            return None
        every = self.config.experts.every
        layers = (self.config.encoder_layers + self.config.decoder_layers) // every
        mean: Routing = jax.tree.map(lambda *parts: sum(parts) / layers, *sums)
        return mean
