"""What a plan means for each run: whether it is still to be trained, and why."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.sweeps.ledger import Standing, said, standing
from scaling.sweeps.local import PLAN_SUFFIX, read_plan
from scaling.sweeps.plan import GRID, HELDOUT, Plan
from scaling.sweeps.planning.planned import PlannedRun
from scaling.training.run_folder import differing_runs, listed, read_json

_HEAD = 200  # bytes of config.json in which its first key, the identity, stands
_PLACE = ("model.d_model", "model.n_layers", "model.n_heads", "tokens", "seed")


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before the sweep starts, or goes on."""

    state: str
    """As in Standing; or "changed": what it was in an earlier plan of the sweep, or is in its
    folder, differs from what it is now; or "over budget"."""
    now: Standing
    why: str
    shared: tuple[str, ...]
    """Other sweeps that name the run: it is trained once for all."""


def outlooks(plan: Plan, runs_folder: Path, results_root: Path) -> list[Outlook]:
    """The outlook of every run of a plan, in its order.

    Args:
        plan: the sweep's.
        runs_folder: where the plans that were launched lie, in `logs`.
        results_root: the folder that holds every sweep's results folder.
    """
    named, before = _plans(plan, runs_folder / "logs")
    for run_id, sweep in _tables(results_root):
        named[run_id].add(sweep)
    found = []
    for planned in plan.runs:
        others = tuple(sorted(named[planned.run_id] - {plan.sweep.name}))
        now = standing(planned)
        state, why = now.state, now.note
        if difference := _in_folder(planned):
            state, why = "changed", difference
        elif planned.run_id in plan.over_budget and not now.over:
            state, why = "over budget", "beyond max_flops or max_device_hours"
        elif now.state == "new" and (earlier := before.get(_place(planned.run))):
            state, why = "changed", _closest(planned, earlier)
        found.append(Outlook(state, now, why, others))
    return found


def _in_folder(planned: PlannedRun) -> str:
    """How the run in the folder of that name differs; nothing where it does not."""
    path = planned.folder.config_path
    try:
        with path.open("rb") as file:
            if f'"run_id": "{planned.run_id}"'.encode() in file.read(_HEAD):
                return ""
        there = read_json(path)
    except FileNotFoundError:
        return ""
    except (UserError, OSError) as error:
        return said(error)
    if there.get("run_id") == planned.run_id:
        return ""
    names = listed(differing_runs(there.get("config"), _content(planned)))
    return (f"{planned.folder.path} holds another run ({there.get('run_id')}), which differs in "
            f"{names or 'its data or layout'}; move that folder away")


def _closest(planned: PlannedRun, earlier: dict[str, dict[str, Any]]) -> str:
    now = _content(planned)
    by_id = {run_id: differing_runs(config, now) for run_id, config in earlier.items()}
    run_id, paths = min(by_id.items(), key=lambda item: (len(item[1]), item[0]))
    changes = [f"{path} {_at(earlier[run_id], path)} -> {_at(now, path)}"
               for path in paths]
    return f"was {run_id} before: {listed(changes) or 'its data or layout changed'}"


def _content(planned: PlannedRun) -> dict[str, Any]:
    return planned.run.model_dump(mode="json")


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _place(run: RunConfig) -> tuple[Any, ...]:
    """A run's place in the sweep, whatever else of it changes."""
    model = run.model
    return (model.d_model, model.n_layers, model.n_heads, run.tokens, run.seed)


def _plans(
    plan: Plan, logs: Path
) -> tuple[defaultdict[str, set[str]], dict[tuple[Any, ...], dict[str, dict[str, Any]]]]:
    """Sweeps by the identities that their launched plans name; and this sweep's earlier runs that
    are no longer in it, by place and identity."""
    mine = {planned.run_id for planned in plan.runs}
    named: defaultdict[str, set[str]] = defaultdict(set)
    before: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for path in sorted(logs.glob(f"*{PLAN_SUFFIX}")):
        sweep = path.name.removesuffix(PLAN_SUFFIX)
        for role in (GRID, HELDOUT):
            sweep = sweep.removesuffix(f".{role}")
        for entry in read_plan(path):
            run_id, config = Path(entry["folder"]).name, entry["config"]
            named[run_id].add(sweep)
            if sweep == plan.sweep.name and run_id not in mine:
                place = tuple(_at(config, key) for key in _PLACE)
                before.setdefault(place, {})[run_id] = config
    return named, before


def _tables(results_root: Path) -> Iterator[tuple[str, str]]:
    """(identity, sweep) of every row of every runs table."""
    for path in sorted(results_root.glob("*/runs.csv")):
        # One that is no table is somebody else's affair, and names no run.
        with suppress(ValueError, csv.Error), path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("run_id") and row.get("sweep"):
                    yield row["run_id"], row["sweep"]
