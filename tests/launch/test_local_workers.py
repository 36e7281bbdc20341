"""How local workers are started, set up and stopped, without processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.launch import cancel, local, supervise, worker
from scaling.launch.launcher import WorkerGroup, WorkerStatus
from scaling.launch.local import LocalLauncher, shares
from scaling.launch.supervise import JobCounts, Supervisor
from scaling.launch.train import train_runs
from tests.tiny_sweep import end


class Process:
    """A process that a test ends."""

    pids = iter(range(500, 600))

    def __init__(self, command, **settings):
        self.command, self.settings, self.pid = command, settings, next(self.pids)
        self.exit_status, self.signals = None, []

    def poll(self):
        return self.exit_status

    def send_signal(self, number):
        self.signals.append(number)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started, on a machine of five cores."""
    processes = []
    monkeypatch.setattr(local, "available_cores", lambda: [1, 2, 4, 6, 8])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(local.subprocess, "Popen",
                        lambda *a, **k: processes.append(Process(*a, **k)) or processes[-1])
    return processes


def option(process, name):
    words = process.command
    return words[words.index(name) + 1] if name in words else None


def test_a_worker_gets_a_free_share_of_the_machine(started, tmp_path):
    launcher, group = LocalLauncher(), WorkerGroup(tmp_path, "tiny.grid")
    first = launcher.submit(group, 1, 2)
    assert [(each.state, each.log) for each in first] == [
        ("running", tmp_path / "tiny.grid.worker-0.log")]
    launcher.submit(group, 1, 2)
    assert [option(p, "--cores") for p in started] == ["1,2", "4,6"]  # the fifth is left over
    for process in started:
        assert process.command[:4] == [
            sys.executable, "-m", "scaling.launch.worker", str(tmp_path / "tiny.grid.plan.json")]
        assert option(process, "--parent") == str(os.getpid())
        assert option(process, "--gpu") is None
        assert process.settings["start_new_session"]
        assert process.settings["stdin"] == subprocess.DEVNULL
    started[0].exit_status = 1
    assert [(each.state, each.exit_status) for each in launcher.status(group)] == [
        ("ended", 1), ("running", None)]
    launcher.submit(group, 1, 2)  # in place of the one that ended
    assert option(started[2], "--cores") == "1,2"
    assert [each.worker for each in launcher.status(group)] == [
        str(started[2].pid), str(started[1].pid)]
    assert launcher.submit(group, 1, 2) == []
    assert launcher.cancel(group) == [f"process {started[2].pid}", f"process {started[1].pid}"]
    assert [p.signals for p in started] == [[], *[[signal.SIGTERM, signal.SIGCONT]] * 2]
    other = WorkerGroup(tmp_path, "tiny.heldout")
    assert launcher.status(other) == launcher.cancel(other) == []


def test_gpus_are_shared_instead_of_cores(started, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    launcher, group = LocalLauncher(), WorkerGroup(tmp_path, "tiny.grid")
    assert launcher.count_workers(None, 9) == 2
    assert launcher.count_workers(None, 1) == 1
    assert launcher.count_workers(3, 9) == 3  # more than GPUs
    launcher.submit(group, 3, 3)
    assert [option(p, "--gpu") for p in started] == ["5", "3", "5"]
    assert [option(p, "--cores") for p in started] == ["1", "2", "4"]
    with pytest.raises(UserError, match="--workers 6: there are 5 cores"):
        launcher.count_workers(6, 9)
    assert len(shares(5, 9)) == 5


def test_gpus_are_found_where_none_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia1", "nvidia0", "nvidiactl", "sda"):
        (tmp_path / name).touch()
    monkeypatch.setattr(local, "Path", lambda _: tmp_path)
    assert local._gpus() == ["0", "1"]


@pytest.mark.parametrize(("cores", "gpu", "flags"), [
    ([3], None, "--mine --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"),
    ([3, 5], None, "--mine"), ([3, 5], "1", "--mine"),
])
def test_a_worker_is_bound_to_its_cores_and_its_gpu(monkeypatch, cores, gpu, flags):
    bound = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *words: bound.append(words))
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": " --mine"})
    worker.keep_to(cores, gpu)
    assert bound == [(0, cores)]
    assert os.environ == {"XLA_FLAGS": flags} | (
        {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {"JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize(("outcome", "status"), [(True, 3), (False, 0), (UserError("no plan"), 2)])
def test_the_exit_status_of_a_worker(monkeypatch, capsys, outcome, status):
    bound, asked = [], []

    def work(plan, asked_to_stop):
        asked.append((plan, asked_to_stop()))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(worker, "keep_to", lambda *words: bound.append(words))
    monkeypatch.setattr(worker, "available_cores", lambda: [0, 1, 2])
    monkeypatch.setattr(worker, "work", work)
    for words, cores, stop in ((["--cores", "2,0", "--parent", str(os.getppid())], [0, 2], False),
                               (["--parent", "1234567"], [0, 1, 2], True), ([], [0, 1, 2], False)):
        monkeypatch.setattr(sys, "argv", ["worker", "runs/logs/a.plan.json", *words])
        with pytest.raises(SystemExit) as ended:
            worker.main()
        assert ended.value.code == status
        assert bound.pop() == (cores, None)
        assert asked.pop() == (Path("runs/logs/a.plan.json"), stop)
    assert ("error: no plan" in capsys.readouterr().err) == (status == 2)


def test_stopping_waits_until_all_workers_have_ended_or_for_some_time(monkeypatch):
    now = [0.0]
    states = ["running", "running", "ended"]

    class Launcher:
        detached, poll_seconds, cancelled = False, 7.0, 0

        def cancel(self, group):
            self.cancelled += 1

        def status(self, group):
            state = states.pop(0) if len(states) > 1 else states[0]
            return [WorkerStatus("1", "ended", Path()), WorkerStatus("2", state, Path())]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(supervise.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervise.time, "sleep", sleep)
    launcher = Launcher()
    supervisor = Supervisor(launcher, WorkerGroup(Path(), "a"), 2, lambda: JobCounts(0, 0, bool),
                            lambda: None, OSError, "run")
    assert supervisor.stop()
    assert (launcher.cancelled, now[0]) == (1, pytest.approx(0.2))
    states[:] = ["running"]
    assert not supervisor.stop(60)
    assert now[0] == pytest.approx(60.2, abs=0.21)
    launcher.detached = True  # a scheduler is asked less often
    states[:] = ["running", "ended"]
    assert supervisor.stop(60)
    assert now[0] == pytest.approx(67.2, abs=0.21)


def test_runs_that_are_over_need_no_workers(plan, tmp_path):
    """Nor does a run in whose folder this user may not write; the plan has all of them."""
    class Launcher:
        detached, requeues, poll_seconds = False, False, 0.0
        submitted, stopped = (), 0

        def count_workers(self, requested, jobs):
            assert (requested, jobs) == (3, 4)
            return 3

        def submit(self, group, count, total):
            self.submitted = (*self.submitted, (group.name, count, total))
            for p in stage:
                end(p)
            return [WorkerStatus("1", "running", Path())]

        def status(self, group, *, others=False):
            return []

        def cancel(self, group, *, others=False):
            self.stopped += 1
            return []

    stage, seen, launcher = plan.runs_of_role("grid"), [], Launcher()
    end(stage[0])
    end(stage[1], "diverged")
    logs = tmp_path / "runs/logs"
    assert train_runs(stage, 3, logs, "tiny.grid", lambda: None, seen.append, 2, launcher) is None
    assert launcher.submitted == (("tiny.grid", 2, 3),)
    assert launcher.stopped == 1
    assert [state.state for state in seen[-1]] == ["done", "done", "done", "done"]
    told = cancel.read_plan(logs / "tiny.grid.plan.json")
    assert (len(told.jobs), told.pack, told.workers) == (4, 2, 3)
    assert train_runs(stage, 3, logs, "tiny.grid", lambda: None, seen.append, 2, launcher) is None
    assert len(launcher.submitted) == 1
