"""Workers of `scaling data prepare`: each claims pieces of the corpus, and runs their tasks.

    WORK/logs/NAME.tasks.json   the tasks (scaling/data/prepare/tasks.py)
    WORK/logs/NAME.error.json   the error of the first task that failed
    WORK/claims/STEP/           the lease of the worker that has a task (scaling/runs/lease.py)

A task is over when its step is noted in the work folder. A worker that loses its lease, because it
was suspended, writes the same bytes as the one that took its task over, and each file is renamed
when it is complete, so neither disturbs the other.
"""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.data.prepare.tasks import PieceTask, TaskBatch, read_tasks, run_task
from scaling.data.prepare.workers import WorkerDied
from scaling.errors import DataError, UserError
from scaling.files import DISK_FULL, read_json, write_atomically
from scaling.launch.worker_plan import TASKS_SUFFIX
from scaling.runs.lease import acquire, is_alive

PAUSE_SECONDS = 0.5
"""Between two passes over tasks that other workers have."""


class _Stop(BaseException):
    """This worker has been asked to stop. Not an Exception, which libraries might handle."""


def claims_folder(task: PieceTask) -> Path:
    """The folder of the lease of a task."""
    return task.step.work / "claims" / task.step.name


def error_path(tasks: Path) -> Path:
    """The file for the error of a task, next to the file of tasks."""
    return tasks.with_name(tasks.name.removesuffix(TASKS_SUFFIX) + ".error.json")


def run_pieces(tasks: Path, asked_to_stop: Callable[[], bool]) -> bool:
    """Run the tasks of a file until none is left to claim or one has failed.

    The error of a task is written to a file, from which the command that waits raises it again. A
    task that is interrupted is done again by another worker, from the start of its piece.

    Args:
        tasks: a file of `scaling.data.prepare.tasks.write_tasks`.
        asked_to_stop: asked after every 2 MB of text.

    Returns:
        Whether it was asked to stop before the end.

    Raises:
        OSError: the disk is full.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # parallelism is over processes
    tasks = tasks.absolute()
    failed = error_path(tasks)

    def report_bytes(size: float) -> None:
        if asked_to_stop():
            raise _Stop

    batch = None
    try:
        batch = read_tasks(tasks)
        return _run_batch(batch, failed, report_bytes)
    except _Stop:
        return True
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        traceback.print_exc()
        content = _plain(error)
        if batch is None and content["kind"] == "user":
            content["kind"] = "start"
        write_atomically(failed, json.dumps(content) + "\n")
        return False


def _run_batch(batch: TaskBatch, failed: Path, report_bytes: Callable[[float], None]) -> bool:
    left = list(batch.tasks)
    while left:
        held = []
        for task in left:
            report_bytes(0)
            if failed.exists():
                return False
            if not task.step.noted() and not _claim(task, report_bytes):
                held.append(task)
        # As of runs: a task is watched until its holder proves that it is alive.
        left = [task for task in held if not is_alive(claims_folder(task))]
        if left:
            time.sleep(PAUSE_SECONDS)
    return False


def _claim(task: PieceTask, report_bytes: Callable[[float], None]) -> bool:
    """Run a task under its lease; False if another worker has it."""
    lease = acquire(claims_folder(task))
    if lease is None:
        return False
    try:
        if not task.step.noted():
            print(f"{task.step.name}: begins", flush=True)
            run_task(task, report_bytes)
            print(f"{task.step.name}: done", flush=True)
    finally:
        lease.release()
    return True


def _plain(error: Exception) -> dict[str, Any]:
    """An error as JSON data."""
    if isinstance(error, UserError):
        kind = "data" if isinstance(error, DataError) else "user"
        return {"kind": kind, "text": str(error)}
    if isinstance(error, OSError) and error.errno is not None:
        return {"kind": "system", "number": error.errno, "text": error.strerror,
                "file": None if error.filename is None else os.fsdecode(error.filename)}
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return {"kind": "memory" if isinstance(error, MemoryError) else "bug", "text": text}


def read_error(path: Path, log: Path) -> Exception | None:
    """The error that a worker has written, to be raised; None if there is none.

    Args:
        path: from `error_path`.
        log: log of the workers, for the message of an error that is a bug.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except UserError as error:
        return error
    text, number, file = (content.get(key) for key in ("text", "number", "file"))
    match content.get("kind"):
        case "user":
            return UserError(text)
        case "start":  # of this worker, not of the corpus
            return WorkerDied(text)
        case "data":
            return DataError(text)
        case "memory":
            return MemoryError(text)
        case "system" if isinstance(number, int):
            return OSError(number, text or errno.errorcode.get(number, "error"), file)
    return RuntimeError(f"{text} in a worker; see {log}")
