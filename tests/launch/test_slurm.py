"""The Slurm launcher against a real Slurm: what is pre-empted comes back, and the losses stay."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scaling.errors import UserError
from scaling.launch.launcher import WorkerGroup
from scaling.launch.slurm import SlurmLauncher, SlurmOptions, sbatch_options
from scaling.launch.train import train_runs
from tests.conftest import assert_refused
from tests.launch.slurm.cluster import processes_of

missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
with_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing), reason=f"needs Slurm (make test-slurm): no {missing}"),
]


def slurm_test(test):
    for mark in with_slurm:
        test = mark(test)
    return test


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def facts(job: str) -> dict[str, str]:
    """What Slurm says of a job."""
    words = slurm("scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.partition("=")[::2] for word in words)


def restarts(job: str) -> int:
    return int(facts(job)["Restarts"])


def submitted_array(sweep_file: Path) -> str:
    path = sweep_file.parent / "runs/logs/tiny.grid.slurm.json"
    (array,) = json.loads(path.read_text())["jobs"]
    return array


def workers_of(sweep_file: Path) -> list[str]:
    """The jobs of the sweep's grid that are queued or running."""
    group = WorkerGroup(sweep_file.parent / "runs/logs", "tiny.grid")
    return [each.worker for each in SlurmLauncher().status(group)]


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, slurm("squeue")
        time.sleep(0.1)


def training(folder: Path) -> list[Path]:
    """Metrics of runs that have got somewhere."""
    return [path for path in folder.glob("runs/*/metrics.jsonl") if path.stat().st_size]


def status(scaling, sweep_file: Path) -> list[dict[str, object]]:
    rows = json.loads(scaling("sweep", "status", sweep_file, "--json").stdout)["runs"]
    return [row for row in rows if row["role"] == "grid"]


def losses(results: Path) -> dict[str, tuple[str, str]]:
    """Exact text of each grid run's loss and standard error."""
    table = pd.read_csv(results / "runs.csv", dtype=str)
    table = table[table["role"] == "grid"]
    assert set(table["status"]) == {"done"}
    return {row.run_id: (row.loss, row.loss_se) for row in table.itertuples()}


def by_slurm_with(sweep_file: Path, *options: object, workers: int) -> tuple[object, ...]:
    return ("sweep", "run", sweep_file, "--launcher", "slurm", "--partition", "debug",
            "--workers", workers, "--out", "by-slurm", *options)


@slurm_test
def test_an_array_of_workers_preempted_and_drained_gives_the_losses_of_a_local_sweep(
    cluster, scaling, sweep_file, sweep_content
):
    sweep_content["grids"] = [{"kind": "product", "tokens": [n * 64 for n in (250, 300)]}]
    sweep_content["seeds"] = [0, 1, 2]
    sweep_content["run"]["data"]["epochs"] = 10
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    whole = scaling("sweep", "run", sweep_file, "--runs", "whole", "--out", "local")
    assert whole.returncode == 0, whole.stderr
    by_slurm = by_slurm_with(sweep_file, workers=3)
    submitted = scaling(*by_slurm, "--no-wait")
    assert submitted.returncode == 0, submitted.stderr
    folder = sweep_file.parent
    array = submitted_array(sweep_file)
    until(lambda: len(training(folder)) >= 3)
    slurm("scontrol", "requeue", f"{array}_0")
    slurm("scancel", "--signal=USR2", f"{array}_1")
    slurm("scancel", "--signal=TERM", f"{array}_2")
    slurm("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    try:
        again = scaling(*by_slurm)
    finally:
        slurm("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert again.returncode == 0, again.stderr
    assert "nothing submitted" in again.stderr
    assert "12 done" in again.stdout
    assert losses(folder / "by-slurm") == losses(folder / "local")
    assert [restarts(f"{array}_{i}") for i in range(3)] == [1, 1, 1]


def keep_one_run(sweep_content, sweep_file, steps: int) -> None:
    """One run of a number of steps, in one array of one job."""
    sweep_content["sizes"] = sweep_content["sizes"][:1]
    sweep_content["grids"] = [{"kind": "product", "tokens": [steps * 64]}]
    sweep_content["run"]["data"]["epochs"] = 100
    sweep_file.write_text(yaml.safe_dump(sweep_content))


@slurm_test
def test_a_failing_run_is_failed_with_its_reason_and_the_array_ends(
    cluster, scaling, sweep_file, sweep_content
):
    """The mesh asks for more devices than any machine has."""
    sweep_content["run"]["execution"] = {"mesh": {"data": 64}}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    ran = scaling(*by_slurm_with(sweep_file, workers=2))
    assert ran.returncode == 1, ran.stderr
    assert "submitted 2 worker(s)" in ran.stderr
    assert "4 failed" in ran.stdout
    rows = status(scaling, sweep_file)
    assert {row["state"] for row in rows} == {"failed"}
    assert all("execution.mesh" in row["note"] for row in rows)
    table = pd.read_csv(sweep_file.parent / "by-slurm/runs.csv")
    assert set(table.loc[table["role"] == "grid", "status"]) == {"failed"}
    until(lambda: not workers_of(sweep_file))


@slurm_test
def test_cancelled_workers_save_and_do_not_come_back(
    cluster, scaling, sweep_file, sweep_content
):
    keep_one_run(sweep_content, sweep_file, 20_000)
    assert scaling(*by_slurm_with(sweep_file, "--no-wait", workers=1)).returncode == 0
    folder = sweep_file.parent
    until(lambda: training(folder))
    (job,) = workers_of(sweep_file)
    assert "workers: 1 running (slurm)" in scaling("sweep", "status", sweep_file).stdout
    cancelled = scaling("sweep", "cancel", sweep_file)
    assert cancelled.stdout == f"tiny.grid: asked job {job} to save and stop\n", cancelled.stderr
    until(lambda: not workers_of(sweep_file))
    (row,) = status(scaling, sweep_file)
    assert row["state"] == "partial"
    (saved,) = folder.glob("runs/*/checkpoints/[0-9]*")
    assert 0 < int(saved.name) < 20_000
    again = scaling("sweep", "cancel", sweep_file)
    assert "no process on this machine and no job trains it" in again.stdout


@slurm_test
def test_two_nodes_train_a_run_together_and_resume(cluster, scaling, sweep_file, sweep_content):
    keep_one_run(sweep_content, sweep_file, 400)
    whole = scaling("sweep", "run", sweep_file, "--runs", "whole", "--out", "local")
    assert whole.returncode == 0, whole.stderr
    two = by_slurm_with(sweep_file, "--nodes-per-run", 2, workers=1)
    assert scaling(*two, "--no-wait").returncode == 0
    folder = sweep_file.parent
    until(lambda: training(folder))
    job = submitted_array(sweep_file)
    slurm("scancel", "--signal=USR2", job)
    ran = scaling(*two)
    assert ran.returncode == 0, ran.stderr
    assert restarts(job) == 1
    (record,) = [json.loads(p.read_text()) for p in folder.glob("runs/*/record.json")]
    (alone,) = [json.loads(p.read_text()) for p in folder.glob("whole/*/record.json")]
    assert record["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    (environment,) = folder.glob("runs/*/environment.json")
    assert json.loads(environment.read_text())["processes"] == 2
    (metrics,) = folder.glob("runs/*/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert sorted(set(steps[:-1])) == steps[:-1], "two processes wrote metrics"


@slurm_test
@pytest.mark.slow
def test_a_wall_time_shorter_than_a_run_is_no_obstacle(
    cluster, scaling, sweep_file, sweep_content
):
    """The worker is frozen until Slurm warns it that its minute is nearly over (with a SIGCONT
    before the SIGUSR2), so that the run takes longer than the wall time on any machine."""
    keep_one_run(sweep_content, sweep_file, 1000)
    whole = scaling("sweep", "run", sweep_file, "--runs", "whole", "--out", "local")
    assert whole.returncode == 0, whole.stderr
    short = by_slurm_with(sweep_file, "--time", 1, "--cpus-per-run", 2, workers=1)
    assert scaling(*short, "--no-wait").returncode == 0
    until(lambda: training(sweep_file.parent))
    os.kill(worker_process(cluster), signal.SIGSTOP)
    ran = scaling(*short)
    assert ran.returncode == 0, ran.stderr
    assert losses(sweep_file.parent / "by-slurm") == losses(sweep_file.parent / "local")
    assert restarts(submitted_array(sweep_file)) >= 1


@slurm_test
def test_a_job_that_a_more_urgent_one_displaces_saves_and_comes_back(
    cluster, scaling, sweep_file, sweep_content
):
    """Pre-emption by Slurm itself: the urgent partition's job wants all nodes."""
    keep_one_run(sweep_content, sweep_file, 2000)
    whole = scaling("sweep", "run", sweep_file, "--runs", "whole", "--out", "local")
    assert whole.returncode == 0, whole.stderr
    by_slurm = by_slurm_with(sweep_file, "--cpus-per-run", 2, workers=1)
    assert scaling(*by_slurm, "--no-wait").returncode == 0
    folder = sweep_file.parent
    until(lambda: training(folder))
    urgent = slurm("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive",
                   "--output=/dev/null", "--wrap=sleep 1")
    job = submitted_array(sweep_file)
    until(lambda: restarts(job) == 1)
    (saved,) = {int(path.name) for path in folder.glob("runs/*/checkpoints/[0-9]*")}
    assert 0 < saved < 2000
    until(lambda: facts(urgent)["JobState"] == "COMPLETED")
    ran = scaling(*by_slurm)
    assert ran.returncode == 0, ran.stderr
    assert losses(folder / "by-slurm") == losses(folder / "local")
    assert restarts(job) == 1


def worker_process(cluster: Path) -> int:
    """The process that submitit runs in; the one before it is srun."""
    found = []
    for pid in processes_of(cluster / "slurm.conf"):
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "submitit.core._submit" in command and "srun" not in command[0]:
            found.append(pid)
    (pid,) = found
    return pid


@slurm_test
def test_what_sbatch_refuses_is_said(cluster, scaling, sweep_file):
    refused = scaling(*by_slurm_with(sweep_file, "--slurm", "qos=none", "--partition", "gold",
                                     workers=1))
    assert_refused(refused, "sbatch", "gold", "invalid partition")


def test_a_mistake_ends_with_status_2(scaling, sweep_file, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = scaling("sweep", "run", sweep_file, "--partition", "debug")
    assert_refused(refused, "--partition: --launcher local has no such option", "--launcher slurm")
    refused = scaling(*by_slurm_with(sweep_file, workers=2))
    assert_refused(refused, "sbatch: not found", "--launcher local")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SlurmOptions(nodes_per_run=2, cpus_per_run=2, gpus_per_run=3),
         "--gpus-per-run 3.*2 nodes"),
        (SlurmOptions(nodes_per_run=2, cpus_per_run=1), "--cpus-per-run 1.*2 nodes"),
    ],
)
def test_what_nodes_cannot_share_is_refused_before_anything_is_written(
    plan, tmp_path, options, words
):
    with pytest.raises(UserError, match=words):
        train_runs(plan.runs_of_role("grid"), 2, tmp_path / "logs", "tiny.grid", lambda: None,
                   lambda _: None, launcher=SlurmLauncher(options))
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [("time=5", "use --time"), ("output=x", "leave it out"), ("Qos", "key=value")],
)
def test_options_that_cannot_be_passed_on(given, words):
    with pytest.raises(UserError, match=words):
        sbatch_options([given])


def test_options_of_sbatch():
    given = ["qos=high", "--mem_per_cpu=4G", "exclusive", "comment=a=b"]
    assert sbatch_options(given) == {
        "qos": "high", "mem-per-cpu": "4G", "exclusive": True, "comment": "a=b",
    }
