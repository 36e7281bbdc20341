"""The base class of synthetic languages: a vocabulary, a seed, rows of tokens, a known entropy.

A language is determined by its configuration: equal configurations have the same tokens, on every
machine. It has no documents and no end: row i of a split is an independent sample, generated on
demand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scaling.config.base import Config, Count, NonNegativeInt
from scaling.data.random import UInt64, sequence_keys
from scaling.data.tokenizers import LARGEST_VOCABULARY

TokenRows = NDArray[np.uint32]
VocabSize = Annotated[Count, Field(ge=2, le=LARGEST_VOCABULARY)]


class Entropy(NamedTuple):
    """An entropy in nats per token, with bounds."""

    rate: float
    """The entropy, or the midpoint of its bounds."""
    low: float
    high: float

    @classmethod
    def between(cls, low: float, high: float) -> Entropy:
        """The entropy between two bounds; exact if they are equal."""
        return cls(low if low == high else (low + high) / 2, low, high)


class Language(Config, ABC):
    """A language with a known probability of every sequence."""

    vocab_size: VocabSize
    """Number of token ids; smaller ids are generally more frequent."""
    seed: NonNegativeInt = 0
    """Seed of the language's tables; another seed is another language of the same kind."""
    tokens: Count = 10**9
    """Number of tokens of the train split, which are generated on demand."""
    heldout_tokens: Count = 10**6
    """Number of tokens of the validation split, and of the test split."""

    @abstractmethod
    def rows(self, split: str, index: NDArray[np.integer], width: int) -> TokenRows:
        """Rows of a split, shape [n, width]; the splits are independent samples.

        A row is a function of the language, the split and its index only, and a shorter row is a
        prefix of a longer one.

        Args:
            split: "train", "validation" or "test".
            index: Indices of the rows, shape [n], from 0 without an upper bound.
            width: Number of tokens per row.
        """

    @abstractmethod
    def entropy(self) -> Entropy:
        """The entropy rate in nats per token: the loss of a perfect predictor that has seen an
        infinite past."""

    @abstractmethod
    def floor(self, context: int) -> Entropy:
        """The mean loss, in nats per token, of a perfect predictor over the last `context` tokens
        of a row of context + 1: the lower bound of the loss of any model on such rows.

        It is (H(x_0 .. x_context) - H(x_0)) / context, with H the entropy of the beginning of a
        row. It differs from the entropy rate, since only the past within the row is known.

        Args:
            context: Number of tokens that are predicted per row, at least 1.
        """

    def spell(self, ids: NDArray[np.integer]) -> str:
        """Tokens as printable words: `w17 w3 w0`."""
        return " ".join(f"w{token}" for token in ids)


def row_keys(language: Language, split: str, index: NDArray[np.integer]) -> UInt64:
    """The key of each row's random numbers, shape [n]."""
    return _keys(language, f"rows of {split}", index)


def table_keys(language: Language, index: NDArray[np.integer], table: int = 0) -> UInt64:
    """The key of each entry of one of the language's random tables, shape [n]."""
    return _keys(language, f"table {table}", index)


def _keys(language: Language, stream: str, index: NDArray[np.integer]) -> UInt64:
    # The epoch is always 0, since there are always new rows.
    return sequence_keys(language.seed, index, np.zeros_like(index), f"synthetic {stream}")
