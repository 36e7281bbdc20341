"""`scaling sweep cancel`: what trains a sweep saves and stops, and no launcher begins again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scaling.errors import UserError
from scaling.launch import cancel, local, slurm
from scaling.launch.cancel import Worker, ask_to_stop, local_workers
from tests.launch.test_kill import start

pytestmark = pytest.mark.skipif(
    not Path("/proc").exists(), reason="needs /proc to find the workers")

LAUNCHER = """
import os, signal, subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, exit); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", worker, "-m", "scaling.launch.worker",
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


def test_a_process_of_another_user_is_not_asked(monkeypatch):
    """It could name any process as its launcher; one's own are asked first."""
    asked = []
    monkeypatch.setattr(os, "kill", lambda pid, number: asked.append(pid))
    workers = [Worker(101, 1000, ours=False), Worker(102, 2000), Worker(103, None)]
    with pytest.raises(UserError, match="process 101 trains this sweep and belongs to another"):
        ask_to_stop(workers)
    assert asked == [2000, 103]


def test_another_users_process_keeps_nothing_of_ones_own_going(
    command, sweep_file, runs, monkeypatch
):
    """It goes through the plan of the grid; one's own through that of the held-out runs."""
    (runs / "logs").mkdir()
    asked, jobs = [], []
    for role in ("grid", "heldout"):
        (runs / f"logs/tiny.{role}.plan.json").write_text('{"runs": []}')
    monkeypatch.setattr(local, "local_workers", lambda plan: [
        Worker(101, None, ours=False) if "grid" in plan.name else Worker(102, None)])
    monkeypatch.setattr(os, "kill", lambda pid, number: asked.append(pid))
    monkeypatch.setattr(slurm.SlurmLauncher, "cancel",
                        lambda self, group, others: jobs.append(group.name) or [])
    cancelled = command("sweep", "cancel", sweep_file, "--runs", runs)
    assert cancelled.code == 2
    assert "process 101 trains this sweep and belongs to another user" in cancelled.err
    assert asked == [102]
    assert jobs == ["tiny.grid", "tiny.heldout"]


def process(folder, pid, *words, parent, uid):
    """A process as /proc shows it."""
    place = folder / str(pid)
    place.mkdir(exist_ok=True)
    (place / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    (place / "status").write_text(f"Name:\tpython\nPPid:\t{parent}\n")
    (place / "cwd").symlink_to(folder)
    os.chown(place, uid, -1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_what_a_process_says_of_itself_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(cancel, "_PROCESSES", tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cmdline").write_text("")
    plan = tmp_path / "tiny.plan.json"
    words = ("python", "-m", "scaling.launch.worker", str(plan), "--parent")
    process(tmp_path, 1, "init", parent=0, uid=0)
    process(tmp_path, 50, "launcher of another user", parent=1, uid=65534)
    process(tmp_path, 60, "launcher", parent=1, uid=0)
    process(tmp_path, 101, *words, "1", parent=1, uid=0)
    process(tmp_path, 102, *words, "50", parent=50, uid=0)
    process(tmp_path, 103, *words, "60", parent=60, uid=65534)
    process(tmp_path, 104, *words, "60", parent=60, uid=0)
    process(tmp_path, 105, *words[:3], parent=60, uid=0)
    process(tmp_path, 106, *words, parent=60, uid=0)
    process(tmp_path, 107, *words, "many", parent=60, uid=0)
    assert local_workers(plan) == [
        Worker(101, None), Worker(102, 50, ours=False), Worker(103, 60, ours=False),
        Worker(104, 60), Worker(106, None), Worker(107, None)]


@pytest.mark.slow
@pytest.mark.alone
def test_a_cancelled_sweep_has_saved_and_can_go_on(scaling, sweep_file, sweep_content):
    nothing = scaling("sweep", "cancel", sweep_file)
    assert nothing.returncode == 0, nothing.stderr
    assert "no process on this machine and no job trains it" in nothing.stdout
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
            assert (f"tiny.grid: asked process {launcher.pid} and its 2 worker(s) to save and stop"
                    in cancelled.stdout)
            assert "still being trained" not in cancelled.stderr
            output, _ = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert launcher.returncode == 128 + signal.SIGTERM, output
    assert local_workers(sweep_file.parent / "runs/logs/tiny.grid.plan.json") == []
    assert len(list(sweep_file.parent.glob("runs/*/checkpoints/[0-9]*"))) == 2
    assert not list(sweep_file.parent.glob("runs/*/record.json"))
