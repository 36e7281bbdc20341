"""The splits of a token store as arrays of token ids: stored in shards, or generated."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaling.data.manifest import Split
from scaling.data.synthetic import Language
from scaling.errors import UserError
from scaling.files import blame, open_regular

TokenArray = NDArray[Any]
"""Array of token ids, uint16 or uint32."""

_OPEN_SHARDS = 256  # memory-mapped at a time: each needs a file descriptor

_CHUNK = 2**20
"""Number of ids, or of document starts, that are checked at a time."""

_INDEX = np.dtype("<u8")
_INDEX_HEADER = re.compile(
    rb"\x93NUMPY\x01\0..\{'descr': '<u8', 'fortran_order': False, 'shape': \((\d{1,19}),\), \} *\n",
    re.DOTALL)
"""Header of a .npy file with a one-dimensional uint64 array. Other headers are rejected without
being parsed: numpy would pass them to Python's parser."""
_HEADER_BYTES = 4096
"""Number of leading bytes that must contain the header, which has 128 bytes."""


@runtime_checkable
class TokenSplit(Protocol):
    """A split of a token store, stored or generated."""

    @property
    def tokens(self) -> int:
        """Number of ids in the split."""

    @property
    def documents(self) -> int:
        """Number of documents in the split."""

    def offsets(self) -> NDArray[np.uint64]:
        """Document boundaries, shape [documents + 1]: document i consists of the ids offsets[i] to
        offsets[i + 1], with its end of document last.

        Raises:
            UserError: The split has no documents.
        """

    def count(self, stride: int, width: int) -> int:
        """Number of complete windows of `width` ids whose starts are multiples of `stride`."""

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> TokenArray:
        """Windows of ids: row i has the ids index[i] * stride to index[i] * stride + width.

        Args:
            index: Indices of windows, each in range(count(stride, width)); shape [n].
            stride: Distance between the starts of consecutive windows, in ids.
            width: Ids per window.

        Returns:
            Ids in the store's dtype, shape [n, width].

        Raises:
            IndexError: An index is out of range.
        """

    def read(self, start: int, stop: int) -> TokenArray:
        """Ids `start` to `stop`, shape [stop - start], read-only; a view if they lie in one shard.

        Raises:
            UserError: The split is that of a language.
        """


def n_windows(tokens: int, stride: int, width: int) -> int:
    """Number of complete windows of `width` ids among `tokens` ids, with starts `stride` apart."""
    return (tokens - width) // stride + 1 if tokens >= width else 0


def check_windows(index: NDArray[np.integer], count: int) -> None:
    """Raise an IndexError unless all window indices are in range(count)."""
    if index.size and not (index.min() >= 0 and index.max() < count):
        raise IndexError(f"windows {index.min()} to {index.max()} of a split that has {count}")


def open_index(path: Path, record: Split) -> NDArray[np.uint64]:
    """Memory-map the document boundaries of a split, shape [documents + 1].

    Raises:
        UserError: The file does not have the expected shape, start and end; boundaries in between
            are not checked.
        OSError: It cannot be read; the error has its name.
    """
    starts = record.documents + 1
    with blame(path):
        with open_regular(path) as file:
            head = _INDEX_HEADER.match(file.read(_HEADER_BYTES))
            size = os.fstat(file.fileno()).st_size
        if head and int(head[1]) == starts and size >= head.end() + starts * _INDEX.itemsize:
            index = np.asarray(np.memmap(path, _INDEX, "r", head.end(), (starts,)))
            if index[0] == 0 and index[-1] == record.tokens:
                return index
    raise damaged(path, f"not the index of {record.documents:,} documents")


def damaged(file: Path, problem: str) -> UserError:
    """The error for a damaged file of a store."""
    return UserError(f"{file}: {problem}; the store is damaged: move {file.parent} away and "
                     "prepare it again")


@dataclass(frozen=True)
class StoredSplit:
    """A split in the files of a store, which are memory-mapped on first use."""

    folder: Path
    name: str
    record: Split
    dtype: np.dtype[Any]
    vocab_size: int
    """Exclusive upper bound of ids; reading a larger one raises a UserError."""

    @property
    def tokens(self) -> int:
        return self.record.tokens

    @property
    def documents(self) -> int:
        return self.record.documents

    def offsets(self) -> NDArray[np.uint64]:
        return self._offsets

    def check(self) -> None:
        """Read the whole split in chunks, to check its content.

        Raises:
            UserError: An id is not in the vocabulary, or document boundaries do not ascend.
        """
        self.offsets()
        for start in range(0, self.tokens, _CHUNK):
            self.read(start, min(start + _CHUNK, self.tokens))

    def count(self, stride: int, width: int) -> int:
        return n_windows(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> TokenArray:
        rows = self._rows(index, stride, width)
        # A quarter less time than rows.max(), which wraps this function.
        if np.maximum.reduce(rows, axis=None, initial=0) >= self.vocab_size:
            row, place = np.argwhere(rows >= self.vocab_size)[0].tolist()
            raise self._unknown_id(int(rows[row, place]), int(index[row]) * stride + place)
        return rows

    def _rows(self, index: NDArray[np.integer], stride: int, width: int) -> TokenArray:
        check_windows(index, self.count(stride, width))
        starts = np.asarray(index, np.int64) * stride
        shards = np.searchsorted(self._bounds, starts, side="right") - 1
        crossing = starts + width > self._bounds[shards + 1]
        if len(starts) and shards.min() == shards.max() and not crossing.any():
            return self._take_windows(int(shards[0]), index, stride, width)
        rows = np.empty((len(starts), width), self.dtype)
        for shard in np.unique(shards[~crossing]).tolist():
            here = np.flatnonzero((shards == shard) & ~crossing)
            rows[here] = self._take_windows(shard, index[here], stride, width)
        for row in np.flatnonzero(crossing).tolist():
            rows[row] = self._read(int(starts[row]), int(starts[row]) + width)
        return rows

    def read(self, start: int, stop: int) -> TokenArray:
        ids = self._read(start, stop)
        if ids.size and ids.max() >= self.vocab_size:
            place = int(np.argmax(ids >= self.vocab_size))
            raise self._unknown_id(int(ids[place]), start + place)
        return ids

    def _read(self, start: int, stop: int) -> TokenArray:
        pieces = []
        shard = int(np.searchsorted(self._bounds, start, side="right")) - 1
        while start < stop:
            base, end = int(self._bounds[shard]), int(self._bounds[shard + 1])
            pieces.append(self._shard(shard)[start - base:min(stop, end) - base])
            start, shard = min(stop, end), shard + 1
        if not pieces:
            return np.empty(0, self.dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _unknown_id(self, found: int, position: int) -> UserError:
        shard = int(np.searchsorted(self._bounds, position, side="right")) - 1
        return damaged(self.folder / self.record.shards[shard].file,
                       f"token {position:,} of the {self.name} split is {found:,}, but the "
                       f"vocabulary has {self.vocab_size:,} ids")

    def _take_windows(
        self, shard: int, index: NDArray[np.integer], stride: int, width: int
    ) -> TokenArray:
        """The windows of this index, all within one shard; shape [n, width]."""
        ids = self._shard(shard)
        base = int(self._bounds[shard])
        first = -(-base // stride)  # the first window that begins in this shard
        ids = ids[first * stride - base:]
        windows = np.lib.stride_tricks.as_strided(
            ids, (n_windows(len(ids), stride, width), width),
            (stride * ids.itemsize, ids.itemsize), writeable=False,
        )
        rows: TokenArray = windows[np.asarray(index) - first]
        return rows

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """The start of each shard, and the end of the last; shape [shards + 1]."""
        sizes = [shard.tokens for shard in self.record.shards]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def _shard(self, number: int) -> TokenArray:
        opened = self._opened
        if (ids := opened.get(number)) is None:
            shard = self.record.shards[number]
            path = self.folder / shard.file
            with blame(path):
                mapped = np.memmap(path, self.dtype, "r", shape=(shard.tokens,))
            # A plain array, since views of a memmap are slower to create.
            ids = np.asarray(mapped)
            if len(opened) >= _OPEN_SHARDS:
                opened.pop(next(iter(opened)), None)  # another thread may have removed it already
            opened[number] = ids
        return ids

    @cached_property
    def _offsets(self) -> NDArray[np.uint64]:
        path = self.folder / self.record.index_file
        index = open_index(path, self.record)
        for first in range(0, self.documents, _CHUNK):
            chunk = index[first:first + _CHUNK + 1]
            if (wrong := np.flatnonzero(chunk[1:] <= chunk[:-1])).size:
                number = first + int(wrong[0])
                begin, end = int(index[number]), int(index[number + 1])
                raise damaged(path, f"document {number:,} of the {self.name} split begins at token "
                                    f"{begin:,} and ends at {end:,}")
        return index

    @cached_property
    def _opened(self) -> dict[int, TokenArray]:
        return {}


@dataclass(frozen=True)
class LanguageSplit:
    """A split of a synthetic language: every window is an independent sample, whatever the stride.
    """

    language: Language
    name: str
    dtype: np.dtype[Any]

    @property
    def tokens(self) -> int:
        return self.language.tokens if self.name == "train" else self.language.heldout_tokens

    @property
    def documents(self) -> int:
        return 0

    def offsets(self) -> NDArray[np.uint64]:
        raise UserError("a synthetic language has no documents, which this objective needs; "
                        "choose a store of text, or an objective that needs no documents")

    def count(self, stride: int, width: int) -> int:
        return n_windows(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> TokenArray:
        check_windows(index, self.count(stride, width))
        return self.language.rows(self.name, index, width).astype(self.dtype)

    def read(self, start: int, stop: int) -> TokenArray:
        raise UserError("the windows of a synthetic language are independent and cannot be read "
                        "as one sequence; choose a store of text")
