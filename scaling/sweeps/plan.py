"""The plan of a sweep: from its configuration to complete runs with identities."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, SweepConfig, semantic
from scaling.config.grids import IsoFlop
from scaling.config.run import check_length, non_default
from scaling.config.sweep import SWEPT_KEYS
from scaling.data.run_data import check_epochs, store_of
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import read_json, write_atomically
from scaling.outputs import check_place
from scaling.runs.folder import RunFolder, differing_keys, join_names
from scaling.runs.planned import GRID, HELDOUT, PlannedRun
from scaling.runs.record import describe_run
from scaling.runs.trunk_groups import (
    StepCost,
    runs_within_budget,
    step_flops,
    trunk_group_cost,
    trunk_groups,
)
from scaling.sweeps.planning.isoflop_warnings import thin_budgets
from scaling.sweeps.planning.points import GridPoint, IsoFlopBudget, budgets_of, points_of
from scaling.sweeps.planning.shapes import (
    ENOUGH_TOKENS,
    ModelShapes,
    model_shapes,
    with_error_prefix,
)

__all__ = ["CLAIM", "GRID", "HELDOUT", "TABLES", "Plan", "PlannedRun", "check_results",
           "claim_results", "make_plan"]

CLAIM = "sweep.json"
"""File of a results folder that identifies its sweep."""

TABLES = ("runs.csv", "curves.csv", "runs.parquet")
"""Files of a results folder that `scaling sweep` writes (table.py)."""


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, in the order in which they use the budgets."""

    sweep: SweepConfig
    store: TokenStore
    """Its token store; the first one if the sweep varies stores."""
    runs: list[PlannedRun]
    base: RunConfig
    """The shared configuration of its runs, at one of their sizes."""
    over_budget: frozenset[str] = frozenset()
    """Identities of runs outside the budgets."""
    budgets: tuple[tuple[dict[str, Any], IsoFlopBudget], ...] = ()
    """Budgets of its isoflop grids, each with the values of the varied keys."""

    def runs_of_role(self, role: str) -> list[PlannedRun]:
        """The runs of one role within the budgets, most expensive first.

        All of them will be trained, so their order determines when the last worker ends: with the
        most expensive first, at most 4/3 of the optimal time, with the cheapest first up to twice
        (Graham 1969). The trunk of a trunk group, its longest run, also precedes its branches.
        """
        runs = [p for p in self.runs if p.role == role and p.run_id not in self.over_budget]
        return sorted(runs, key=lambda p: (-p.flops, p.run_id))

    @property
    def flops(self) -> float:
        """Counted FLOPs of the runs within the budgets, each trained separately."""
        return sum(p.flops for p in self._within_budget())

    @property
    def paid_flops(self) -> float:
        """The same with the common steps of each trunk group trained once."""
        return sum(trunk_group_cost(group, step_flops)
                   for group in trunk_groups(self._within_budget()))

    def capped(self, price: StepCost, most: float, name: str) -> Plan:
        """The plan with a further budget.

        Args:
            price: cost of a step of a run.
            most: total cost allowed, in the unit of `price`.
            name: of the budget, for messages.

        Raises:
            UserError: it covers no run of the grid.
        """
        kept = runs_within_budget(self._within_budget(), price, most)
        grid = [p for p in self.runs if p.role == GRID]
        if not any(p.run_id in kept for p in grid):
            times = min(price(p) * p.run.steps for p in grid) / most
            times = min(times, sys.float_info.max)
            raise UserError(
                f"{self.sweep.name}: {name} covers no run: the cheapest of the grid costs "
                f"{times:.3g} times as much; raise {name}, or add smaller points"
            )
        return replace(self, over_budget=frozenset(p.run_id for p in self.runs) - kept)

    @property
    def warnings(self) -> list[str]:
        """Warnings about the grid."""
        return thin_budgets(self.budgets, self.runs, self.over_budget)

    def _within_budget(self) -> list[PlannedRun]:
        return [p for p in self.runs if p.run_id not in self.over_budget]


def make_plan(sweep: SweepConfig, source: str, runs_folder: Path) -> Plan:
    """The plan of a sweep.

    Args:
        sweep: its configuration.
        source: name of the configuration file, for messages.
        runs_folder: folder of all runs, shared by all sweeps.

    Raises:
        UserError: a run is impossible; the message names it and the reason.
    """
    stores: dict[Path, TokenStore] = {}

    def open_store(run: RunConfig) -> TokenStore:
        path = run.data.store
        return stores.get(path) or stores.setdefault(path, store_of(run))

    planned: dict[str, PlannedRun] = {}
    budgets: list[tuple[dict[str, Any], IsoFlopBudget]] = []
    base: RunConfig | None = None
    for values in itertools.product(*sweep.vary.values()):
        choice = dict(zip(sweep.vary, values, strict=True))
        shapes = model_shapes(
            sweep, choice, open_store, _source(source, choice), runs_folder)
        base = base or shapes.ladder[0].run
        budgets += [(choice, budget) for number, grid in enumerate(sweep.grids)
                    if isinstance(grid, IsoFlop) for budget in budgets_of(
                        grid, shapes.ladder, _grid_source(_source(source, choice), number))]
        for role, kind, run, store in _grid_runs(sweep, shapes, _source(source, choice)):
            facts = describe_run(run, store)
            run_id = facts["run_id"]
            before = planned.get(run_id)
            if before is not None and before.role != role:
                raise UserError(f"{source}: heldout: {_describe(run)} is also a run of the grid; a "
                                "run that tests the law may not be fitted")
            grids = before.grids if before else ()
            planned[run_id] = PlannedRun(run, role, facts, RunFolder(runs_folder / run_id),
                                         tuple(dict.fromkeys([*grids, kind])), choice)
    assert base is not None
    plan = Plan(sweep, next(iter(stores.values())), _by_priority(sweep, planned), base,
                budgets=tuple(budgets))
    return plan if sweep.max_flops is None else plan.capped(
        step_flops, sweep.max_flops, "max_flops")


def _grid_runs(
    sweep: SweepConfig, shapes: ModelShapes, source: str
) -> Iterator[tuple[str, str, RunConfig, TokenStore]]:
    """(role, kind of grid, run, store) of every point and seed."""
    for number, grid in enumerate(sweep.grids):
        seen: dict[Any, int] = {}
        for point in points_of(grid, shapes, _grid_source(source, number)):
            run = _run(point, sweep.seeds[0], source)
            key = (point.shape.size, run.steps, point.rate_factor, point.batch_sequences)
            if key in seen:
                raise UserError(
                    f"{_grid_source(source, number)}: two points of the sweep are the same run "
                    f"({_describe(run)}, from {seen[key]:,} and {point.tokens:,}); tokens are "
                    f"rounded down to whole batches of {run.batch_tokens:,}"
                )
            seen[key] = point.tokens
            for seed in sweep.seeds:
                with_seed = run.model_copy(update={"seed": seed})
                yield GRID, grid.kind, with_seed, point.shape.store
    for heldout in sweep.heldout:
        point = GridPoint(shapes.at(heldout, f"{source}: heldout"), heldout.tokens)
        yield HELDOUT, HELDOUT, _run(point, sweep.seeds[0], source), point.shape.store


def _run(point: GridPoint, seed: int, source: str) -> RunConfig:
    """The run of a point: the validated run of the shape with other numbers. Only these are checked
    here, because complete validation of thousands of runs would take minutes."""
    shape = point.shape.run
    if point.tokens > ENOUGH_TOKENS:
        raise UserError(f"{source}: {point.shape.size} would train on more than "
                        f"{ENOUGH_TOKENS:.0e} tokens; choose a smaller budget, fewer tokens per "
                        "parameter or fewer tokens")
    changes: dict[str, Any] = {"tokens": point.tokens, "seed": seed}
    if point.rate_factor != 1:
        rate = float(f"{shape.optimizer.learning_rate * point.rate_factor:.6g}")
        changes["optimizer"] = shape.optimizer.model_copy(update={"learning_rate": rate})
    if point.batch_sequences is not None:
        changes["batch_sequences"] = point.batch_sequences
    run = shape.model_copy(update=changes)

    def check() -> None:
        check_length(run)
        check_epochs(run, point.shape.store)

    with_error_prefix(f"{source}: run with {point.shape.size}, {point.tokens:,} tokens", check)
    return run


def _describe(run: RunConfig) -> str:
    model = run.model
    return f"d_model {model.d_model} x {model.n_layers}, {run.trained_tokens:,} tokens"


def _grid_source(source: str, number: int) -> str:
    return f"{source}: grids.{number}"


def _source(source: str, choice: dict[str, Any]) -> str:
    values = ", ".join(f"{key}={json.dumps(value)}" for key, value in choice.items())
    return f"{source}: with {values}" if values else source


def _by_priority(sweep: SweepConfig, planned: dict[str, PlannedRun]) -> list[PlannedRun]:
    sign = {"cheapest": 1, "most_expensive": -1, "order": 0}[sweep.priority]
    return sorted(planned.values(), key=lambda p: (p.role == HELDOUT, sign * p.flops,
                                                   p.run_id if sign else ""))


def claim_results(plan: Plan, folder: Path) -> None:
    """Assign a results folder to this sweep, or check that it is assigned already.

    A sweep may grow: more sizes, grids, seeds or held-out runs, other values of the varied keys.
    The shared configuration of its runs may not change, so that the runs of a table are comparable.

    Raises:
        UserError, OSError: as `check_results`.
    """
    content = check_results(plan, folder)
    path = folder / CLAIM
    if not path.exists():
        write_atomically(path, json.dumps(content, indent=2) + "\n")


def check_results(plan: Plan, folder: Path) -> dict[str, Any]:
    """Check that a results folder can be used by this sweep, without writing.

    Returns:
        The content of its sweep.json, present or future.

    Raises:
        UserError: it belongs to a sweep with another shared configuration, or has tables that were
            not written by a sweep.
        OSError: it cannot be created.
    """
    shared = semantic(plan.base, plan.store.hash) | {"model": non_default(plan.base.model)}
    if plan.base.schedule.warmup is not None:  # the steps depend on the length of a run
        shared["schedule"] = non_default(plan.base.schedule)
    content = {"name": plan.sweep.name, "data": shared.pop("data"), "shared": shared}
    for key in (*SWEPT_KEYS, *plan.sweep.vary):
        _remove(shared, key.split("."))
    if any(_has({"data": {"store": None}}, key.split(".")) for key in plan.sweep.vary):
        del content["data"]
    path = folder / CLAIM
    check_place(path)
    if path.exists():
        existing = read_json(path, "restore it, or move the whole folder away")
        if differences := differing_keys(existing, json.loads(json.dumps(content))):
            raise UserError(
                f"{folder}: has the results of another configuration, which differs in "
                f"{join_names(differences)}; give this sweep another name, or move the folder away"
            )
        return content
    if found := [name for name in TABLES if (folder / name).exists()]:
        raise UserError(
            f"{folder / found[0]}: was not written by `scaling sweep` (there is no {CLAIM} with "
            "it) and is not overwritten; choose another folder with --out, or move that file away"
        )
    return content


def _has(content: Any, keys: list[str]) -> bool:
    return not keys or (isinstance(content, dict) and keys[0] in content
                        and _has(content[keys[0]], keys[1:]))


def _remove(content: Any, keys: list[str]) -> None:
    if isinstance(content, dict) and keys[0] in content:
        if len(keys) == 1:
            del content[keys[0]]
        else:
            _remove(content[keys[0]], keys[1:])
