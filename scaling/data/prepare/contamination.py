"""The pass over the train split that searches for word 13-grams of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.manifest import SPLITS
from scaling.data.prepare.external_sort import (
    HASHES_IN_MEMORY,
    isin_sorted,
    next_range,
    range_ends,
    union,
)
from scaling.data.prepare.ngram_filter import document_ngrams, empty_filter, insert, maybe_contained
from scaling.data.prepare.select import CONTAMINATED, ScannedBlock, read_decisions
from scaling.data.prepare.selected import SelectedPiece
from scaling.data.prepare.shingles import WordHashes
from scaling.data.prepare.work import WorkStep
from scaling.data.prepare.workers import PieceProgress, ReportBytes
from scaling.data.random import UInt64

_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")
_BLOCK = 2**19  # candidates that are written at a time


@dataclass(frozen=True)
class ContaminationTask:
    """A piece whose train documents are searched."""

    selected: SelectedPiece
    step: WorkStep
    test_filter: WorkStep
    """Step of `build_test_filter`."""


def build_test_filter(
    scanned: Sequence[ScannedBlock], decisions: Path, step: WorkStep
) -> dict[str, Any]:
    """Write a Bloom filter of the 13-grams of the test split, which all workers share: 4 to 8 bytes
    per 13-gram, at most 0.5 GB."""
    tables = empty_filter(sum(len(each.load("runs")) for each in scanned))
    for each in scanned:
        in_test = read_decisions(decisions, each) == _TEST
        insert(each.load("runs")[in_test[each.load("run_places")]], tables)
    return step.finish({}, step.save(tables=tables))


def find_candidates(task: ContaminationTask, report_bytes: ReportBytes) -> dict[str, Any]:
    """Write the 13-grams of a piece's train documents that pass the filter, in sorted blocks.

    Files of the step: `found-0`, `found-1` ..., as many as the `blocks` of the result.
    """
    tables = np.asarray(task.test_filter.load("tables"))
    hashes = WordHashes()
    files: dict[str, str] = {}
    found: list[UInt64] = []
    count = 0

    def write() -> None:
        nonlocal count
        files.update(task.step.save(**{f"found-{len(files)}": union(found)}))
        found.clear()
        count = 0

    progress = PieceProgress(task.selected.piece.size, report_bytes)
    for decision, text, _ in task.selected.texts(progress):
        if decision == _TRAIN:
            candidates = maybe_contained(document_ngrams(text, hashes), tables)
            if not len(candidates):  # even an empty array takes memory
                continue
            found.append(candidates)
            count += len(candidates)
            if count >= _BLOCK:
                write()
    write()
    return task.step.finish({"blocks": len(files)}, files)


def mark_contaminated(
    scanned: Sequence[ScannedBlock],
    searched: Sequence[tuple[WorkStep, int]],
    path: Path,
    drop: bool,
) -> int:
    """Count the test documents that share a 13-gram with train, and drop them if requested.

    Only the 13-grams of one range of hash values are in memory at a time: about 0.2 GB for any
    corpus.

    Args:
        scanned: The blocks of the corpus.
        searched: The steps of `find_candidates`, each with its number of blocks.
        path: The file of decisions.
        drop: Whether to remove the documents from the test split.
    """
    blocks = [(step, f"found-{number}") for step, count in searched for number in range(count)]
    train_starts, test_starts = [0] * len(blocks), [0] * len(scanned)
    decisions = np.memmap(path, np.uint8, "r+")
    for end in range_ends(sum(len(step.load(kind)) for step, kind in blocks)):
        found = np.zeros(0, np.uint64)
        pending: list[UInt64] = []
        count = 0
        for number, (step, kind) in enumerate(blocks):
            ascending = step.load(kind)
            here = next_range(train_starts, number, ascending, end)
            pending.append(np.array(ascending[here]))
            count += len(pending[-1])
            if count >= HASHES_IN_MEMORY or number == len(blocks) - 1:
                found, pending, count = union([found, *pending]), [], 0
        for number, each in enumerate(scanned):
            ascending = each.load("runs")
            here = next_range(test_starts, number, ascending, end)
            places = each.load("run_places")[here][isin_sorted(ascending[here], found)]
            block_decisions = decisions[each.first:each.first + each.documents]
            block_decisions[places[block_decisions[places] == _TEST]] = CONTAMINATED
    total = 0
    for each in scanned:
        block_decisions = decisions[each.first:each.first + each.documents]
        marked = block_decisions == CONTAMINATED
        total += int(marked.sum())
        if not drop:
            block_decisions[marked] = _TEST
    return total
