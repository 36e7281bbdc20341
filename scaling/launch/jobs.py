"""Jobs: the runs of a plan as workers claim them, each with its trunk if it shares one, and the
condition under which it can begin (scaling/runs/trunk.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, validate
from scaling.data.store import TokenStore
from scaling.runs.files import is_count, is_run_id
from scaling.runs.folder import RunFolder
from scaling.runs.planned import PlannedRun
from scaling.runs.state import is_over
from scaling.runs.trunk import TRUNKS_FOLDER, Trunk, last_shared_step, trunk_identity
from scaling.runs.trunk_groups import shared_steps, trunk_groups


@dataclass(frozen=True)
class Job:
    """A run that a worker can claim."""

    folder: RunFolder
    config: dict[str, Any] = field(repr=False)
    trunk: Trunk | None = None
    begins: int | None = None
    """The step of the trunk from whose state this run continues, once the trunk has saved it."""
    after: RunFolder | None = None
    """The run that saves that state."""

    @cached_property
    def run(self) -> RunConfig:
        """The run's configuration, validated."""
        return validate(RunConfig, self.config, str(self.folder.path))

    @property
    def name(self) -> str:
        """The run's identity."""
        return self.folder.path.name

    def plain(self) -> dict[str, Any]:
        """The job as JSON data."""
        return {
            "folder": str(self.folder.path), "config": self.config,
            "trunk": str(self.trunk.path) if self.trunk else None,
            "leave": sorted(self.trunk.save_steps) if self.trunk else [], "begins": self.begins,
            "after": str(self.after.path) if self.after else None,
        }

    @classmethod
    def read(cls, plain: Any, runs: Path) -> Job:
        """A job from the JSON data of `plain`. Only the last component of each path is used, which
        must be an identity: a plan cannot refer to anything outside the folder of runs.

        Args:
            plain: content of a plan, which is not trusted.
            runs: the folder of runs.

        Raises:
            ValueError: it is not the data of a job.
        """
        if not isinstance(plain, dict) or not isinstance(plain.get("config"), dict):
            raise ValueError("a run is not a mapping with a config")
        folder, trunk, after = (_named(plain.get(key)) for key in ("folder", "trunk", "after"))
        leave, begins = plain.get("leave", []), plain.get("begins")
        if folder is None or not isinstance(leave, list) or not all(
                step is None or is_count(step) for step in [*leave, begins]):
            raise ValueError("a run has no folder, or steps that are not counts")
        return cls(
            RunFolder(runs / folder), plain["config"],
            Trunk(runs / TRUNKS_FOLDER / trunk, frozenset(leave)) if trunk else None,
            begins, RunFolder(runs / after) if after else None,
        )

    def over(self) -> bool:
        """Whether the run has ended."""
        return is_over(self.folder)

    def ready(self) -> bool:
        """Whether the run can begin. A branch waits for the state that its trunk saves, until
        the trunk has passed that step."""
        if self.after is None or self.trunk is None or self.begins is None:
            return True
        if is_over(self.after) or is_over(self.folder) or self.folder.last_metrics() is not None:
            return True
        # The trunk saves the state before its next step.
        at = self.after.last_metrics()
        passed = at is not None and at["step"] > self.begins
        return passed or self.begins in self.trunk.steps()


def jobs_of(runs: Sequence[PlannedRun]) -> list[Job]:
    """The jobs of some runs, in the same order.

    The longest run of a group that is not over is its trunk. Runs that are over neither wait for
    nor save a state, but states that they saved may still be there, if their launcher was killed.
    """
    shared: dict[str, Job] = {}
    for group in trunk_groups(runs):
        name = trunk_identity(group[0].run, TokenStore.open(group[0].run.data.store).hash)
        if name is None:
            continue
        path = group[0].folder.path.parent / TRUNKS_FOLDER / name
        left = [planned for planned in group if not is_over(planned.folder)]
        begins = {p.run_id: shared_steps(p, left[0]) for p in left[1:]}
        leave = frozenset(step for step in begins.values() if step)
        for planned in group:
            if step := begins.get(planned.run_id, last_shared_step(planned.run)):
                trunk = Trunk(path, leave if planned in left[:1] else frozenset())
                after = left[0].folder if planned.run_id in begins else None
                shared[planned.run_id] = Job(
                    planned.folder, _plain(planned), trunk, step, after)
    return [shared.get(p.run_id) or Job(p.folder, _plain(p)) for p in runs]


def _named(path: Any) -> str | None:
    """The identity at the end of a path of a plan."""
    if path is None:
        return None
    name = path.rpartition("/")[2] if isinstance(path, str) else ""
    if not is_run_id(name):
        raise ValueError("a folder is not named by an identity")
    return name


def _plain(planned: PlannedRun) -> dict[str, Any]:
    return planned.run.model_dump(mode="json")


def clear_trunks(jobs: Sequence[Job]) -> None:
    """Remove the states of trunks that no job needs any more. The folder of a trunk is removed once
    no job is left that could write there."""
    groups: dict[Path, list[Job]] = {}
    for job in jobs:
        if job.trunk is not None:
            groups.setdefault(job.trunk.path, []).append(job)
    for path, group in groups.items():
        if path.exists():
            left = [job for job in group if not job.over()]
            needed = {job.begins for job in left}
            Trunk(path).remove(
                {job.begins for job in group if job.begins} - needed, folder=not left)
