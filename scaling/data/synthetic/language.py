"""What every synthetic language has: a size, a seed, rows of tokens, and an entropy that is known.

A language is its configuration: two that are equal have the same tokens, on every machine. It has
no end: row i of a split is a draw of its own, made when it is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scaling.config.base import Config, Count, Index
from scaling.data.random import UInt64, sequence_keys
from scaling.data.tokenizers import LARGEST_VOCABULARY

Tokens = NDArray[np.uint32]
Vocabulary = Annotated[Count, Field(ge=2, le=LARGEST_VOCABULARY)]


class Entropy(NamedTuple):
    """Nats per token, and how far they are known."""

    rate: float
    """The entropy, or the middle of its bounds."""
    low: float
    high: float

    @classmethod
    def between(cls, low: float, high: float) -> Entropy:
        """What lies between two bounds; exact where they are equal."""
        return cls(low if low == high else (low + high) / 2, low, high)


class Language(Config, ABC):
    """A language whose every probability is known."""

    vocab_size: Vocabulary
    """Number of token ids; the lower an id, the more frequent it is, by and large."""
    seed: Index = 0
    """Of the language's tables; another seed is another language of the same kind."""
    tokens: Count = 10**9
    """Tokens of the train split; they cost nothing until they are asked for."""
    heldout_tokens: Count = 10**6
    """Tokens of the validation split, and of the test split."""

    @abstractmethod
    def rows(self, split: str, index: NDArray[np.integer], width: int) -> Tokens:
        """Rows of a split, shape [n, width]; other splits are other draws.

        A row depends on the language's tables, the split and its own index alone: not on the
        other rows, and a narrow row is the beginning of the wide one.

        Args:
            split: "train", "validation" or "test".
            index: which rows, shape [n], from zero on, without an end.
            width: tokens of a row.
        """

    @abstractmethod
    def entropy(self) -> Entropy:
        """The entropy rate in nats per token: the loss of a perfect predictor that has seen
        everything before a token, with no end to the past."""

    @abstractmethod
    def floor(self, context: int) -> Entropy:
        """The mean loss, in nats per token, of a perfect predictor over the last `context` tokens
        of a row of context + 1: no model does better on such rows.

        It is (H(x_0 .. x_context) - H(x_0)) / context, where H is the entropy of the beginning
        of a row. Within a row less of the past is known than the entropy rate takes for granted.

        Args:
            context: tokens that a row predicts, at least 1.
        """

    def spell(self, ids: NDArray[np.integer]) -> str:
        """Tokens as words that can be printed: `w17 w3 w0`."""
        return " ".join(f"w{token}" for token in ids)


def row_keys(language: Language, split: str, index: NDArray[np.integer]) -> UInt64:
    """The key of each row's random numbers, shape [n]."""
    return _keys(language, f"rows of {split}", index)


def table_keys(language: Language, index: NDArray[np.integer], table: int = 0) -> UInt64:
    """The key of each entry of one of the language's random tables, shape [n]."""
    return _keys(language, f"table {table}", index)


def _keys(language: Language, stream: str, index: NDArray[np.integer]) -> UInt64:
    # No epochs here: there are always new rows.
    return sequence_keys(language.seed, index, np.zeros_like(index), f"synthetic {stream}")
