"""Where each run of a sweep stands, read from the run folders and nowhere else."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from typing import Any

from scaling.errors import UserError
from scaling.files import NO_ROOM, write_atomically
from scaling.sweeps.planning.planned import PlannedRun
from scaling.training.run_folder import RunFolder, read_json

FAILURE = "failure.json"


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    state: str
    """new | partial | running | done | diverged | failed."""
    step: int
    """Steps done, as far as the metrics tell."""
    loss: float | None
    """Held-out loss of a finished run, else the last training loss; nats per token."""
    note: str = ""
    """Why a run failed, or why its record cannot be read."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do, unless the user asks for a retry."""
        return self.state in ("done", "diverged", "failed")


def standing(planned: PlannedRun) -> Standing:
    """Where a run stands now."""
    return standing_in(planned.folder)


def standing_in(folder: RunFolder) -> Standing:
    """Where the run of a folder stands now. One whose record cannot be read has failed: it is
    neither taken for done nor trained again unless the user asks for it."""
    try:
        record, problem = folder.record(), None
    except (UserError, OSError) as error:
        record, problem = None, said(error)
    if record is not None:
        return Standing(record["status"], record["steps"], record["loss"])
    last = folder.last_metrics()
    step, loss = (last["step"], last.get("loss")) if last else (0, None)
    if problem := problem or next(iter(why_failed(folder)), None):
        return Standing("failed", step, None, problem)
    if folder.locked():
        return Standing("running", step, loss)
    return Standing("partial" if last else "new", step, loss)


def is_over(folder: RunFolder) -> bool:
    """Whether there is nothing left to do in a run's folder, unless the user asks for a retry."""
    return folder.record_path.exists() or (folder.path / FAILURE).exists()


def result(folder: RunFolder) -> dict[str, Any] | None:
    """The record of a run that is over; None also where it cannot be read."""
    try:
        return folder.record()
    except (UserError, OSError):
        return None


def why_failed(folder: RunFolder) -> list[str]:
    """Why a run could not be trained: in a sentence, then the lines of the traceback. Empty if
    nobody has written that it failed."""
    path = folder.path / FAILURE
    try:
        content = read_json(path)
        return [str(content["error"]), *str(content["traceback"]).splitlines()]
    except FileNotFoundError:
        return []
    except KeyError as key:
        return [f"{path}: is of another version: it has no {key}"]
    except (UserError, OSError) as error:
        return [said(error)]


def said(error: BaseException) -> str:
    """An error in a sentence."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, UserError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()


def record_failure(folder: RunFolder, error: BaseException) -> None:
    """Write down why a run cannot be trained; it is left alone until it is retried.

    Raises:
        OSError: the error itself, if it says that the disk is full. That is no fault of the run,
            and the next one would fare no better.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        raise error
    content = {"error": said(error), "traceback": "".join(traceback.format_exception(error))}
    write_atomically(folder.path / FAILURE, json.dumps(content, indent=2) + "\n")


def forgive(folder: RunFolder) -> bool:
    """Let a failed run be tried again; False if it had not failed. A record that cannot be read is
    kept under another name, and the run goes on from its newest checkpoint."""
    failure = folder.path / FAILURE
    failed = failure.exists()
    failure.unlink(missing_ok=True)
    try:
        folder.record()
    except UserError:
        folder.record_path.rename(folder.record_path.with_suffix(".unreadable"))
        failed = True
    return failed
