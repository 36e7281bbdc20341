"""From a sweep's configuration to its runs, each complete and with a name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, SweepConfig, semantic
from scaling.config.run import check_length, not_default
from scaling.config.sweep import DECIDED
from scaling.data.reading import check_epochs
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.sweeps.planning.planned import GRID, HELDOUT, PlannedRun
from scaling.sweeps.planning.points import Asked, points_of
from scaling.sweeps.planning.shapes import Shapes, said_of, shapes_of
from scaling.sweeps.planning.trunks import Price, families, flops_of_step, paid, within
from scaling.training.record import describe_run
from scaling.training.run_folder import RunFolder, differing, listed, read_json

__all__ = ["GRID", "HELDOUT", "Plan", "PlannedRun", "claim_results", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, in the order in which its budgets are spent on them."""

    sweep: SweepConfig
    store: TokenStore
    """The first of its stores, where it varies them."""
    runs: list[PlannedRun]
    base: RunConfig
    """What its runs share, at one of their sizes."""
    over_budget: frozenset[str] = frozenset()
    """Identities of runs that the budgets do not pay for."""

    def stage(self, role: str) -> list[PlannedRun]:
        """The runs of one role that the budgets pay for, dearest first.

        They are all going to be trained, so their order decides when the last worker is done: with
        the dearest first that is at most 4/3 of the best there is, with the cheapest first up to
        twice (Graham 1969). The trunk of a family, its longest run, also comes before its branches.
        """
        runs = [p for p in self.runs if p.role == role and p.run_id not in self.over_budget]
        return sorted(runs, key=lambda p: (-p.flops, p.run_id))

    @property
    def flops(self) -> float:
        """Counted FLOPs of the runs that the budgets pay for, each trained by itself."""
        return sum(p.flops for p in self._paid_for())

    @property
    def paid_flops(self) -> float:
        """The same with what runs of a family have in common trained once (see trunks.py)."""
        return sum(paid(family, flops_of_step) for family in families(self._paid_for()))

    def capped(self, price: Price, most: float, name: str) -> Plan:
        """The plan with a further budget.

        Args:
            price: what a step of a run costs.
            most: what all may cost, in the price's unit.
            name: of the budget, for the message.

        Raises:
            UserError: it pays for no run of the grid.
        """
        kept = within(self._paid_for(), price, most)
        grid = [p for p in self.runs if p.role == GRID]
        if not any(p.run_id in kept for p in grid):
            cheapest = min(price(p) * p.run.steps for p in grid)
            raise UserError(
                f"{self.sweep.name}: {name} pays for no run: the cheapest of the grid takes "
                f"{cheapest / most:.3g} times as much; raise {name}, or add smaller points"
            )
        return replace(self, over_budget=frozenset(p.run_id for p in self.runs) - kept)

    def _paid_for(self) -> list[PlannedRun]:
        return [p for p in self.runs if p.run_id not in self.over_budget]


def make_plan(sweep: SweepConfig, source: str, runs_folder: Path) -> Plan:
    """All runs of a sweep.

    Args:
        sweep: its configuration.
        source: where that came from, for messages.
        runs_folder: where run folders are, shared by all sweeps.

    Raises:
        UserError: a run is impossible; the message says which, and why.
    """
    for key in DECIDED:
        if _has(sweep.run, key.split(".")):
            raise UserError(f"{source}: run.{key}: leave it out; the sweep's own sizes, grids, "
                            "seeds and learning_rate decide it")
    stores: dict[Path, TokenStore] = {}

    def open_store(run: RunConfig) -> TokenStore:
        path = run.data.store
        return stores.get(path) or stores.setdefault(path, TokenStore.open(path))

    planned: dict[str, PlannedRun] = {}
    base: RunConfig | None = None
    for values in itertools.product(*sweep.vary.values()):
        choice = dict(zip(sweep.vary, values, strict=True))
        shapes = shapes_of(sweep, choice, open_store, _where(source, choice))
        base = base or shapes.ladder[0].run
        for role, kind, run, store in _asked(sweep, shapes, _where(source, choice)):
            facts = describe_run(run, store)
            run_id = facts["run_id"]
            before = planned.get(run_id)
            if before is not None and before.role != role:
                raise UserError(f"{source}: heldout: {_named(run)} is a run of the grid too; a run "
                                "that tests the law may not be fitted")
            grids = before.grids if before else ()
            planned[run_id] = PlannedRun(run, role, facts, RunFolder(runs_folder / run_id),
                                         tuple(dict.fromkeys([*grids, kind])), choice)
    assert base is not None
    plan = Plan(sweep, next(iter(stores.values())), _by_priority(sweep, planned), base)
    return plan if sweep.max_flops is None else plan.capped(
        flops_of_step, sweep.max_flops, "max_flops")


def _asked(
    sweep: SweepConfig, shapes: Shapes, source: str
) -> Iterator[tuple[str, str, RunConfig, TokenStore]]:
    """(role, kind of grid, run, its store) of every point and seed."""
    for number, grid in enumerate(sweep.grids):
        seen: dict[Any, int] = {}
        for asked in points_of(grid, shapes, f"{source}: grids.{number}"):
            run = _run(asked, sweep.seeds[0], source)
            key = (asked.shape.size, run.steps, asked.rate_factor, asked.batch_sequences)
            if key in seen:
                raise UserError(
                    f"{source}: grids.{number}: two points of the sweep are the same run "
                    f"({_named(run)}, from {seen[key]:,} and {asked.tokens:,}); tokens are rounded "
                    f"down to whole batches of {run.batch_tokens:,}"
                )
            seen[key] = asked.tokens
            for seed in sweep.seeds:
                with_seed = run.model_copy(update={"seed": seed})
                yield GRID, grid.kind, with_seed, asked.shape.store
    for point in sweep.heldout:
        asked = Asked(shapes.at(point, f"{source}: heldout"), point.tokens)
        yield HELDOUT, HELDOUT, _run(asked, sweep.seeds[0], source), asked.shape.store


def _run(asked: Asked, seed: int, source: str) -> RunConfig:
    """The run of a point. It is the shape's validated one but for numbers, which are checked here:
    a grid of thousands would take minutes to validate whole."""
    shape = asked.shape.run
    changes: dict[str, Any] = {"tokens": asked.tokens, "seed": seed}
    if asked.rate_factor != 1:
        rate = float(f"{shape.optimizer.learning_rate * asked.rate_factor:.6g}")
        changes["optimizer"] = shape.optimizer.model_copy(update={"learning_rate": rate})
    if asked.batch_sequences is not None:
        changes["batch_sequences"] = asked.batch_sequences
    run = shape.model_copy(update=changes)

    def check() -> None:
        check_length(run)
        check_epochs(run, asked.shape.store)

    said_of(f"{source}: run with {asked.shape.size}, {asked.tokens:,} tokens", check)
    return run


def _named(run: RunConfig) -> str:
    model = run.model
    return f"d_model {model.d_model} x {model.n_layers}, {run.trained_tokens:,} tokens"


def _where(source: str, choice: dict[str, Any]) -> str:
    values = ", ".join(f"{key}={json.dumps(value)}" for key, value in choice.items())
    return f"{source}: with {values}" if values else source


def _by_priority(sweep: SweepConfig, planned: dict[str, PlannedRun]) -> list[PlannedRun]:
    sign = {"cheapest": 1, "dearest": -1, "order": 0}[sweep.priority]
    return sorted(planned.values(), key=lambda p: (p.role == HELDOUT, sign * p.flops,
                                                   p.run_id if sign else ""))


def claim_results(plan: Plan, folder: Path) -> None:
    """Make a results folder this sweep's, or see that it is already.

    A sweep may grow: more sizes, grids, seeds or held-out runs, and other values of what it varies.
    What all its runs share may not change, or one table would hold runs that cannot be compared.

    Raises:
        UserError: the folder belongs to a sweep whose runs share something else.
    """
    shared = semantic(plan.base, plan.store.hash) | {"model": not_default(plan.base.model)}
    content = {"name": plan.sweep.name, "data": shared.pop("data"), "shared": shared}
    for key in (*DECIDED, *plan.sweep.vary):
        _remove(shared, key.split("."))
    if any(_has({"data": {"store": None}}, key.split(".")) for key in plan.sweep.vary):
        del content["data"]
    path = folder / "sweep.json"
    if not path.exists():
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return
    if differences := differing(read_json(path), json.loads(json.dumps(content))):
        raise UserError(
            f"{folder}: holds the results of another configuration, which differs in "
            f"{listed(differences)}; give this sweep another name, or move the folder away"
        )


def _has(content: Any, keys: list[str]) -> bool:
    return not keys or (isinstance(content, dict) and keys[0] in content
                        and _has(content[keys[0]], keys[1:]))


def _remove(content: Any, keys: list[str]) -> None:
    if isinstance(content, dict) and keys[0] in content:
        if len(keys) == 1:
            del content[keys[0]]
        else:
            _remove(content[keys[0]], keys[1:])
