"""Sizes of a model's stacks and matrices, from which parameters, FLOPs and memory are counted."""

from __future__ import annotations

from typing import Literal, NamedTuple

from scaling.config import ModelConfig
from scaling.config.parts import Head, SequenceClasses, SpanBoundary, TokenClasses

MatrixShape = tuple[int, int]
"""Input and output width of a matrix."""


class StackShape(NamedTuple):
    """The size of a stack of blocks: an encoder or a decoder."""

    name: Literal["encoder", "decoder"]
    layers: int
    """Number of layers."""
    tokens: int
    """Tokens of a full sequence."""
    source_tokens: int
    """Encoder tokens that cross-attention reads; 0 without cross-attention."""
    expert_layers: int
    """Number of layers with routed experts."""

    @property
    def dense_layers(self) -> int:
        """Number of layers with a dense feed-forward layer."""
        return self.layers - self.expert_layers


def stacks(model: ModelConfig) -> list[StackShape]:
    """The stacks of a model: encoder, decoder, or both in this order."""
    both = model.mode == "encoder-decoder"
    source = model.source_length if both else 0

    def make(
        name: Literal["encoder", "decoder"], layers: int, tokens: int, source_tokens: int
    ) -> StackShape:
        expert_layers = sum(map(model.has_experts, range(layers)))
        return StackShape(name, layers, tokens, source_tokens, expert_layers)

    candidates = (make("encoder", model.encoder_layers, source or model.context, 0),
                  make("decoder", model.decoder_layers, model.context, source))
    return [stack for stack in candidates if stack.layers]


def attention_width(model: ModelConfig) -> int:
    """Total width of the query heads."""
    return model.n_heads * model.head_width


def kv_width(model: ModelConfig) -> int:
    """Total width of the key heads, which is also that of the value heads."""
    return model.kv_heads * model.head_width


def query_output_weights(model: ModelConfig) -> int:
    """Weights of the query and output projections of an attention layer."""
    return 2 * model.d_model * attention_width(model)


def key_value_weights(model: ModelConfig) -> int:
    """Weights of the key and value projections of an attention layer."""
    return 2 * model.d_model * kv_width(model)


def feed_forward_weights(model: ModelConfig) -> int:
    """Weights of the matrices of a feed-forward layer, or of one expert."""
    return (3 if model.gated else 2) * model.d_model * model.ff_width


VOCABULARY_HEADS = {"lm", "masked_lm", "span_boundary"}
"""Heads with one logit per vocabulary entry."""


def head_matrices(model: ModelConfig, head: Head) -> list[MatrixShape]:
    """The matrices of a head, without the pooler and the output matrix of the vocabulary."""
    D, P = model.d_model, model.embedding_width
    if isinstance(head, SpanBoundary):
        return [(2 * D + head.d_position, D), (D, P)]
    if isinstance(head, TokenClasses | SequenceClasses):
        return [(D, head.classes)]
    by_kind: dict[str, list[MatrixShape]] = {
        "lm": [(D, P)] if P != D else [],
        "masked_lm": [(D, P)],
        "replaced_token": [(D, D), (D, 1)],
        "choice": [(D, 1)],
    }
    return by_kind.get(head.kind, [(D, 2)])


def head_norms(model: ModelConfig, head: Head) -> list[int]:
    """Widths of the norms of a head."""
    D, P = model.d_model, model.embedding_width
    return {"masked_lm": [P], "span_boundary": [D, P]}.get(head.kind, [])
