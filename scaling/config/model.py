"""The shape of a Transformer. A family is a set of values here, never a class."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scaling.config.base import Config, Count, Fraction, Index, Positive
from scaling.config.model_checks import check_model
from scaling.config.parts import (
    ExpertsConfig,
    Head,
    InitConfig,
    LanguageModel,
    MaskedLM,
    SequenceClasses,
)
from scaling.config.presets import expand_preset

Activation = Literal["gelu", "gelu_exact", "relu", "squared_relu", "swiglu", "geglu"]


class ModelConfig(Config):
    """A Transformer: its preset or sizes first, then the choices in which families differ."""

    preset: str | None = None
    """A published shape, such as gpt2/124M, whose values stand where none are given here;
    `scaling models` lists them."""

    # Sizes
    d_model: Count
    """Width of the residual stream."""
    n_layers: Count
    """Number of blocks; in an encoder-decoder, of the decoder."""
    n_heads: Count
    """Attention heads in each block."""
    d_head: Count | None = None
    """Width of a head; by default d_model / n_heads, which must then come out even."""
    n_kv_heads: Count | None = None
    """Heads of keys and values, a divisor of n_heads; by default n_heads. Fewer are grouped-query
    attention (Ainslie et al. 2023), and one is multi-query attention (Shazeer 2019)."""
    d_ff: Count | None = None
    """Hidden width of the feed-forward layer; by default 4 d_model, or where it is gated (three
    matrices for two) 8/3 d_model rounded up to a multiple of 8."""
    d_embedding: Count | None = None
    """Width of the embeddings, with a map to and from d_model where it differs (ALBERT); by default
    d_model."""
    context: Count
    """Tokens in a sequence; also the number of learned positions."""
    vocab_size: Count | None = None
    """Entries of the embedding; by default the number that the data's tokenizer has."""
    n_types: Index = 0
    """Kinds of segment with an embedding of their own (BERT's A and B: 2)."""
    n_encoder_layers: Count | None = None
    """Blocks of the encoder of an encoder-decoder; by default n_layers."""
    source_context: Count | None = None
    """Tokens that the encoder of an encoder-decoder reads; by default `context`."""

    # Who sees whom
    mode: Literal["decoder-only", "encoder-only", "encoder-decoder"] = "decoder-only"
    """Which Transformer this is: a decoder reads from left to right, an encoder sees all, and an
    encoder-decoder is a decoder that sees what an encoder made of another sequence."""
    attention: Literal["full", "causal", "prefix"] | None = None
    """What a position of a decoder, or of an encoder alone, sees: all, itself and those before, or
    those and all of a prefix (Raffel et al. 2020, section 3.2.1). By default causal in decoders
    and full in encoders."""
    banded: Literal["none", "alternate", "all"] = "none"
    """Layers whose attention is local: every other from the second on (GPT-3), or all."""
    window: Count | None = None
    """Positions that local attention reaches back, its own among them; in an encoder, as many
    forward too."""

    # Positions
    positions: Literal[
        "none", "learned", "sinusoidal", "rotary", "relative", "alibi", "transformer_xl"
    ] = "rotary"
    """How a token knows its place: a vector added at the bottom, learned or of sines (Vaswani et
    al. 2017, section 3.5); queries and keys rotated in every block (Su et al. 2021); a bias on
    attention by distance, learned in buckets (T5) or linear (ALiBi, Press et al. 2021); or queries
    against vectors of the distance (Transformer-XL, Dai et al. 2019, section 3.3)."""
    position_offset: Index = 0
    """Row of the table of learned positions at which a sequence begins (OPT, BART, RoBERTa: 2)."""
    rotary_base: Positive = 10_000.0
    """Base of the rotary wavelengths."""
    rotary_fraction: Annotated[Fraction, Field(gt=0)] = 1.0
    """The part of a head that is rotated (GPT-NeoX: 0.25)."""
    rotary_pairs: Literal["halves", "adjacent"] = "halves"
    """Which numbers of a head turn together: i and i + half of them, or 2i and 2i + 1."""
    relative_buckets: Count = 32
    """Buckets of T5's relative positions."""
    relative_max_distance: Count = 128
    """Distance from which on they share one bucket."""

    # Norms
    norm: Literal["layer", "rms"] = "rms"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019)."""
    norm_epsilon: Positive = 1e-6
    """Added to the variance inside a norm."""
    norm_place: Literal["pre", "post", "none"] = "pre"
    """Before each branch, or after its sum with the residual stream (Vaswani et al. 2017)."""
    final_norm: bool | None = None
    """Whether the last block is followed by a norm; by default where norm_place is pre."""
    embedding_norm: bool = False
    """Whether the embeddings are normed before the first block (BERT)."""

    # Inside a block
    activation: Activation = "gelu"
    """Feed-forward layer: GELU (tanh form, or exact), ReLU, its square (So et al. 2021), or one of
    the gated SwiGLU and GEGLU (Shazeer 2020)."""
    parallel: Literal["no", "one_norm", "two_norms"] = "no"
    """Attention and feed-forward one after the other, or both on the same input, normed once (PaLM)
    or once for each (GPT-NeoX)."""
    biases: bool = False
    """Whether projections and layer norms carry a bias."""
    scale_attention: bool = True
    """Whether queries are divided by sqrt(d_head); T5 has that in its initialisation instead."""
    experts: ExpertsConfig | None = None
    """Routed experts in place of feed-forward layers."""
    share_layers: Literal["none", "all", "attention", "feed_forward"] = "none"
    """What all blocks have in common (ALBERT)."""
    dropout: Fraction = 0.0
    """Probability, in training, with which numbers of the embedded input and of what each branch
    adds are set to nought."""
    attention_dropout: Fraction | None = None
    """The same for weights of attention; by default `dropout`."""

    # In and out
    heads: tuple[Head, ...] | None = None
    """What is computed from the last hidden states; by default the vocabulary's logits: lm, or in
    an encoder masked_lm."""
    tied_head: bool = True
    """Whether the vocabulary's output matrix is the embedding transposed."""
    scale_embedding: bool = True
    """Whether embeddings of tokens are multiplied by sqrt(d_model) as an input (Vaswani et al.
    2017, section 3.4)."""
    scale_output: bool = False
    """Whether hidden states are divided by sqrt(d_model) before the vocabulary's matrix (T5, where
    it is tied)."""
    embedding_bias: bool = False
    """Whether the map from d_embedding to d_model has a bias (ALBERT, ELECTRA)."""
    embedding_map: Literal["last", "first"] = "last"
    """Where that map stands: after positions, types and norm of the embeddings (ALBERT), or before
    them (OPT's 350M)."""
    init: InitConfig = InitConfig()
    """How the weights are drawn at the start."""

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate, and so three matrices."""
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
        """Entries of the embedding, which by now must be known.

        Raises:
            ValueError: `vocab_size` is still to be taken from the data (`RunConfig.resolved`).
        """
        if self.vocab_size is None:
            raise ValueError("vocab_size is not known before the data is")
        return self.vocab_size

    @property
    def encoder_layers(self) -> int:
        """Blocks of the encoder; 0 in a decoder alone."""
        if self.mode == "encoder-decoder":
            return self.n_encoder_layers or self.n_layers
        return self.n_layers if self.mode == "encoder-only" else 0

    @property
    def decoder_layers(self) -> int:
        """Blocks of the decoder; 0 in an encoder alone."""
        return 0 if self.mode == "encoder-only" else self.n_layers

    @property
    def source_length(self) -> int:
        """Tokens that the encoder reads."""
        return self.source_context or self.context

    @property
    def sees(self) -> Literal["full", "causal", "prefix"]:
        """What a position sees of its own sequence, in the last of the stacks."""
        return self.attention or ("full" if self.mode == "encoder-only" else "causal")

    @property
    def has_final_norm(self) -> bool:
        """Whether the last block is followed by a norm."""
        return self.norm_place == "pre" if self.final_norm is None else self.final_norm

    @property
    def rotary_width(self) -> int:
        """Numbers of a head that are rotated: an even number."""
        return int(self.rotary_fraction * self.head_width) // 2 * 2

    @property
    def attention_dropout_rate(self) -> float:
        """Probability with which weights of attention are set to nought in training."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def outputs(self) -> tuple[Head, ...]:
        """The heads, the default ones if none are given."""
        if self.heads is not None:
            return self.heads
        if self.mode == "encoder-only":
            return (MaskedLM(kind="masked_lm"),)
        return (LanguageModel(kind="lm"),)

    def pooling(self, head: Head) -> Literal["first", "last"] | None:
        """Whether a head reads one token of a sequence, the pooled first or the last, or all."""
        default: Literal["first", "last"] = "first" if self.mode == "encoder-only" else "last"
        if isinstance(head, SequenceClasses):
            return head.pool or default
        return default if head.kind in ("next_sentence", "sentence_order", "choice") else None

    @property
    def has_pooler(self) -> bool:
        """Whether a dense layer stands between the first token's state and heads that read it."""
        return any(self.pooling(head) == "first" for head in self.outputs)

    @property
    def period(self) -> int:
        """Blocks after which the kinds of block repeat: those with experts, those with a band."""
        experts = self.experts.every if self.experts else 1
        return math.lcm(experts, 2 if self.banded == "alternate" else 1)

    def is_banded(self, layer: int) -> bool:
        """Whether a layer's attention is local, counted from 0."""
        return self.banded == "all" or (self.banded == "alternate" and layer % 2 == 1)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's feed-forward is routed, counted from 0."""
        return self.experts is not None and (layer + 1) % self.experts.every == 0

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, content: Any) -> Any:
        return expand_preset(content) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _holds_together(self) -> ModelConfig:
        check_model(self)
        return self
