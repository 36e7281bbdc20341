"""An in-memory `TokenSplit`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data.splits import TokenArray, check_windows, n_windows


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Token ids, and the end of each document."""

    ids: TokenArray
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
        return n_windows(self.tokens, stride, width)

    def rows(self, index: NDArray[np.integer], stride: int, width: int) -> TokenArray:
        check_windows(index, self.count(stride, width))
        return self.ids[index[:, None] * stride + np.arange(width)]

    def read(self, start: int, stop: int) -> TokenArray:
        return self.ids[start:stop]


def documents(texts: list[list[int]], eos: int) -> ArraySplit:
    """Concatenated documents, each followed by its end."""
    rows = [[*text, eos] for text in texts]
    ends = np.cumsum([len(row) for row in rows]).tolist()
    return ArraySplit(np.concatenate(rows).astype(np.uint16), tuple(ends))
