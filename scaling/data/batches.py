"""Which sequences a batch holds, as a pure function of (store, seed, step, global batch).

Nothing here has a state: a run that resumes at step s asks for step s, and a run on other hosts
asks for other slices of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.data.permutation import permute
from scaling.data.random import below
from scaling.data.splits import Tokens, TokenSplit
from scaling.errors import UserError


class Drawn(NamedTuple):
    """Sequences of a split, and which ones they are."""

    ids_BL: Tokens
    """Token ids, in the store's type."""
    length_B: NDArray[np.int64]
    """How many of them are of the sequence; behind are some that are not."""
    sequence_B: NDArray[np.int64]
    """The sequence's number in its split."""
    epoch_B: NDArray[np.int64]
    """How often it was drawn before."""


class Sequences(Protocol):
    """A split as a list of sequences."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index_B: NDArray[np.int64]) -> tuple[Tokens, NDArray[np.int64]]:
        """Ids [B, L] of some, and the length of each [B]."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of one length that lie evenly over a split, whatever document they are of.

    Sequence i is ids i * stride to i * stride + width: with a width of stride + 1 the last token of
    each is the first of the next, and every token but the split's first is predicted once.
    """

    split: TokenSplit
    stride: int
    width: int

    def __len__(self) -> int:
        return self.split.count(self.stride, self.width)

    def read(self, index_B: NDArray[np.int64]) -> tuple[Tokens, NDArray[np.int64]]:
        return self.split.rows(index_B, self.stride, self.width), np.full(len(index_B), self.width)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Sequences within documents: each document in as few pieces of at most `longest` tokens as
    hold it, of lengths that differ by no more than one. The end of a document is left out, and
    documents shorter than two tokens are."""

    split: TokenSplit
    longest: int

    def __len__(self) -> int:
        return int(self._before[-1])

    def read(self, index_B: NDArray[np.int64]) -> tuple[Tokens, NDArray[np.int64]]:
        start_B, length_B = self._bounds(index_B)
        # A window that would reach over the end of the split begins earlier, and is moved back.
        first_B = np.maximum(np.minimum(start_B, self.split.tokens - self.longest), 0)
        ids_BL = self.split.rows(first_B, 1, min(self.longest, self.split.tokens))
        back_B1 = (start_B - first_B)[:, None]
        place_BL = np.minimum(np.arange(ids_BL.shape[1]) + back_B1, ids_BL.shape[1] - 1)
        return np.take_along_axis(ids_BL, place_BL, axis=1), length_B

    def of_others(
        self, key_B: NDArray[np.uint64], index_B: NDArray[np.int64]
    ) -> tuple[Tokens, NDArray[np.int64]]:
        """For each piece one of another document, drawn by its key, all of them equally likely."""
        document_B = self._document(index_B)
        first_B, after_B = self._before[document_B], self._before[document_B + 1]
        rest_B = len(self) - (after_B - first_B)
        if (rest_B == 0).any():
            raise UserError("every document but one is shorter than two tokens, so there is no "
                            "other to take a segment from; prepare more documents")
        drawn_B = below(key_B, 1, rest_B[:, None])[:, 0]
        return self.read(np.where(drawn_B < first_B, drawn_B, drawn_B + after_B - first_B))

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.asarray(self.split.offsets()).astype(np.int64)

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        """Pieces before each document, and all."""
        lengths = np.diff(self._offsets) - 1
        pieces = np.where(lengths < 2, 0, -(-lengths // self.longest))
        return np.concatenate([[0], np.cumsum(pieces)])

    def _document(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._before, index_B, side="right") - 1

    def _bounds(
        self, index_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        document_B = self._document(index_B)
        begin_B = self._offsets[document_B]
        length_B = self._offsets[document_B + 1] - 1 - begin_B
        pieces_B = self._before[document_B + 1] - self._before[document_B]
        number_B = index_B - self._before[document_B]
        start_B, stop_B = (length_B * n // pieces_B for n in (number_B, number_B + 1))
        return begin_B + start_B, stop_B - start_B


@dataclass(frozen=True, eq=False)
class Batches:
    """The sequences of a run's training batches.

    The sequences of each epoch come in an order of their own, which (seed, epoch) determines, and
    the epochs follow each other without a gap: a batch may hold the end of one and the start of
    the next.
    """

    sequences: Sequences
    batch_sequences: int
    """Sequences in a batch, over all hosts."""
    seed: int

    def __post_init__(self) -> None:
        if self.batch_sequences < 1:
            raise ValueError(f"batch_sequences = {self.batch_sequences} is not positive")
        if not len(self.sequences):
            raise ValueError("there is no sequence in this split")

    def at(self, step: int, host: int = 0, hosts: int = 1) -> Drawn:
        """One host's part of the batch of one step, at the same cost for every step.

        The parts of all hosts, one after the other, are the batch of a single host.

        Args:
            step: from zero on.
            host: which part.
            hosts: how many parts; it divides `batch_sequences`.

        Raises:
            UserError: the batch cannot be divided evenly.
            ValueError: there is no such step or host.
        """
        if step < 0 or not 0 <= host < hosts:
            raise ValueError(f"there is no step {step} of host {host} among {hosts}")
        share, rest = divmod(self.batch_sequences, hosts)
        if rest:
            raise UserError(
                f"batch_sequences = {self.batch_sequences} cannot be divided among {hosts} hosts; "
                f"choose a multiple of {hosts}"
            )
        index_B, epoch_B = self._shuffled(step * self.batch_sequences + host * share, share)
        return Drawn(*self.sequences.read(index_B), index_B, epoch_B)

    def epochs_for(self, steps: int) -> float:
        """How often so many steps read the split."""
        return steps * self.batch_sequences / len(self.sequences)

    def unique_sequences(self, steps: int) -> int:
        """Sequences among those of so many steps that are not repeated ones."""
        return min(steps * self.batch_sequences, len(self.sequences))

    def _shuffled(
        self, first: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which sequences the places from `first` on of the endless order hold, and in which epoch
        each place is; shape [count] both."""
        n = len(self.sequences)
        numbers, epochs = [], []
        while count > 0:  # once for each epoch that the places touch
            epoch, place = divmod(first, n)
            here = min(count, n - place)
            numbers.append(permute(np.arange(place, place + here), n, self.seed, epoch))
            epochs.append(np.full(here, epoch))
            first, count = first + here, count - here
        return np.concatenate(numbers), np.concatenate(epochs)


def evenly(sequences: Sequences, count: int) -> Drawn:
    """Sequences that lie evenly over a split, for evaluation: the same on every call; all there
    are, where they are fewer than `count`."""
    chosen = min(count, len(sequences))
    index_B = np.arange(chosen) * len(sequences) // chosen
    return Drawn(*sequences.read(index_B), index_B, np.zeros(chosen, np.int64))
