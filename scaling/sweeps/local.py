"""The local launcher: worker processes on this machine, with its cores or GPUs shared out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import clear_half_written, write_atomically
from scaling.sweeps import room
from scaling.sweeps.ledger import Standing, standing
from scaling.sweeps.planning.planned import PlannedRun
from scaling.sweeps.units import Unit, clear_trunks, units_of
from scaling.sweeps.worker import STOPPED
from scaling.training.run_folder import read_json

POLL_SECONDS = 0.5
PLAN_SUFFIX = ".plan.json"
"""How the names of the plans end that launchers hand to their workers, in RUNS/logs."""

LOST_AT_MOST = 5
"""Workers that may die one after the other without a run getting done, before it is given up."""


@dataclass
class Share:
    """The part of the machine that one worker has."""

    cores: list[int]
    gpu: str | None
    process: subprocess.Popen[bytes] | None = None


def shares(workers: int | None, runs: int) -> list[Share]:
    """The machine in equal parts: GPUs if there are any, else cores.

    By default as many workers as there are GPUs, or cores; never more than runs. What a run
    computes may depend in its last bits on how many cores it has, so the split goes by the runs of
    a stage, not by those still to do: a sweep that was interrupted goes on as it began.

    Raises:
        UserError: more workers than there are cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
    gpus = _gpus()
    if workers is not None and workers > len(cores):
        raise UserError(f"--workers {workers}: there are {len(cores)} cores; ask for fewer")
    count = max(1, min(workers or len(gpus) or len(cores), runs))
    each = len(cores) // count
    return [
        Share(cores[i * each : (i + 1) * each], gpus[i % len(gpus)] if gpus else None)
        for i in range(count)
    ]


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path.name.removeprefix("nvidia") for path in devices)


def launch(
    runs: Sequence[PlannedRun],
    workers: int | None,
    logs: Path,
    name: str,
    asked_to_stop: Callable[[], int | None],
    watch: Callable[[Sequence[Standing]], None],
    pack: str | int = "auto",
) -> int | None:
    """Train the runs in worker processes until all are over or a stop is asked for.

    A worker that dies is replaced, and its run goes on from its newest checkpoint. Runs that other
    launchers train are waited for, and taken over should those let them go.

    Args:
        runs: in the order in which they are to be taken.
        workers: how many processes, or None for the default (see `shares`).
        logs: folder for the plan handed to the workers and for what they print.
        name: of the sweep and stage, for file names.
        asked_to_stop: which signal asked to stop, or None.
        watch: called every now and then with where each run stands.
        pack: how many runs of one shape train side by side (SweepConfig.pack).

    Returns:
        The signal that asked to stop, or None.

    Raises:
        UserError: the disk is full, or workers die again and again without getting a run done.
    """
    units = units_of(runs)
    parts = shares(workers, len(runs))
    plan = write_plan(units, logs, name, pack, len(parts))
    log_paths = [logs / f"{name}.worker-{i}.log" for i in range(len(parts))]
    lost, over_before = 0, 0
    now = [standing(p) for p in runs]
    try:
        while not all(s.over for s in now):
            if number := asked_to_stop():
                return number
            over = sum(s.over for s in now)
            lost, over_before = (0 if over > over_before else lost), over
            for part, log_path in zip(parts, log_paths, strict=True):
                status = part.process.poll() if part.process else None
                if part.process is None or status not in (None, 0):
                    if status == room.STATUS:
                        raise room.no_room(logs.parent, log_path)
                    lost += status not in (None, STOPPED)
                    if lost > LOST_AT_MOST:
                        raise UserError(
                            f"workers died {lost} times without getting a run done (exit status "
                            f"{status}); the last one's words are in {log_path}"
                        )
                    part.process = _start(part, plan, log_path)
            time.sleep(POLL_SECONDS)
            now = [standing(p) for p in runs]
            watch(now)
            idle = [part for part in parts if part.process and part.process.poll() == 0]
            if idle and any(p.folder.free() for p, s in zip(runs, now, strict=True) if not s.over):
                # Workers end when others hold what is left, and somebody has let go of a run.
                idle[0].process = None
    finally:
        _stop(parts)
        clear_trunks(units)
    return None


def plan_path(logs: Path, name: str) -> Path:
    """Where the plan of a sweep and stage is."""
    return logs / f"{name}{PLAN_SUFFIX}"


def write_plan(
    units: Sequence[Unit], logs: Path, name: str, pack: str | int = "auto", workers: int = 1
) -> Path:
    """Write the file that workers go through."""
    path = plan_path(logs, name)
    content = {"pack": pack, "workers": workers, "runs": [unit.plain() for unit in units]}
    write_atomically(path, json.dumps(content) + "\n")
    clear_half_written(path)
    return path


def read_plan(path: Path) -> list[dict[str, Any]]:
    """The runs of a plan as `Unit.plain` has them.

    Raises:
        UserError: it is no plan, or one of another version.
    """
    runs = read_json(path).get("runs")
    if isinstance(runs, list) and all(
            isinstance(run, dict) and {"folder", "config", "begins"} <= run.keys() for run in runs):
        return runs
    raise UserError(f"{path}: is no plan of this version; move it away, and the next `scaling "
                    "sweep run` writes another")


def _start(part: Share, plan: Path, log_path: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "scaling.sweeps.worker", str(plan),
        "--cores", ",".join(map(str, part.cores)), "--parent", str(os.getpid()),
    ]
    if part.gpu is not None:
        command += ["--gpu", part.gpu]
    with log_path.open("ab") as log:
        # A session of its own: Ctrl-C reaches the launcher alone, which then asks each worker once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _stop(parts: Sequence[Share]) -> None:
    """Ask every worker to save and leave, and wait until it has."""
    running = [part.process for part in parts if part.process and part.process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # one that is stopped would not hear
    for process in running:
        process.wait()
