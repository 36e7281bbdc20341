"""Where each run of a sweep stands, read from the run folders and nowhere else."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass

from scaling.errors import UserError
from scaling.files import write_atomically
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
    """Why a run failed."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do, unless the user asks for a retry."""
        return self.state in ("done", "diverged", "failed")


def standing(planned: PlannedRun) -> Standing:
    """Where a run stands now."""
    return standing_in(planned.folder)


def standing_in(folder: RunFolder) -> Standing:
    """Where the run of a folder stands now."""
    record = folder.record()
    if record is not None:
        return Standing(record["status"], record["steps"], record["loss"])
    failure = folder.path / FAILURE
    last = folder.last_metrics()
    step, loss = (last.get("step", 0), last.get("loss")) if last else (0, None)
    if failure.exists():
        return Standing("failed", step, None, read_json(failure)["error"])
    if folder.locked():
        return Standing("running", step, loss)
    return Standing("partial" if last else "new", step, loss)


def is_over(folder: RunFolder) -> bool:
    """Whether there is nothing left to do in a run's folder, unless the user asks for a retry."""
    return folder.record_path.exists() or (folder.path / FAILURE).exists()


def record_failure(folder: RunFolder, error: BaseException) -> None:
    """Write down why a run cannot be trained; it is left alone until it is retried."""
    lines = traceback.format_exception(error)
    message = str(error) if isinstance(error, UserError) else lines[-1].strip()
    content = {"error": message, "traceback": "".join(lines)}
    write_atomically(folder.path / FAILURE, json.dumps(content, indent=2) + "\n")


def forgive(folder: RunFolder) -> bool:
    """Let a failed run be tried again; False if it had not failed."""
    failure = folder.path / FAILURE
    if not failure.exists():
        return False
    failure.unlink()
    return True
