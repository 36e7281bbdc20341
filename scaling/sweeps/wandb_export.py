"""Export of a sweep's finished runs to Weights & Biases.

The export can be repeated at any time; it only reads the run folders. Each run is written with one
merged history after it has finished, because the segments of an interrupted run would overwrite
each other.

    FOLDER/wandb/exported.json     the records written to each project, so that none is sent twice
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import read_bytes, read_json, remove_below, write_atomically
from scaling.runs.planned import PlannedRun
from scaling.runs.state import readable_metrics, readable_record
from scaling.sweeps.plan import Plan

_PROJECT = re.compile(r"[A-Za-z0-9._-]{1,128}")


def export_wandb(plan: Plan, project: str, folder: Path) -> tuple[int, int]:
    """Write every run that is over to a W&B project, with its identity as the W&B run id.

    Without an API key, or with WANDB_MODE=offline, the runs are written below `folder` for
    `wandb sync`.

    Args:
        plan: of the sweep.
        project: W&B project.
        folder: folder of W&B's files.

    Returns:
        The number of runs written now, and of those written before.

    Raises:
        UserError: wandb is not installed or refuses a run, the project name is invalid, or
            exported.json cannot be read.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; pip install 'scaling[wandb]'") from None
    if not _PROJECT.fullmatch(project):
        raise UserError(f"--wandb {project!r}: a project name of at most 128 letters, digits, "
                        "dots, dashes and underscores is expected")
    mode = wandb_mode()
    over = [(p, record) for p in plan.runs if (record := readable_record(p.folder)) is not None]
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    path = folder / "wandb" / "exported.json"
    exported = _exported(path)
    in_project = exported.setdefault(f"{mode}:{project}", {})
    written = 0
    for planned, record in over:
        content = hashlib.sha256(read_bytes(planned.folder.record_path)).hexdigest()
        if in_project.get(planned.run_id, {}).get("record") == content:
            continue
        in_project.pop(planned.run_id, None)
        _remove_unknown(folder, planned.run_id, exported)
        try:
            written_to = _export_run(wandb, plan, planned, record, project, folder, mode)
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--wandb {project}: W&B refuses run {planned.run_id} ({reason}); "
                            "WANDB_MODE=offline writes files for `wandb sync`") from None
        in_project[planned.run_id] = {"record": content, "folder": written_to}
        write_atomically(path, json.dumps(exported, indent=2) + "\n")
        written += 1
    return written, len(over) - written


def wandb_mode() -> str:
    """The mode of the export: WANDB_MODE, else "online" with an API key and "offline" without."""
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    return os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")


def _exported(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """By mode and project, and by run: the hash of the written record, and the folder of its files.
    """
    if not os.path.lexists(path):
        return {}
    fix = "move it away to write all runs again"
    content = read_json(path, fix)
    for runs in content.values():
        if not isinstance(runs, dict) or not all(
                isinstance(run, dict) and isinstance(run.get("record"), str)
                and isinstance(run.get("folder"), str) for run in runs.values()):
            raise UserError(f"{path}: is not a list of written runs; {fix}")
    return content


def _remove_unknown(
    folder: Path, run_id: str, exported: dict[str, dict[str, dict[str, str]]]
) -> None:
    """Remove offline files of a run that an interrupted export left, or of a replaced record."""
    known = {runs[run_id]["folder"] for runs in exported.values() if run_id in runs}
    ours = re.compile(rf"offline-run-[0-9_]+-{run_id}")
    for old in (folder / "wandb").iterdir():
        if ours.fullmatch(old.name) and old.name not in known and not old.is_symlink():
            remove_below(folder, old)


def _export_run(
    wandb: Any, plan: Plan, planned: PlannedRun, record: dict[str, Any], project: str,
    folder: Path, mode: str,
) -> str:
    """Write one run; the name of the folder of its files."""
    with wandb.init(
        project=project, id=planned.run_id, name=planned.run_id, group=plan.sweep.name,
        tags=[planned.role, record["status"]], config=planned.run.model_dump(mode="json"),
        dir=str(folder), mode=mode, resume="allow", reinit="finish_previous",
        settings=wandb.Settings(silent=True, disable_git=True, x_disable_stats=True),
    ) as run:
        for line in readable_metrics(planned.folder):
            run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
        run.summary.update({k: v for k, v in record.items() if _is_plain(v)})
        return Path(run.dir).parent.name


def _is_plain(value: object) -> bool:
    """Whether W&B can show a value of a record, which may be untrusted."""
    values = value.values() if isinstance(value, dict) else [value]
    return all(each is None or isinstance(each, str | int | float) for each in values)
