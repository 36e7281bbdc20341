"""Parameter counts of a model by part, computed from its configuration."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from scaling.accounting.shapes import (
    VOCABULARY_HEADS,
    StackShape,
    attention_width,
    feed_forward_weights,
    head_matrices,
    head_norms,
    key_value_weights,
    kv_width,
    query_output_weights,
    stacks,
)
from scaling.config import ModelConfig
from scaling.config.parts import Head, SpanBoundary

EMBEDDINGS = ("embedding", "positions", "types", "vocabulary")
"""Parts that `non_embedding` excludes."""

PARTS = (
    *EMBEDDINGS[:3], "embedding_projection", "relative_positions",
    "attention", "encoder_attention", "decoder_attention", "cross_attention",
    "feed_forward", "router", "experts", "norms", "pooler", "vocabulary",
)
"""Order of the parts; the parts of other heads, named after their kind, follow."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters of a model. Every parameter is in exactly one part, so the parts add up
    to the total."""

    parts: dict[str, int]
    """Counts by part, without empty parts, in a fixed order. `embedding` is the table of token
    embeddings, which is counted once if the head is tied to it. `vocabulary` is the untied output
    matrices over the vocabulary and their biases. Shared layers are counted once. Parts without the
    name of a stack add up the encoder and decoder of an encoder-decoder."""
    inactive: int
    """Parameters of the experts that a token is not routed to."""
    kaplan: int
    """Parameters of the attention and feed-forward matrices: N of Kaplan et al. 2020, 12 L d^2
    (section 2.1, eq. 2.1), without embeddings, norms, biases and projections of relative
    positions."""

    @property
    def total(self) -> int:
        """All parameters: N of Hoffmann et al. 2022."""
        return sum(self.parts.values())

    @property
    def non_embedding(self) -> int:
        """Parameters without the tables of tokens, positions and token types and without the output
        matrices and biases of the vocabulary: close to `kaplan`, but with norms and biases."""
        return self.total - sum(self.parts.get(part, 0) for part in EMBEDDINGS)

    @property
    def active(self) -> int:
        """Parameters that one token uses, with only its top_k experts (Fedus et al. 2021). They
        determine compute; the total determines memory."""
        return self.total - self.inactive


@functools.lru_cache(maxsize=1024)  # a sweep has few models and thousands of calls
def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Count the parameters of a model with a known vocabulary size. No array is created.

    Raises:
        ValueError: the vocabulary size is null.
    """
    parts = Counter({"embedding": model.vocabulary * model.embedding_width})
    inactive = kaplan = 0
    for stack in stacks(model):
        parts.update(_embeddings_and_norms(model, stack))
        parts.update(_blocks(model, stack))
        distinct, attentions = _distinct_layers(model, stack), 2 if stack.source_tokens else 1
        kaplan += distinct["attention"] * attentions * (
            query_output_weights(model) + key_value_weights(model))
        kaplan += distinct["feed_forward"] * feed_forward_weights(model)
        if model.experts is not None:
            kaplan += stack.expert_layers * model.experts.count * feed_forward_weights(model)
            inactive += stack.expert_layers * (model.experts.count - model.experts.top_k) * (
                _expert(model))
    for head in model.outputs:
        parts.update(_head(model, head))
    if model.has_pooler:
        parts["pooler"] = _linear(model, model.d_model, model.d_model)
    order = [*PARTS, *(f"{head.kind}_head" for head in model.outputs)]
    return ParameterCounts({part: parts[part] for part in order if parts[part]}, inactive, kaplan)


def _embeddings_and_norms(model: ModelConfig, stack: StackShape) -> dict[str, int]:
    """Parameters of a stack outside its blocks: positions, token types, projection, norms."""
    D, P = model.d_model, model.embedding_width
    width = P if model.embedding_projection == "last" else D
    learned, buckets = model.positions == "learned", model.positions == "relative"
    norms = model.embedding_norm * _norm(model, width) + model.has_final_norm * _norm(model, D)
    return {
        "positions": learned * (stack.tokens + model.position_offset) * width,
        "types": model.n_token_types * width,
        "embedding_projection": (P != D) * (P * D + model.embedding_projection_bias * D),
        "relative_positions": buckets * model.relative_buckets * model.n_heads,
        "norms": norms,
    }


def _distinct_layers(model: ModelConfig, stack: StackShape) -> dict[str, int]:
    """Number of attention layers, and of dense feed-forward layers, that share no parameters."""
    return {
        "attention": 1 if model.share_layers in ("all", "attention") else stack.layers,
        "feed_forward": 1 if model.share_layers in ("all", "feed_forward") else stack.dense_layers,
    }


def _blocks(model: ModelConfig, stack: StackShape) -> dict[str, int]:
    """Parameters of the blocks of a stack."""
    D, A = model.d_model, attention_width(model)
    distinct = _distinct_layers(model, stack)
    attention = query_output_weights(model) + key_value_weights(model)
    attention += model.use_bias * (A + 2 * kv_width(model) + D)
    crosses = distinct["attention"] if stack.source_tokens else 0
    # Layers with experts are never shared, so each has its own norm.
    feed_forward_norms = (
        0 if model.parallel == "one_norm" else distinct["feed_forward"] + stack.expert_layers)
    norms = distinct["attention"] + crosses + feed_forward_norms
    count, router = (model.experts.count, D * model.experts.count) if model.experts else (0, 0)
    both = model.mode == "encoder-decoder"
    # The projection of distance embeddings, and two query biases (Transformer-XL).
    distances = (D + 2) * A if model.positions == "transformer_xl" else 0
    return {
        f"{stack.name}_attention" if both else "attention": distinct["attention"] * attention,
        "cross_attention": crosses * attention,
        "relative_positions": distinct["attention"] * distances,
        "feed_forward": distinct["feed_forward"] * (
            feed_forward_weights(model)
            + model.use_bias * ((1 + model.gated) * model.ff_width + D)),
        "router": stack.expert_layers * router,
        "experts": stack.expert_layers * count * _expert(model),
        "norms": norms * _norm(model, D) if model.norm_place != "none" else 0,
    }


def _expert(model: ModelConfig) -> int:
    """Parameters of one expert; its gate has no bias."""
    return feed_forward_weights(model) + model.use_bias * (model.ff_width + model.d_model)


def _head(model: ModelConfig, head: Head) -> dict[str, int]:
    """Parameters of a head, without the pooler."""
    biased = model.use_bias and model.pooling(head) != "last" and head.kind != "lm"
    params = sum(n_in * n_out + biased * n_out for n_in, n_out in head_matrices(model, head))
    params += sum(_norm(model, width) for width in head_norms(model, head))
    if isinstance(head, SpanBoundary):
        params += head.max_span * head.d_position
    vocabulary = 0
    if head.kind in VOCABULARY_HEADS:
        matrix = 0 if model.tied_head else model.embedding_width
        vocabulary = model.vocabulary * (matrix + (head.kind != "lm" or head.bias))
    return {f"{head.kind}_head": params, "vocabulary": vocabulary}


def _linear(model: ModelConfig, n_in: int, n_out: int) -> int:
    return (n_in + model.use_bias) * n_out


def _norm(model: ModelConfig, width: int) -> int:
    """Parameters of a norm: gains, and biases of a layer norm if the model has biases."""
    return width * (2 if model.use_bias and model.norm == "layer" else 1)
