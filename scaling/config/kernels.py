"""Traits of the kernels of attention and cross-entropy, by name: what each can compute, and how
much it holds in memory. Checks of configurations and memory estimates read them; the kernels
themselves are in scaling/models/kernels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

AttentionName = Literal["plain", "blocked"]
CrossEntropyName = Literal["plain", "blocked"]

ATTENTION_BLOCK = 512
"""Keys whose logits the blocked attention kernel holds at a time."""
CROSS_ENTROPY_CHUNK = 2048
"""Predictions whose logits the blocked cross-entropy kernel holds at a time."""


class AttentionTraits(NamedTuple):
    """What an attention kernel can compute and what it stores."""

    block: int | None = None
    """Keys whose logits are held at a time, and computed again in the backward pass; None for a
    kernel that stores the attention weights of all pairs of positions."""
    drops_weights: bool = True
    """Whether it can drop attention weights."""
    adds_scores: bool = True
    """Whether it can add scores that are computed for each pair of positions (Transformer-XL)."""


class CrossEntropyTraits(NamedTuple):
    """What a cross-entropy kernel stores."""

    chunk: int | None = None
    """Predictions whose logits are held at a time; None for a kernel that stores all."""


ATTENTION_TRAITS: dict[AttentionName, AttentionTraits] = {
    "plain": AttentionTraits(),
    "blocked": AttentionTraits(ATTENTION_BLOCK, drops_weights=False, adds_scores=False),
}
CROSS_ENTROPY_TRAITS: dict[CrossEntropyName, CrossEntropyTraits] = {
    "plain": CrossEntropyTraits(),
    "blocked": CrossEntropyTraits(CROSS_ENTROPY_CHUNK),
}
