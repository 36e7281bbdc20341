"""Training FLOPs per token, counted from the matrix products that the program computes.

A multiply-add is two FLOPs. The backward pass takes twice the forward pass (Kaplan et al. 2020,
section 2.1), so training takes three times the forward pass; trained.py has the FLOPs of a run that
trains some parameters only.

Counted on full sequences are:

- attention over all keys, also those that a mask or local attention excludes;
- every slot of every expert, since empty slots are computed too;
- shared layers at every application;
- heads over the vocabulary and over tokens at every position (span boundaries as if every position
  were masked, which is an upper bound), heads on a pooled or last token once per sequence.

Not counted are element-wise operations, and what is computed once per batch whatever its size: the
projection of distances of Transformer-XL positions, and T5's attention biases.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from scaling.accounting.shapes import (
    VOCABULARY_HEADS,
    StackShape,
    attention_width,
    feed_forward_weights,
    head_matrices,
    key_value_weights,
    query_output_weights,
    stacks,
)
from scaling.config import ModelConfig
from scaling.config.parts import Head

FORWARD_AND_BACKWARD = 3


def forward_flops_per_sequence(
    model: ModelConfig, predictions: int | None = None
) -> dict[str, int]:
    """FLOPs of the forward pass for one full sequence, by part.

    In an encoder-decoder a sequence is `source_context` tokens of the encoder and `context` tokens
    of the decoder, counted by stack; keys and values of cross-attention are computed from the
    encoder's tokens.

    Args:
        model: a model with a known vocabulary size.
        predictions: number of positions at which heads over the vocabulary are computed; by default
            all.
    """
    flops: Counter[str] = Counter()
    for stack in stacks(model):
        flops.update(stack_flops(model, stack))
    for head in model.outputs:
        flops[f"{head.kind}_head"] += head_flops(model, head, predictions or model.context)
    if model.has_pooler:
        flops["pooler"] += 2 * model.d_model**2
    return {part: count for part, count in flops.items() if count}


def forward_flops_per_token(model: ModelConfig) -> dict[str, float]:
    """FLOPs of the forward pass per token of a full sequence, by part; in an encoder-decoder per
    token of the decoder's sequence, including the encoder."""
    counted = forward_flops_per_sequence(model)
    return {part: count / model.context for part, count in counted.items()}


def training_flops_per_token(model: ModelConfig) -> int:
    """Training FLOPs per token, in an encoder-decoder per token of the decoder's sequence. The
    `flops_counted` of a run is this times its tokens."""
    total = FORWARD_AND_BACKWARD * sum(forward_flops_per_sequence(model).values())
    return round(Fraction(total, model.context))


def flops_6nd(params: int, tokens: int) -> int:
    """The estimate C = 6 N D of training FLOPs (Kaplan et al. 2020, section 2.1).

    Args:
        params: N; the runs table uses all parameters (Hoffmann et al. 2022).
        tokens: D.
    """
    return 2 * FORWARD_AND_BACKWARD * params * tokens


def stack_flops(model: ModelConfig, stack: StackShape) -> dict[str, int]:
    """FLOPs of the forward pass of a stack for one full sequence, by part."""
    D, P, A, n = model.d_model, model.embedding_width, attention_width(model), stack.tokens
    prefix = f"{stack.name}_" if model.mode == "encoder-decoder" else ""
    # Scores and the sum of values; Transformer-XL positions add scores of distances.
    products = 3 if model.positions == "transformer_xl" else 2
    cross = n * query_output_weights(model) + stack.source_tokens * key_value_weights(model)
    cross_layers = stack.layers if stack.source_tokens else 0
    experts = model.experts
    slots = experts.count * experts.slots(n) if experts else 0
    return {
        "embedding_projection": 2 * n * P * D if P != D else 0,
        f"{prefix}attention_projections":
            stack.layers * 2 * n * (query_output_weights(model) + key_value_weights(model)),
        f"{prefix}attention_products": stack.layers * products * 2 * n * n * A,
        "cross_attention_projections": cross_layers * 2 * cross,
        "cross_attention_products": cross_layers * 2 * 2 * n * stack.source_tokens * A,
        "feed_forward": stack.dense_layers * 2 * n * feed_forward_weights(model),
        "router": stack.expert_layers * 2 * n * D * (experts.count if experts else 0),
        "experts": stack.expert_layers * 2 * slots * feed_forward_weights(model),
    }


def head_flops(model: ModelConfig, head: Head, predictions: int) -> int:
    """FLOPs of the forward pass of a head for one sequence, without the pooler.

    Args:
        model: the model.
        head: one of its heads.
        predictions: number of positions at which heads over the vocabulary are computed.
    """
    weights = sum(n_in * n_out for n_in, n_out in head_matrices(model, head))
    if head.kind in VOCABULARY_HEADS:
        return 2 * predictions * (weights + model.embedding_width * model.vocabulary)
    return 2 * (model.context if model.pooling(head) is None else 1) * weights
