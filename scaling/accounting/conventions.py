"""Training FLOPs per token as the literature counts them: the same model, and figures that differ
by tens of per cent at small sizes. A law is only as good as the C it was fitted with.

The formulas are those of decoders. Here they hold for other models by these rules: every token is
counted in the stack that it passes through, and keys and values of cross-attention are the
encoder's; of experts a token passes through top_k; shared layers count at every application; and
all is per token of the decoder's sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from scaling.accounting.flops import FORWARD_AND_BACKWARD, training_flops_per_token
from scaling.accounting.params import count_parameters
from scaling.accounting.shapes import (
    WITH_VOCABULARY,
    attention_width,
    feed_forward_matrices,
    key_matrices,
    query_matrices,
    sides,
)
from scaling.config import ModelConfig


@dataclass(frozen=True)
class Terms:
    """What the formulas are made of, for one token of the (decoder's) sequence. s is the tokens
    of a sequence, a the width of all heads together, d that of the model, L its layers."""

    matrices: float
    """N without embeddings, head, norms and biases: numbers in the matrices of attention and
    feed-forward that a token passes through."""
    scores: float
    """L s a: products of queries and keys take twice this, and so do those with the values."""
    scores_by_width: float
    """L s d, which is the same where all heads together are as wide as the model."""
    softmax: float
    """L s times the heads."""
    layers_by_width: float
    """L d^2; attention to an encoder is one third of a layer."""
    rest: float
    """Parameters outside `matrices`, embeddings among them."""
    total: float
    """All parameters, each once."""
    non_embedding: float
    """Those that are not embeddings (Parameters.non_embedding), each once."""
    active: float
    """All parameters but those of experts that a token does not go to, each once."""
    embedding: float
    """V d for each token that is embedded."""
    head: float
    """V d for each of the heads over the vocabulary."""
    counted: float
    """What this program computes."""


class Convention(NamedTuple):
    """A way to count."""

    description: str
    """The formula, and whose it is."""
    flops: Callable[[Terms], float]
    """Training FLOPs per token."""


CONVENTIONS: dict[str, Convention] = {
    "counted": Convention(
        "every matrix product that is computed, attention over the whole context (this program's "
        "flops_counted)", lambda t: t.counted),
    "6nd_total": Convention(
        "6 N with all parameters (the runs table's flops_6nd)", lambda t: 6 * t.total),
    "6nd_non_embedding": Convention(
        "6 N with all parameters but embeddings and the vocabulary's matrix",
        lambda t: 6 * t.non_embedding),
    "6nd_active": Convention(
        "6 N with all parameters but those of experts that a token does not go to",
        lambda t: 6 * t.active),
    "kaplan": Convention(
        "6 N with N = 12 L d^2 (Kaplan et al. 2020, section 2.1: C = 6 N D)",
        lambda t: 6 * t.matrices),
    "kaplan_context": Convention(
        "6 N + 6 L s d with the same N (Kaplan et al. 2020, eq. 2.2)",
        lambda t: 6 * t.matrices + 6 * t.scores),
    "chinchilla": Convention(
        "each product and the softmax, embeddings and head left out (Hoffmann et al. 2022, "
        "appendix F, as their Table A4 has it)", lambda t: _chinchilla(t)),
    "chinchilla_with_embeddings": Convention(
        "the same with embeddings and head as products with V d (Hoffmann et al. 2022, appendix F, "
        "as it is printed)",
        lambda t: _chinchilla(t) + 6 * (t.embedding + t.head)),
    "porian_without_head": Convention(
        "6 N without embeddings and head (Porian et al. 2024)", lambda t: 6 * t.matrices),
    "porian": Convention(
        "6 (N + V d), with the head (Porian et al. 2024)", lambda t: 6 * (t.matrices + t.head)),
    "porian_attention": Convention(
        "6 (N + V d) + 6 s d L, causal attention as half of the whole (Porian et al. 2024)",
        lambda t: 6 * (t.matrices + t.head) + 6 * t.scores_by_width),
    "pearce_song": Convention(
        "6 (N + V d) + 12 s d L, the whole of attention (Pearce & Song 2024)",
        lambda t: 6 * (t.matrices + t.head) + 12 * t.scores_by_width),
    "palm_mfu": Convention(
        "6 N + 12 L H Q s with all parameters, H heads of width Q (Chowdhery et al. 2022, "
        "appendix B)", lambda t: 6 * (t.matrices + t.rest) + 12 * t.scores),
    "deepseek": Convention(
        "72 L d^2 + 12 L d s, whatever the shape of a layer (DeepSeek-AI 2024, eq. 2)",
        lambda t: 72 * t.layers_by_width + 12 * t.scores_by_width),
}
"""Every convention, by a stable name."""


def flops_by_convention(model: ModelConfig) -> dict[str, float]:
    """Training FLOPs per token under every convention of CONVENTIONS, on full sequences; per token
    of the decoder's sequence in an encoder-decoder."""
    terms = terms_of(model)
    return {name: float(convention.flops(terms)) for name, convention in CONVENTIONS.items()}


def terms_of(model: ModelConfig) -> Terms:
    """The terms of a model whose vocabulary is known."""
    d, a, T = model.d_model, attention_width(model), model.context
    table = model.vocabulary * model.embedding_width
    heads = sum(head.kind in WITH_VOCABULARY for head in model.outputs)
    parameters = count_parameters(model)
    wide, experts = feed_forward_matrices(model), model.experts
    top_k = experts.top_k if experts else 0
    matrices = pairs = embedded = 0
    layers = 0.0
    for side in sides(model):
        n, m, L = side.tokens, side.source_tokens, side.layers
        own, other = query_matrices(model), key_matrices(model)
        matrices += L * (n * (own + other) + (n * own + m * other) * (m > 0))
        matrices += n * wide * (side.dense_layers + top_k * side.expert_layers)
        pairs += L * n * (n + m)
        layers += L * (n + (n + m) / 6 if m else n)
        embedded += n
    return Terms(
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


def _chinchilla(t: Terms) -> float:
    # Softmax takes three: a subtraction, an exponential and a division.
    return FORWARD_AND_BACKWARD * (2 * t.matrices + 2 * 2 * t.scores + 3 * t.softmax)
