"""Training FLOPs per token under the conventions of the literature, which differ by tens of percent
for the same small model. A fitted law is valid only for the convention of its C.

The published formulas are for decoders. They are extended to other models by these rules: every
token is counted in the stack that processes it, and the keys and values of cross-attention belong
to the encoder; a token uses top_k experts; shared layers count at every application; and everything
is per token of the decoder's sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from scaling.accounting.flops import FORWARD_AND_BACKWARD, training_flops_per_token
from scaling.accounting.params import count_parameters
from scaling.accounting.shapes import (
    VOCABULARY_HEADS,
    attention_width,
    feed_forward_weights,
    key_value_weights,
    query_output_weights,
    stacks,
)
from scaling.config import ModelConfig


@dataclass(frozen=True)
class FlopTerms:
    """Terms of the FLOP formulas, per token of the (decoder's) sequence. s is the sequence length,
    a the total width of the heads, d the width of the model, L the number of layers."""

    matrices: float
    """N without embeddings, head, norms and biases: parameters in the attention and feed-forward
    matrices that a token uses."""
    scores: float
    """L s a. The products of queries and keys take twice this, and so do the sums of values."""
    scores_by_width: float
    """L s d, which equals `scores` if the total width of the heads is that of the model."""
    softmax: float
    """L s times the number of heads."""
    layers_by_width: float
    """L d^2; cross-attention counts as one third of a layer."""
    rest: float
    """Parameters outside `matrices`, including embeddings."""
    total: float
    """All parameters, each counted once."""
    non_embedding: float
    """Non-embedding parameters (ParameterCounts.non_embedding), each counted once."""
    active: float
    """Parameters without those of experts that a token is not routed to, each counted once."""
    embedding: float
    """V d for each embedded token."""
    head: float
    """V d for each head over the vocabulary."""
    counted: float
    """FLOPs that this program computes (accounting/flops.py)."""


class FlopConvention(NamedTuple):
    """A convention for counting training FLOPs."""

    description: str
    """The formula and its source."""
    flops: Callable[[FlopTerms], float]
    """Training FLOPs per token."""


CONVENTIONS: dict[str, FlopConvention] = {
    "counted": FlopConvention(
        "every matrix product that is computed, attention over the whole context (flops_counted of "
        "the runs table)", lambda t: t.counted),
    "6nd_total": FlopConvention(
        "6 N with all parameters (the runs table's flops_6nd)", lambda t: 6 * t.total),
    "6nd_non_embedding": FlopConvention(
        "6 N with all parameters except embeddings and the output matrix of the vocabulary",
        lambda t: 6 * t.non_embedding),
    "6nd_active": FlopConvention(
        "6 N with all parameters except those of experts that a token is not routed to",
        lambda t: 6 * t.active),
    "kaplan": FlopConvention(
        "6 N with N = 12 L d^2 (Kaplan et al. 2020, section 2.1: C = 6 N D)",
        lambda t: 6 * t.matrices),
    "kaplan_context": FlopConvention(
        "6 N + 6 L s d with the same N (Kaplan et al. 2020, eq. 2.2)",
        lambda t: 6 * t.matrices + 6 * t.scores),
    "chinchilla": FlopConvention(
        "every matrix product and the softmax, without embeddings and head (Hoffmann et al. 2022, "
        "appendix F, as used in table A4)", lambda t: _chinchilla(t)),
    "chinchilla_with_embeddings": FlopConvention(
        "the same with embeddings and head as products with V d (Hoffmann et al. 2022, appendix F, "
        "as printed)",
        lambda t: _chinchilla(t) + 6 * (t.embedding + t.head)),
    "porian_without_head": FlopConvention(
        "6 N without embeddings and head (Porian et al. 2024)", lambda t: 6 * t.matrices),
    "porian": FlopConvention(
        "6 (N + V d), with the head (Porian et al. 2024)", lambda t: 6 * (t.matrices + t.head)),
    "porian_attention": FlopConvention(
        "6 (N + V d) + 6 s d L, causal attention as half of full attention (Porian et al. 2024)",
        lambda t: 6 * (t.matrices + t.head) + 6 * t.scores_by_width),
    "pearce_song": FlopConvention(
        "6 (N + V d) + 12 s d L, full attention (Pearce & Song 2024)",
        lambda t: 6 * (t.matrices + t.head) + 12 * t.scores_by_width),
    "palm_mfu": FlopConvention(
        "6 N + 12 L H Q s with all parameters, H heads of width Q (Chowdhery et al. 2022, "
        "appendix B)", lambda t: 6 * (t.matrices + t.rest) + 12 * t.scores),
    "deepseek": FlopConvention(
        "72 L d^2 + 12 L d s, independent of the shape of a layer (DeepSeek-AI 2024, eq. 2)",
        lambda t: 72 * t.layers_by_width + 12 * t.scores_by_width),
}
"""All conventions, by stable names."""


def flops_by_convention(model: ModelConfig) -> dict[str, float]:
    """Training FLOPs per token under every convention of CONVENTIONS, on full sequences; in an
    encoder-decoder per token of the decoder's sequence."""
    terms = terms_of(model)
    return {name: float(convention.flops(terms)) for name, convention in CONVENTIONS.items()}


def terms_of(model: ModelConfig) -> FlopTerms:
    """The terms of a model with a known vocabulary size."""
    d, a, T = model.d_model, attention_width(model), model.context
    table = model.vocabulary * model.embedding_width
    heads = sum(head.kind in VOCABULARY_HEADS for head in model.outputs)
    parameters = count_parameters(model)
    feed_forward, experts = feed_forward_weights(model), model.experts
    top_k = experts.top_k if experts else 0
    matrices = pairs = embedded = 0
    layers = 0.0
    for stack in stacks(model):
        n, m, L = stack.tokens, stack.source_tokens, stack.layers
        query, key = query_output_weights(model), key_value_weights(model)
        matrices += L * (n * (query + key) + (n * query + m * key) * (m > 0))
        matrices += n * feed_forward * (stack.dense_layers + top_k * stack.expert_layers)
        pairs += L * n * (n + m)
        layers += L * (n + (n + m) / 6 if m else n)
        embedded += n
    return FlopTerms(
        matrices=matrices / T,
        scores=pairs * a / T,
        scores_by_width=pairs * d / T,
        softmax=pairs * model.n_heads / T,
        layers_by_width=layers * d**2 / T,
        rest=parameters.total - parameters.kaplan,
        total=parameters.total,
        non_embedding=parameters.non_embedding,
        active=parameters.active,
        embedding=embedded * table / T,
        head=heads * table,
        counted=training_flops_per_token(model),
    )


def _chinchilla(t: FlopTerms) -> float:
    # The softmax takes three FLOPs: a subtraction, an exponential and a division.
    return FORWARD_AND_BACKWARD * (2 * t.matrices + 2 * 2 * t.scores + 3 * t.softmax)
