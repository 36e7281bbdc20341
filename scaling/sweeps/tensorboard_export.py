"""Export of a sweep's runs as TensorBoard event files.

    FOLDER/RUN_ID/events.out.tfevents.*.scaling     one merged history for each run

The export can be repeated at any time: it only reads the run folders, and replaces the event file
of each run.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.files import remove_below
from scaling.runs.planned import PlannedRun
from scaling.runs.state import readable_metrics, readable_record
from scaling.sweeps.plan import Plan

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_SUFFIX = ".scaling"
"""Suffix of the files of this export; other files in the folder are not touched."""
_OURS = re.compile(r"events\.out\.tfevents\..*" + re.escape(_SUFFIX))


def export_tensorboard(plan: Plan, folder: Path) -> int:
    """Write the history of every run that has one, whether it is over or not.

    Scalars have the names of the keys of metrics.jsonl; numbers of the record are written as
    `record/...` at the last step, and the configuration as text. The wall time of a point is that
    of an uninterrupted run that ended when the record was written.

    Args:
        plan: of the sweep.
        folder: for `tensorboard --logdir`.

    Returns:
        The number of runs written.

    Raises:
        UserError: tensorboardX is not installed, or the event folder of a run is a link.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "tensorboardX is not installed; pip install 'scaling[tensorboard]'") from None
    count = 0
    for planned in plan.runs:
        lines = readable_metrics(planned.folder)
        if not lines:
            continue
        place = folder / planned.run_id
        if place.is_symlink():
            raise UserError(f"{place}: is a link, through which nothing is written; remove it, or "
                            "choose another folder")
        for old in place.iterdir() if place.is_dir() else ():
            if _OURS.fullmatch(old.name) and not old.is_symlink():
                remove_below(folder, old)
        with SummaryWriter(str(place), filename_suffix=_SUFFIX) as writer:
            _write(writer, plan, planned, lines)
        count += 1
    return count


def _write(
    writer: SummaryWriter, plan: Plan, planned: PlannedRun, lines: list[dict[str, Any]]
) -> None:
    record = readable_record(planned.folder) or {}
    seconds, started = 0.0, _started(planned, record)
    step = 0
    description = {"sweep": plan.sweep.name, "role": planned.role, "status": record.get("status"),
                   "config": planned.run.model_dump(mode="json")}
    # A Markdown code block, which TensorBoard does not reformat.
    text = "\n".join(f"    {line}" for line in json.dumps(description, indent=2).splitlines())
    writer.add_text("run", text, 0, walltime=started)
    for line in lines:
        step, seconds = line["step"], line.get("seconds", seconds)
        for name, value in line.items():
            if name != "step" and value is not None:
                writer.add_scalar(name, value, step, walltime=started + seconds)
    for name, value in record.items():
        if isinstance(value, int | float):
            writer.add_scalar(f"record/{name}", value, step, walltime=started + seconds)


def _started(planned: PlannedRun, record: dict[str, object]) -> float:
    """Start of an uninterrupted run with the same end, in seconds since 1970."""
    finished, duration = record.get("finished"), record.get("seconds")
    with suppress(ValueError, OverflowError, OSError):  # an invalid time
        if isinstance(finished, str):
            end = datetime.fromisoformat(finished).timestamp()
            return end - (duration if isinstance(duration, float) else 0.0)
    began = planned.folder.config_path
    return (began if began.exists() else planned.folder.metrics_path).stat().st_mtime
