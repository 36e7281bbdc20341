"""A lease has one holder at a time, which can be replaced, and then must not write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from scaling.errors import UserError
from scaling.runs import lease as leases
from scaling.runs.folder import RunFolder
from scaling.runs.lease import (
    Holder,
    LeaseLost,
    acquire,
    holder_of,
    invalid_leases,
    is_alive,
    is_free,
    is_held,
    lease_seconds,
)
from scaling.runs.trunk import Trunk, step_folders
from scaling.training import loop
from scaling.training.loop import train
from tests.conftest import ROOT

PATIENCE = 60

HOLD = """
import sys, time
from pathlib import Path
from scaling.runs.lease import LeaseLost, acquire
folder = Path(sys.argv[1])
while (lease := acquire(folder)) is None:
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
from scaling.runs.lease import acquire
while not Path(sys.argv[2]).exists():
    pass
won = acquire(Path(sys.argv[1])) is not None
print(int(won), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start():
    """Starts Python processes with the given code, and ends them after the test."""
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
    """Make a lease look as if a process of another machine had acquired it."""
    holder = Holder(**json.loads(lease.path.read_text()))
    lease.path.write_text(json.dumps(asdict(replace(holder, machine="another", pid=1))))


@pytest.fixture
def clock(monkeypatch):
    """This process's monotonic clock, controlled by the test."""
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    return now


def test_one_process_holds_the_lease_until_it_releases_it(tmp_path):
    first = acquire(tmp_path)
    assert first is not None
    assert is_held(tmp_path)
    assert acquire(tmp_path) is None
    first.check()
    first.release()
    assert not is_held(tmp_path)
    second = acquire(tmp_path)
    assert second is not None
    with pytest.raises(LeaseLost):
        first.check()
    second.check()
    assert lease_files(tmp_path) == ["lease.000002.json"]
    second.release()


def test_one_of_many_simultaneous_processes_acquires_the_lease(tmp_path, start):
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
    assert acquire(tmp_path) is None
    assert is_alive(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_held(tmp_path)
    lease = acquire(tmp_path)
    assert lease is not None
    lease.release()


def test_a_reused_process_number_is_not_the_holder(tmp_path):
    lease = acquire(tmp_path)
    holder = Holder(**json.loads(lease.path.read_text()))
    lease.path.write_text(json.dumps(asdict(replace(holder, started="1"))))
    assert not is_held(tmp_path)
    other = acquire(tmp_path)
    assert other is not None
    other.release()


def test_a_suspended_holder_loses_the_lease_and_notices(tmp_path, start):
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
    output, _ = frozen.communicate("\n", timeout=PATIENCE)
    assert output == "lost\n"
    output, _ = other.communicate("\n", timeout=PATIENCE)
    assert output == "mine\n"


def test_the_timeout_uses_the_own_monotonic_clock(tmp_path, clock):
    lease = acquire(tmp_path)
    of_another_machine(lease)
    assert acquire(tmp_path) is None
    clock[0] += leases.SECONDS - 1
    assert acquire(tmp_path) is None
    clock[0] += 2
    taken = acquire(tmp_path)
    assert taken is not None
    with pytest.raises(LeaseLost):
        lease.check()


@pytest.mark.parametrize("jump", [-10**6, 10**6])
def test_a_clock_that_jumps_frees_nothing(tmp_path, clock, jump, monkeypatch):
    """The clock of the holder or file server: its heartbeats have times of another epoch."""
    lease = acquire(tmp_path)
    of_another_machine(lease)
    assert acquire(tmp_path) is None
    for beat in range(5):
        clock[0] += leases.SECONDS - 1
        stamp = time.time() + jump + beat
        os.utime(lease.path, (stamp, stamp))
        monkeypatch.setattr(leases.time, "time", lambda: 0.0)
        assert acquire(tmp_path) is None
    assert is_alive(tmp_path) is False  # no heartbeat since the last check
    os.utime(lease.path, (1, 1))
    assert is_alive(tmp_path)


def test_heartbeats_go_on_while_a_run_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "1")
    lease = acquire(tmp_path)
    of_another_machine(lease)
    os.utime(lease.path, (1, 1))
    deadline = time.monotonic() + PATIENCE
    while lease.path.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()


def test_a_torn_lease_is_taken_over_after_the_timeout(tmp_path, clock):
    (tmp_path / "lease.000007.json").write_text("")
    assert acquire(tmp_path) is None
    clock[0] += leases.SECONDS + 1
    lease = acquire(tmp_path)
    assert lease.path.name == "lease.000008.json"
    lease.release()


@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_a_process_without_the_lease_writes_nothing(make_run, store, tmp_path, writes):
    """The lease is lost before the first, second, ... write; existing files do not change."""
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


def test_the_lease_is_checked_before_each_write(make_run, store, tmp_path):
    """Between two checks there is at most one new checkpoint or line of metrics."""
    path, trunk = tmp_path / "run", Trunk(tmp_path / "trunks" / "one", frozenset({7, 8}))
    checkpoints, metrics = set(), 0

    def fence():
        nonlocal checkpoints, metrics
        steps = {(folder, step) for folder in (path / "checkpoints", trunk.path)
                 for step in step_folders(folder)}
        lines = len((path / "metrics.jsonl").read_text().splitlines())
        assert len(steps - checkpoints) + lines - metrics <= 1
        checkpoints, metrics = steps, lines

    train(make_run("checkpoint.every_seconds=0"), store, path, trunk=trunk, fence=fence)
    assert len(checkpoints) == 4
    assert metrics == 6
    assert RunFolder(path).record() is not None


def test_losing_the_lease_before_the_record_writes_none(make_run, store, tmp_path, monkeypatch):
    lost = []
    make_record = loop.make_record
    monkeypatch.setattr(loop, "make_record", lambda *about: lost.append(1) or make_record(*about))

    def fence():
        if lost:
            raise LeaseLost

    with pytest.raises(LeaseLost):
        train(make_run(), store, tmp_path / "run", fence=fence)
    assert RunFolder(tmp_path / "run").record() is None


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


def claimed(folder, name="lease.000001.json", **changes):
    """A lease that names an existing process of this machine that does not use it: the parent
    process."""
    pid = os.getppid()
    holder = Holder(leases._machine_id(), "here", pid, leases._process_stat(pid)[1], 60.0)
    path = folder / name
    path.write_text(json.dumps(asdict(holder) | changes))
    return path


@pytest.mark.parametrize("seconds", [
    60, 1e300, 1e-300, 1, 3600, 10**400, -1, 0, True, "a", "60", None, [60], float("nan"),
    float("inf")])
def test_a_process_that_never_touches_its_lease_loses_it(tmp_path, clock, seconds):
    """Although the process exists, and for every timeout in the lease."""
    claimed(tmp_path, seconds=seconds)
    assert acquire(tmp_path) is None
    clock[0] += leases.LONGEST + 1
    lease = acquire(tmp_path)
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("changes", [
    {"pid": "../../etc"}, {"pid": -1}, {"pid": 0}, {"pid": 10**30}, {"pid": 1.5}, {"pid": None},
    {"machine": ["x"]}, {"started": 7}, {"host": None}, {"released": "no"}, {"more": 1},
    {"released": 1}, {"pid": True}])
def test_a_lease_of_a_process_that_does_not_use_it_times_out(tmp_path, clock, changes):
    claimed(tmp_path, **changes)
    assert acquire(tmp_path) is None
    assert is_held(tmp_path) in (True, False)
    clock[0] += leases.SECONDS + 1
    lease = acquire(tmp_path)
    assert lease.path.name == "lease.000002.json"
    lease.release()


@pytest.mark.parametrize(("given", "counts"), [
    (5, 5), (120, 120), (0.01, leases.SHORTEST), (1e9, leases.LONGEST), ("x", leases.SECONDS)])
def test_the_timeout_is_that_of_the_holder(tmp_path, clock, given, counts):
    """Within bounds; of an invalid lease it is that of the process that asks."""
    claimed(tmp_path, machine="another", seconds=given)
    assert acquire(tmp_path) is None
    clock[0] += counts - 0.1
    assert not is_free(tmp_path)
    clock[0] += 0.2
    assert is_free(tmp_path)


@pytest.mark.parametrize(("age", "held"), [
    (0, True), (59, True), (61, False), (-3000, True), (-3700, False)])
def test_a_recent_heartbeat_of_another_machine_holds(tmp_path, age, held):
    """Whose clock may be ahead by less than an hour."""
    path = claimed(tmp_path, machine="another")
    beat = time.time() - age
    os.utime(path, (beat, beat))
    assert is_held(tmp_path) is held
    path.write_text(json.dumps(json.loads(path.read_text()) | {"released": True}))
    assert not is_held(tmp_path)
    assert not is_alive(tmp_path)
    assert is_free(tmp_path)


def test_a_process_that_has_ended_holds_nothing_before_its_parent_asks(tmp_path):
    """Its number and start time are there until then."""
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        state, started = leases._process_stat(process.pid)
        assert state == "Z"
        claimed(tmp_path, pid=process.pid, started=started)
        assert not is_held(tmp_path)
        assert not is_alive(tmp_path)
        assert is_free(tmp_path)


def test_heartbeats_come_several_times_in_a_timeout(tmp_path, monkeypatch):
    waited, beats = [], []

    class Clock:
        def wait(self, seconds):
            waited.append(seconds)
            return len(waited) > 3

    monkeypatch.setattr(leases, "threading", SimpleNamespace(Event=Clock, Thread=Thread))
    monkeypatch.setattr(leases.os, "utime", lambda path, **_: beats.append(path))
    lease = leases.Lease(tmp_path / "lease.000001.json", leases.Holder("m", "h", 1, "2", 12.0))
    while len(waited) < 4:
        time.sleep(0.001)
    assert waited == [2.0] * 4
    assert beats == [lease.path] * 3


def test_the_holder_is_named(tmp_path):
    assert holder_of(tmp_path) == str(tmp_path)
    path = claimed(tmp_path, host="a-machine")
    assert holder_of(tmp_path) == f"{path} by process {os.getppid()} on a-machine"
    path.write_text("")
    assert holder_of(tmp_path) == str(path)


def test_a_lease_file_that_is_too_long_has_no_holder(tmp_path):
    """It is not read completely either."""
    path = claimed(tmp_path, host="h" * 300)
    assert "h" * 300 in holder_of(tmp_path)
    claimed(tmp_path, host="h" * 5000)
    assert holder_of(tmp_path) == str(path)


def test_a_local_process_without_heartbeat_is_not_alive(tmp_path, clock):
    path = claimed(tmp_path)
    assert is_alive(tmp_path)
    assert is_held(tmp_path)
    old = time.time() - leases.SECONDS - 1
    os.utime(path, (old, old))
    assert not is_alive(tmp_path), "workers go on asking for it"
    assert is_held(tmp_path), "a stopped process may resume"
    os.utime(path, (1, 1))
    assert is_alive(tmp_path), "a heartbeat, by whatever clock"
    assert not is_alive(tmp_path)
    assert not is_held(tmp_path)


def test_a_busy_holder_keeps_its_run(tmp_path, monkeypatch):
    """Its main thread is busy for longer than the timeout."""
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "1")
    lease = acquire(tmp_path)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert acquire(tmp_path) is None
        time.sleep(0.05)
    lease.check()
    lease.release()


@pytest.mark.parametrize("name", [
    "lease.1.json", "lease.0000001.json", "lease.\u0661\u0661\u0661\u0661\u0661\u0661.json",
    "lease.-00001.json", "lease." + "9" * 200 + ".json", "lease.1e4000.json"])
def test_other_file_names_are_not_leases(tmp_path, name):
    claimed(tmp_path, name)
    lease = acquire(tmp_path)
    assert lease.path.name == "lease.000001.json"
    lease.check()
    lease.release()


def test_links_are_neither_touched_nor_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "1")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.utime(victim, (1, 1))
    lease = acquire(tmp_path / "run")
    lease.path.unlink()
    lease.path.symlink_to(victim)
    beats = lease.path.lstat().st_mtime_ns
    deadline = time.monotonic() + PATIENCE
    while lease.path.lstat().st_mtime_ns == beats:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lease.release()
    assert victim.stat().st_mtime == 1
    assert victim.read_text() == "precious"


def test_after_the_highest_number_there_is_none(tmp_path, clock):
    path = claimed(tmp_path, f"lease.{leases._MAX_NUMBER}.json", released=True)
    assert invalid_leases(tmp_path) == [path]
    with pytest.raises(UserError, match="highest number that a lease can have"):
        acquire(tmp_path)


def test_the_time_of_a_lease_has_bounds(monkeypatch):
    monkeypatch.delenv("SCALING_LEASE_SECONDS", raising=False)
    assert lease_seconds() == leases.SECONDS
    for text in ("1", "3600", "2.5"):
        monkeypatch.setenv("SCALING_LEASE_SECONDS", text)
        assert lease_seconds() == float(text)
    for text in ("abc", "0", "-1", "nan", "1e400", "inf", "0.99", "3600.1", "1,5", "60s"):
        monkeypatch.setenv("SCALING_LEASE_SECONDS", text)
        with pytest.raises(UserError, match="a number of seconds from 1 to 3600 is expected"):
            lease_seconds()
