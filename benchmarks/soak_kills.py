"""Kills of the processes of a sweep, at random moments and during writes (soak.py)."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.soak_sweep import LAUNCHER_MODULE, WORKER_MODULE, Training, kill

KillKind = Literal["worker", "launcher", "checkpoint write", "trunk write", "record write"]

MODULES: dict[KillKind, str] = {"worker": WORKER_MODULE, "launcher": LAUNCHER_MODULE}
"""Module of the processes that are killed at a random moment, whatever they do."""
WEIGHTS: dict[KillKind, int] = {"worker": 5, "launcher": 2, "checkpoint write": 3}
"""Relative frequencies of the kinds of scheduled kills. Kills during other writes are not
scheduled, but happen when such a write is found."""
WRITE_KILL_PROBABILITY = 0.7
"""Probability of a kill when a write of a record or of a trunk's state is found."""
MAX_CHECKPOINT_WAIT = 4.0
"""Longest wait for a checkpoint write, in mean pauses; after that, a worker is killed instead."""
MIN_PAUSE_FACTOR, MAX_PAUSE_FACTOR = 0.1, 4.0
"""Limits of `pause_factor`."""
REMAINING_SHARE = 0.1
"""Share of the steps that are to be untrained at the last kill."""
MAX_IDLE_PAUSES = 60
"""Longest time without a kill, in mean pauses. After that no process can be killed, since launchers
exit as soon as they start."""
POLL_SECONDS = 0.0005
"""Interval between two searches for writes in progress."""
REFRESH_SECONDS = 0.25
"""Interval between two updates of the table of runs and processes."""
PARTIAL_CHECKPOINT = "orbax-checkpoint-tmp"
"""Part of the name of a checkpoint while it is written."""
LEASE = re.compile(r"lease\.\d+\.json")


@dataclass(frozen=True)
class Write:
    """A write in progress: its kind, the temporary file or folder, and the writing process."""

    kind: KillKind
    path: Path
    pid: int


@dataclass
class WriteWatcher:
    """Finds writes in progress. Which process trains which run is looked up by `refresh`."""

    training: Training
    pid_by_folder: dict[Path, int] = field(default_factory=dict)
    """Process that trains a run, by the folder of the run."""
    folder_by_trunk: dict[Path, Path] = field(default_factory=dict)
    """Folder of the run that writes the states of a trunk, by the folder of the trunk."""
    seen: set[Path] = field(default_factory=set)
    """Temporary files and folders that were reported, or were left by killed processes."""

    def refresh(self) -> None:
        """Update the tables from the leases of live workers and the plans of launchers."""
        alive = set(self.training.pids(WORKER_MODULE))
        before, self.pid_by_folder = self.pid_by_folder, {}
        for folder in self.training.run_folders():
            if not folder.record_path.exists() and (pid := lease_holder(folder.path)) in alive:
                self.pid_by_folder[folder.path] = pid
        for plan in self.training.runs.glob("logs/*.plan.json"):
            units = json.loads(plan.read_text(encoding="utf-8"))["runs"]
            self.folder_by_trunk = {
                Path(u["trunk"]): Path(u["folder"]) for u in units if u["leave"]}
        # What is in the folder of a run when a process takes it over was left by its predecessor.
        new = {pid for folder, pid in self.pid_by_folder.items() if before.get(folder) != pid}
        self.seen = {path for path in self.seen if path.exists()}
        self.seen |= {write.path for write in self._in_progress() if write.pid in new}

    def new_write(self) -> Write | None:
        """A write that has begun since the last call; None if there is none."""
        write = next((write for write in self._in_progress() if write.path not in self.seen), None)
        if write is not None:
            self.seen.add(write.path)
        return write

    def _in_progress(self) -> Iterator[Write]:
        for folder, pid in self.pid_by_folder.items():
            yield from writes_in(folder, ".record.json.", "record write", pid)
            yield from writes_in(
                folder / "checkpoints", PARTIAL_CHECKPOINT, "checkpoint write", pid)
        for trunk, folder in self.folder_by_trunk.items():
            if (pid_of_trunk := self.pid_by_folder.get(folder)) is not None:
                yield from writes_in(trunk, PARTIAL_CHECKPOINT, "trunk write", pid_of_trunk)


def writes_in(folder: Path, mark: str, kind: KillKind, pid: int) -> Iterator[Write]:
    """The writes of a process in a folder: files and folders with `mark` in their name."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if mark in name:
                yield Write(kind, folder / name, pid)


def lease_holder(folder: Path) -> int | None:
    """PID of the process that holds the newest lease of a run; None if there is none."""
    with suppress(OSError, ValueError, KeyError):
        newest = max((n for n in os.listdir(folder) if LEASE.fullmatch(n)), default=None)
        if newest is not None:
            content = json.loads((folder / newest).read_text(encoding="utf-8"))
            return None if content["released"] else int(content["pid"])
    return None


def pause_factor(kills: float, trained: float) -> float:
    """Factor of the mean pause before the next kill, such that the last kill is shortly before the
    end of the sweep: short pauses delay the runs, until the number of kills has caught up.

    Args:
        kills: share of the kills that are done.
        trained: share of the steps that are trained.
    """
    factor = (1 - REMAINING_SHARE - trained) / (1 - REMAINING_SHARE) / (1 - kills)
    return min(max(factor, MIN_PAUSE_FACTOR), MAX_PAUSE_FACTOR)


def kill_at_random(
    training: Training, steps: Mapping[str, int], kills: int, mean_seconds: float, seed: int,
    report: Callable[[int, str], None] = lambda *_: None,
) -> Counter[KillKind]:
    """Train a sweep and kill its processes, until the requested number of kills is reached, the
    sweep is finished, a run has failed, or no process can be killed any more.

    A kill counts as one during a write if the temporary file still exists when the process is dead;
    otherwise it counts as one of a worker.

    Args:
        training: the sweep; launchers that have exited are restarted.
        steps: optimizer steps of the runs of the sweep, by run ID.
        kills: number of kills.
        mean_seconds: mean pause between two scheduled kills, which is exponentially distributed.
            `pause_factor` multiplies it, again and again during the pause: a sweep may come near
            its end in one pause.
        seed: of the pauses, kinds and processes. Their effect also depends on the machine.
        report: called with the number of kills and a text on the progress of the sweep.

    Returns:
        Number of kills by kind.
    """
    rng = random.Random(seed)
    counts: Counter[KillKind] = Counter()
    watcher = WriteWatcher(training)
    pause_left = rng.expovariate(1)  # in mean pauses
    factor, scheduled = 1.0, 0.0
    target: KillKind | None = None
    refreshed, now = 0.0, time.monotonic()
    last_kill = now
    while counts.total() < kills:
        elapsed, now = time.monotonic() - now, time.monotonic()
        if now - refreshed >= REFRESH_SECONDS:
            idle = now - last_kill > MAX_IDLE_PAUSES * mean_seconds
            if training.poll() or training.failure_files() or idle:
                break
            watcher.refresh()
            training.measure_disk()
            factor = pause_factor(counts.total() / kills, training.share_trained(steps))
            report(counts.total(), f"kills, {training.n_finished()} of {len(steps)} runs finished")
            refreshed = now
        if target is None:
            pause_left -= elapsed / (mean_seconds * factor)
            if pause_left <= 0:
                target = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                scheduled, pause_left = now, rng.expovariate(1)
        wait = (now - scheduled) / (mean_seconds * factor)
        if target == "checkpoint write" and wait > MAX_CHECKPOINT_WAIT:
            target = "worker"
        killed: KillKind | None = None
        if write := watcher.new_write():
            on_target = write.kind == target
            by_chance = write.kind != "checkpoint write" and rng.random() < WRITE_KILL_PROBABILITY
            if (on_target or by_chance) and kill(write.pid):
                killed = write.kind if write.path.exists() else "worker"
                target = None if on_target else target
        elif target in MODULES and (pids := training.pids(MODULES[target])):
            killed = target if kill(rng.choice(pids)) else None
            target = None
        if killed is not None:
            counts[killed] += 1
            refreshed, last_kill = 0.0, now
        time.sleep(POLL_SECONDS)
    return counts
