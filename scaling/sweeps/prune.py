"""What may be removed of a sweep that has come some way: checkpoints nobody goes on from, and
nothing else. Records, metrics and configurations stay."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.sweeps.index import Index
from scaling.sweeps.ledger import is_over, standing_in
from scaling.sweeps.local import PLAN_SUFFIX, read_plan
from scaling.sweeps.plan import GRID, HELDOUT, Plan
from scaling.sweeps.units import units_of
from scaling.training.run_folder import RunFolder
from scaling.training.trunk import FOLDER, Trunk


@dataclass(frozen=True)
class Leftover:
    """A folder that may go."""

    path: Path
    size: int
    """Bytes of its files."""

    @classmethod
    def at(cls, path: Path) -> Leftover:
        """The folder as it is."""
        return cls(path, sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir()))

    def remove(self) -> None:
        """Delete it, unless somebody else has."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)


def old_checkpoints(index: Index, *, keep_final: bool) -> list[Leftover]:
    """Checkpoints of runs that are over, less those that a process holds.

    Args:
        index: of the sweep.
        keep_final: let the newest checkpoint be of every run that is done, from which fine-tuning
            goes on, and of every one that failed, from which a retry does. A diverged run's is of
            use to nobody.
    """
    found: list[Leftover] = []
    for entry in index.entries:
        folder = index.folder(entry)
        if not is_over(folder) or folder.locked():
            continue
        if keep_final and standing_in(folder).state in ("done", "failed"):
            found += map(Leftover.at, _all_but_the_newest(folder.checkpoints))
        elif folder.checkpoints.exists():
            found.append(Leftover.at(folder.checkpoints))
    return found


def _all_but_the_newest(checkpoints: Path) -> list[Path]:
    """Older checkpoints, and what a process that was killed left half-written."""
    paths = [path for path in checkpoints.glob("*") if path.is_dir()]
    steps = [path for path in paths if path.name.isdigit()]
    newest = max(steps, key=lambda path: int(path.name), default=None)
    return sorted(path for path in paths if path != newest)


def idle_trunks(plan: Plan, runs: Path) -> list[Leftover]:
    """States of trunks that no run waits for, by this plan and by those of all launchers."""
    waited_for = _waiting(runs)
    for unit in (unit for role in (GRID, HELDOUT) for unit in units_of(plan.stage(role))):
        if unit.trunk is not None and unit.begins is not None and not unit.over():
            waited_for.add((unit.trunk.path.name, unit.begins))
    wanted = {name for name, _ in waited_for}
    found: list[Leftover] = []
    for path in sorted((runs / FOLDER).glob("*")):
        idle = [path / str(step) for step in Trunk(path).steps()
                if (path.name, step) not in waited_for]
        found += map(Leftover.at, idle if path.name in wanted else [path])
    return found


def _waiting(runs: Path) -> set[tuple[str, int]]:
    """(trunk, step) that the plans of launchers name for runs that are not over. A trunk goes by
    its folder's name: the path may be relative to where the launcher was started."""
    found = set()
    for path in (runs / "logs").glob(f"*{PLAN_SUFFIX}"):
        for entry in read_plan(path):
            if entry["begins"] is None:
                continue
            if not is_over(RunFolder(runs / Path(entry["folder"]).name)):
                found.add((Path(entry["trunk"]).name, entry["begins"]))
    return found
