"""A sweep's finished runs as Weights & Biases runs, made from the run folders.

Nothing is read back: the folders are the truth, and this can be done again at any time. One merged
history a run is written after the fact, because the segments of a run that was interrupted would
overwrite each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.sweeps.plan import Plan, PlannedRun


def export_wandb(plan: Plan, project: str, folder: Path) -> int:
    """Write every run that is over to a W&B project; its identity is the W&B run's id.

    Without an API key, or with WANDB_MODE=offline, the runs are written below `folder` for
    `wandb sync`.

    Args:
        plan: the sweep.
        project: W&B project.
        folder: where W&B keeps its files.

    Returns:
        How many runs were written.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; pip install 'scaling[wandb]'") from None
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    over = [(p, record) for p in plan.runs if (record := p.folder.record()) is not None]
    folder.mkdir(parents=True, exist_ok=True)
    for planned, record in over:
        _export_run(wandb, plan, planned, record, project, folder, mode)
    return len(over)


def _export_run(
    wandb: Any, plan: Plan, planned: PlannedRun, record: dict[str, Any], project: str,
    folder: Path, mode: str,
) -> None:
    with wandb.init(
        project=project, id=planned.run_id, name=planned.run_id, group=plan.sweep.name,
        tags=[planned.role, record["status"]], config=planned.run.model_dump(mode="json"),
        dir=str(folder), mode=mode, resume="allow", reinit="finish_previous",
        settings=wandb.Settings(silent=True, disable_git=True, x_disable_stats=True),
    ) as run:
        for line in planned.folder.metrics():
            run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
        run.summary.update(record)
