"""Runs as workers take them: each with its trunk, if it shares one, and when it can begin
(scaling/training/trunk.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.data.store import TokenStore
from scaling.sweeps.ledger import is_over
from scaling.sweeps.planning.planned import PlannedRun
from scaling.sweeps.planning.trunks import families, shared_steps
from scaling.training.run_folder import RunFolder
from scaling.training.trunk import FOLDER, Trunk, last_shared_step, trunk_identity


@dataclass(frozen=True)
class Unit:
    """A run as workers are told of it."""

    folder: RunFolder
    config: dict[str, Any] = field(repr=False)
    trunk: Trunk | None = None
    begins: int | None = None
    """The step of the trunk from whose state this run goes on, if that has been left."""
    after: RunFolder | None = None
    """The run that leaves that step."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "folder": str(self.folder.path), "config": self.config,
            "trunk": str(self.trunk.path) if self.trunk else None,
            "leave": sorted(self.trunk.leave) if self.trunk else [], "begins": self.begins,
            "after": str(self.after.path) if self.after else None,
        }

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Unit:
        """What `plain` wrote."""
        return cls(
            RunFolder(Path(plain["folder"])), plain["config"],
            Trunk(Path(plain["trunk"]), frozenset(plain["leave"])) if plain["trunk"] else None,
            plain["begins"], RunFolder(Path(plain["after"])) if plain["after"] else None,
        )

    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return is_over(self.folder)

    def ready(self) -> bool:
        """Whether it can begin: a branch waits for the state that its trunk is going to leave, but
        not for one that will not come."""
        if self.after is None or self.trunk is None or self.begins is None:
            return True
        if self.folder.last_metrics() is not None or is_over(self.after):
            return True
        # The trunk leaves a state before it takes the next step.
        at = self.after.last_metrics()
        passed = at is not None and at["step"] > self.begins
        return passed or self.begins in self.trunk.steps()


def units_of(runs: Sequence[PlannedRun]) -> list[Unit]:
    """The runs as units, in the same order. Of those that are not over and of one family, the
    longest is the trunk. Those that are over wait for nothing and leave nothing, but their states
    may still lie there: a launcher that was killed could not remove them."""
    shared: dict[str, Unit] = {}
    for family in families(runs):
        name = trunk_identity(family[0].run, TokenStore.open(family[0].run.data.store).hash)
        if name is None:
            continue
        path = family[0].folder.path.parent / FOLDER / name
        left = [planned for planned in family if not is_over(planned.folder)]
        begins = {p.run_id: shared_steps(p, left[0]) for p in left[1:]}
        leave = frozenset(step for step in begins.values() if step)
        for planned in family:
            if step := begins.get(planned.run_id, last_shared_step(planned.run)):
                trunk = Trunk(path, leave if planned in left[:1] else frozenset())
                after = left[0].folder if planned.run_id in begins else None
                shared[planned.run_id] = Unit(
                    planned.folder, _plain(planned), trunk, step, after)
    return [shared.get(p.run_id) or Unit(p.folder, _plain(p)) for p in runs]


def _plain(planned: PlannedRun) -> dict[str, Any]:
    return planned.run.model_dump(mode="json")


def clear_trunks(units: Sequence[Unit]) -> None:
    """Remove the states of trunks that no unit needs any more. A trunk's folder stays until nobody
    is left who may be writing there."""
    families: dict[Path, list[Unit]] = {}
    for unit in units:
        if unit.trunk is not None:
            families.setdefault(unit.trunk.path, []).append(unit)
    for path, family in families.items():
        if path.exists():
            left = [unit for unit in family if not unit.over()]
            needed = {unit.begins for unit in left}
            Trunk(path).remove(
                {unit.begins for unit in family if unit.begins} - needed, folder=not left)
