"""Batches of sequences as a pure function of (store, seed, step, global batch size).

Nothing here has state: a run that resumes at step s requests step s, and each host of a
multi-host run requests its slice of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaling.data.permutation import permute
from scaling.data.random import below
from scaling.data.splits import TokenArray, TokenSplit
from scaling.errors import UserError


class SequenceBatch(NamedTuple):
    """A batch of sequences, with their indices in the split."""

    ids_BL: TokenArray
    """Token ids in the store's dtype."""
    length_B: NDArray[np.int64]
    """Length of each sequence; the ids after it are to be ignored."""
    sequence_B: NDArray[np.int64]
    """Index of each sequence in its split."""
    epoch_B: NDArray[np.int64]
    """Epoch of each sequence, from 0."""


@runtime_checkable
class SequenceDataset(Protocol):
    """A split as an indexable list of sequences."""

    def __len__(self) -> int:
        """Number of sequences."""

    def read(self, index_B: NDArray[np.int64]) -> tuple[TokenArray, NDArray[np.int64]]:
        """Ids [B, L] of the sequences with these indices, and their lengths [B]."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of equal length at regular positions of a split, regardless of documents.

    Sequence i has the ids i * stride to i * stride + width: with a width of stride + 1 the last
    token of each is the first of the next, and every token but the split's first is predicted once.
    """

    split: TokenSplit
    stride: int
    width: int

    def __len__(self) -> int:
        return self.split.count(self.stride, self.width)

    def read(self, index_B: NDArray[np.int64]) -> tuple[TokenArray, NDArray[np.int64]]:
        return self.split.rows(index_B, self.stride, self.width), np.full(len(index_B), self.width)


@dataclass(frozen=True, eq=False)
class DocumentChunks:
    """Sequences within documents: each document is divided into the smallest number of chunks of at
    most `longest` tokens, with lengths that differ by at most one. The end of a document is left
    out, as are documents shorter than two tokens."""

    split: TokenSplit
    longest: int

    def __len__(self) -> int:
        return int(self._before[-1])

    def read(self, index_B: NDArray[np.int64]) -> tuple[TokenArray, NDArray[np.int64]]:
        start_B, length_B = self._bounds(index_B)
        # A window that would extend beyond the split starts earlier, and its ids are shifted.
        first_B = np.maximum(np.minimum(start_B, self.split.tokens - self.longest), 0)
        ids_BL = self.split.rows(first_B, 1, min(self.longest, self.split.tokens))
        shift_B1 = (start_B - first_B)[:, None]
        place_BL = np.minimum(np.arange(ids_BL.shape[1]) + shift_B1, ids_BL.shape[1] - 1)
        return np.take_along_axis(ids_BL, place_BL, axis=1), length_B

    def from_other_documents(
        self, key_B: NDArray[np.uint64], index_B: NDArray[np.int64]
    ) -> tuple[TokenArray, NDArray[np.int64]]:
        """For each chunk, one of another document, sampled uniformly with the chunk's key."""
        document_B = self._document(index_B)
        first_B, after_B = self._before[document_B], self._before[document_B + 1]
        rest_B = len(self) - (after_B - first_B)
        if (rest_B == 0).any():
            raise UserError("every document but one is shorter than two tokens, so there is no "
                            "other document to take a segment from; prepare more documents")
        other_B = below(key_B, 1, rest_B[:, None])[:, 0]
        return self.read(np.where(other_B < first_B, other_B, other_B + after_B - first_B))

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.asarray(self.split.offsets()).astype(np.int64)

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        """Number of chunks before each document, and in total; shape [documents + 1]."""
        lengths = np.diff(self._offsets) - 1
        chunks = np.where(lengths < 2, 0, -(-lengths // self.longest))
        return np.concatenate([[0], np.cumsum(chunks)])

    def _document(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._before, index_B, side="right") - 1

    def _bounds(
        self, index_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        document_B = self._document(index_B)
        begin_B = self._offsets[document_B]
        length_B = self._offsets[document_B + 1] - 1 - begin_B
        chunks_B = self._before[document_B + 1] - self._before[document_B]
        number_B = index_B - self._before[document_B]
        start_B, stop_B = (length_B * n // chunks_B for n in (number_B, number_B + 1))
        return begin_B + start_B, stop_B - start_B


@dataclass(frozen=True, eq=False)
class Batches:
    """The training batches of a run.

    The sequences are shuffled again in each epoch, as a function of (seed, epoch). Epochs follow
    each other without a gap: a batch may contain the end of one and the start of the next.
    """

    sequences: SequenceDataset
    batch_sequences: int
    """Sequences per batch, over all hosts."""
    seed: int

    def __post_init__(self) -> None:
        if self.batch_sequences < 1:
            raise ValueError(f"batch_sequences = {self.batch_sequences} is not positive")
        if not len(self.sequences):
            raise ValueError("there is no sequence in this split")

    def at(self, step: int, host: int = 0, hosts: int = 1) -> SequenceBatch:
        """One host's slice of the batch of a step, in time independent of the step.

        The slices of all hosts, concatenated, are the batch of a single host.

        Args:
            step: Step, from 0.
            host: Index of the host.
            hosts: Number of hosts, a divisor of `batch_sequences`.

        Raises:
            UserError: The batch cannot be divided evenly.
            ValueError: The step or host is out of range.
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
        return SequenceBatch(*self.sequences.read(index_B), index_B, epoch_B)

    def epochs_for(self, steps: int) -> float:
        """Number of epochs in the given number of steps."""
        return steps * self.batch_sequences / len(self.sequences)

    def unique_sequences(self, steps: int) -> int:
        """Number of distinct sequences in the given number of steps."""
        return min(steps * self.batch_sequences, len(self.sequences))

    def _shuffled(
        self, first: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sequence index and epoch at positions first ... first + count - 1 of the concatenated
        epochs; both of shape [count]."""
        n = len(self.sequences)
        numbers, epochs = [], []
        while count > 0:  # one iteration per epoch in the range
            epoch, place = divmod(first, n)
            here = min(count, n - place)
            numbers.append(permute(np.arange(place, place + here), n, self.seed, epoch))
            epochs.append(np.full(here, epoch))
            first, count = first + here, count - here
        return np.concatenate(numbers), np.concatenate(epochs)


def evenly_spaced(sequences: SequenceDataset, count: int) -> SequenceBatch:
    """Sequences at regular positions of a split, for evaluation: the same in every call, and all
    sequences if there are fewer than `count`."""
    chosen = min(count, len(sequences))
    index_B = np.arange(chosen) * len(sequences) // chosen
    return SequenceBatch(*sequences.read(index_B), index_B, np.zeros(chosen, np.int64))
