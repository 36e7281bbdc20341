"""One split of a token store as a sequence of ids, whatever files it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.data.manifest import Split
from scaling.data.synthetic import Language
from scaling.errors import UserError

Tokens = NDArray[Any]
"""Token ids, uint16 or uint32."""

_OPEN_SHARDS = 256  # mapped at once: each takes one of a process's file descriptors


class TokenSplit(Protocol):
    """What every split has, stored or generated."""

    @property
    def tokens(self) -> int:
        """Ids in the split."""

    @property
    def documents(self) -> int:
        """Documents in the split."""

    def offsets(self) -> NDArray[np.uint64]:
        """Where documents lie: document i is ids offsets[i] to offsets[i + 1], its end of
        document last; shape [documents + 1].

        Raises:
            UserError: the split has no documents.
        """

    def count(self, stride: int, width: int) -> int:
        """Whole windows of `width` ids that begin `stride` apart, the first at 0."""

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> Tokens:
        """Windows of ids: row i is ids index[i] * stride to index[i] * stride + width.

        Args:
            index: which windows, each in range(count(stride, width)); shape [n].
            stride: ids between the starts of windows that follow each other.
            width: ids in a window.

        Returns:
            Ids of the store's type, shape [n, width].

        Raises:
            IndexError: there is no such window.
        """

    def read(self, start: int, stop: int) -> Tokens:
        """Ids `start` to `stop`, shape [stop - start], read-only: a view where they lie in one
        shard.

        Raises:
            UserError: the split is that of a language.
        """


def window_count(tokens: int, stride: int, width: int) -> int:
    """Whole windows of `width` among so many ids, their starts `stride` apart."""
    return (tokens - width) // stride + 1 if tokens >= width else 0


def check_windows(index: NDArray[np.integer], count: int) -> None:
    """Refuse windows that are not in range(count) with an IndexError."""
    if index.size and not (index.min() >= 0 and index.max() < count):
        raise IndexError(f"windows {index.min()} to {index.max()} of a split that has {count}")


@dataclass(frozen=True)
class StoredSplit:
    """A split in the files of a store, which are mapped into memory when they are read."""

    folder: Path
    record: Split
    dtype: np.dtype[Any]

    @property
    def tokens(self) -> int:
        return self.record.tokens

    @property
    def documents(self) -> int:
        return self.record.documents

    def offsets(self) -> NDArray[np.uint64]:
        index: NDArray[np.uint64] = np.load(
            self.folder / self.record.index_file, mmap_mode="r", allow_pickle=False
        )
        return index

    def count(self, stride: int, width: int) -> int:
        return window_count(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> Tokens:
        check_windows(index, self.count(stride, width))
        starts = np.asarray(index, np.int64) * stride
        shards = np.searchsorted(self._bounds, starts, side="right") - 1
        crossing = starts + width > self._bounds[shards + 1]
        if len(starts) and shards.min() == shards.max() and not crossing.any():
            return self._take(int(shards[0]), index, stride, width)
        rows = np.empty((len(starts), width), self.dtype)
        for shard in np.unique(shards[~crossing]).tolist():
            here = np.flatnonzero((shards == shard) & ~crossing)
            rows[here] = self._take(shard, index[here], stride, width)
        for row in np.flatnonzero(crossing).tolist():
            rows[row] = self.read(int(starts[row]), int(starts[row]) + width)
        return rows

    def read(self, start: int, stop: int) -> Tokens:
        pieces = []
        shard = int(np.searchsorted(self._bounds, start, side="right")) - 1
        while start < stop:
            base, end = int(self._bounds[shard]), int(self._bounds[shard + 1])
            pieces.append(self._shard(shard)[start - base:min(stop, end) - base])
            start, shard = min(stop, end), shard + 1
        if not pieces:
            return np.empty(0, self.dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _take(
        self, shard: int, index: NDArray[np.integer], stride: int, width: int
    ) -> Tokens:
        """Windows that lie within one shard."""
        ids = self._shard(shard)
        base = int(self._bounds[shard])
        first = -(-base // stride)  # the first window that begins in this shard
        ids = ids[first * stride - base:]
        windows = np.lib.stride_tricks.as_strided(
            ids, (window_count(len(ids), stride, width), width),
            (stride * ids.itemsize, ids.itemsize), writeable=False,
        )
        taken: Tokens = windows[np.asarray(index) - first]
        return taken

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Where each shard begins, and the end of the last."""
        sizes = [shard.tokens for shard in self.record.shards]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def _shard(self, number: int) -> Tokens:
        opened = self._opened
        if (ids := opened.get(number)) is None:
            shard = self.record.shards[number]
            mapped = np.memmap(self.folder / shard.file, self.dtype, "r", shape=(shard.tokens,))
            # A plain array: every view of a memmap would carry the bookkeeping of its class.
            ids = np.asarray(mapped)
            if len(opened) >= _OPEN_SHARDS:
                opened.pop(next(iter(opened)), None)  # another thread may have been quicker
            opened[number] = ids
        return ids

    @cached_property
    def _opened(self) -> dict[int, Tokens]:
        return {}


@dataclass(frozen=True)
class LanguageSplit:
    """A split of a language that is made up: every window is a fresh draw, whatever the stride."""

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
        raise UserError("a synthetic language has no documents, so sequences cannot be made of "
                        "them; choose a store of text, or an objective that needs no documents")

    def count(self, stride: int, width: int) -> int:
        return window_count(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> Tokens:
        check_windows(index, self.count(stride, width))
        return self.language.rows(self.name, index, width).astype(self.dtype)

    def read(self, start: int, stop: int) -> Tokens:
        raise UserError("a synthetic language has no tokens that follow each other beyond a "
                        "window; choose a store of text")
