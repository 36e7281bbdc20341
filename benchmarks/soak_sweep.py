"""The sweep of the soak (soak.py), the launchers that train it, and their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scaling.config import override
from scaling.data.prepare import prepare
from scaling.runs.folder import RunFolder
from scaling.runs.state import FAILURE

ROOT = Path(__file__).parents[1]
SEQUENCES, CONTEXT = 4, 16
DOCUMENTS_A_STEP = 3
"""Of the corpus, which the longest run reads once: one has some 40 bytes, a token each."""
SHORTEST = 0.3
"""Length of the shortest run of a group, as a share of the longest."""
PAUSE_SECONDS = 3.0
"""Before a launcher is started again that has ended by itself: it may have found nothing but runs
that another one trains."""
WORKER, LAUNCHER = "scaling.launch.worker", "scaling.cli.main"


def sweep_content(
    store: Path, sizes: int, rates: int, seeds: int, lengths: int, steps: int
) -> dict[str, Any]:
    """Groups of runs that share a trunk: one for each size, learning rate and seed, with a run of
    each length.

    Args:
        store: a token store.
        sizes: how many models.
        rates: how many learning rates.
        seeds: how many seeds.
        lengths: how many lengths, the longest of `steps` steps.
        steps: optimizer steps.
    """
    shares = [1 - (1 - SHORTEST) * k / max(1, lengths - 1) for k in range(lengths)]
    tokens = [round(steps * share) * SEQUENCES * CONTEXT for share in shares]
    return {
        "name": "soak",
        "run": {
            "model": {"context": CONTEXT}, "data": {"store": str(store)},
            "batch_sequences": SEQUENCES, "schedule": {"kind": "wsd", "warmup_steps": 10},
            "evaluation": {"sequences": 10}, "logging": {"every_steps": 20},
            "checkpoint": {"every_seconds": 0.5},
        },
        "sizes": [{"d_model": 8 * k, "n_layers": k, "n_heads": k} for k in range(1, sizes + 1)],
        "grids": [{"kind": "cross", "rate_factors": [2.0**-k for k in range(rates)],
                   "at": [{"rung": rung, "tokens": count}
                          for rung in range(sizes) for count in tokens]}],
        "seeds": list(range(seeds)),
        "learning_rate": {"rule": "power", "learning_rate": 1e-2, "reference_params": 1000,
                          "exponent": -0.5},
    }


def make_sweep(folder: Path, overrides: Sequence[str] = (), **numbers: int) -> Path:
    """A token store and the sweep's YAML, in a folder that is new or was made by this.

    Args:
        folder: made if need be.
        overrides: key=value laid over the sweep.
        numbers: see `sweep_content`.

    Returns:
        The YAML.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, store = folder / "text.jsonl", folder / "store"
    if not store.exists():
        text.write_text("".join(
            json.dumps({"text": f"the quick brown fox jumps over {k} lazy dogs"}) + "\n"
            for k in range(DOCUMENTS_A_STEP * numbers["steps"])), encoding="utf-8")
        prepare(f"jsonl:{text}#text", "byte", None, store, 0.1)
    sweep = folder / "soak.yaml"
    content = override(sweep_content(store, **numbers), overrides)
    sweep.write_text(yaml.safe_dump(content), encoding="utf-8")
    return sweep


@dataclass
class Launcher:
    """A launcher's place: it is started there again and again."""

    number: int
    cores: set[int]
    """One for each of its workers, so that every worker computes with one."""
    process: subprocess.Popen[bytes] | None = None
    done: bool = False
    """Whether it has ended with every run over."""
    ended: float | None = None
    """When, by the monotonic clock, it was seen to have ended otherwise."""


@dataclass
class Training:
    """A sweep that is trained in a folder of its own, by as many launchers as its workers take."""

    sweep: Path
    folder: Path
    workers: int
    launchers: list[Launcher] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    """Exit statuses of all launchers that have ended."""
    peak_bytes: int = 0
    """Most that the folder has been seen to hold on disk."""

    def __post_init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        for start in range(0, self.workers, len(cores)):
            count = min(self.workers - start, len(cores))
            self.launchers.append(Launcher(len(self.launchers), set(cores[:count])))

    @property
    def runs(self) -> Path:
        """Where run folders are."""
        return self.folder / "runs"

    @property
    def results(self) -> Path:
        """Where the tables are."""
        return self.folder / "results"

    def run_folders(self) -> list[RunFolder]:
        """Of the runs that have begun."""
        return [RunFolder(path.parent) for path in self.runs.glob("*/config.json")]

    def over(self) -> int:
        """How many runs are."""
        return sum(1 for _ in self.runs.glob("*/record.json"))

    def failed(self) -> list[Path]:
        """What runs that failed left."""
        return sorted(self.runs.glob(f"*/{FAILURE}"))

    def tend(self) -> bool:
        """Start every launcher that has ended with work left; whether all is done."""
        for launcher in self.launchers:
            if launcher.done:
                continue
            status = launcher.process.poll() if launcher.process else None
            if status is not None and launcher.ended is None:
                self.exits.append(status)
                launcher.done, launcher.ended = status == 0, time.monotonic()
                if status < 0:  # killed: whoever looks after it is quick
                    launcher.ended -= PAUSE_SECONDS
            waits = launcher.ended is not None and (
                time.monotonic() - launcher.ended < PAUSE_SECONDS)
            if launcher.done or waits or (launcher.process and status is None):
                continue
            launcher.process, launcher.ended = self._start(launcher), None
        return all(launcher.done for launcher in self.launchers)

    def _start(self, launcher: Launcher) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", LAUNCHER, "sweep", "run", str(self.sweep),
            "--runs", str(self.runs), "--out", str(self.results),
            "--workers", str(len(launcher.cores)),
        ]
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, launcher.cores)  # a child inherits it
        try:
            with self.output(launcher).open("ab") as output:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
        finally:
            os.sched_setaffinity(0, mine)

    def output(self, launcher: Launcher) -> Path:
        """What all processes of a launcher's place have printed."""
        return self.folder / f"launcher-{launcher.number}.log"

    def measure_disk(self) -> int:
        """Bytes on disk now; remembers the most."""
        total = disk_bytes(self.runs)
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def processes(self, *modules: str) -> list[int]:
        """Numbers of the living processes whose command line names the folder, and one of the
        modules if any are given."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            named = any(word.startswith(f"{self.folder}/") for word in words)
            if named and (not modules or any(word in modules for word in words)):
                found.append(int(process.name))
        return sorted(found)

    def stop(self) -> None:
        """Kill whatever is left, for a soak that is given up."""
        for launcher in self.launchers:
            if launcher.process is not None and launcher.process.poll() is None:
                launcher.process.kill()
                launcher.process.wait()
        for number in self.processes(WORKER):
            kill(number)


def kill(number: int) -> bool:
    """SIGKILL a process, and wait until it is dead; False if it was so before."""
    # The kernel shows no command line of a process that is dead and not yet waited for.
    command = Path(f"/proc/{number}/cmdline")
    with suppress(OSError):
        if command.read_bytes():
            os.kill(number, signal.SIGKILL)
            with suppress(OSError):
                while command.read_bytes():
                    time.sleep(0.001)
            return True
    return False


def disk_bytes(folder: Path) -> int:
    """What the files of a folder take of the disk. Files may come and go."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except OSError:
                continue
    return total
