"""The shape of a Transformer. A family is a set of values here, never a class."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from scaling.config.base import Config, Count, Positive


class ModelConfig(Config):
    """A Transformer: sizes first, then the choices in which families differ."""

    d_model: Count
    """Width of the residual stream."""
    n_layers: Count
    """Number of blocks."""
    n_heads: Count
    """Attention heads in each block."""
    d_head: Count | None = None
    """Width of a head; by default d_model / n_heads, which must then come out even."""
    d_ff: Count | None = None
    """Hidden width of the feed-forward layer; by default 4 d_model (GELU), or 8/3 d_model rounded
    up to a multiple of 8 (SwiGLU, which has three matrices where GELU has two)."""
    context: Count
    """Tokens in a sequence; also the number of learned positions."""
    vocab_size: Count | None = None
    """Entries of the embedding; by default the number that the data's tokenizer has."""

    mode: Literal["decoder-only"] = "decoder-only"
    """Which Transformer this is: decoder-only reads from left to right."""
    positions: Literal["learned", "rotary"] = "rotary"
    """How a token knows its place: a learned vector added at the bottom, or queries and keys
    rotated by their position in every block (Su et al. 2021, arXiv 2104.09864)."""
    rotary_base: Positive = 10_000.0
    """Base of the rotary wavelengths."""
    norm: Literal["layer", "rms"] = "rms"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), before each branch and once
    after the last block."""
    norm_epsilon: Positive = 1e-6
    """Added to the variance inside a norm."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward layer: GELU (tanh form), or the gated SwiGLU (Shazeer 2020)."""
    biases: bool = False
    """Whether projections and layer norms carry a bias."""
    tied_head: bool = True
    """Whether the output head is the embedding transposed."""
    init_std: Positive | None = None
    """Standard deviation of the weights at the start; by default 1/sqrt(fan-in), which keeps
    activations of order one at every width. Matrices that write into the residual stream are
    divided by sqrt(2 n_layers) either way (GPT-2, Radford et al. 2019)."""

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def ff_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        if self.d_ff is not None:
            return self.d_ff
        if self.activation == "gelu":
            return 4 * self.d_model
        return -(-8 * self.d_model // 24) * 8

    @property
    def vocabulary(self) -> int:
        """Entries of the embedding, which by now must be known.

        Raises:
            ValueError: `vocab_size` is still to be taken from the data (`RunConfig.resolved`).
        """
        if self.vocab_size is None:
            raise ValueError("vocab_size is not known before the data is")
        return self.vocab_size

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; choose a "
                f"divisor of {self.d_model}, or give d_head"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f"rotary positions turn pairs, and a head of width {self.head_width} is odd; "
                "choose n_heads or d_head so that the head is even, or positions: learned"
            )
        return self
