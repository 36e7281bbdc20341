"""Which runs of a plan share a trunk, and when a branch can begin (scaling/training/trunk.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.data.store import TokenStore
from scaling.sweeps.ledger import is_over
from scaling.sweeps.plan import PlannedRun
from scaling.training.run_folder import RunFolder
from scaling.training.trunk import FOLDER, Trunk, last_shared_step, trunk_identity


@dataclass(frozen=True)
class Unit:
    """A run as workers are told of it."""

    folder: RunFolder
    config: dict[str, Any] = field(repr=False)
    trunk: Trunk | None = None
    begins: int | None = None
    """The step of the trunk from which this run goes on, if it is a branch."""
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


def share_trunks(runs: Sequence[PlannedRun]) -> list[Unit]:
    """The runs as units, in the same order. Of those that are not over and have a trunk in common,
    the longest is that trunk."""
    families: dict[str, list[PlannedRun]] = {}
    hashes = {path: TokenStore.open(path).hash for path in {p.run.data.store for p in runs}}
    for planned in runs:
        name = trunk_identity(planned.run, hashes[planned.run.data.store])
        if name is not None and not is_over(planned.folder):
            families.setdefault(name, []).append(planned)
    shared: dict[str, Unit] = {}
    for name, family in families.items():
        longest = max(family, key=lambda p: (last_shared_step(p.run), p.run.steps, p.run_id))
        begins = {p.run_id: last_shared_step(p.run) for p in family if p is not longest}
        path = longest.folder.path.parent / FOLDER / name
        for planned in family:
            config = planned.run.model_dump(mode="json")
            if planned is longest:
                leave = frozenset(step for step in begins.values() if step)
                unit = Unit(planned.folder, config, Trunk(path, leave))
            elif step := begins[planned.run_id]:
                unit = Unit(planned.folder, config, Trunk(path), step, longest.folder)
            else:
                continue
            shared[planned.run_id] = unit
    return [shared.get(p.run_id) or Unit(p.folder, p.run.model_dump(mode="json")) for p in runs]


def clear_trunks(units: Sequence[Unit]) -> None:
    """Remove the states of trunks that no unit needs any more."""
    branches: dict[tuple[Path, int], list[Unit]] = {}
    for unit in units:
        if unit.trunk is not None and unit.begins is not None:
            branches.setdefault((unit.trunk.path, unit.begins), []).append(unit)
    for (path, step), group in branches.items():
        if all(unit.over() for unit in group):
            Trunk(path).remove([step])
