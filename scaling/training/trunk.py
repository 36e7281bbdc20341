"""One stretch of constant rate for all runs that differ only in how long they are.

A batch depends on (seed, step), and a rate before the cool-down on neither length nor cool-down. So
runs that differ in nothing else are the same run, bit for bit, until the shorter one begins to cool
down. The longest of them, the trunk, leaves its state where another begins to; that one, a branch,
goes on from there. A branch that finds nothing left for it trains from the start, to the same loss.

    runs/trunks/TRUNK_ID/      checkpoints by step, each with the metrics that led to it
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scaling.config import RunConfig, WarmupStableDecay, content_hash, semantic

FOLDER = "trunks"
"""Beside the run folders."""


@dataclass(frozen=True)
class Trunk:
    """What a run has to do with a trunk."""

    path: Path
    """Folder of the trunk's checkpoints."""
    leave: frozenset[int] = frozenset()
    """Steps after which this run leaves its state there."""

    def steps(self) -> list[int]:
        """Steps whose state lies there, ascending. A checkpoint that is being written has another
        name."""
        names = [path.name for path in self.path.glob("[0-9]*")]
        return sorted(int(name) for name in names if name.isdigit())

    def nearest(self, run: RunConfig) -> int:
        """The last step whose state is this run's own; 0 if there is none."""
        shared = last_shared_step(run)
        return max((step for step in self.steps() if step <= shared), default=0)

    def remove(self, steps: Iterable[int], *, folder: bool) -> None:
        """Delete the states of these steps.

        Args:
            steps: whose states nobody needs.
            folder: nobody is left who may write here, so the folder goes with the last state, and
                with it what a process that was killed has left half-written.
        """
        for step in steps:
            shutil.rmtree(self.path / str(step), ignore_errors=True)
        if folder and not self.steps():
            shutil.rmtree(self.path, ignore_errors=True)


def trunk_identity(run: RunConfig, data_hash: str) -> str | None:
    """Name of the trunk that a run has: the same for all runs that differ in tokens, cool-down and
    evaluation alone. None for a schedule that knows its end from the start.

    Args:
        run: a run that is resolved.
        data_hash: content hash of the token store's manifest.
    """
    if not isinstance(run.schedule, WarmupStableDecay):
        return None
    content = semantic(run, data_hash)
    del content["tokens"], content["evaluation"]
    content["schedule"] = {"kind": run.schedule.kind, "warmup_steps": run.schedule.warmup_steps}
    return content_hash(["trunk", content])[:16]


def last_shared_step(run: RunConfig) -> int:
    """Steps of a run that do not depend on how long it is."""
    assert isinstance(run.schedule, WarmupStableDecay)
    return run.schedule.branch_step(run.steps)
