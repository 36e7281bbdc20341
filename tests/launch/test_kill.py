"""SIGKILL to anything at any moment, and the sweep still gives the same losses to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def start(sweep_file: Path, runs: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scaling.cli.main", "sweep", "run", str(sweep_file),
               "--runs", runs, "--out", f"{runs}-results", *options]
    return subprocess.Popen(
        command, cwd=sweep_file.parent, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def workers_of(sweep_file: Path, runs: str) -> list[int]:
    """Process numbers of the workers that train into this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
            cwd = os.readlink(process / "cwd")
        except OSError:
            continue
        mine = cwd == str(sweep_file.parent) and any(a.startswith(f"{runs}/logs") for a in command)
        if mine and "scaling.launch.worker" in command:
            found.append(int(process.name))
    return found


def losses(sweep_file: Path, runs: str) -> dict[str, tuple[float, float]]:
    table = pd.read_csv(sweep_file.parent / f"{runs}-results" / "runs.csv", dtype=str)
    table = table[table["role"] == "grid"]
    assert set(table["status"]) == {"done"}
    return {row.run_id: (row.loss, row.loss_se) for row in table.itertuples()}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find the workers")
def test_killed_at_random_moments_and_run_again(sweep_file, sweep_content):
    sweep_content["run"]["checkpoint"] = {"every_seconds": 0}  # a kill in every stage of a save
    sweep_content["grids"] = [{"kind": "product", "tokens": [150 * 64, 300 * 64]}]
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    whole = start(sweep_file, "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    draw = random.Random(time.time_ns())
    killed = {"launcher": 0, "worker": 0}
    for _ in range(40):
        launcher = start(sweep_file, "hurt")
        # Kill workers under a living launcher, then the launcher itself; the pauses reach from the
        # first import into training, checkpoints and the last record.
        for _ in range(draw.randint(0, 3)):
            while launcher.poll() is None and not workers_of(sweep_file, "hurt"):
                time.sleep(0.05)
            time.sleep(draw.uniform(0.0, 4.0))
            for worker in workers_of(sweep_file, "hurt")[: draw.randint(1, 2)]:
                os.kill(worker, signal.SIGKILL)
                killed["worker"] += 1
        time.sleep(draw.uniform(0.0, 4.0))
        if launcher.poll() is None and killed["launcher"] < 4:
            launcher.kill()
            killed["launcher"] += 1
            launcher.communicate()
            continue
        output, _ = launcher.communicate(timeout=300)
        if launcher.returncode == 0 and killed["worker"]:
            break
    assert launcher.returncode == 0, output
    assert min(killed.values()) > 0
    assert losses(sweep_file, "hurt") == losses(sweep_file, "whole")
    deadline = time.monotonic() + 30
    while workers_of(sweep_file, "hurt") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers_of(sweep_file, "hurt")
    leftovers = [p for p in (sweep_file.parent / "hurt").glob("*/*") if ".json." in p.name]
    assert not leftovers


def test_ctrl_c_saves_and_the_same_command_goes_on(sweep_file):
    launcher = start(sweep_file, "asked", "--workers", "1")
    deadline = time.monotonic() + 120
    metrics = list((sweep_file.parent / "asked").glob("*/metrics.jsonl"))
    while not metrics and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        metrics = list((sweep_file.parent / "asked").glob("*/metrics.jsonl"))
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert "the same command continues" in output
    assert output.count("stopping: every run is saved first") == 1
    assert not workers_of(sweep_file, "asked")
    again = start(sweep_file, "asked", "--workers", "1")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "4 done" in output


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to tell who holds a run")
def test_a_frozen_worker_loses_its_run_and_the_sweep_goes_on(
    sweep_file, sweep_content, monkeypatch
):
    """The other worker takes the run over once the lease is silent for too long; the frozen one is
    woken in the end, and changes nothing."""
    sweep_content["grids"] = [{"kind": "product", "tokens": [400 * 64, 800 * 64]}]
    sweep_content["run"]["checkpoint"] = {"every_seconds": 0.2}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "3")
    whole = start(sweep_file, "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    launcher = start(sweep_file, "frozen")
    held, deadline = None, time.monotonic() + 120
    while held is None:
        assert time.monotonic() < deadline
        for lease in sweep_file.parent.glob("frozen/*/lease.*.json"):
            if (lease.parent / "metrics.jsonl").exists():
                held = lease
                break
        time.sleep(0.01)
    frozen = json.loads(held.read_text())["pid"]
    os.kill(frozen, signal.SIGSTOP)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, output
    assert not Path(f"/proc/{frozen}").exists()
    number = max(held.parent.glob("lease.*.json")).name
    assert number > held.name, "nobody took the frozen run over"
    assert losses(sweep_file, "frozen") == losses(sweep_file, "whole")
