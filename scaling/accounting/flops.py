"""How much arithmetic a token of training takes.

A multiplication and an addition are two FLOPs. The backward pass takes twice the forward pass
(Kaplan et al. 2020, section 2.1), so training takes three times the forward pass.

Counted are the matrix products that the program computes, on full sequences:

- attention over the whole of its keys, whether a mask or a band hides some of them or not;
- every slot of every expert, since empty ones are computed too;
- shared layers at every application;
- heads over the vocabulary and over tokens at every position (span boundaries as if every position
  were masked, which is their upper bound), heads on a pooled or a last token once a sequence.

Not counted are element-wise work, and what is computed once a batch, however many sequences it has:
the map of distances of Transformer-XL's positions, and T5's biases.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from scaling.accounting.shapes import (
    WITH_VOCABULARY,
    Side,
    attention_width,
    feed_forward_matrices,
    head_matrices,
    key_matrices,
    query_matrices,
    sides,
)
from scaling.config import ModelConfig
from scaling.config.parts import Head

FORWARD_AND_BACKWARD = 3


def forward_flops_per_sequence(
    model: ModelConfig, predictions: int | None = None
) -> dict[str, int]:
    """FLOPs of the forward pass for one full sequence, by part.

    In an encoder-decoder a sequence is `source_context` tokens of the encoder and `context` of the
    decoder, each stack counted on its own; keys and values of cross-attention are computed of the
    encoder's tokens.

    Args:
        model: a model whose vocabulary is known.
        predictions: positions at which heads over the vocabulary are computed; by default all.
    """
    flops: Counter[str] = Counter()
    for side in sides(model):
        flops.update(_stack(model, side))
    for head in model.outputs:
        flops[f"{head.kind}_head"] += _head(model, head, predictions or model.context)
    if model.has_pooler:
        flops["pooler"] += 2 * model.d_model**2
    return {part: count for part, count in flops.items() if count}


def forward_flops_per_token(model: ModelConfig) -> dict[str, float]:
    """FLOPs of the forward pass for one token of a full sequence, by part; in an encoder-decoder
    for one token of the decoder's sequence, with its share of the encoder's work."""
    counted = forward_flops_per_sequence(model)
    return {part: count / model.context for part, count in counted.items()}


def training_flops_per_token(model: ModelConfig) -> int:
    """FLOPs for one token of training, of the decoder's sequence in an encoder-decoder:
    `flops_counted` of a run is this times its tokens."""
    total = FORWARD_AND_BACKWARD * sum(forward_flops_per_sequence(model).values())
    return round(Fraction(total, model.context))


def flops_6nd(params: int, tokens: int) -> int:
    """The usual estimate C = 6 N D (Kaplan et al. 2020, section 2.1).

    Args:
        params: N; the runs table takes all parameters (Hoffmann et al. 2022).
        tokens: D.
    """
    return 2 * FORWARD_AND_BACKWARD * params * tokens


def _stack(model: ModelConfig, side: Side) -> dict[str, int]:
    D, P, A, n = model.d_model, model.embedding_width, attention_width(model), side.tokens
    whose = f"{side.name}_" if model.mode == "encoder-decoder" else ""
    # Scores and the sum of values; with Transformer-XL's positions the scores of distances, too.
    products = 3 if model.positions == "transformer_xl" else 2
    cross = n * query_matrices(model) + side.source_tokens * key_matrices(model)
    looks = side.layers if side.source_tokens else 0
    experts = model.experts
    slots = experts.count * experts.room(n) if experts else 0
    return {
        "embedding_map": 2 * n * P * D if P != D else 0,
        f"{whose}attention_projections":
            side.layers * 2 * n * (query_matrices(model) + key_matrices(model)),
        f"{whose}attention_products": side.layers * products * 2 * n * n * A,
        "cross_attention_projections": looks * 2 * cross,
        "cross_attention_products": looks * 2 * 2 * n * side.source_tokens * A,
        "feed_forward": side.dense_layers * 2 * n * feed_forward_matrices(model),
        "router": side.expert_layers * 2 * n * D * (experts.count if experts else 0),
        "experts": side.expert_layers * 2 * slots * feed_forward_matrices(model),
    }


def _head(model: ModelConfig, head: Head, predictions: int) -> int:
    numbers = sum(inside * outside for inside, outside in head_matrices(model, head))
    if head.kind in WITH_VOCABULARY:
        return 2 * predictions * (numbers + model.embedding_width * model.vocabulary)
    return 2 * (model.context if model.pooling(head) is None else 1) * numbers
