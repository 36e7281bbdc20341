"""Inputs of a model: token ids with their documents, positions and types, and attention masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

AnyArray = Array | np.ndarray
"""An array on devices or on the host."""

Ids = Int[AnyArray, "B T"]
"""Token ids of a batch."""

Mask = Bool[Array, "T S"] | Bool[Array, "B 1 T S"]
"""True where query T attends to key S."""


class Tokens(NamedTuple):
    """Sequences of tokens. All fields but the ids are optional."""

    ids_BT: Ids
    documents_BT: Int[AnyArray, "B T"] | None = None
    """Document that each token belongs to, from 1; 0 is padding, which no token attends to. Tokens
    attend within their document only; in an encoder-decoder, cross-attention pairs the documents
    with the same number. By default one document."""
    positions_BT: Int[AnyArray, "B T"] | None = None
    """Position of each token, for learned and sinusoidal positions. By default its index in the
    sequence."""
    types_BT: Int[AnyArray, "B T"] | None = None
    """Token type (segment A is 0 and B is 1 in BERT). By default 0."""
    prefix_BT: Bool[AnyArray, "B T"] | None = None
    """True in the prefix, which the whole document attends to where `attention` is prefix. By
    default there is no prefix."""


def as_tokens(tokens: Tokens | Ids) -> Tokens:
    """Bare ids as one document without padding."""
    return tokens if isinstance(tokens, Tokens) else Tokens(tokens)


@dataclass(frozen=True)
class AttentionMask:
    """Which keys each query attends to, evaluated for a block of keys at a time, so that a kernel
    need not hold the whole mask."""

    n_queries: int
    n_keys: int
    pattern: Literal["full", "causal", "prefix"] = "full"
    """All keys; those up to the query; or those and the prefix."""
    window: int | None = None
    """Keys that a query attends to in each direction, itself included; by default all."""
    query_documents_BT: Int[AnyArray, "B T"] | None = None
    key_documents_BS: Int[AnyArray, "B S"] | None = None
    prefix_BS: Bool[AnyArray, "B S"] | None = None

    @classmethod
    def within(
        cls, tokens: Tokens, pattern: Literal["full", "causal", "prefix"], window: int | None
    ) -> AttentionMask:
        """The mask of self-attention."""
        length = tokens.ids_BT.shape[1]
        prefix_BS = tokens.prefix_BT if pattern == "prefix" else None
        return cls(length, length, pattern, window, tokens.documents_BT, tokens.documents_BT,
                   prefix_BS)

    @classmethod
    def across(cls, queries: Tokens, keys: Tokens) -> AttentionMask:
        """The mask of cross-attention: each document attends to the one with its number.

        Padding among the queries attends to nothing; its output is the mean of all values, which
        no loss reads, and which is not NaN.
        """
        return cls(queries.ids_BT.shape[1], keys.ids_BT.shape[1],
                   query_documents_BT=queries.documents_BT, key_documents_BS=keys.documents_BT)

    def block(self, start: int | Array = 0, size: int | None = None) -> Mask | None:
        """The mask for the keys from `start` on, `size` of them; by default for all.

        Returns:
            True where a query attends to a key; None if every query attends to every key.
        """
        size = self.n_keys if size is None else size
        back_TS = jnp.arange(self.n_queries)[:, None] - (start + jnp.arange(size))
        mask: Mask | None = None if self.pattern == "full" else back_TS >= 0
        if self.prefix_BS is not None and mask is not None:
            mask = mask | self._keys(self.prefix_BS, start, size)
        if self.window is not None:
            mask = _both(mask, abs(back_TS) < self.window)
        if self.key_documents_BS is not None:
            mask = _both(mask, self._documents(self.key_documents_BS, start, size))
        return mask

    def _documents(
        self, documents_BS: AnyArray, start: int | Array, size: int
    ) -> Bool[Array, "B 1 T S"]:
        keys_B11S = self._keys(documents_BS, start, size)
        if self.query_documents_BT is None:
            return jnp.broadcast_to(
                keys_B11S == 1, (*keys_B11S.shape[:2], self.n_queries, keys_B11S.shape[3]))
        return (self.query_documents_BT[:, None, :, None] == keys_B11S) & (keys_B11S > 0)

    def _keys(self, x_BS: AnyArray, start: int | Array, size: int) -> Array:
        if size != self.n_keys:
            x_BS = jax.lax.dynamic_slice_in_dim(x_BS, start, size, axis=1)
        return jnp.asarray(x_BS)[:, None, None, :]


def _both(mask: Mask | None, other: Mask) -> Mask:
    return other if mask is None else mask & other
