"""From a sweep's configuration to its runs, each complete and with a name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.accounting import count_parameters
from scaling.config import RunConfig, Size, SweepConfig, override, validate
from scaling.config.sweep import ListedLearningRate
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.training.record import describe_run
from scaling.training.resolve import resolve
from scaling.training.run_folder import RunFolder, differing, read_json

GRID, HELDOUT = "grid", "heldout"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep."""

    run: RunConfig
    role: str
    """"grid", or "heldout" for one that no fit may see."""
    facts: dict[str, Any]
    """Its columns of the runs table, as far as they are known before training."""
    folder: RunFolder

    @property
    def run_id(self) -> str:
        """Its identity; the name of its folder."""
        return self.folder.path.name


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, dearest first: with several workers the last to finish is then a
    short one."""

    sweep: SweepConfig
    store: TokenStore
    runs: list[PlannedRun]

    def stage(self, role: str) -> list[PlannedRun]:
        """The runs of one role."""
        return [planned for planned in self.runs if planned.role == role]


def make_plan(sweep: SweepConfig, source: str, runs_folder: Path) -> Plan:
    """All runs of a sweep.

    Args:
        sweep: its configuration.
        source: where that came from, for messages.
        runs_folder: where run folders are, shared by all sweeps.

    Raises:
        UserError: a run is impossible; the message says which, and why.
    """
    base = _base(sweep, source)
    store = TokenStore.open(base.data.store)
    planned: dict[str, PlannedRun] = {}
    for role, number, size, tokens, seed in _points(sweep):
        run = resolve(_run_at(sweep, number, size, tokens, seed, store, source), store)
        facts = describe_run(run, store)
        run_id = facts["run_id"]
        if run_id in planned:
            raise UserError(
                f"{source}: two points of the sweep are the same run (d_model {size.d_model}, "
                f"{tokens:,} tokens, seed {seed}); tokens are rounded down to whole batches of "
                f"{run.batch_tokens:,}"
            )
        planned[run_id] = PlannedRun(run, role, facts, RunFolder(runs_folder / run_id))
    ordered = sorted(planned.values(), key=lambda p: (-p.facts["flops_counted"], p.run_id))
    return Plan(sweep, store, ordered)


def _points(sweep: SweepConfig) -> Iterator[tuple[str, int, Size, int, int]]:
    """(role, number of the size, size, tokens, seed) of every run."""
    for (number, size), tokens, seed in itertools.product(
        enumerate(sweep.sizes), sweep.tokens, sweep.seeds
    ):
        yield GRID, number, size, tokens, seed
    number = len(sweep.sizes)
    for role, points in ((GRID, sweep.points), (HELDOUT, sweep.heldout)):
        for point in points:
            yield role, number, point.size, point.tokens, sweep.seeds[0]
            number += 1


def _base(sweep: SweepConfig, source: str) -> RunConfig:
    """The sweep's run at its first point: what is wrong in `run` shows here, once."""
    for key in ("tokens", "seed"):
        if key in sweep.run:
            raise UserError(f"{source}: run.{key}: leave it out; the sweep's own {key} decide(s)")
    return _run_with(sweep, sweep.sizes[0], sweep.tokens[0], sweep.seeds[0], 1.0, source)


def _run_at(
    sweep: SweepConfig, number: int, size: Size, tokens: int, seed: int, store: TokenStore,
    source: str,
) -> RunConfig:
    if isinstance(sweep.learning_rate, ListedLearningRate):
        return _run_with(sweep, size, tokens, seed, sweep.learning_rate.rates[number], source)
    run = _run_with(sweep, size, tokens, seed, 1.0, source)
    # The rule goes by parameters that no vocabulary changes.
    model = run.model.model_copy(update={"vocab_size": store.vocab_size})
    rate = sweep.learning_rate.at(count_parameters(model).non_embedding)
    return _run_with(sweep, size, tokens, seed, rate, source)


def _run_with(
    sweep: SweepConfig, size: Size, tokens: int, seed: int, rate: float, source: str
) -> RunConfig:
    values = {f"model.{key}": value for key, value in size.model_dump().items()}
    values |= {"tokens": tokens, "seed": seed, "optimizer.learning_rate": rate}
    content = override(sweep.run, [f"{key}={json.dumps(value)}" for key, value in values.items()])
    where = f"{source}: run with d_model {size.d_model}, {tokens:,} tokens"
    return validate(RunConfig, content, where)


def claim_results(plan: Plan, folder: Path) -> None:
    """Make a results folder this sweep's, or see that it is already.

    A sweep may grow: more sizes, tokens, seeds or held-out runs. What all its runs share may not
    change, or one table would hold runs that cannot be compared.

    Raises:
        UserError: the folder belongs to a sweep whose runs share something else.
    """
    first = plan.runs[0].run
    shared = first.model_dump(
        mode="json",
        exclude={
            "model": set(Size.model_fields), "tokens": True, "seed": True, "data": True,
            "optimizer": {"learning_rate"}, "checkpoint": True, "logging": True, "execution": True,
        },
    )
    content = {"name": plan.sweep.name, "data": plan.store.hash, "shared": shared}
    path = folder / "sweep.json"
    if not path.exists():
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return
    if differences := differing(read_json(path), json.loads(json.dumps(content))):
        raise UserError(
            f"{folder}: holds the results of another configuration, which differs in "
            f"{', '.join(differences)}; give this sweep another name, or move the folder away"
        )
