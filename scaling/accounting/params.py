"""How many parameters a model has, part by part, without making one."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from scaling.accounting.shapes import (
    WITH_VOCABULARY,
    Side,
    attention_width,
    feed_forward_matrices,
    head_matrices,
    head_norms,
    key_matrices,
    kv_width,
    query_matrices,
    sides,
)
from scaling.config import ModelConfig
from scaling.config.parts import Head, SpanBoundary

EMBEDDINGS = ("embedding", "positions", "types", "vocabulary")
"""Parts that `non_embedding` leaves out."""

PARTS = (
    *EMBEDDINGS[:3], "embedding_map", "relative_positions",
    "attention", "encoder_attention", "decoder_attention", "cross_attention",
    "feed_forward", "router", "experts", "norms", "pooler", "vocabulary",
)
"""The order of parts; other heads' parts, named after their kind, follow."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of a model. Every parameter is in exactly one part, so the parts add up."""

    parts: dict[str, int]
    """By part, only those that the model has, in a fixed order. `embedding` is the table of token
    vectors; a tied head uses it too, and it is counted once. `vocabulary` is the heads' own output
    matrices over the vocabulary where they are not tied, and their biases. Shared layers are
    counted once; both sides of an encoder-decoder together where a part does not name one."""
    idle: int
    """Those of experts that a token does not go to."""
    kaplan: int
    """Matrices of attention and feed-forward alone: N as Kaplan et al. 2020 count it, 12 L d^2
    (section 2.1, eq. 2.1), without embeddings, norms, biases and maps of relative positions."""

    @property
    def total(self) -> int:
        """All of them: N as Hoffmann et al. 2022 count it."""
        return sum(self.parts.values())

    @property
    def non_embedding(self) -> int:
        """Without the tables of embeddings, positions and types and what is the vocabulary's own in
        the heads: close to `kaplan`, with the norms and biases that it leaves out."""
        return self.total - sum(self.parts.get(part, 0) for part in EMBEDDINGS)

    @property
    def active(self) -> int:
        """Those that one token passes through: of the experts only its top_k (Fedus et al. 2021).
        They drive compute, the total drives memory."""
        return self.total - self.idle


@functools.lru_cache(maxsize=1024)  # a sweep asks for few models, thousands of times
def count_parameters(model: ModelConfig) -> Parameters:
    """Parameters of a model whose vocabulary is known. Nothing is materialised.

    Raises:
        ValueError: the vocabulary is still to be taken from the data.
    """
    parts = Counter({"embedding": model.vocabulary * model.embedding_width})
    idle = kaplan = 0
    for side in sides(model):
        parts.update(_around(model, side))
        parts.update(_blocks(model, side))
        own, attentions = _copies(model, side), 2 if side.source_tokens else 1
        kaplan += own["attention"] * attentions * (query_matrices(model) + key_matrices(model))
        kaplan += own["feed_forward"] * feed_forward_matrices(model)
        if model.experts is not None:
            kaplan += side.expert_layers * model.experts.count * feed_forward_matrices(model)
            idle += side.expert_layers * (model.experts.count - model.experts.top_k) * (
                _expert(model))
    for head in model.outputs:
        parts.update(_head(model, head))
    if model.has_pooler:
        parts["pooler"] = _linear(model, model.d_model, model.d_model)
    order = [*PARTS, *(f"{head.kind}_head" for head in model.outputs)]
    return Parameters({part: parts[part] for part in order if parts[part]}, idle, kaplan)


def _around(model: ModelConfig, side: Side) -> dict[str, int]:
    """What stands below and above a stack's blocks."""
    D, P = model.d_model, model.embedding_width
    width = P if model.embedding_map == "last" else D
    learned, buckets = model.positions == "learned", model.positions == "relative"
    norms = model.embedding_norm * _norm(model, width) + model.has_final_norm * _norm(model, D)
    return {
        "positions": learned * (side.tokens + model.position_offset) * width,
        "types": model.n_types * width,
        "embedding_map": (P != D) * (P * D + model.embedding_bias * D),
        "relative_positions": buckets * model.relative_buckets * model.n_heads,
        "norms": norms,
    }


def _copies(model: ModelConfig, side: Side) -> dict[str, int]:
    """How many attentions, and feed-forward layers that are not routed, a stack has of its own."""
    return {
        "attention": 1 if model.share_layers in ("all", "attention") else side.layers,
        "feed_forward": 1 if model.share_layers in ("all", "feed_forward") else side.dense_layers,
    }


def _blocks(model: ModelConfig, side: Side) -> dict[str, int]:
    """What stands in a stack's blocks."""
    D, A = model.d_model, attention_width(model)
    own = _copies(model, side)
    attention = query_matrices(model) + key_matrices(model)
    attention += model.biases * (A + 2 * kv_width(model) + D)
    crosses = own["attention"] if side.source_tokens else 0
    # Routed layers are never shared, so they have a norm each.
    wide_norms = 0 if model.parallel == "one_norm" else own["feed_forward"] + side.expert_layers
    norms = own["attention"] + crosses + wide_norms
    count, router = (model.experts.count, D * model.experts.count) if model.experts else (0, 0)
    both = model.mode == "encoder-decoder"
    # A map of the distance's sines, and two biases of queries (Transformer-XL).
    distances = (D + 2) * A if model.positions == "transformer_xl" else 0
    return {
        f"{side.name}_attention" if both else "attention": own["attention"] * attention,
        "cross_attention": crosses * attention,
        "relative_positions": own["attention"] * distances,
        "feed_forward": own["feed_forward"] * (
            feed_forward_matrices(model) + model.biases * ((1 + model.gated) * model.ff_width + D)),
        "router": side.expert_layers * router,
        "experts": side.expert_layers * count * _expert(model),
        "norms": norms * _norm(model, D) if model.norm_place != "none" else 0,
    }


def _expert(model: ModelConfig) -> int:
    """Parameters of one expert, whose gate has no bias."""
    return feed_forward_matrices(model) + model.biases * (model.ff_width + model.d_model)


def _head(model: ModelConfig, head: Head) -> dict[str, int]:
    """What a head has of its own, apart from the pooler."""
    biased = model.biases and model.pooling(head) != "last" and head.kind != "lm"
    own = sum(inside * outside + biased * outside for inside, outside in head_matrices(model, head))
    own += sum(_norm(model, width) for width in head_norms(model, head))
    if isinstance(head, SpanBoundary):
        own += head.longest * head.d_place
    vocabulary = 0
    if head.kind in WITH_VOCABULARY:
        matrix = 0 if model.tied_head else model.embedding_width
        vocabulary = model.vocabulary * (matrix + (head.kind != "lm" or head.bias))
    return {f"{head.kind}_head": own, "vocabulary": vocabulary}


def _linear(model: ModelConfig, inside: int, outside: int) -> int:
    return (inside + model.biases) * outside


def _norm(model: ModelConfig, width: int) -> int:
    """A norm's gains, and the biases that a layer norm has where the model has biases."""
    return width * (2 if model.biases and model.norm == "layer" else 1)
