"""The pass that looks for runs of words of the test split in the train split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.contamination import document_runs, empty_tables, enter, perhaps_entered
from scaling.data.manifest import SPLITS
from scaling.data.prepare.reading import Chosen
from scaling.data.prepare.select import CONTAMINATED, Scanned, read_fates
from scaling.data.prepare.work import Step
from scaling.data.prepare.workers import PieceProgress, Tell
from scaling.data.ranges import HELD, among, next_range, range_ends, union
from scaling.data.words import UInt64, WordHashes

_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")
_BLOCK = 2**19  # hashes found that are written at once


@dataclass(frozen=True)
class LookTask:
    """A piece whose train documents are looked through."""

    chosen: Chosen
    step: Step
    wanted: Step
    """What `enter_wanted` wrote."""


def enter_wanted(scanned: Sequence[Scanned], fates: Path, step: Step) -> dict[str, Any]:
    """Write tables of the runs of words of the test split: 4 to 8 bytes for each run, up to 0.5 GB,
    which all workers share."""
    tables = empty_tables(sum(len(each.load("runs")) for each in scanned))
    for each in scanned:
        in_test = read_fates(fates, each) == _TEST
        enter(each.load("runs")[in_test[each.load("run_places")]], tables)
    return step.finish({}, step.save(tables=tables))


def look(task: LookTask, tell: Tell) -> dict[str, Any]:
    """Write which runs of the train documents of a piece are perhaps wanted, in ascending blocks.

    Files of the step: `found-0`, `found-1` ..., as many as the result's `blocks`.
    """
    tables = np.asarray(task.wanted.load("tables"))
    hashes = WordHashes()
    files: dict[str, str] = {}
    found: list[UInt64] = []
    held = 0

    def write() -> None:
        nonlocal held
        files.update(task.step.save(**{f"found-{len(files)}": union(found)}))
        found.clear()
        held = 0

    for fate, text, _ in task.chosen.texts(PieceProgress(task.chosen.piece.size, tell)):
        if fate == _TRAIN:
            some = perhaps_entered(document_runs(text, hashes), tables)
            if not len(some):  # even an empty array takes memory
                continue
            found.append(some)
            held += len(some)
            if held >= _BLOCK:
                write()
    write()
    return task.step.finish({"blocks": len(files)}, files)


def contaminated(
    scanned: Sequence[Scanned],
    looked: Sequence[tuple[Step, int]],
    path: Path,
    drop: bool,
) -> int:
    """Count the test documents of which some run was found, and mark them if asked to.

    Runs are held for one range of their values at a time: some 0.2 GB, whatever the corpus.

    Args:
        scanned: the blocks of the corpus.
        looked: steps of `look` with the number of their blocks.
        path: the fates.
        drop: whether the documents lose their place in the test split.
    """
    blocks = [(step, f"found-{number}") for step, count in looked for number in range(count)]
    starts, own_starts = [0] * len(blocks), [0] * len(scanned)
    fates = np.memmap(path, np.uint8, "r+")
    for end in range_ends(sum(len(step.load(kind)) for step, kind in blocks)):
        found = np.zeros(0, np.uint64)
        held: list[UInt64] = []
        count = 0
        for number, (step, kind) in enumerate(blocks):
            ascending = step.load(kind)
            here = next_range(starts, number, ascending, end)
            held.append(np.array(ascending[here]))
            count += len(held[-1])
            if count >= HELD or number == len(blocks) - 1:
                found, held, count = union([found, *held]), [], 0
        for number, each in enumerate(scanned):
            ascending = each.load("runs")
            here = next_range(own_starts, number, ascending, end)
            places = each.load("run_places")[here][among(ascending[here], found)]
            own = fates[each.first:each.first + each.documents]
            own[places[own[places] == _TEST]] = CONTAMINATED
    total = 0
    for each in scanned:
        own = fates[each.first:each.first + each.documents]
        marked = own == CONTAMINATED
        total += int(marked.sum())
        if not drop:
            own[marked] = _TEST
    return total
