"""The decision of every document: the split that it belongs to, or the reason why it is dropped."""

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
"""Decisions about dropped documents; the decision about any other document is the index of its
split in SPLITS."""

_UNDECIDED = 255
# By the range of a hash: below the first of `split_bounds`, below the second, above both.
_SPLIT_OF_RANGE = np.array(
    [SPLITS.index(name) for name in ("validation", "test", "train")], np.uint8)

Decisions = NDArray[np.uint8]


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
    """Write the decision of every document to a file, one byte each, in the order of the corpus.

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
    decisions = [np.zeros(0, np.uint8)] * len(scanned)
    if path.stat().st_size:
        ends = np.cumsum([each.documents for each in scanned])
        decisions = np.split(np.memmap(path, np.uint8, "r+"), ends[:-1])
    if options.deduplicate != "none":
        _drop_duplicates(scanned, decisions)
    if options.deduplicate == "near":
        for band in range(BANDS):
            _drop_duplicates(scanned, decisions, band)
    available = [0] * len(corpus.sources)
    for each, decision in zip(scanned, decisions, strict=True):
        available[each.piece.source_number] += int(each.load("sizes")[decision == _UNDECIDED].sum())
    total = min(size / share for size, share in zip(available, corpus.shares, strict=True))
    if options.max_bytes is not None:
        total = min(total, options.max_bytes)
    bounds = split_bounds(options)
    budget = [int(total * share) for share in corpus.shares]
    exhausted = set()
    for each, decision in zip(scanned, decisions, strict=True):
        source = each.piece.source_number
        keys = np.empty((2, each.documents), np.uint64)
        keys[:, each.load("places")] = each.load("keys")
        if corpus.is_mix:
            # The upper half of the second word is independent of the split.
            share = total * corpus.shares[source] / max(available[source], 1)
            beyond = keys[1] >> np.uint64(32) >= share * 2**32
            decision[beyond & (decision == _UNDECIDED)] = LEFT_OUT
        selected = decision == _UNDECIDED
        if options.max_bytes is not None:
            sizes = np.where(selected, each.load("sizes"), 0)
            over = np.flatnonzero(np.cumsum(sizes) > budget[source])
            if source in exhausted or len(over):
                first = 0 if source in exhausted else int(over[0])
                decision[first:], selected[first:] = LEFT_OUT, False
                exhausted.add(source)
            budget[source] -= int(sizes[selected].sum())
        decision[selected] = _SPLIT_OF_RANGE[
            np.searchsorted(bounds, keys[0][selected], side="right")]
    return bool(exhausted)


def _drop_duplicates(
    scanned: Sequence[ScannedBlock], decisions: Sequence[Decisions], band: int | None = None
) -> None:
    """Mark the documents that repeat an earlier one: exactly, or in one band of hashes."""
    dropped = DUPLICATE if band is None else NEAR_DUPLICATE

    def opener(each: ScannedBlock) -> OpenKeys:
        if band is None:
            return lambda: (each.load("keys"), each.load("places"))
        return lambda: (each.load("bands")[band:band + 1], each.load("band_places")[band])

    for block, places in later_duplicates([opener(each) for each in scanned]):
        decision = decisions[block]
        decision[places[decision[places] == _UNDECIDED]] = dropped


def read_decisions(path: Path, scanned: ScannedBlock) -> Decisions:
    """The decisions of the documents of one block, shape [documents]."""
    return np.fromfile(path, np.uint8, scanned.documents, offset=scanned.first)


@dataclass
class DecisionCounts:
    """Totals over the decisions that `select` wrote."""

    decisions: dict[int, int]
    """Number of documents by decision."""
    train_bytes: int
    """UTF-8 bytes of the train split."""
    used: list[int]
    """UTF-8 bytes of each source that are in some split."""
    available: list[int]
    """UTF-8 bytes of each source without duplicates."""


def count_decisions(path: Path, scanned: Sequence[ScannedBlock], sources: int) -> DecisionCounts:
    """Count the decisions in a file of `select`; `sources`: number of sources of the corpus."""
    counts = np.zeros(LEFT_OUT + 1, np.int64)
    train_bytes, used, available = 0, [0] * sources, [0] * sources
    for each in scanned:
        decision = read_decisions(path, each)
        counts += np.bincount(decision, minlength=len(counts))
        sizes, source = each.load("sizes"), each.piece.source_number
        train_bytes += int(sizes[decision == SPLITS.index("train")].sum())
        used[source] += int(sizes[decision < len(SPLITS)].sum())
        duplicate = (decision == DUPLICATE) | (decision == NEAR_DUPLICATE)
        available[source] += int(sizes[~duplicate].sum())
    return DecisionCounts(dict(enumerate(counts.tolist())), train_bytes, used, available)
