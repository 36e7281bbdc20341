"""What a model reads, and which positions may see which."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Mask = Bool[Array, "T S"] | Bool[Array, "B 1 T S"]
"""True where the query T may see the key S."""


class Tokens(NamedTuple):
    """Sequences of tokens, and what is known about them. All but the ids may be left out."""

    ids_BT: Int[Array, "B T"]
    documents_BT: Int[Array, "B T"] | None = None
    """Which document a token belongs to, counted from 1; 0 is padding, which nobody sees. Packed
    documents do not see each other; in an encoder-decoder, a document's target sees the source that
    has its number. Left out: all one document."""
    positions_BT: Int[Array, "B T"] | None = None
    """Place of a token in its document, for learned and sinusoidal positions. Left out: its place
    in the sequence."""
    types_BT: Int[Array, "B T"] | None = None
    """Type of segment (BERT's A and B are 0 and 1). Left out: 0."""
    prefix_BT: Bool[Array, "B T"] | None = None
    """What the whole of its document sees, where attention is `prefix`. Left out: none of it."""


def as_tokens(tokens: Tokens | Int[Array, "B T"]) -> Tokens:
    """Bare ids as one document without padding."""
    return tokens if isinstance(tokens, Tokens) else Tokens(tokens)


def self_mask(
    tokens: Tokens, sees: Literal["full", "causal", "prefix"], window: int | None
) -> Mask | None:
    """Who sees whom within a sequence; None where all see all.

    Args:
        tokens: the sequences.
        sees: all, itself and what comes before, or those and the prefix.
        window: how many positions back (and, where it sees all, forward) a position reaches, its
            own among them; None for all.
    """
    length = tokens.ids_BT.shape[1]
    back_TS = jnp.arange(length)[:, None] - jnp.arange(length)
    mask: Mask | None = None if sees == "full" else back_TS >= 0
    if sees == "prefix" and tokens.prefix_BT is not None:
        mask = mask | tokens.prefix_BT[:, None, None, :]
    if window is not None:
        mask = _both(mask, abs(back_TS) < window)
    if tokens.documents_BT is not None:
        mask = _both(mask, cross_mask(tokens, tokens))
    return mask


def cross_mask(queries: Tokens, keys: Tokens) -> Bool[Array, "B 1 T S"] | None:
    """Who sees whom across two sequences: each document its own. None where all see all.

    Padding among the queries sees what the padding before softmax leaves: nothing, and so the mean
    of everything, which is no number that anybody reads but no NaN either.
    """
    if keys.documents_BT is None:
        return None
    keys_B11S = keys.documents_BT[:, None, None, :]
    if queries.documents_BT is None:
        return jnp.broadcast_to(
            keys_B11S == 1, (*keys_B11S.shape[:2], queries.ids_BT.shape[1], keys_B11S.shape[3])
        )
    return (queries.documents_BT[:, None, :, None] == keys_B11S) & (keys_B11S > 0)


def _both(mask: Mask | None, other: Mask | None) -> Mask | None:
    if mask is None or other is None:
        return mask if other is None else other
    return mask & other
