"""How many parameters a model has, part by part, without making one."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Parameters by part. Every parameter is in exactly one part, so the parts add up."""

    embedding: int
    """The table of token vectors; with a tied head it is the head too, and counted once."""
    positions: int
    """Learned positions; 0 where positions are rotary."""
    attention: int
    feed_forward: int
    norms: int
    head: int
    """The output matrix; 0 where it is the embedding."""

    @property
    def total(self) -> int:
        """All of them: N as Hoffmann et al. 2022 count it."""
        return self.non_embedding + self.embedding + self.positions + self.head

    @property
    def non_embedding(self) -> int:
        """Without embedding, positions and head: N as Kaplan et al. 2020 count it (section 2.1;
        their 12 L d^2 leaves out norms and biases too, under 1% of it)."""
        return self.attention + self.feed_forward + self.norms


def count_parameters(model: ModelConfig) -> Parameters:
    """Parameters of a model whose vocabulary is known."""
    D, L, V = model.d_model, model.n_layers, model.vocabulary
    A, F = model.n_heads * model.head_width, model.ff_width
    up = 2 if model.activation == "swiglu" else 1
    bias = 1 if model.biases else 0
    norm = D * (2 if model.biases and model.norm == "layer" else 1)
    return Parameters(
        embedding=V * D,
        positions=model.context * D if model.positions == "learned" else 0,
        attention=L * (4 * D * A + bias * (3 * A + D)),
        feed_forward=L * ((up + 1) * D * F + bias * (up * F + D)),
        norms=(2 * L + 1) * norm,
        head=0 if model.tied_head else V * D,
    )
