"""One holder at a time, none for ever, and no word from one that has lost the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scaling.training import lease as leases
from scaling.training.lease import Holder, LeaseLost, is_alive, is_held, take
from scaling.training.loop import train
from scaling.training.run_folder import RunFolder
from tests.conftest import ROOT

PATIENCE = 60

HOLD = """
import sys, time
from pathlib import Path
from scaling.training.lease import LeaseLost, take
folder = Path(sys.argv[1])
while (lease := take(folder)) is None:
    time.sleep(0.02)
print("held", flush=True)
sys.stdin.readline()
try:
    lease.check()
    print("mine", flush=True)
except LeaseLost:
    print("lost", flush=True)
"""
RACE = """
import sys, time
from pathlib import Path
from scaling.training.lease import take
while not Path(sys.argv[2]).exists():
    pass
won = take(Path(sys.argv[1])) is not None
print(int(won), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start():
    """Starts a Python process on a piece of code; all are gone in the end."""
    processes = []

    def started(code, *arguments, seconds="60"):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "SCALING_LEASE_SECONDS": seconds})
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def lease_files(folder):
    return sorted(path.name for path in folder.glob("lease.*"))


def of_another_machine(lease):
    """Let a lease look as if a process elsewhere had taken it."""
    holder = Holder(**json.loads(lease.path.read_text()))
    lease.path.write_text(json.dumps(asdict(replace(holder, machine="another", pid=1))))


@pytest.fixture
def clock(monkeypatch):
    """This process's monotonic clock, by hand."""
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    return now


def test_one_holds_it_until_it_lets_go(tmp_path):
    first = take(tmp_path)
    assert first is not None
    assert is_held(tmp_path)
    assert take(tmp_path) is None
    first.check()
    first.release()
    assert not is_held(tmp_path)
    second = take(tmp_path)
    assert second is not None
    with pytest.raises(LeaseLost):
        first.check()
    second.check()
    assert lease_files(tmp_path) == ["lease.000002.json"]
    second.release()


def test_of_many_that_want_it_at_once_one_gets_it(tmp_path, start):
    go = tmp_path / "go"
    for round_ in range(3):
        folder = tmp_path / f"run-{round_}"
        racers = [start(RACE, folder, go) for _ in range(4)]
        if not round_:
            time.sleep(1)
        go.touch()
        won = [int(racer.stdout.readline()) for racer in racers]
        assert sum(won) == 1, won
        for racer in racers:
            racer.communicate("")


def test_a_killed_process_frees_its_lease_at_once(tmp_path, start):
    holder = start(HOLD, tmp_path)
    assert holder.stdout.readline() == "held\n"
    assert take(tmp_path) is None
    assert is_alive(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_held(tmp_path)
    mine = take(tmp_path)
    assert mine is not None
    mine.release()


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path):
    mine = take(tmp_path)
    holder = Holder(**json.loads(mine.path.read_text()))
    mine.path.write_text(json.dumps(asdict(replace(holder, started="1"))))
    assert not is_held(tmp_path)
    other = take(tmp_path)
    assert other is not None
    other.release()


def test_a_frozen_holder_loses_the_run_and_knows_it_when_woken(tmp_path, start):
    frozen = start(HOLD, tmp_path, seconds="1")
    assert frozen.stdout.readline() == "held\n"
    frozen.send_signal(signal.SIGSTOP)
    os.waitpid(frozen.pid, os.WUNTRACED)  # until its last thread has stopped
    assert not is_alive(tmp_path)
    began = time.monotonic()
    other = start(HOLD, tmp_path, seconds="1")
    assert other.stdout.readline() == "held\n"
    assert time.monotonic() - began > 0.9
    frozen.send_signal(signal.SIGCONT)
    said, _ = frozen.communicate("\n", timeout=PATIENCE)
    assert said == "lost\n"
    said, _ = other.communicate("\n", timeout=PATIENCE)
    assert said == "mine\n"


def test_silence_is_measured_by_the_own_clock(tmp_path, clock):
    lease = take(tmp_path)
    of_another_machine(lease)
    assert take(tmp_path) is None
    clock[0] += leases.SECONDS - 1
    assert take(tmp_path) is None
    clock[0] += 2
    taken = take(tmp_path)
    assert taken is not None
    with pytest.raises(LeaseLost):
        lease.check()


@pytest.mark.parametrize("jump", [-10**6, 10**6])
def test_a_clock_that_jumps_frees_nothing(tmp_path, clock, jump, monkeypatch):
    """The holder's clock, or the file server's: its heartbeats bear times of another epoch."""
    lease = take(tmp_path)
    of_another_machine(lease)
    assert take(tmp_path) is None
    for beat in range(5):
        clock[0] += leases.SECONDS - 1
        stamp = time.time() + jump + beat
        os.utime(lease.path, (stamp, stamp))
        monkeypatch.setattr(leases.time, "time", lambda: 0.0)
        assert take(tmp_path) is None
    assert is_alive(tmp_path) is False  # no heartbeat since the last look
    os.utime(lease.path, (1, 1))
    assert is_alive(tmp_path)


def test_heartbeats_go_on_while_a_run_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "0.3")
    lease = take(tmp_path)
    of_another_machine(lease)
    os.utime(lease.path, (1, 1))
    deadline = time.monotonic() + PATIENCE
    while lease.path.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()


def test_a_torn_lease_is_taken_over_after_the_silence(tmp_path, clock):
    (tmp_path / "lease.000007.json").write_text("")
    assert take(tmp_path) is None
    clock[0] += leases.SECONDS + 1
    lease = take(tmp_path)
    assert lease.path.name == "lease.000008.json"
    lease.release()


@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_whoever_has_lost_the_run_writes_nothing(make_run, store, tmp_path, writes):
    """The fence falls before the first, second ... write; what is there then stays as it is."""
    run = make_run("checkpoint.every_seconds=0")
    path = tmp_path / "run"
    passed = []

    def content():
        return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def fence():
        if len(passed) == writes:
            passed.append(content())
        if len(passed) > writes:
            raise LeaseLost
        passed.append(None)

    with pytest.raises(LeaseLost):
        train(run, store, path, fence=fence)
    assert content() == passed[-1]
    assert RunFolder(path).record() is None
    assert train(run, store, path)["status"] == "done"


def test_a_run_folder_is_held_by_its_lease(tmp_path):
    folder = RunFolder(Path(tmp_path, "run"))
    assert not folder.locked()
    with folder.lock() as lease:
        assert folder.locked()
        assert folder.alive()
        with folder.lock() as second:
            assert second is None
        lease.check()
    assert not folder.locked()
