"""The sweep of the soak test (soak.py), its training by launchers, and their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
DOCUMENTS_PER_STEP = 3
"""Documents in the corpus per step of the longest run, which makes one epoch of it. A document has
about 40 bytes, and a byte is a token."""
SHORTEST_SHARE = 0.3
"""Length of the shortest run of a group, as a share of the longest."""
RESTART_SECONDS = 3.0
"""Delay before a launcher that exited by itself is restarted. It may exit because another launcher
trains all remaining runs."""
WORKER_MODULE, LAUNCHER_MODULE = "scaling.launch.worker", "scaling.cli.main"


def sweep_content(
    store: Path, sizes: int, rates: int, seeds: int, lengths: int, steps: int
) -> dict[str, Any]:
    """The configuration of the sweep: one group of runs that share a trunk for each size, learning
    rate and seed, with one run of each length.

    Args:
        store: a token store.
        sizes: number of model sizes.
        rates: number of learning rates.
        seeds: number of seeds.
        lengths: number of lengths of runs.
        steps: optimizer steps of the longest run.
    """
    shares = [1 - (1 - SHORTEST_SHARE) * k / max(1, lengths - 1) for k in range(lengths)]
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


def make_sweep(folder: Path, overrides: Sequence[str] = (), **shape: int) -> Path:
    """Write a token store, unless the folder has one, and the YAML file of the sweep.

    Args:
        folder: created if missing.
        overrides: key=value, which override the configuration of the sweep.
        shape: arguments of `sweep_content`.

    Returns:
        Path of the YAML file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, store = folder / "text.jsonl", folder / "store"
    if not store.exists():
        text.write_text("".join(
            json.dumps({"text": f"the quick brown fox jumps over {k} lazy dogs"}) + "\n"
            for k in range(DOCUMENTS_PER_STEP * shape["steps"])), encoding="utf-8")
        prepare(f"jsonl:{text}#text", "byte", None, store, 0.1)
    sweep = folder / "soak.yaml"
    content = override(sweep_content(store, **shape), overrides)
    sweep.write_text(yaml.safe_dump(content), encoding="utf-8")
    return sweep


@dataclass
class Launcher:
    """A launcher, which is restarted until all runs are finished."""

    number: int
    cores: set[int]
    """CPU cores, one for each of its workers."""
    process: subprocess.Popen[bytes] | None = None
    """The process that was started last."""
    done: bool = False
    """Whether it exited with status 0, once all runs are finished."""
    exited_at: float | None = None
    """Time (monotonic clock) at which the process was found to have exited; None while it runs."""


@dataclass
class Training:
    """The training of a sweep in a separate folder, by one launcher or several."""

    sweep: Path
    """The YAML file."""
    folder: Path
    workers: int
    """Number of concurrent workers over all launchers, each of which has at most as many as there
    are cores."""
    launchers: list[Launcher] = field(default_factory=list)
    exit_statuses: list[int] = field(default_factory=list)
    """Exit statuses of all launcher processes; -9 for a killed one."""
    peak_bytes: int = 0
    """Largest measured size of the runs on disk."""

    def __post_init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        for start in range(0, self.workers, len(cores)):
            count = min(self.workers - start, len(cores))
            self.launchers.append(Launcher(len(self.launchers), set(cores[:count])))

    @property
    def runs(self) -> Path:
        """Parent of the run folders."""
        return self.folder / "runs"

    @property
    def results(self) -> Path:
        """Folder of the tables."""
        return self.folder / "results"

    def run_folders(self) -> list[RunFolder]:
        """Folders of the runs that have begun."""
        return [RunFolder(path.parent) for path in self.runs.glob("*/config.json")]

    def n_finished(self) -> int:
        """Number of runs that have a record."""
        return sum(1 for _ in self.runs.glob("*/record.json"))

    def share_trained(self, steps: Mapping[str, int]) -> float:
        """Share of the steps of all runs that are trained, as far as their metrics tell.

        Args:
            steps: optimizer steps of the runs of the sweep, by run ID.
        """
        trained = 0
        for folder in self.run_folders():
            if folder.record_path.exists():
                trained += steps[folder.path.name]
            elif line := folder.last_metrics():
                trained += line["step"]
        return trained / sum(steps.values())

    def failure_files(self) -> list[Path]:
        """The failure files of failed runs."""
        return sorted(self.runs.glob(f"*/{FAILURE}"))

    def poll(self) -> bool:
        """Start every launcher that is not running and not done; return whether all are done."""
        for launcher in self.launchers:
            if launcher.done:
                continue
            status = launcher.process.poll() if launcher.process else None
            if status is not None and launcher.exited_at is None:
                self.exit_statuses.append(status)
                launcher.done, launcher.exited_at = status == 0, time.monotonic()
                if status < 0:  # a killed launcher is restarted without delay
                    launcher.exited_at -= RESTART_SECONDS
            delayed = launcher.exited_at is not None and (
                time.monotonic() - launcher.exited_at < RESTART_SECONDS)
            if launcher.done or delayed or (launcher.process and status is None):
                continue
            launcher.process, launcher.exited_at = self._start(launcher), None
        return all(launcher.done for launcher in self.launchers)

    def _start(self, launcher: Launcher) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", LAUNCHER_MODULE, "sweep", "run", str(self.sweep),
            "--runs", str(self.runs), "--out", str(self.results),
            "--workers", str(len(launcher.cores)),
        ]
        own_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, launcher.cores)  # a child process inherits the affinity
        try:
            with self.log_path(launcher).open("ab") as log:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
        finally:
            os.sched_setaffinity(0, own_cores)

    def log_path(self, launcher: Launcher) -> Path:
        """The log of all processes of a launcher."""
        return self.folder / f"launcher-{launcher.number}.log"

    def measure_disk(self) -> int:
        """Current size of the runs on disk in bytes; updates `peak_bytes`."""
        total = disk_bytes(self.runs)
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def pids(self, *modules: str) -> list[int]:
        """PIDs of the processes of this training: those with a path in its folder on their command
        line, and one of the modules if any are given."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            in_folder = any(argument.startswith(f"{self.folder}/") for argument in arguments)
            if in_folder and (not modules or any(argument in modules for argument in arguments)):
                found.append(int(process.name))
        return sorted(found)

    def stop(self) -> None:
        """Kill the launchers and workers that are still running."""
        for launcher in self.launchers:
            if launcher.process is not None and launcher.process.poll() is None:
                launcher.process.kill()
                launcher.process.wait()
        for pid in self.pids(WORKER_MODULE):
            kill(pid)


def kill(pid: int) -> bool:
    """Send SIGKILL to a process and wait until it is dead; False if it was dead before."""
    # The command line of a zombie process is empty.
    command = Path(f"/proc/{pid}/cmdline")
    with suppress(OSError):
        if command.read_bytes():
            os.kill(pid, signal.SIGKILL)
            with suppress(OSError):
                while command.read_bytes():
                    time.sleep(0.001)
            return True
    return False


def disk_bytes(folder: Path) -> int:
    """Disk space of the files of a folder in bytes. Files may appear and disappear meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue
    return total
