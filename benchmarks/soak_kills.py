"""Kills at random moments, and in the midst of writes (soak.py)."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.soak_sweep import LAUNCHER, WORKER, Training, kill

Kind = Literal["worker", "launcher", "checkpoint write", "trunk write", "record write"]

MODULES: dict[Kind, str] = {"worker": WORKER, "launcher": LAUNCHER}
"""What the victims of kills at a random moment run."""
WEIGHTS: dict[Kind, int] = {"worker": 5, "launcher": 2, "checkpoint write": 3}
"""Of the kills that are due at a random moment; those in other writes come when such a write is
seen."""
CHANCE = 0.7
"""Of a kill when a write of a record, or of a trunk's state, is seen."""
PATIENCE_SECONDS = 15.0
"""For a checkpoint to be written; after that any worker is killed."""
SLOWEST, FASTEST = 4.0, 0.1
"""Most and least times of the mean pause."""
KEPT = 0.1
"""Share of the runs that are to be left when the last kill is dealt out."""
IDLE_TIMES = 60
"""Times the mean pause without a kill, after which there is nothing left to kill: launchers give
up as soon as they start."""
LOOK_SECONDS = 0.0005
"""Between two looks for writes."""
REFRESH_SECONDS = 0.25
"""Between two looks at who trains which run."""
UNFINISHED = "orbax-checkpoint-tmp"
"""In the name of a checkpoint that is being written."""
LEASE = re.compile(r"lease\.\d+\.json")


@dataclass(frozen=True)
class Write:
    """Something half-written, and by whom."""

    kind: Kind
    path: Path
    pid: int


@dataclass
class Writers:
    """Who trains which run, looked up now and then, and what they are writing now."""

    training: Training
    by_folder: dict[Path, int] = field(default_factory=dict)
    trunks: dict[Path, Path] = field(default_factory=dict)
    """Folder of each trunk: that of the run which leaves its states there."""

    seen: set[Path] = field(default_factory=set)
    """Half-written things that are not news: those of processes that died before."""

    def refresh(self) -> None:
        """Look at the leases of the living, and at the plan."""
        alive = set(self.training.processes(WORKER))
        before, self.by_folder = self.by_folder, {}
        for folder in self.training.run_folders():
            if not folder.record_path.exists() and (pid := holder(folder.path)) in alive:
                self.by_folder[folder.path] = pid
        for plan in self.training.runs.glob("logs/*.plan.json"):
            units = json.loads(plan.read_text(encoding="utf-8"))["runs"]
            self.trunks = {Path(u["trunk"]): Path(u["folder"]) for u in units if u["leave"]}
        # Who has just taken a run finds what the one before left, and did not write it.
        fresh = {pid for folder, pid in self.by_folder.items() if before.get(folder) != pid}
        self.seen = {path for path in self.seen if path.exists()}
        self.seen |= {write.path for write in self._there() if write.pid in fresh}

    def news(self) -> Write | None:
        """Something that has begun to be written since the last look."""
        write = next((write for write in self._there() if write.path not in self.seen), None)
        if write is not None:
            self.seen.add(write.path)
        return write

    def _there(self) -> Iterator[Write]:
        for folder, pid in self.by_folder.items():
            yield from half_written(folder, ".record.json.", "record write", pid)
            yield from half_written(folder / "checkpoints", UNFINISHED, "checkpoint write", pid)
        for trunk, folder in self.trunks.items():
            if (owner := self.by_folder.get(folder)) is not None:
                yield from half_written(trunk, UNFINISHED, "trunk write", owner)


def half_written(folder: Path, mark: str, kind: Kind, pid: int) -> Iterator[Write]:
    """Files and folders of a folder whose names hold the mark."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if mark in name:
                yield Write(kind, folder / name, pid)


def holder(folder: Path) -> int | None:
    """The process that the newest lease of a run names."""
    with suppress(OSError, ValueError, KeyError):
        newest = max((n for n in os.listdir(folder) if LEASE.fullmatch(n)), default=None)
        if newest is not None:
            content = json.loads((folder / newest).read_text(encoding="utf-8"))
            return None if content["released"] else int(content["pid"])
    return None


def pace(kills: float, over: float) -> float:
    """Times the mean pause that lies before the next kill, such that kills come to an end shortly
    before the runs do: one that comes soon sets the sweep back, and lets kills catch up.

    Args:
        kills: share of the kills that are dealt out.
        over: share of the runs that are over.
    """
    return min(max((1 - KEPT - over) / (1 - KEPT) / (1 - kills), FASTEST), SLOWEST)


def kill_at_random(
    training: Training, planned: int, kills: int, mean_seconds: float, seed: int,
    said: Callable[[int, str], None] = lambda *_: None,
) -> Counter[Kind]:
    """Train a sweep, and kill processes of it until so many have been killed, or the sweep is over
    or does not go on.

    A kill counts as one in a write if what the process was writing is still half-written when it is
    dead; else as one of a worker.

    Args:
        training: the sweep; launchers that have ended are started again.
        planned: how many runs it has.
        kills: how many.
        mean_seconds: between two random moments, by an exponential distribution; less of it the
            faster the runs get done, and more the slower (`pace`).
        seed: of the moments, kinds and victims; what they meet depends on the machine.
        said: told how many kills there were, and of what state the sweep is in.

    Returns:
        Kills by kind.
    """
    draw = random.Random(seed)
    counts: Counter[Kind] = Counter()
    writers = Writers(training)
    due = time.monotonic() + draw.expovariate(1 / mean_seconds)
    aim: Kind | None = None
    refreshed, last = 0.0, time.monotonic()
    while counts.total() < kills:
        now = time.monotonic()
        if now - refreshed >= REFRESH_SECONDS:
            idle = now - last > IDLE_TIMES * mean_seconds
            if training.tend() or training.failed() or idle:
                break
            writers.refresh()
            training.measure_disk()
            said(counts.total(), f"kills  {training.over()} runs over")
            refreshed = now
        if aim is None and now >= due:
            aim = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if aim == "checkpoint write" and now - due > PATIENCE_SECONDS:
            aim = "worker"
        struck: Kind | None = None
        if write := writers.news():
            wanted = write.kind == aim
            by_chance = write.kind != "checkpoint write" and draw.random() < CHANCE
            if (wanted or by_chance) and kill(write.pid):
                struck = write.kind if write.path.exists() else "worker"
                aim = None if wanted else aim
        elif aim in MODULES and (found := training.processes(MODULES[aim])):
            struck = aim if kill(draw.choice(found)) else None
            aim = None
        if struck is not None:
            counts[struck] += 1
            refreshed, last = 0.0, now
        if aim is None and now >= due and counts.total() < kills:
            mean = mean_seconds * pace(counts.total() / kills, training.over() / planned)
            due = now + draw.expovariate(1 / mean)
        time.sleep(LOOK_SECONDS)
    return counts
