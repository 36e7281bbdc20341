"""The matrices of a model by their sizes, and the tokens that pass through them: what parameters,
arithmetic and memory all follow from."""

from __future__ import annotations

from typing import Literal, NamedTuple

from scaling.config import ModelConfig
from scaling.config.parts import Head, SequenceClasses, SpanBoundary, TokenClasses

Shape = tuple[int, int]
"""Numbers that go into a matrix, and that come out."""


class Side(NamedTuple):
    """One stack of blocks."""

    name: Literal["encoder", "decoder"]
    layers: int
    tokens: int
    """Tokens of a full sequence."""
    source_tokens: int
    """Tokens of the encoder that this stack looks at; 0 where it looks at none."""
    expert_layers: int
    """Layers whose feed-forward is routed."""

    @property
    def dense_layers(self) -> int:
        """Layers with a feed-forward layer of the usual kind."""
        return self.layers - self.expert_layers


def sides(model: ModelConfig) -> list[Side]:
    """The stacks of a model: an encoder, a decoder, or both in this order."""
    both = model.mode == "encoder-decoder"
    source = model.source_length if both else 0

    def side(name: Literal["encoder", "decoder"], layers: int, tokens: int, looks_at: int) -> Side:
        return Side(name, layers, tokens, looks_at, sum(map(model.has_experts, range(layers))))

    stacks = (side("encoder", model.encoder_layers, source or model.context, 0),
              side("decoder", model.decoder_layers, model.context, source))
    return [stack for stack in stacks if stack.layers]


def attention_width(model: ModelConfig) -> int:
    """Width of all heads of queries together."""
    return model.n_heads * model.head_width


def kv_width(model: ModelConfig) -> int:
    """Width of all heads of keys, or of values, together."""
    return model.kv_heads * model.head_width


def query_matrices(model: ModelConfig) -> int:
    """Numbers in the two matrices of an attention that a query's token passes through."""
    return 2 * model.d_model * attention_width(model)


def key_matrices(model: ModelConfig) -> int:
    """Numbers in the two matrices of an attention that a key's token passes through."""
    return 2 * model.d_model * kv_width(model)


def feed_forward_matrices(model: ModelConfig) -> int:
    """Numbers in the matrices of a feed-forward layer, or of one expert."""
    return (3 if model.gated else 2) * model.d_model * model.ff_width


WITH_VOCABULARY = {"lm", "masked_lm", "span_boundary"}
"""Heads that end in a number for each entry of the vocabulary."""


def head_matrices(model: ModelConfig, head: Head) -> list[Shape]:
    """The matrices of a head, apart from the pooler and from the vocabulary's."""
    D, P = model.d_model, model.embedding_width
    if isinstance(head, SpanBoundary):
        return [(2 * D + head.d_place, D), (D, P)]
    if isinstance(head, TokenClasses | SequenceClasses):
        return [(D, head.classes)]
    by_kind: dict[str, list[Shape]] = {
        "lm": [(D, P)] if P != D else [],
        "masked_lm": [(D, P)],
        "replaced_token": [(D, D), (D, 1)],
        "choice": [(D, 1)],
    }
    return by_kind.get(head.kind, [(D, 2)])


def head_norms(model: ModelConfig, head: Head) -> list[int]:
    """Widths of a head's norms."""
    D, P = model.d_model, model.embedding_width
    return {"masked_lm": [P], "span_boundary": [D, P]}.get(head.kind, [])
