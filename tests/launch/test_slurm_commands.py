"""What the Slurm launcher asks of sbatch, squeue and scancel, with stand-ins for these programs."""

from __future__ import annotations

import os
import pickle
import re
import signal
import types
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.launch import slurm_worker
from scaling.launch.launcher import WorkerGroup
from scaling.launch.slurm import SlurmLauncher, SlurmOptions
from scaling.launch.slurm_worker import SlurmWorker

PROGRAMS = {
    "sbatch": 'n=$(cat number); echo $((n + 1)) > number; cp "$1" "batch-$n" 2>/dev/null; '
              'echo "Submitted batch job $n"',
    "squeue": "cat queue", "scancel": "", "srun": "", "scontrol": "cat node",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with what the stand-ins read (`queue`, `node`), and the words that they got
    (`words`)."""
    (tmp_path / "bin").mkdir()
    for name, line in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\ncd {tmp_path}\necho "{name} $*" >> words\n{line}\n')
        program.chmod(0o755)
    (tmp_path / "number").write_text("41\n")
    for name in ("queue", "node", "words"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "logs").mkdir()
    return tmp_path


def asked(cluster: Path, program: str) -> list[str]:
    """The words that a program got, once for each call."""
    return [line.removeprefix(f"{program} ") for line in
            (cluster / "words").read_text().splitlines() if line.startswith(f"{program} ")]


def batch_options(cluster: Path, number: int) -> dict[str, str]:
    """The options of sbatch in the file that was submitted."""
    lines = re.findall(r"^#SBATCH --([^=\n]+)=?(.*)$", (cluster / f"batch-{number}").read_text(),
                       re.MULTILINE)
    return dict(lines)


def test_the_jobs_have_the_resources_that_were_asked_for(cluster):
    options = SlurmOptions(partition="gold", account="me", time=4, cpus_per_run=6, gpus_per_run=4,
                           nodes_per_run=2, sbatch=("qos=high", "exclusive"))
    group = WorkerGroup(cluster / "logs", "tiny.grid")
    workers = SlurmLauncher(options).submit(group, 3, 3)
    assert [(each.worker, each.state) for each in workers] == [
        ("41_0", "queued"), ("41_1", "queued"), ("41_2", "queued")]
    assert workers[1].log == cluster / "logs/tiny.grid.slurm/41_1_0_log.err"
    given = batch_options(cluster, 41)
    expected = {
        "partition": "gold", "account": "me", "time": "4", "nodes": "2", "ntasks-per-node": "1",
        "cpus-per-task": "3", "gpus-per-node": "2", "job-name": "tiny.grid", "qos": "high",
        "signal": "USR2@60",  # a quarter of four minutes
        "array": "0-2%3", "open-mode": "append"}
    assert {key: given.get(key) for key in expected} == expected
    assert {"requeue", "exclusive"} <= given.keys()
    (command,) = re.findall(r"^srun .*$", (cluster / "batch-41").read_text(), re.MULTILINE)
    assert "--cpus-per-task=3" in command
    assert "--kill-on-bad-exit=1" in command


def test_jobs_without_options_have_those_of_the_help(cluster):
    """An hour, one core, no GPU, the cluster's own partition; two minutes to save."""
    group = WorkerGroup(cluster / "logs", "tiny.grid")
    (worker,) = SlurmLauncher().submit(group, 1, 1)
    assert worker.worker.partition("_")[0] == "41"
    given = batch_options(cluster, 41)
    assert {key: given.get(key) for key in (
        "time", "nodes", "cpus-per-task", "signal", "partition", "account", "gpus-per-node")} == {
            "time": "60", "nodes": "1", "cpus-per-task": "1", "signal": "USR2@120",
            "partition": None, "account": None, "gpus-per-node": None}


@pytest.mark.parametrize(("gpus", "nodes", "cores"), [(0, 1, 5), (2, 2, 3)])
def test_the_worker_of_a_job_knows_its_plan_and_resources(cluster, gpus, nodes, cores):
    options = SlurmOptions(gpus_per_run=gpus, nodes_per_run=nodes, cpus_per_run=cores * nodes)
    group = WorkerGroup(cluster / "logs", "tiny.grid")
    SlurmLauncher(options).submit(group, 1, 1)
    (pickled,) = (path for path in (cluster / "logs/tiny.grid.slurm").glob("41*submitted.pkl"))
    job = pickle.loads(pickled.read_bytes())
    assert job.function == SlurmWorker(
        str(cluster / "logs/tiny.grid.plan.json"), cores, on_gpu=gpus > 0, nodes=nodes)
    assert job._timeout_countdown == 1000
    assert job.function.checkpoint().function is job.function


def test_jobs_of_several_submissions_are_listed_and_cancelled(cluster):
    launcher, group = SlurmLauncher(), WorkerGroup(cluster / "logs", "tiny.grid")
    assert launcher.status(group) == []
    assert asked(cluster, "squeue") == []  # nothing was submitted
    launcher.submit(group, 2, 3)
    (cluster / "queue").write_text("41_0 RUNNING tiny.grid\n41_1 PENDING tiny.grid\n")
    launcher.submit(group, 1, 3)
    assert "--me" in asked(cluster, "squeue")[-1]
    (cluster / "queue").write_text(
        "41_1 PENDING tiny.grid\n42_N/A COMPLETING tiny.grid\n40_0 RUNNING tiny.grid\n"
        "41_0 RUNNING other.grid\n")
    assert [(each.worker, each.state) for each in launcher.status(group)] == [
        ("41_1", "queued"), ("42", "running")]
    assert launcher.cancel(group) == ["job 41_1", "job 42"]
    assert asked(cluster, "scancel") == ["41 42"]
    (cluster / "queue").write_text("")
    assert launcher.cancel(group) == []
    assert asked(cluster, "scancel") == ["41 42"]
    launcher.submit(group, 1, 3)  # those that have ended are forgotten
    (cluster / "queue").write_text("41_1 RUNNING tiny.grid\n43 RUNNING tiny.grid\n")
    assert [each.worker for each in launcher.status(group)] == ["43"]


def test_a_program_of_slurm_that_fails_is_quoted(cluster, monkeypatch):
    launcher, group = SlurmLauncher(), WorkerGroup(cluster / "logs", "tiny.grid")
    launcher.submit(group, 1, 1)
    for name, line, words in (
        ("squeue", "echo broken >&2; exit 1", r"squeue --me .*: broken; try again"),
        ("squeue", "exit 1", "no message"),
        ("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1",
         "sbatch refused the jobs: .*invalid partition"),
    ):
        (cluster / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        with pytest.raises(UserError, match=words):
            launcher.submit(group, 1, 1) if name == "sbatch" else launcher.status(group)
        (cluster / "bin" / name).write_text("#!/bin/sh\n")
    (cluster / "bin/squeue").write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr("scaling.launch.slurm.QUEUE_SECONDS", 0.1)
    with pytest.raises(UserError, match="squeue: no answer in 0 s"):
        launcher.status(group)


def test_workers_are_counted_as_asked_for(cluster):
    assert SlurmLauncher().count_workers(7, 3) == 7
    assert asked(cluster, "sbatch") == ["--version"]
    with pytest.raises(UserError, match="needs the number of concurrent jobs"):
        SlurmLauncher().count_workers(None, 3)


@pytest.fixture
def job(monkeypatch):
    """The environment of a job whose number is 77, and the signals with which it was requeued."""
    requeued = []
    before = {number: signal.getsignal(number) for number in slurm_worker.ASKED_TO_GO}

    def requeue(number, frame):
        requeued.append(number)

    signal.signal(signal.SIGUSR2, requeue)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(slurm_worker, "set_up_xla", lambda cores, on_gpu: None)
    monkeypatch.setattr(slurm_worker, "escape_output", lambda: None)
    yield requeued
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "state", "again"), [
    (signal.SIGUSR2, "RUNNING", True), (signal.SIGUSR2, "COMPLETING", True),
    (signal.SIGTERM, "RUNNING", True), (signal.SIGTERM, "COMPLETING", False),
    (signal.SIGTERM, "", False), (None, "RUNNING", False),
])
def test_a_job_that_is_to_go_saves_and_asks_to_be_requeued(
    cluster, job, monkeypatch, number, state, again
):
    """At the end of the wall time always; after SIGTERM only if Slurm does not end it anyway."""
    (cluster / "queue").write_text(f"{state}\n")
    seen = []

    def work(plan, asked_to_stop, cores, processes):
        seen.append((str(plan), asked_to_stop(), cores, processes))
        if number is None:
            return False
        signal.raise_signal(number)
        return asked_to_stop()

    monkeypatch.setattr(slurm_worker, "work", work)
    SlurmWorker("logs/tiny.plan.json", 3, on_gpu=False)()
    assert seen == [("logs/tiny.plan.json", False, 3, 1)]
    assert job == ([signal.SIGUSR2] if again else [])
    if number is signal.SIGTERM:
        assert "--jobs=77" in asked(cluster, "squeue")[-1]


def test_a_job_whose_run_fails_ends_unless_other_nodes_wait_for_it(cluster, job, monkeypatch):
    def work(*_):
        raise error

    pauses = []
    monkeypatch.setattr(slurm_worker, "work", work)
    monkeypatch.setattr(slurm_worker, "_join", lambda nodes: None)
    monkeypatch.setattr(slurm_worker, "time", types.SimpleNamespace(sleep=pauses.append))
    for nodes, error, again in ((1, ValueError("x"), 0), (2, OSError(28, "full"), 0),
                                (2, ValueError("x"), 1)):
        handler = signal.getsignal(signal.SIGUSR2)
        with pytest.raises(type(error)):
            SlurmWorker("tiny.plan.json", 1, on_gpu=False, nodes=nodes)()
        signal.signal(signal.SIGUSR2, handler)
        assert len(job) == len(pauses) == again


def test_nodes_of_a_job_meet_at_the_address_of_the_first(cluster, job, monkeypatch):
    joined = []
    (cluster / "node").write_text("NodeName=n7 Arch=x86 NodeAddr=10.0.0.7 NodeHostName=n7\n")
    environment = types.SimpleNamespace(hostnames=["n7", "n8"], raw_job_id="4077", global_rank=1)
    monkeypatch.setattr("submitit.JobEnvironment", lambda: environment)
    monkeypatch.setattr("scaling.parallel.process.join_processes",
                        lambda *words: joined.append(words))
    slurm_worker._join(2)
    assert asked(cluster, "scontrol") == ["--oneliner show node n7"]
    (address, nodes, rank) = joined.pop()
    host, port = address.split(":")
    assert (host, nodes, rank) == ("10.0.0.7", 2, 1)
    assert 61000 <= int(port) < 65000  # above Linux's ephemeral ports, which end at 60999
    environment.raw_job_id = "4078"
    slurm_worker._join(2)
    assert joined[0][0] != address
