"""Parts of a model configuration: initialisation, mixture of experts, heads."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling.config.base import Config, Dimension, LayerCount, NonNegative, Positive


class InitConfig(Config):
    """Distribution of the initial weights. Gains are initialised to one and biases to zero."""

    distribution: Literal["normal", "truncated", "uniform"] = "normal"
    """Shape of the distribution: normal, normal truncated at two standard deviations, or
    uniform."""
    std: Positive | None = None
    """Standard deviation of every matrix; by default gain / sqrt(fan), which keeps activations at
    order one at every width."""
    fan: Literal["in", "average"] = "in"
    """Fan of the default standard deviation: fan-in, or the mean of fan-in and fan-out (Glorot &
    Bengio 2010)."""
    gain: Positive = 1.0
    """Factor that multiplies 1 / sqrt(fan)."""
    embedding_std: Positive | None = None
    """Standard deviation of embedding tables; by default `std`, or 1 / sqrt(d_embedding) if `std`
    is null, with which the logits of a tied head are of order one."""
    residual: Literal["scaled", "plain"] = "scaled"
    """Whether matrices that write to the residual stream are divided by the square root of their
    number, so that its variance does not grow with depth (GPT-2, Radford et al. 2019)."""


class ExpertsConfig(Config):
    """A mixture of routed experts that replaces the feed-forward layer (Switch, Fedus et al. 2021,
    section 2)."""

    count: Dimension
    """Number of experts in a layer."""
    top_k: Dimension = 1
    """Number of experts that each token is routed to."""
    every: LayerCount = 2
    """Interval between layers with experts: 2 means layers 1, 3, 5 and so on, counted from 0."""
    capacity_factor: Positive = 1.25
    """Slots of an expert for each sequence, as a multiple of the even share top_k x tokens / count.
    Tokens beyond it are dropped: the layer adds nothing to them."""
    capacity: Dimension | None = None
    """Slots of an expert for each sequence, in tokens; overrides `capacity_factor`."""
    renormalise: bool = False
    """Whether the gate values of a token's top_k experts are divided by their sum."""
    balance_weight: NonNegative = 0.01
    """Weight of the load-balancing loss in training (Fedus et al. 2021, eq. 4)."""
    z_weight: NonNegative = 0.0
    """Weight of the router z-loss in training (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""

    def slots(self, tokens: int) -> int:
        """Slots of each expert for a sequence of the given number of tokens."""
        even_share = self.top_k * tokens / self.count
        return min(self.capacity or math.ceil(self.capacity_factor * even_share), tokens)


class LanguageModel(Config):
    """Language-model head: logits of the next token at every position, from the tied embedding or
    a matrix of its own."""

    kind: Literal["lm"]
    bias: bool = False
    """Whether the logits have a bias for each vocabulary entry."""


class MaskedLM(Config):
    """BERT's masked-LM head: a dense layer, activation and layer norm, then logits over the
    vocabulary with a bias."""

    kind: Literal["masked_lm"]


class SentencePair(Config):
    """Two classes from the pooled first token: whether segment B follows A (BERT), or whether the
    two segments are in order (ALBERT)."""

    kind: Literal["next_sentence", "sentence_order"]


class ReplacedToken(Config):
    """ELECTRA's discriminator head: one logit per token, whether it was replaced."""

    kind: Literal["replaced_token"]


class SpanBoundary(Config):
    """SpanBERT's span-boundary head: predicts a masked token from the two tokens outside its span
    and its position in the span (Joshi et al. 2019, section 3.2)."""

    renamed: ClassVar[dict[str, str]] = {"longest": "max_span", "d_place": "d_position"}

    kind: Literal["span_boundary"]
    max_span: Dimension = 20
    """Number of positions in a span that have an embedding."""
    d_position: Dimension = 200
    """Width of the position embedding."""


class TokenClasses(Config):
    """Token classification: class logits for every token (tagging)."""

    kind: Literal["token"]
    classes: Dimension
    """Number of classes."""


class SequenceClasses(Config):
    """Sequence classification: class logits for a sequence; with one class, regression."""

    kind: Literal["sequence"]
    classes: Dimension
    """Number of classes."""
    pool: Literal["first", "last"] | None = None
    """Token that the head reads: the pooled first token (as in BERT, the default for encoders), or
    the last token without pooling (as in GPT, the default for decoders)."""


class Span(Config):
    """Extractive question answering: start and end logits for every token."""

    kind: Literal["span"]


class MultipleChoice(Config):
    """Multiple choice: one score per sequence, compared between the answers of a question."""

    kind: Literal["choice"]


Head = Annotated[
    LanguageModel | MaskedLM | SentencePair | ReplacedToken | SpanBoundary | TokenClasses
    | SequenceClasses | Span | MultipleChoice,
    Field(discriminator="kind"),
]

HEAD_MODES: dict[str, set[str]] = {
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
"""The model modes that support each head."""
