"""What becomes of each document: the split that it goes to, or why it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.deduplicate import BANDS, Keys, later_ones
from scaling.data.manifest import SPLITS, Options
from scaling.data.prepare.pieces import Corpus, Piece
from scaling.data.prepare.scan import split_bounds
from scaling.data.prepare.work import Step, written

DUPLICATE, NEAR_DUPLICATE, CONTAMINATED, LEFT_OUT = range(len(SPLITS), len(SPLITS) + 4)
"""Fates of documents that go to no split; the others are places in SPLITS."""

_UNKNOWN = 255
# By where a hash lies: below the first bound, below the second, above both.
_OF_RANGE = np.array([SPLITS.index(name) for name in ("validation", "test", "train")], np.uint8)

Fates = NDArray[np.uint8]


@dataclass(frozen=True)
class Scanned:
    """A block of documents of a piece, and what was found in it."""

    piece: Piece
    step: Step
    """Of the scan of the piece."""
    block: int
    """Number among the blocks of the piece."""
    first: int
    """Place of its first document in the corpus."""
    documents: int

    def load(self, kind: str) -> NDArray[Any]:
        """An array that `scan` wrote, mapped into memory."""
        return self.step.load(f"{kind}-{self.block}")


def select(
    corpus: Corpus, scanned: Sequence[Scanned], options: Options, path: Path, out: Path
) -> bool:
    """Write the fate of every document to a file, one byte each, in the order of the corpus.

    Of documents that repeat each other the first stays. Then a mix takes of each source the
    documents whose hash is below the share that gives the text its weights, so that one source
    is taken whole; and documents are taken from the start of each source until `max_bytes`, or
    the source's share of it, would be exceeded.

    Returns:
        Whether `max_bytes` was reached.
    """
    # A file rather than memory: it may have one byte for each of a billion documents.
    with written(path, out) as file:
        for each in scanned:
            file.write(np.full(each.documents, _UNKNOWN, np.uint8).tobytes())
    fates = [np.zeros(0, np.uint8)] * len(scanned)
    if path.stat().st_size:
        ends = np.cumsum([each.documents for each in scanned])
        fates = np.split(np.memmap(path, np.uint8, "r+"), ends[:-1])
    if options.deduplicate != "none":
        _drop_repetitions(scanned, fates)
    if options.deduplicate == "near":
        for band in range(BANDS):
            _drop_repetitions(scanned, fates, band)
    kept = [0] * len(corpus.sources)
    for each, fate in zip(scanned, fates, strict=True):
        kept[each.piece.source_number] += int(each.load("sizes")[fate == _UNKNOWN].sum())
    total = min(size / share for size, share in zip(kept, corpus.shares, strict=True))
    if options.max_bytes is not None:
        total = min(total, options.max_bytes)
    bounds = split_bounds(options)
    left = [int(total * share) for share in corpus.shares]
    reached = set()
    for each, fate in zip(scanned, fates, strict=True):
        source = each.piece.source_number
        keys = np.empty((2, each.documents), np.uint64)
        keys[:, each.load("places")] = each.load("keys")
        if corpus.is_mix:
            # The upper half of the second word: it has no part in the choice of the split.
            share = total * corpus.shares[source] / max(kept[source], 1)
            beyond = keys[1] >> np.uint64(32) >= share * 2**32
            fate[beyond & (fate == _UNKNOWN)] = LEFT_OUT
        wanted = fate == _UNKNOWN
        if options.max_bytes is not None:
            sizes = np.where(wanted, each.load("sizes"), 0)
            over = np.flatnonzero(np.cumsum(sizes) > left[source])
            if source in reached or len(over):
                first = 0 if source in reached else int(over[0])
                fate[first:], wanted[first:] = LEFT_OUT, False
                reached.add(source)
            left[source] -= int(sizes[wanted].sum())
        fate[wanted] = _OF_RANGE[np.searchsorted(bounds, keys[0][wanted], side="right")]
    return bool(reached)


def _drop_repetitions(
    scanned: Sequence[Scanned], fates: Sequence[Fates], band: int | None = None
) -> None:
    """Mark what repeats an earlier document: exactly, or in one band of its hashes."""
    dropped = DUPLICATE if band is None else NEAR_DUPLICATE

    def opener(each: Scanned) -> Keys:
        if band is None:
            return lambda: (each.load("keys"), each.load("places"))
        return lambda: (each.load("bands")[band:band + 1], each.load("band_places")[band])

    for block, places in later_ones([opener(each) for each in scanned]):
        fate = fates[block]
        fate[places[fate[places] == _UNKNOWN]] = dropped


def read_fates(path: Path, scanned: Scanned) -> Fates:
    """The fates of the documents of one block, shape [documents]."""
    return np.fromfile(path, np.uint8, scanned.documents, offset=scanned.first)


@dataclass
class Counts:
    """Documents by fate, and UTF-8 bytes of those that go to the train split."""

    fates: dict[int, int]
    train_bytes: int


def count_fates(path: Path, scanned: Sequence[Scanned]) -> Counts:
    """Count what `select` decided."""
    counts = np.zeros(LEFT_OUT + 1, np.int64)
    train_bytes = 0
    for each in scanned:
        fate = read_fates(path, each)
        counts += np.bincount(fate, minlength=len(counts))
        train_bytes += int(each.load("sizes")[fate == SPLITS.index("train")].sum())
    return Counts(dict(enumerate(counts.tolist())), train_bytes)
