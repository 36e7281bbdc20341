"""`scaling sweep cancel`: what trains a sweep saves and stops, and no launcher begins again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scaling.sweeps.cancel import ask_to_stop, local_workers
from tests.sweeps.test_kill import start

pytestmark = pytest.mark.skipif(
    not Path("/proc").exists(), reason="needs /proc to find the workers")

LAUNCHER = """
import os, signal, subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, exit); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", worker, "-m", "scaling.sweeps.worker",
                          sys.argv[1], "--cores", "0", "--parent", str(os.getpid())])
def stop(*_):
    child.terminate()
    child.wait()
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def test_cancel_asks_the_launcher_that_would_start_another_worker(tmp_path):
    """A stand-in for both, with their command lines: neither imports anything."""
    plan = tmp_path / "tiny.grid.plan.json"
    plan.write_text("{}")
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, plan.name], cwd=tmp_path,
                          stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        while not (workers := local_workers(plan)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert local_workers(tmp_path / "other.plan.json") == []
        assert [worker.launcher for worker in workers] == [launcher.pid]
        time.sleep(0.3)  # until the worker has its handler
        assert ask_to_stop(workers) == {launcher.pid: 1}
        assert launcher.wait(20) == 7
    assert local_workers(plan) == []


@pytest.mark.slow
def test_a_cancelled_sweep_has_saved_and_can_go_on(scaling, sweep_file, sweep_content):
    nothing = scaling("sweep", "cancel", sweep_file)
    assert nothing.returncode == 0, nothing.stderr
    assert "nothing trains it" in nothing.stdout
    sweep_content["run"] |= {"batch_sequences": 1, "logging": {"every_steps": 1}}
    sweep_content |= {"grids": [{"kind": "product", "tokens": [60_000]}], "heldout": []}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    with start(sweep_file, "runs") as launcher:
        try:
            deadline = time.monotonic() + 120
            while launcher.poll() is None and time.monotonic() < deadline:
                if len(list(sweep_file.parent.glob("runs/*/metrics.jsonl"))) == 2:
                    break
                time.sleep(0.05)
            cancelled = scaling("sweep", "cancel", sweep_file)
            assert cancelled.returncode == 0, cancelled.stderr
            assert f"asked process {launcher.pid} to stop" in cancelled.stdout
            assert "still being trained" not in cancelled.stderr
            output, _ = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert launcher.returncode == 128 + signal.SIGTERM, output
    assert local_workers(sweep_file.parent / "runs/logs/tiny.grid.plan.json") == []
    assert len(list(sweep_file.parent.glob("runs/*/checkpoints/[0-9]*"))) == 2
    assert not list(sweep_file.parent.glob("runs/*/record.json"))
