"""The fate of every document: the split that it belongs to, or the reason why it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.manifest import SPLITS, Options
from scaling.data.prepare.minhash import BANDS, OpenKeys, later_duplicates
from scaling.data.prepare.pieces import Corpus, Piece
from scaling.data.prepare.scan import split_bounds
from scaling.data.prepare.work import WorkStep, open_atomic

DUPLICATE, NEAR_DUPLICATE, CONTAMINATED, LEFT_OUT = range(len(SPLITS), len(SPLITS) + 4)
"""Fates of dropped documents; the fate of any other document is the index of its split in SPLITS.
"""

_UNDECIDED = 255
# By the range of a hash: below the first of `split_bounds`, below the second, above both.
_SPLIT_OF_RANGE = np.array(
    [SPLITS.index(name) for name in ("validation", "test", "train")], np.uint8)

Fates = NDArray[np.uint8]


@dataclass(frozen=True)
class ScannedBlock:
    """A block of scanned documents of a piece."""

    piece: Piece
    step: WorkStep
    """Step of the scan of the piece."""
    block: int
    """Index among the blocks of the piece."""
    first: int
    """Index of its first document in the corpus."""
    documents: int

    def load(self, kind: str) -> NDArray[Any]:
        """An array that `scan` wrote, memory-mapped."""
        return self.step.load(f"{kind}-{self.block}")


def select(
    corpus: Corpus, scanned: Sequence[ScannedBlock], options: Options, path: Path, out: Path
) -> bool:
    """Write the fate of every document to a file, one byte each, in the order of the corpus.

    Of duplicate documents the first is kept. For a mix, each source is then subsampled by the hash
    of its documents, such that the shares of text match the weights and one source is used
    completely. Finally, with `max_bytes`, documents are taken from the start of each source until
    the limit, or the source's share of it, would be exceeded.

    Returns:
        Whether `max_bytes` was reached.
    """
    # In a file rather than in memory, since there may be a billion documents.
    with open_atomic(path, out) as file:
        for each in scanned:
            file.write(np.full(each.documents, _UNDECIDED, np.uint8).tobytes())
    fates = [np.zeros(0, np.uint8)] * len(scanned)
    if path.stat().st_size:
        ends = np.cumsum([each.documents for each in scanned])
        fates = np.split(np.memmap(path, np.uint8, "r+"), ends[:-1])
    if options.deduplicate != "none":
        _drop_duplicates(scanned, fates)
    if options.deduplicate == "near":
        for band in range(BANDS):
            _drop_duplicates(scanned, fates, band)
    available = [0] * len(corpus.sources)
    for each, fate in zip(scanned, fates, strict=True):
        available[each.piece.source_number] += int(each.load("sizes")[fate == _UNDECIDED].sum())
    total = min(size / share for size, share in zip(available, corpus.shares, strict=True))
    if options.max_bytes is not None:
        total = min(total, options.max_bytes)
    bounds = split_bounds(options)
    budget = [int(total * share) for share in corpus.shares]
    exhausted = set()
    for each, fate in zip(scanned, fates, strict=True):
        source = each.piece.source_number
        keys = np.empty((2, each.documents), np.uint64)
        keys[:, each.load("places")] = each.load("keys")
        if corpus.is_mix:
            # The upper half of the second word is independent of the split.
            share = total * corpus.shares[source] / max(available[source], 1)
            beyond = keys[1] >> np.uint64(32) >= share * 2**32
            fate[beyond & (fate == _UNDECIDED)] = LEFT_OUT
        selected = fate == _UNDECIDED
        if options.max_bytes is not None:
            sizes = np.where(selected, each.load("sizes"), 0)
            over = np.flatnonzero(np.cumsum(sizes) > budget[source])
            if source in exhausted or len(over):
                first = 0 if source in exhausted else int(over[0])
                fate[first:], selected[first:] = LEFT_OUT, False
                exhausted.add(source)
            budget[source] -= int(sizes[selected].sum())
        fate[selected] = _SPLIT_OF_RANGE[
            np.searchsorted(bounds, keys[0][selected], side="right")]
    return bool(exhausted)


def _drop_duplicates(
    scanned: Sequence[ScannedBlock], fates: Sequence[Fates], band: int | None = None
) -> None:
    """Mark the documents that repeat an earlier one: exactly, or in one band of hashes."""
    dropped = DUPLICATE if band is None else NEAR_DUPLICATE

    def opener(each: ScannedBlock) -> OpenKeys:
        if band is None:
            return lambda: (each.load("keys"), each.load("places"))
        return lambda: (each.load("bands")[band:band + 1], each.load("band_places")[band])

    for block, places in later_duplicates([opener(each) for each in scanned]):
        fate = fates[block]
        fate[places[fate[places] == _UNDECIDED]] = dropped


def read_fates(path: Path, scanned: ScannedBlock) -> Fates:
    """The fates of the documents of one block, shape [documents]."""
    return np.fromfile(path, np.uint8, scanned.documents, offset=scanned.first)


@dataclass
class FateCounts:
    """Totals over the fates that `select` wrote."""

    fates: dict[int, int]
    """Number of documents by fate."""
    train_bytes: int
    """UTF-8 bytes of the train split."""
    used: list[int]
    """UTF-8 bytes of each source that are in some split."""
    available: list[int]
    """UTF-8 bytes of each source without duplicates."""


def count_fates(path: Path, scanned: Sequence[ScannedBlock], sources: int) -> FateCounts:
    """Count the fates in a file of `select`; `sources` is the number of sources of the corpus."""
    counts = np.zeros(LEFT_OUT + 1, np.int64)
    train_bytes, used, available = 0, [0] * sources, [0] * sources
    for each in scanned:
        fate = read_fates(path, each)
        counts += np.bincount(fate, minlength=len(counts))
        sizes, source = each.load("sizes"), each.piece.source_number
        train_bytes += int(sizes[fate == SPLITS.index("train")].sum())
        used[source] += int(sizes[fate < len(SPLITS)].sum())
        available[source] += int(sizes[(fate != DUPLICATE) & (fate != NEAR_DUPLICATE)].sum())
    return FateCounts(dict(enumerate(counts.tolist())), train_bytes, used, available)
