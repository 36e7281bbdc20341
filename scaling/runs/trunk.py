"""Trunks: checkpoints of the constant-rate phase that runs of different length share.

A batch depends on (seed, step), and the learning rate before the cool-down depends neither on the
length of the run nor on its cool-down. So runs that differ only in these are bitwise equal until
the shorter one begins its cool-down. The longest of them, the trunk, saves its state at the steps
where the others begin theirs; each of those, a branch, continues from there. A branch that finds no
saved state trains from the start, to the same loss.

    runs/trunks/TRUNK_ID/      checkpoints by step, each with the metrics up to it
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, WarmupStableDecay, content_hash, semantic
from scaling.errors import UserError
from scaling.files import remove_below
from scaling.runs.checkpoint_files import FILE_LIST
from scaling.runs.files import is_count, is_number

_STEP = re.compile(r"[0-9]{1,18}")

_BROKEN_NAME = re.compile(r"[0-9]+\.orbax-checkpoint-tmp.*|damaged-[0-9]+\.[0-9]+")
"""Name of a checkpoint that Orbax has only begun to write, or that was found damaged."""

_PARTS = frozenset({"state", "progress", "origin", "_CHECKPOINT_METADATA", "commit_success.txt",
                    FILE_LIST})
"""Contents of a checkpoint; a partly removed one has some or none of them."""

TRUNKS_FOLDER = "trunks"
"""Name of the folder of trunks, which is in the folder of runs."""


@dataclass(frozen=True)
class Trunk:
    """The trunk of a run: a folder of checkpoints, and the steps at which the run saves to it."""

    path: Path
    """Folder of the trunk's checkpoints."""
    save_steps: frozenset[int] = frozenset()
    """Steps after which this run saves its state there."""

    def steps(self) -> list[int]:
        """Steps of the saved states, ascending. Checkpoints that are being written have another
        name, and links are ignored."""
        return sorted(int(path.name) for path in step_folders(self.path))

    def latest_step(self, run: RunConfig) -> int:
        """The last saved step that the run shares with the trunk; 0 if there is none."""
        shared = last_shared_step(run)
        return max((step for step in self.steps() if step <= shared), default=0)

    def remove(self, steps: Iterable[int], *, folder: bool) -> None:
        """Delete the states of the given steps.

        Args:
            steps: steps whose states are no longer needed.
            folder: no process will write here any more, so the folder is removed with its last
                state, including checkpoints that a killed process left half-written. It is kept if
                it has other contents.
        """
        runs = self.path.parent.parent
        for step in steps:
            with suppress(OSError, UserError):  # what is left takes up space and does no harm
                remove_below(runs, self.path / str(step))
        with suppress(OSError, UserError):
            if folder and not self.steps() and holds_only_checkpoints(self.path):
                remove_below(runs, self.path)


def step_folders(checkpoints: Path) -> list[Path]:
    """The completed checkpoints in a folder, in order of steps, without links."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if _STEP.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()),
                  key=lambda path: int(path.name))


def clean_checkpoints(checkpoints: Path) -> list[Path]:
    """The completed checkpoints that have no other contents than those of a checkpoint."""
    return [path for path in step_folders(checkpoints) if _PARTS.issuperset(os.listdir(path))]


def broken_checkpoints(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder that a killed process left half-written, and the damaged ones
    that were set aside, without links."""
    return sorted(path for path in checkpoints.iterdir()
                  if _BROKEN_NAME.fullmatch(path.name) and path.is_dir()
                  and not path.is_symlink())


def holds_only_checkpoints(checkpoints: Path) -> bool:
    """Whether a folder contains only checkpoints, and can be removed without losing other files."""
    known = {*clean_checkpoints(checkpoints), *broken_checkpoints(checkpoints)}
    return checkpoints.is_dir() and known.issuperset(checkpoints.iterdir())


def validate_origin(origin: Any, source: Path) -> tuple[str, list[dict[str, Any]]]:
    """The identity of the run that saved a trunk's state, and its metrics up to there.

    Args:
        origin: the origin that was saved with the state.
        source: the checkpoint, for the error message.

    Raises:
        UserError: the origin is invalid.
    """
    if isinstance(origin, dict) and isinstance(origin.get("run_id"), str):
        lines = origin.get("metrics")
        if isinstance(lines, list) and all(
                isinstance(line, dict) and is_count(line.get("step"))
                and all(value is None or is_number(value) for value in line.values())
                for line in lines):
            return origin["run_id"], lines
    raise UserError(f"{source}: has no valid origin (the run that saved it); move it away")


def trunk_identity(run: RunConfig, data_hash: str) -> str | None:
    """Identity of the trunk of a run: the same for all runs that differ only in tokens, cool-down
    and evaluation, and have the same number of warm-up steps. None for schedules whose rates depend
    on the length of the run from the start.

    Args:
        run: a run with a known vocabulary size.
        data_hash: content hash of the token store's manifest.
    """
    if not isinstance(run.schedule, WarmupStableDecay):
        return None
    content = semantic(run, data_hash)
    del content["tokens"], content["evaluation"]
    warmup = run.schedule.warmup_steps_of(run.steps)
    content["schedule"] = {"kind": run.schedule.kind, "warmup_steps": warmup}
    return content_hash(["trunk", content])[:16]


def last_shared_step(run: RunConfig) -> int:
    """The last step of a run that does not depend on its length."""
    assert isinstance(run.schedule, WarmupStableDecay)
    return run.schedule.branch_step(run.steps)
