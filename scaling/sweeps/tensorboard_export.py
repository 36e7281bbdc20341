"""A sweep's runs as TensorBoard's event files, made from the run folders.

    FOLDER/RUN_ID/events.out.tfevents.*.scaling     one merged history a run

Nothing is read back, and this can be done again at any time: a run's file is written anew.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import UserError
from scaling.sweeps.ledger import result
from scaling.sweeps.plan import Plan, PlannedRun

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_SUFFIX = ".scaling"
"""Of the files that are this export's own: others in the folder are left alone."""


def export_tensorboard(plan: Plan, folder: Path) -> int:
    """Write the history of every run that has one, over or not.

    A run's scalars have the names of metrics.jsonl's keys, and those of its record come as
    `record/...` at the last step; the configuration is a text. The time of a point is when the run
    would have been there, had it been trained without a break until its record was written.

    Args:
        plan: the sweep.
        folder: to give to `tensorboard --logdir`.

    Returns:
        How many runs were written.

    Raises:
        UserError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "tensorboardX is not installed; pip install 'scaling[tensorboard]'") from None
    count = 0
    for planned in plan.runs:
        if not planned.folder.metrics_path.exists():
            continue
        place = folder / planned.run_id
        for old in place.glob(f"events.out.tfevents.*{_SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(place), filename_suffix=_SUFFIX) as writer:
            _write(writer, plan, planned)
        count += 1
    return count


def _write(writer: SummaryWriter, plan: Plan, planned: PlannedRun) -> None:
    lines, record = planned.folder.metrics(), result(planned.folder) or {}
    seconds, started = 0.0, _started(planned, record)
    step = 0
    about = {"sweep": plan.sweep.name, "role": planned.role, "status": record.get("status"),
             "config": planned.run.model_dump(mode="json")}
    # As a block of Markdown, which TensorBoard renders as it is.
    text = "\n".join(f"    {line}" for line in json.dumps(about, indent=2).splitlines())
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
    """Seconds since 1970 at which an unbroken run would have begun."""
    ended = record.get("finished")
    if not isinstance(ended, str):
        return planned.folder.config_path.stat().st_mtime
    took = record.get("seconds")
    return datetime.fromisoformat(ended).timestamp() - (took if isinstance(took, float) else 0.0)
