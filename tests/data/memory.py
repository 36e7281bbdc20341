"""A split that lies in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.splits import Tokens, check_windows, window_count


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Token ids, and where each document of them ends."""

    ids: Tokens
    ends: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def documents(self) -> int:
        return len(self.ends)

    def offsets(self) -> NDArray[np.uint64]:
        return np.array((0, *self.ends), np.uint64)

    def count(self, stride: int, width: int) -> int:
        return window_count(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> Tokens:
        check_windows(index, self.count(stride, width))
        return self.ids[index[:, None] * stride + np.arange(width)]

    def read(self, start: int, stop: int) -> Tokens:
        return self.ids[start:stop]


def documents(texts: list[list[int]], eos: int) -> ArraySplit:
    """Documents one after the other, each with its end."""
    rows = [[*text, eos] for text in texts]
    ends = np.cumsum([len(row) for row in rows]).tolist()
    return ArraySplit(np.concatenate(rows).astype(np.uint16), tuple(ends))
