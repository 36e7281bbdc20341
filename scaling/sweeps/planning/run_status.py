"""The status of each planned run before training: what has to be trained, and why."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.files import open_regular, read_text
from scaling.launch.worker_plan import PLAN_SUFFIX, read_plan
from scaling.runs.files import is_count, read_config
from scaling.runs.folder import differing_run_keys, join_names
from scaling.runs.planned import GRID, HELDOUT, PlannedRun
from scaling.runs.state import UNREADABLE, RunState, error_text, run_state
from scaling.sweeps.plan import Plan

_HEAD_BYTES = 200  # of config.json, which contain its first key, the identity
_PLACE_KEYS = ("model.d_model", "model.n_layers", "model.n_heads", "tokens", "seed")


@dataclass(frozen=True)
class PlannedStatus:
    """The status of a run before the sweep starts or continues."""

    state: str
    """As in RunState; or "changed": the run differs from the one in an earlier plan of the sweep,
    or in its folder; or "over budget"."""
    run_state: RunState
    reason: str
    shared_with: tuple[str, ...]
    """Other sweeps with this run, which is trained once for all."""


def planned_statuses(
    plan: Plan, runs_folder: Path, results_root: Path
) -> list[PlannedStatus]:
    """The status of every run of a plan, in its order.

    Args:
        plan: of the sweep.
        runs_folder: folder of all runs, with the launched plans in `logs`.
        results_root: folder of the results folders of all sweeps.
    """
    sweeps_of, earlier_runs = _launched_plans(plan, runs_folder / "logs")
    for run_id, sweep in _table_rows(results_root):
        sweeps_of[run_id].add(sweep)
    found = []
    for planned in plan.runs:
        other_sweeps = tuple(sorted(sweeps_of[planned.run_id] - {plan.sweep.name}))
        now = run_state(planned)
        state, reason = now.state, now.note
        if now.state == UNREADABLE:
            pass
        elif difference := _folder_difference(planned):
            state, reason = "changed", difference
        elif planned.run_id in plan.over_budget and not now.over:
            state, reason = "over budget", "beyond max_flops or max_device_hours"
        elif now.state == "new" and (earlier := earlier_runs.get(_place(planned.run))):
            state, reason = "changed", _closest(planned, earlier)
        found.append(PlannedStatus(state, now, reason, other_sweeps))
    return found


def _folder_difference(planned: PlannedRun) -> str:
    """How the run in the folder of that name differs; empty if it does not."""
    path = planned.folder.config_path
    try:
        with open_regular(path) as file:
            if f'"run_id": "{planned.run_id}"'.encode() in file.read(_HEAD_BYTES):
                return ""
        run_id, config, _ = read_config(path)
    except FileNotFoundError:
        return ""
    except (UserError, OSError) as error:
        return error_text(error)
    if run_id == planned.run_id:
        return ""
    names = join_names(differing_run_keys(config, _content(planned)))
    return (f"{planned.folder.path} has another run ({run_id}), which differs in "
            f"{names or 'its data or layout'}; move that folder away")


def _closest(planned: PlannedRun, earlier: dict[str, dict[str, Any]]) -> str:
    """The changes from the most similar earlier run."""
    now = _content(planned)
    by_id = {run_id: differing_run_keys(config, now) for run_id, config in earlier.items()}
    run_id, paths = min(by_id.items(), key=lambda item: (len(item[1]), item[0]))
    changes = [f"{path} {_at(earlier[run_id], path)} -> {_at(now, path)}"
               for path in paths]
    return f"was {run_id} before: {join_names(changes) or 'its data or layout changed'}"


def _content(planned: PlannedRun) -> dict[str, Any]:
    return planned.run.model_dump(mode="json")


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _place(run: RunConfig) -> tuple[Any, ...]:
    """The values that identify a run's place in the sweep if other keys change."""
    model = run.model
    return (model.d_model, model.n_layers, model.n_heads, run.tokens, run.seed)


def _launched_plans(
    plan: Plan, logs: Path
) -> tuple[defaultdict[str, set[str]], dict[tuple[Any, ...], dict[str, dict[str, Any]]]]:
    """The sweeps with each run_id, from their launched plans; and the earlier runs of this sweep
    that are no longer in it, by place and run_id."""
    present = {planned.run_id for planned in plan.runs}
    sweeps_of: defaultdict[str, set[str]] = defaultdict(set)
    earlier_runs: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for path in sorted(logs.glob(f"*{PLAN_SUFFIX}")):
        sweep = path.name.removesuffix(PLAN_SUFFIX)
        for role in (GRID, HELDOUT):
            sweep = sweep.removesuffix(f".{role}")
        for job in read_plan(path).jobs:
            run_id = job.folder.path.name
            sweeps_of[run_id].add(sweep)
            if sweep == plan.sweep.name and run_id not in present:
                place = tuple(_at(job.config, key) for key in _PLACE_KEYS)
                if all(value is None or is_count(value) for value in place):
                    earlier_runs.setdefault(place, {})[run_id] = job.config
    return sweeps_of, earlier_runs


def _table_rows(results_root: Path) -> Iterator[tuple[str, str]]:
    """(run_id, sweep) of every row of every runs table."""
    for path in sorted(results_root.glob("*/runs.csv")):
        # A file that is not a table names no run.
        with suppress(ValueError, csv.Error, UserError, OSError):
            for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
                if row.get("run_id") and row.get("sweep"):
                    yield row["run_id"], row["sweep"]
