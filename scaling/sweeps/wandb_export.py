"""A sweep's finished runs as Weights & Biases runs, made from the run folders.

Nothing is read back: the folders are the truth, and this can be done again at any time. One merged
history a run is written after the fact, because the segments of a run that was interrupted would
overwrite each other.

    FOLDER/wandb/exported.json     which records went to which project, so that none goes twice
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.sweeps.ledger import result
from scaling.sweeps.plan import Plan, PlannedRun
from scaling.training.run_folder import read_json


def export_wandb(plan: Plan, project: str, folder: Path) -> tuple[int, int]:
    """Write every run that is over to a W&B project; its identity is the W&B run's id.

    Without an API key, or with WANDB_MODE=offline, the runs are written below `folder` for
    `wandb sync`.

    Args:
        plan: the sweep.
        project: W&B project.
        folder: where W&B keeps its files.

    Returns:
        How many runs were written, and how many had been before.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; pip install 'scaling[wandb]'") from None
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    over = [(p, record) for p in plan.runs if (record := result(p.folder)) is not None]
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    path = folder / "wandb" / "exported.json"
    exported = read_json(path) if path.exists() else {}
    there = exported.setdefault(f"{mode}:{project}", {})
    written = 0
    for planned, record in over:
        content = hashlib.sha256(planned.folder.record_path.read_bytes()).hexdigest()
        if there.get(planned.run_id, {}).get("record") == content:
            continue
        there.pop(planned.run_id, None)
        _remove_unknown(folder / "wandb", planned.run_id, exported)
        written_to = _export_run(wandb, plan, planned, record, project, folder, mode)
        there[planned.run_id] = {"record": content, "folder": written_to}
        write_atomically(path, json.dumps(exported, indent=2) + "\n")
        written += 1
    return written, len(over) - written


def _remove_unknown(folder: Path, run_id: str, exported: dict[str, Any]) -> None:
    """Remove offline files of a run from an export that was broken off, or of a record that has
    been made anew."""
    known = {runs[run_id]["folder"] for runs in exported.values() if run_id in runs}
    for old in folder.glob(f"offline-run-*-{run_id}"):
        if old.name not in known:
            shutil.rmtree(old)


def _export_run(
    wandb: Any, plan: Plan, planned: PlannedRun, record: dict[str, Any], project: str,
    folder: Path, mode: str,
) -> str:
    """Write one run; returns the name of the folder with its files."""
    with wandb.init(
        project=project, id=planned.run_id, name=planned.run_id, group=plan.sweep.name,
        tags=[planned.role, record["status"]], config=planned.run.model_dump(mode="json"),
        dir=str(folder), mode=mode, resume="allow", reinit="finish_previous",
        settings=wandb.Settings(silent=True, disable_git=True, x_disable_stats=True),
    ) as run:
        for line in planned.folder.metrics():
            run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
        run.summary.update(record)
        return Path(run.dir).parent.name
