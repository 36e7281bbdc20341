"""The architecture of a Transformer. A model family is a set of values here, not a class."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling.config.base import (
    LARGEST_DIMENSION,
    Config,
    Dimension,
    Fraction,
    LayerCount,
    NonNegativeInt,
    Positive,
)
from scaling.config.parts import (
    ExpertsConfig,
    Head,
    InitConfig,
    LanguageModel,
    MaskedLM,
    SequenceClasses,
)

Activation = Literal["gelu", "gelu_exact", "relu", "squared_relu", "swiglu", "geglu"]

_Rows = Annotated[NonNegativeInt, Field(le=LARGEST_DIMENSION)]
"""Rows of an embedding table that may be empty."""


class Architecture(Config):
    """A Transformer: sizes, then the choices in which model families differ."""

    renamed: ClassVar[dict[str, str]] = {
        "banded": "attention_pattern", "biases": "use_bias", "n_types": "n_token_types",
        "embedding_map": "embedding_projection", "embedding_bias": "embedding_projection_bias"}

    # Sizes
    d_model: Dimension
    """Width of the residual stream."""
    n_layers: LayerCount
    """Number of blocks; in an encoder-decoder, number of decoder blocks."""
    n_heads: Dimension
    """Number of attention heads in each block."""
    d_head: Dimension | None = None
    """Width of a head; by default d_model / n_heads, where n_heads must divide d_model."""
    n_kv_heads: Dimension | None = None
    """Number of key and value heads, a divisor of n_heads; by default n_heads. A smaller number is
    grouped-query attention (Ainslie et al. 2023), and 1 is multi-query attention (Shazeer 2019)."""
    d_ff: Dimension | None = None
    """Hidden width of the feed-forward layer; by default 4 d_model, or, for a gated activation
    (three matrices instead of two), 8/3 d_model rounded up to a multiple of 8."""
    d_embedding: Dimension | None = None
    """Width of the embeddings; by default d_model. If it differs from d_model, projections to and
    from d_model are added (ALBERT)."""
    context: Dimension
    """Sequence length in tokens; also the number of learned positions."""
    vocab_size: Dimension | None = None
    """Number of entries of the embedding table; by default the vocabulary size of the data's
    tokenizer."""
    n_token_types: _Rows = 0
    """Number of token types (segments) that have an embedding; 2 for the segments A and B of
    BERT."""
    n_encoder_layers: LayerCount | None = None
    """Number of encoder blocks of an encoder-decoder; by default n_layers."""
    source_context: Dimension | None = None
    """Length in tokens of the encoder's sequence in an encoder-decoder; by default `context`."""

    # Mode and attention mask
    mode: Literal["decoder-only", "encoder-only", "encoder-decoder"] = "decoder-only"
    """Kind of Transformer: a decoder attends from left to right, an encoder to the whole sequence,
    and an encoder-decoder is a decoder with cross-attention to the encoder's output."""
    attention: Literal["full", "causal", "prefix"] | None = None
    """Attention mask of the decoder, or of an encoder-only model: all positions (full), the
    position itself and those before it (causal), or those and the whole prefix (prefix, Raffel et
    al. 2020, section 3.2.1). By default causal in decoders and full in encoders."""
    attention_pattern: Literal["global", "alternating", "local"] = "global"
    """Layers whose attention is limited to `window`: none (global), every second layer starting
    with the second (alternating, as in GPT-3), or all (local)."""
    window: Dimension | None = None
    """Width of local attention in tokens, counted backwards and including the token itself; in an
    encoder it extends equally far forwards."""

    # Positions
    positions: Literal[
        "none", "learned", "sinusoidal", "rotary", "relative", "alibi", "transformer_xl"
    ] = "rotary"
    """Position encoding: embeddings added to the input, learned or sinusoidal (Vaswani et al. 2017,
    section 3.5); rotary queries and keys in every block (Su et al. 2021); an attention bias by
    distance, learned in buckets (relative, T5) or linear (ALiBi, Press et al. 2021); or attention
    scores against embeddings of the distance (Transformer-XL, Dai et al. 2019, section 3.3)."""
    position_offset: _Rows = 0
    """Row of the learned position table that the first token uses (OPT, BART, RoBERTa: 2)."""
    rotary_base: Positive = 10_000.0
    """Base of the rotary wavelengths."""
    rotary_fraction: Annotated[Fraction, Field(gt=0)] = 1.0
    """Fraction of each head's dimensions that is rotated (GPT-NeoX: 0.25)."""
    rotary_pairs: Literal["halves", "adjacent"] = "halves"
    """Pairs of dimensions that are rotated together: i and i + half the rotated width (halves), or
    2i and 2i + 1 (adjacent)."""
    relative_buckets: Dimension = 32
    """Number of buckets of T5's relative positions."""
    relative_max_distance: Dimension = 128
    """Distance in tokens beyond which relative positions share the last bucket."""

    # Norms
    norm: Literal["layer", "rms"] = "rms"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019)."""
    norm_epsilon: Positive = 1e-6
    """Added to the variance inside a norm."""
    norm_place: Literal["pre", "post", "none"] = "pre"
    """Position of the norms: before each branch (pre), after its sum with the residual stream
    (post, Vaswani et al. 2017), or none."""
    final_norm: bool | None = None
    """Whether the last block is followed by a norm; by default if norm_place is pre."""
    embedding_norm: bool = False
    """Whether the embeddings are normalised before the first block (BERT)."""

    # Inside a block
    activation: Activation = "gelu"
    """Activation of the feed-forward layer: GELU (tanh approximation, or exact), ReLU, squared ReLU
    (So et al. 2021), or the gated SwiGLU or GEGLU (Shazeer 2020)."""
    parallel: Literal["no", "one_norm", "two_norms"] = "no"
    """Whether attention and feed-forward are applied in parallel to the same input: no, with one
    shared norm (PaLM), or with a norm for each (GPT-NeoX)."""
    use_bias: bool = False
    """Whether linear projections and layer norms have a bias."""
    scale_attention: bool = True
    """Whether queries are divided by sqrt(d_head); T5 has this factor in its initialisation
    instead."""
    experts: ExpertsConfig | None = None
    """Mixture of experts that replaces feed-forward layers; by default none."""
    share_layers: Literal["none", "all", "attention", "feed_forward"] = "none"
    """Parameters that all blocks share (ALBERT)."""
    dropout: Fraction = 0.0
    """Dropout rate, in training, of the embedded input and of the output of each branch."""
    attention_dropout: Fraction | None = None
    """Dropout rate of the attention weights; by default `dropout`."""

    # Input and output
    heads: tuple[Head, ...] | None = None
    """Output heads on the final hidden states; by default the language-model head `lm`, or
    `masked_lm` in an encoder-only model."""
    tied_head: bool = True
    """Whether the output matrix of the vocabulary is the transposed embedding table."""
    scale_embedding: bool = True
    """Whether input token embeddings are multiplied by sqrt(d_model) (Vaswani et al. 2017, section
    3.4)."""
    scale_output: bool = False
    """Whether hidden states are divided by sqrt(d_model) before the output matrix of the vocabulary
    (T5 with a tied head)."""
    embedding_projection_bias: bool = False
    """Whether the projection from d_embedding to d_model has a bias (ALBERT, ELECTRA)."""
    embedding_projection: Literal["last", "first"] = "last"
    """Position of the projection from d_embedding to d_model: after positions, token types and norm
    of the embeddings (last, ALBERT), or before them (first, OPT 350M)."""
    init: InitConfig = InitConfig()
    """Initialisation of the weights."""

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer is gated, with three matrices instead of two."""
        return self.activation in ("swiglu", "geglu")

    @property
    def ff_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        if self.d_ff is not None:
            return self.d_ff
        if not self.gated:
            return 4 * self.d_model
        return -(-8 * self.d_model // 24) * 8

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.d_embedding or self.d_model

    @property
    def vocabulary(self) -> int:
        """Number of entries of the embedding table.

        Raises:
            ValueError: `vocab_size` is null, since it has not been taken from the data yet.
        """
        if self.vocab_size is None:
            raise ValueError("vocab_size is null; take it from the data's tokenizer first")
        return self.vocab_size

    @property
    def encoder_layers(self) -> int:
        """Number of encoder blocks; 0 in a decoder-only model."""
        if self.mode == "encoder-decoder":
            return self.n_encoder_layers or self.n_layers
        return self.n_layers if self.mode == "encoder-only" else 0

    @property
    def decoder_layers(self) -> int:
        """Number of decoder blocks; 0 in an encoder-only model."""
        return 0 if self.mode == "encoder-only" else self.n_layers

    @property
    def source_length(self) -> int:
        """Length in tokens of the encoder's sequence."""
        return self.source_context or self.context

    @property
    def attention_mask(self) -> Literal["full", "causal", "prefix"]:
        """`attention` or its default: the self-attention mask of the decoder, or of an encoder-only
        model."""
        return self.attention or ("full" if self.mode == "encoder-only" else "causal")

    @property
    def has_final_norm(self) -> bool:
        """Whether the last block is followed by a norm."""
        return self.norm_place == "pre" if self.final_norm is None else self.final_norm

    @property
    def rotary_width(self) -> int:
        """Number of rotated dimensions of a head, which is even."""
        return int(self.rotary_fraction * self.head_width) // 2 * 2

    @property
    def attention_dropout_rate(self) -> float:
        """Dropout rate of the attention weights in training."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def outputs(self) -> tuple[Head, ...]:
        """The heads, or the default head if none are given."""
        if self.heads is not None:
            return self.heads
        if self.mode == "encoder-only":
            return (MaskedLM(kind="masked_lm"),)
        return (LanguageModel(kind="lm"),)

    def pooling(self, head: Head) -> Literal["first", "last"] | None:
        """The token that a head reads: the pooled first token, the last token, or None if it reads
        all tokens."""
        default: Literal["first", "last"] = "first" if self.mode == "encoder-only" else "last"
        if isinstance(head, SequenceClasses):
            return head.pool or default
        return default if head.kind in ("next_sentence", "sentence_order", "choice") else None

    @property
    def has_pooler(self) -> bool:
        """Whether the model has a pooler: a dense layer on the first token's hidden state."""
        return any(self.pooling(head) == "first" for head in self.outputs)

    @property
    def period(self) -> int:
        """Number of blocks after which the kinds of block (with experts, with local attention)
        repeat."""
        experts = self.experts.every if self.experts else 1
        return math.lcm(experts, 2 if self.attention_pattern == "alternating" else 1)

    def is_local(self, layer: int) -> bool:
        """Whether the attention of a layer (counted from 0) is local."""
        alternating = self.attention_pattern == "alternating" and layer % 2 == 1
        return self.attention_pattern == "local" or alternating

    def has_experts(self, layer: int) -> bool:
        """Whether a layer (counted from 0) has routed experts."""
        return self.experts is not None and (layer + 1) % self.experts.every == 0
