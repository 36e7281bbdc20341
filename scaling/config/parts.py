"""Parts of a model's configuration: its initialisation, its experts and its heads."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from scaling.config.base import Config, Count, NonNegative, Positive


class InitConfig(Config):
    """How the weights are drawn at the start. Gains start at one and biases at nought."""

    distribution: Literal["normal", "truncated", "uniform"] = "normal"
    """Normal, normal cut off at two standard deviations, or uniform."""
    std: Positive | None = None
    """Standard deviation of every matrix; by default gain / sqrt(fan), which keeps activations of
    order one at every width."""
    fan: Literal["in", "average"] = "in"
    """Numbers that an output sums, or the mean of that and of those that an input goes into (Glorot
    & Bengio 2010)."""
    gain: Positive = 1.0
    """Factor on 1 / sqrt(fan)."""
    embedding_std: Positive | None = None
    """Standard deviation of tables of embeddings; by default `std`, or else 1 / sqrt(d_embedding),
    with which a tied head's logits are of order one."""
    residual: Literal["scaled", "plain"] = "scaled"
    """Whether matrices that write into the residual stream are divided by the square root of their
    number, so that the stream's variance does not grow with depth (GPT-2, Radford et al. 2019)."""


class ExpertsConfig(Config):
    """Routed experts in place of a feed-forward layer (Switch, Fedus et al. 2021, section 2)."""

    count: Count
    """Experts in a layer."""
    top_k: Count = 1
    """Experts that a token goes to."""
    every: Count = 2
    """Every how many layers experts stand: 2 is layers 1, 3, 5 and so on, counted from 0."""
    capacity_factor: Positive = 1.25
    """Room of an expert, as a multiple of its even share top_k x tokens / count of a sequence;
    tokens beyond it are dropped: the layer adds nothing to them."""
    capacity: Count | None = None
    """Room of an expert in tokens of a sequence, in place of the factor."""
    renormalise: bool = False
    """Whether the gates of a token's top_k experts are divided by their sum."""
    balance_weight: NonNegative = 0.01
    """Weight of the load-balancing loss in training (eq. 4)."""
    z_weight: NonNegative = 0.0
    """Weight of the router's z-loss in training (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""

    def room(self, tokens: int) -> int:
        """Tokens that an expert takes of a sequence of so many."""
        even_share = self.top_k * tokens / self.count
        return min(self.capacity or math.ceil(self.capacity_factor * even_share), tokens)


class LanguageModel(Config):
    """The next token of the vocabulary at every position, by the embedding or a matrix beside."""

    kind: Literal["lm"]
    bias: bool = False
    """Whether each entry's logit has a bias of its own."""


class MaskedLM(Config):
    """BERT's head: a dense layer, activation and layer norm, then the vocabulary with a bias."""

    kind: Literal["masked_lm"]


class SentencePair(Config):
    """Two classes from the pooled first token: whether B follows A (BERT), or whether the two are
    in order (ALBERT)."""

    kind: Literal["next_sentence", "sentence_order"]


class ReplacedToken(Config):
    """ELECTRA's discriminator: for every token, whether it was replaced."""

    kind: Literal["replaced_token"]


class SpanBoundary(Config):
    """SpanBERT's objective: a masked token from its span's two outer neighbours and its place in
    the span (Joshi et al. 2019, section 3.2)."""

    kind: Literal["span_boundary"]
    longest: Count = 20
    """Places in a span that have an embedding."""
    d_place: Count = 200
    """Width of that embedding."""


class TokenClasses(Config):
    """Classes of every token (tagging)."""

    kind: Literal["token"]
    classes: Count


class SequenceClasses(Config):
    """Classes of a sequence, or with one class a number (regression)."""

    kind: Literal["sequence"]
    classes: Count
    pool: Literal["first", "last"] | None = None
    """The pooled first token (BERT's way, the default in encoders), or the last token as it is
    (GPT's way, the default in decoders)."""


class Span(Config):
    """Where an answer starts and ends: two numbers for every token."""

    kind: Literal["span"]


class MultipleChoice(Config):
    """One number for each sequence; the answers of a question compete by it."""

    kind: Literal["choice"]


Head = Annotated[
    LanguageModel | MaskedLM | SentencePair | ReplacedToken | SpanBoundary | TokenClasses
    | SequenceClasses | Span | MultipleChoice,
    Field(discriminator="kind"),
]

MODES_OF_HEAD: dict[str, set[str]] = {
    "lm": {"decoder-only", "encoder-decoder"},
    "masked_lm": {"encoder-only"},
    "next_sentence": {"encoder-only"},
    "sentence_order": {"encoder-only"},
    "replaced_token": {"encoder-only"},
    "span_boundary": {"encoder-only"},
    "token": {"encoder-only", "decoder-only"},
    "sequence": {"encoder-only", "decoder-only", "encoder-decoder"},
    "span": {"encoder-only"},
    "choice": {"encoder-only", "decoder-only"},
}
"""The modes in which a head makes sense."""
