"""The pass that looks for runs of words of the test split in the train split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.contamination import bit_table, common, document_runs, union
from scaling.data.manifest import SPLITS
from scaling.data.prepare.reading import Chosen
from scaling.data.prepare.select import CONTAMINATED, Scanned, read_fates
from scaling.data.prepare.work import Step
from scaling.data.prepare.workers import PieceProgress, Tell
from scaling.data.words import UInt64, WordHashes

_TEST = SPLITS.index("test")
_HELD = 2**20  # hashes found that are kept with their repetitions


@dataclass(frozen=True)
class LookTask:
    """A piece whose train documents are looked through."""

    chosen: Chosen
    step: Step
    wanted: Step
    """What `wanted_runs` wrote."""


def wanted_runs(scanned: Sequence[Scanned], fates: Path, step: Step) -> dict[str, Any]:
    """Write the runs of words of the test split, and the table that is asked first.

    Holds some 24 bytes for each run: a test split of 1 GB takes 5 GB.
    """
    runs = union([
        np.unique(each.step.load("runs")[_in_test(each, fates)]) for each in scanned
    ])
    return step.finish({}, step.save(runs=runs, table=bit_table(runs)))


def look(task: LookTask, tell: Tell) -> dict[str, Any]:
    """Write which of the wanted runs are in the train documents of a piece."""
    runs, table = (np.asarray(task.wanted.load(kind)) for kind in ("runs", "table"))
    hashes = WordHashes()
    found: list[UInt64] = []
    held = 0
    for fate, text, _ in task.chosen.texts(PieceProgress(task.chosen.piece.size, tell)):
        if fate == SPLITS.index("train"):
            found.append(common(document_runs(text, hashes), runs, table))
            held += len(found[-1])
            if held > _HELD:
                found, held = [union(found)], 0
    return task.step.finish({}, task.step.save(found=union(found)))


def contaminated(
    scanned: Sequence[Scanned], looked: Sequence[Step], fates: Path, drop: bool
) -> int:
    """Count the test documents that have a run that was found, and mark them if asked to."""
    found = union([step.load("found") for step in looked])
    total = 0
    for each in scanned:
        mine = _in_test(each, fates) & np.isin(each.step.load("runs"), found)
        places = np.unique(each.step.load("run_places")[mine])
        total += len(places)
        if drop and len(places):
            own = np.memmap(fates, np.uint8, "r+", offset=each.first, shape=(each.documents,))
            own[places] = CONTAMINATED
    return total


def _in_test(scanned: Scanned, fates: Path) -> NDArray[np.bool_]:
    """Which of the runs of a scanned piece are of documents that went to the test split."""
    chosen: NDArray[np.bool_] = (read_fates(fates, scanned) == _TEST)[
        scanned.step.load("run_places")
    ]
    return chosen
