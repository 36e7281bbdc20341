"""The tasks of a parallel phase of preparation, and the file from which workers on other machines
read them.

    WORK/logs/NAME.tasks.json    source, options, and the parts of the corpus of each task

A worker finds the corpus again by its source string. It writes to the work folder that has the file
and to no other.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from scaling.config import Config, validate
from scaling.config.base import NonNegative, NonNegativeInt
from scaling.data.manifest import Options
from scaling.data.prepare.contamination import ContaminationTask, find_candidates
from scaling.data.prepare.pieces import Corpus, Piece, find_corpus
from scaling.data.prepare.scan import ScanTask, scan
from scaling.data.prepare.selected import SelectedPiece
from scaling.data.prepare.tokenizing import TokenizeTask, tokenize
from scaling.data.prepare.work import (
    DECISIONS,
    STORE,
    TEST_FILTER,
    WORK_LAYOUT,
    WorkStep,
    store_of,
)
from scaling.data.prepare.workers import ReportBytes, run
from scaling.data.sources import Part
from scaling.data.tokenizers import TokenizerKind
from scaling.data.tokenizers.special import SpecialTokens
from scaling.errors import UserError
from scaling.files import read_json, write_atomically

PieceTask = ScanTask | ContaminationTask | TokenizeTask

TaskKind = Literal["scan", "contamination", "tokens"]
"""Name of a phase, with which the names of its steps begin."""

LOGS = "logs"
"""Subfolder of a work folder with the files of tasks and the logs of workers."""

_LARGEST_BYTES = 2**30
_FIX = "run `scaling data prepare` again, which writes another"


@dataclass(frozen=True)
class TaskBatch:
    """The tasks of a phase, at least one and all of the same kind. They are independent of each
    other: any process may run any of them."""

    corpus: Corpus
    options: Options
    tasks: Sequence[PieceTask]

    @property
    def kind(self) -> TaskKind:
        """The kind of all tasks."""
        return _FUNCTIONS[type(self.tasks[0])][0]

    @property
    def work(self) -> Path:
        """The work folder."""
        return self.tasks[0].step.work

    @property
    def out(self) -> Path:
        """The folder of the store."""
        return self.tasks[0].step.out


RunTasks = Callable[[TaskBatch, ReportBytes], list[dict[str, Any]]]
"""Maps a phase's tasks to their results, in order, and reports the bytes read on the way."""


def piece_of(task: PieceTask) -> Piece:
    """The piece of the corpus that a task reads."""
    return task.piece if isinstance(task, ScanTask) else task.selected.piece


def run_task(task: PieceTask, report_bytes: ReportBytes) -> dict[str, Any]:
    """Run a task in this process. Its files and its result are kept in the work folder.

    Raises:
        UserError: A file of the source is invalid.
        OSError: Reading or writing failed.
        Exception: From `report_bytes`, which may be used to stop the task.
    """
    function: Callable[[Any, ReportBytes], dict[str, Any]] = _FUNCTIONS[type(task)][1]
    return function(task, report_bytes)


def run_here(workers: int) -> RunTasks:
    """Runs tasks in processes of this machine.

    Raises:
        UserError: The number of processes is below 1.
    """
    if workers < 1:
        raise UserError(f"workers = {workers}; at least 1 is needed")
    return lambda batch, report_bytes: run(run_task, batch.tasks, workers, report_bytes)


_FUNCTIONS: dict[type, tuple[TaskKind, Callable[..., dict[str, Any]]]] = {
    ScanTask: ("scan", scan),
    ContaminationTask: ("contamination", find_candidates),
    TokenizeTask: ("tokens", tokenize),
}


class _TaskRecord(Config):
    """A task in the file."""

    number: NonNegativeInt
    source: NonNegativeInt
    size: NonNegative
    parts: tuple[tuple[str, NonNegativeInt, NonNegativeInt | None], ...]
    first: NonNegativeInt | None = None
    documents: NonNegativeInt | None = None


class _TaskFile(Config):
    """The content of the file."""

    layout: NonNegativeInt
    kind: TaskKind
    folder: str
    source: str
    options: Options
    stamp: Annotated[list[list[tuple[int, int]]], Field(min_length=1)]
    tokenizer: TokenizerKind | None = None
    special: SpecialTokens | None = None
    tasks: Annotated[tuple[_TaskRecord, ...], Field(min_length=1)]


def write_tasks(batch: TaskBatch, path: Path) -> None:
    """Write the tasks to a file in the folder LOGS of their work folder."""
    first = batch.tasks[0]
    content: dict[str, Any] = {
        "layout": WORK_LAYOUT, "kind": batch.kind, "folder": os.getcwd(),
        "source": batch.corpus.name, "options": batch.options.model_dump(mode="json"),
        "stamp": batch.corpus.stamp(), "tasks": [_record(task) for task in batch.tasks],
    }
    if isinstance(first, TokenizeTask):
        content |= {"tokenizer": first.kind, "special": first.special.model_dump(mode="json")}
    write_atomically(path, json.dumps(content) + "\n")


def _record(task: PieceTask) -> dict[str, Any]:
    piece = piece_of(task)
    record: dict[str, Any] = {
        "number": piece.number, "source": piece.source_number, "size": piece.size,
        "parts": [[str(part.path), part.start, part.stop] for part in piece.parts],
    }
    if not isinstance(task, ScanTask):
        record |= {"first": task.selected.first, "documents": task.selected.documents}
    return record


def read_tasks(path: Path) -> TaskBatch:
    """Read a file of `write_tasks`, and find the corpus on this machine. The process changes to the
    working folder of the one that wrote the file.

    Raises:
        UserError: It is not such a file, or the corpus is not on this machine, or another one is.
        OSError: It, or the corpus, cannot be read.
    """
    work = path.absolute().parent.parent
    out = store_of(work)
    file = validate(_TaskFile, read_json(path, _FIX, _LARGEST_BYTES), str(path))
    if file.layout != WORK_LAYOUT:
        raise UserError(f"{path}: was written by another version of scaling; {_FIX}")
    try:
        os.chdir(file.folder)
    except (OSError, ValueError):
        raise UserError(f"{file.folder:.1000}: no such folder on {socket.gethostname()}; run the "
                        "command in a folder that all machines share") from None
    corpus = find_corpus(file.source, file.options)
    if corpus.stamp() != file.stamp:
        raise UserError(
            f"{file.source}: its files on {socket.gethostname()} have other sizes or times than on "
            "the machine that prepares it; put them where all machines see the same files")
    return TaskBatch(corpus, file.options,
                     [_task(file, record, corpus, work, out) for record in file.tasks])


def _task(
    file: _TaskFile, record: _TaskRecord, corpus: Corpus, work: Path, out: Path
) -> PieceTask:
    if record.source >= len(corpus.sources):
        raise UserError(f"{file.source}: has no source number {record.source}; {_FIX}")
    source = corpus.sources[record.source]
    parts = tuple(Part(Path(name), start, stop) for name, start, stop in record.parts)
    piece = Piece(record.number, record.source, source, parts, record.size)
    step = WorkStep(work, out, step_name(file.kind, piece))
    if file.kind == "scan":
        return ScanTask(piece, file.options, step)
    selected = SelectedPiece(piece, work / DECISIONS, record.first or 0, record.documents or 0)
    if file.kind == "contamination":
        return ContaminationTask(selected, step, WorkStep(work, out, TEST_FILTER))
    if file.tokenizer is None or file.special is None:
        raise UserError(f"{file.source}: a tokenizer is expected; {_FIX}")
    return TokenizeTask(selected, step, file.tokenizer, work / STORE, file.special)


def step_name(kind: str, piece: Piece) -> str:
    """Name of the step of a task."""
    return f"{kind}-{piece.number:05}"
