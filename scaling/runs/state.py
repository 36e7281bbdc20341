"""The state of a run, read from its folder alone, and the record of its failure."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import DISK_FULL, read_json, write_atomically
from scaling.runs.files import END_STATUSES, is_run_id, read_config
from scaling.runs.folder import RunFolder
from scaling.runs.planned import PlannedRun

_log = logging.getLogger(__name__)

FAILURE = "failure.json"

_MAX_TEXT = 100_000
"""Largest number of characters of a failure's reason, and of its traceback, that are stored."""
_MAX_NOTE = 1000
"""Largest number of characters of the reason that tables show."""

UNREADABLE = "not readable"
"""State of a run whose files cannot be read or are invalid."""

_LARGEST_BYTES = 2**22
"""Largest size of a failure file, which has a traceback."""


@dataclass(frozen=True)
class RunState:
    """The state of a run."""

    state: str
    """new | partial | running | done | diverged | failed | not readable."""
    step: int
    """Last step in the metrics."""
    loss: float | None
    """Held-out loss of a finished run, else the last training loss, in nats per token; None if
    there is none."""
    note: str = ""
    """Why a run failed, or why its files cannot be read."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, unless the user requests a retry."""
        return self.state in ("done", "diverged", "failed", UNREADABLE)

    @property
    def status(self) -> str:
        """Status in the runs table: done | diverged | failed | planned."""
        if self.state == UNREADABLE:
            return "failed"
        return self.state if self.over else "planned"


def run_state(planned: PlannedRun) -> RunState:
    """The current state of a planned run."""
    return folder_state(planned.folder)


def folder_state(folder: RunFolder) -> RunState:
    """The current state of the run in a folder. A run whose files cannot be read does not count as
    done, and is neither trained nor pruned until the user requests a retry."""
    if not os.path.lexists(folder.path):
        return RunState("new", 0, None)
    try:
        try:
            return _read_state(folder)
        except FileNotFoundError:  # a retry has just moved a file
            return _read_state(folder)
    except (UserError, OSError) as error:
        last = None
        with suppress(UserError, OSError):
            last = folder.last_metrics()
        return RunState(UNREADABLE, last["step"] if last else 0, None, error_text(error))


def _read_state(folder: RunFolder) -> RunState:
    folder.check_place()
    if (record := folder.record()) is not None:
        return RunState(record["status"], record["steps"], record["loss"])
    last = folder.last_metrics()
    step, loss = (last["step"], last.get("loss")) if last else (0, None)
    if failure := read_failure(folder):
        return RunState("failed", step, None, failure[0][:_MAX_NOTE])
    folder.check()
    if folder.locked():
        return RunState("running", step, loss)
    return RunState("partial" if last else "new", step, loss)


def is_over(folder: RunFolder) -> bool:
    """Whether nothing is left to do in a run's folder, unless the user requests a retry."""
    has_file = os.path.lexists(folder.record_path) or os.path.lexists(folder.path / FAILURE)
    return has_file or folder_state(folder).over


def readable_record(folder: RunFolder) -> dict[str, Any] | None:
    """The record of a finished run; None if there is none or it cannot be read."""
    try:
        return folder.record()
    except (UserError, OSError):
        return None


def run_times(runs: Path, run_id: str) -> tuple[datetime | None, datetime | None]:
    """When a finished run began and ended, from its folder; None for what is not known.

    The beginning is the time of its configuration or, if that is earlier, the end less the seconds
    of training: a copied file is newer than the run, and an interrupted run took longer.

    Args:
        runs: the folder of runs.
        run_id: the run, or any other text.
    """
    folder = RunFolder(runs / run_id)
    record = readable_record(folder) if is_run_id(run_id) else None
    began = ended = None
    with suppress(ValueError, OverflowError):  # an invalid time, or none
        ended = datetime.fromisoformat((record or {}).get("finished", ""))
        ended = ended if ended.tzinfo else ended.replace(tzinfo=UTC)
        began = ended - timedelta(seconds=float((record or {}).get("seconds") or 0))
    with suppress(OSError):
        written = datetime.fromtimestamp(folder.config_path.stat().st_mtime, UTC)
        began = began and min(began, written)
    return began, ended


def status_and_record(folder: RunFolder) -> tuple[str, dict[str, Any]]:
    """The status of a run in the runs table, and its record, which is empty if it is not finished.

    The record is read once for both: between two reads the run may finish, or a file server come
    back, and a run would be done without a loss.
    """
    record = readable_record(folder)
    if record is not None:
        return record["status"], record
    status = folder_state(folder).status
    return ("planned" if status in END_STATUSES else status), {}


def readable_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The metrics of a run by step (RunFolder.metrics); empty, with a warning, if they cannot be
    read."""
    try:
        return folder.metrics()
    except (UserError, OSError) as error:
        _log.warning("%s: its learning curve is left out (%s)", folder.path.name, error_text(error))
        return []


def read_failure(folder: RunFolder) -> list[str]:
    """Why a run failed: a sentence, then the lines of the traceback. Empty if no failure is
    recorded.

    Raises:
        UserError: a failure is recorded, and the file is invalid.
        OSError: the file cannot be read, as in `read_bytes`.
    """
    path = folder.path / FAILURE
    if not os.path.lexists(path):
        return []
    content = read_json(path, largest=_LARGEST_BYTES)
    error, trace = content.get("error"), content.get("traceback")
    if isinstance(error, str) and isinstance(trace, str):
        return [error or "no reason is given", *trace.splitlines()]
    raise UserError(f"{path}: is of another version: it has no error and traceback; move it away "
                    "to have the run trained")


def error_text(error: BaseException) -> str:
    """An error as one sentence."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, UserError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()


def record_failure(folder: RunFolder, error: BaseException) -> None:
    """Record why a run failed; it is not trained again until a retry is requested.

    Raises:
        OSError: the error itself, if the disk is full. That is not a failure of the run, and the
            next run would fail too.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
    text = "".join(traceback.format_exception(error))
    # The end of the traceback matters most; the lengths keep the file below _LARGEST_BYTES.
    content = {"error": error_text(error)[:_MAX_TEXT], "traceback": text[-_MAX_TEXT:]}
    write_atomically(folder.path / FAILURE, json.dumps(content, indent=2) + "\n")


def clear_failure(folder: RunFolder) -> bool:
    """Prepare a failed or unreadable run for a retry; False if it is neither. Unreadable files are
    kept under other names, and the run continues from its newest checkpoint.

    Raises:
        UserError: a process holds the run, or its files cannot be repaired from here.
        OSError: a file cannot be removed or renamed; the error names it.
    """
    now = folder_state(folder)
    if now.state == "failed":
        (folder.path / FAILURE).unlink(missing_ok=True)
        return True
    if now.state != UNREADABLE:
        return False
    if folder.path.is_dir() and folder.locked():
        raise UserError(f"{folder.path}: another process holds this run; stop it first")
    unreadable = _unreadable(folder)
    if not unreadable:  # the folder itself, or an unavailable file server
        raise UserError(now.note)
    for path in unreadable:
        path.rename(_free_name(path))
    if folder.path not in unreadable:
        (folder.path / FAILURE).unlink(missing_ok=True)
    return True


def _unreadable(folder: RunFolder) -> list[Path]:
    """The files of a run that cannot be read, or its folder if it is not a folder."""
    if os.path.lexists(folder.path) and not folder.path.is_dir():
        return [folder.path]
    readers: dict[Path, Callable[[], object]] = {
        folder.record_path: folder.record, folder.metrics_path: folder.metrics,
        folder.path / FAILURE: lambda: read_failure(folder),
        folder.config_path: lambda: read_config(folder.config_path),
    }
    found = folder.misplaced()
    for path, read in readers.items():
        try:
            if os.path.lexists(path):
                read()
        except (UserError, PermissionError):
            found.append(path)
    return found


def _free_name(path: Path) -> Path:
    """An unused name for an unreadable file."""
    name = path.with_suffix(".unreadable")
    number = 1
    while os.path.lexists(name):
        number += 1
        name = path.with_suffix(f".unreadable-{number}")
    return name
