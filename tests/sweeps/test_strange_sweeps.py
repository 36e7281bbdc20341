"""Invalid files of a sweep: plans for workers, logs, the index, jobs, a missing folder of runs, an
invalid lease time."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.launch import slurm, train
from scaling.launch.jobs import jobs_of
from scaling.launch.launcher import WorkerGroup
from scaling.launch.train import train_runs
from scaling.launch.worker_plan import plan_path, read_plan, write_plan
from scaling.runs import lease, state
from scaling.runs.files import LONGEST_LINE
from scaling.runs.logs import RunLog
from scaling.runs.state import record_failure, run_state
from scaling.sweeps import index as index_module
from scaling.sweeps.index import index_of
from scaling.sweeps.status import status_of
from tests.sweeps.strange import LEASE, folder, link_to_device, link_to_nothing, pipe
from tests.tiny_sweep import begin, end

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read


@pytest.mark.parametrize("runs_folder", ["../victim", "/victim/precious", "x", ".", "", "0" * 17,
                                         "0123456789ABCDEF", "0123456789abcde²", 5, ["a"], None])
@pytest.mark.parametrize("key", ["folder", "trunk", "after"])
def test_a_plan_does_not_lead_outside(plan, runs, key, runs_folder):
    path = write_plan(jobs_of(plan.runs_of_role("grid")), runs / "logs", "tiny.grid")
    content = json.loads(path.read_text())
    content["runs"][0][key] = runs_folder
    path.write_text(json.dumps(content))
    if runs_folder is None and key != "folder":
        assert len(read_plan(path).jobs) == 4
        return
    with pytest.raises(UserError, match="is not a plan of this version"):
        read_plan(path)


def test_a_plan_names_only_runs_of_its_folder(plan, runs):
    path = write_plan(jobs_of(plan.runs_of_role("grid")), runs / "logs", "tiny.grid")
    path.write_text(path.read_text().replace(str(runs), "/victim"))
    for job in read_plan(path).jobs:
        assert job.folder.path.parent == runs
        assert job.trunk.path.parent == runs / "trunks"


@pytest.mark.parametrize(("key", "value"), [
    ("pack", 0), ("pack", "all"), ("pack", True), ("workers", -1), ("workers", "2"), ("runs", {}),
    ("runs", [5]), ("runs", None), ("pack", 1e400), ("workers", 10**30)])
def test_a_plan_with_invalid_numbers_is_refused(plan, runs, key, value):
    path = write_plan(jobs_of(plan.runs_of_role("grid")), runs / "logs", "tiny.grid")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match="is not a plan of this version"):
        read_plan(path)


@pytest.mark.parametrize("content", ['{"mine": 1}\n', "mine\n"])
def test_a_file_in_place_of_a_plan_is_not_replaced(plan, runs, content):
    path = plan_path(runs / "logs", "tiny.grid")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match="move it away"):
        write_plan(jobs_of(plan.runs), runs / "logs", "tiny.grid")
    assert [(each, each.read_text()) for each in path.parent.iterdir()] == [(path, content)]


def test_a_worker_without_a_plan_reports_it(plan, runs):
    from scaling.launch.worker import work

    path = plan_path(runs / "logs", "tiny.grid")
    path.parent.mkdir()
    pipe(path)
    with pytest.raises(UserError, match="is a pipe or device"):
        work(path, lambda: False)


def test_a_log_that_is_a_link_is_not_written_through(plan, runs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (runs / "logs").mkdir()
    (runs / "logs/tiny.grid.worker-0.log").symlink_to(victim)
    with pytest.raises(UserError, match=r"worker-0\.log: is a link and is not written to"):
        train_runs(plan.runs[:1], 1, runs / "logs", "tiny.grid", lambda: None, lambda _: None)
    assert victim.read_text() == "precious"


def test_logs_that_are_not_files_are_ignored(plan, index):
    logs = index.runs_folder / "logs"
    logs.mkdir(exist_ok=True)
    for number, make in enumerate((pipe, folder, link_to_nothing, link_to_device)):
        make(logs / f"tiny.grid.worker-{number}.log")
    run_id = plan.runs[0].run_id
    good = logs / "tiny.grid.worker-9.log"
    good.write_text("x" * 300_000 + f"\n{run_id}: 5 tokens\n" + "y" * 300_000 + "\nthe end\n")
    assert status_of(index).rows[0].log == good
    first, long, last = [line for _, line in RunLog(logs, run_id).new_lines()]
    assert (first, len(long), last) == (f"{run_id}: 5 tokens", LONGEST_LINE, "the end")
    assert [line for _, line in RunLog(logs, run_id).new_lines(1)] == ["the end"]


def test_an_invalid_index_is_made_again(plan, index, sweep):
    content = json.loads(index.path.read_text())
    entries = index.runs
    for place, value in [(0, "../victim/precious"), (0, 7), (3, "9"), (4, 0), (4, -1), (5, "nan"),
                         (6, 1), (7, None), (8, 10**400)]:
        changed = json.loads(json.dumps(content))
        changed["entries"][0][place] = value
        index.path.write_text(json.dumps(changed))
        assert index_of(sweep(), "tiny", index.runs_folder).runs == entries
    end(plan.runs[0])
    status_of(index)
    content = json.loads(index.path.read_text())
    for kept in (5, [], [1, 2, "done", "a", 3.5, None], [1, 2, "running", 1, None, None],
                 [1, 2, "done", 1, "3.5", None]):
        index.path.write_text(json.dumps(content | {"remembered": {plan.runs[0].run_id: kept}}))
        again = index_of(sweep(), "tiny", index.runs_folder)
        assert again.records == {}
        assert status_of(again).rows[0].run_state.loss == 3.5
    index.path.unlink()
    pipe(index.path)
    assert index_of(sweep(), "tiny", index.runs_folder).runs == entries


def test_status_works_without_write_access(command, sweep_file, runs, plan, monkeypatch, tmp_path):
    """An index that cannot be kept is made again the next time."""
    def refuse(path, content):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (runs / "logs").mkdir()
    end(plan.runs[0])
    monkeypatch.setattr(index_module, "write_atomically", refuse)
    shown = command("sweep", "status", sweep_file, cwd=tmp_path)
    assert (shown.code, shown.err) == (0, "")
    assert "4 new, 1 done" in shown.out
    assert list((runs / "logs").iterdir()) == []


@pytest.mark.parametrize("words", [["plan", "--no-measure"], ["status"], ["log", "0"], ["retry"],
                                   ["cancel"], ["prune"]])
def test_a_missing_folder_of_runs_is_named(command, sweep_file, words, tmp_path):
    missing = command("sweep", *words, sweep_file, "--runs", "typo", cwd=tmp_path)
    assert missing.code == 2
    assert missing.err.startswith("error: --runs typo: no such folder")
    assert missing.err.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert re.search("is not a folder|file is a file",
                     command("sweep", *words, sweep_file, "--runs", "file").err)
    (tmp_path / "typo").mkdir()  # as the message says
    assert command("sweep", *words[:1], sweep_file, "--runs", "typo", *words[1:]).code == (
        2 if words[0] == "log" else 0)


def test_a_sweep_that_has_not_started_is_reported(command, sweep_file, tmp_path):
    shown = command("sweep", "status", sweep_file, cwd=tmp_path)
    assert shown.code == 0
    assert "no run has started" in shown.err
    assert "5 new" in shown.out


@pytest.mark.parametrize("seconds", ["abc", "0", "-1", "nan", "1e400", "0.5", "3601", "1_"])
def test_an_invalid_lease_time_is_reported_once(
    command, sweep_file, monkeypatch, seconds, tmp_path
):
    monkeypatch.setenv("SCALING_LEASE_SECONDS", seconds)
    begun: list[object] = []
    monkeypatch.setattr(train, "train_runs", lambda *words, **options: begun.append(words))
    for words in (["sweep", "run", sweep_file], ["train", "missing.yaml"]):
        refused = command(*words, cwd=tmp_path)
        assert refused.code == 2
        assert refused.err.startswith(
            f"error: SCALING_LEASE_SECONDS={seconds}: a number of seconds from")
    assert not begun
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("platform", ["rocm", "nonsense"])
def test_a_missing_device_is_reported_once(
    command, sweep_file, monkeypatch, tmp_path, platform
):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    refused = command("sweep", "run", sweep_file, "--workers", 1, cwd=tmp_path)
    assert refused.code == 2
    error = refused.err.splitlines()[-1]
    assert error.startswith(
        f"error: a worker could not begin: JAX_PLATFORMS={platform}: JAX finds no such device (")
    assert error.endswith("); unset it, or install JAX for that device")
    assert "done" not in refused.out


def test_any_output_of_the_queue_is_handled(tmp_path, monkeypatch):
    (tmp_path / "tiny.slurm.json").write_text('{"jobs": ["7", "8"]}')
    monkeypatch.setattr(slurm, "_ask", lambda *_: (
        "7_0 PENDING tiny\n  8_N/A   COMPLETING  tiny\n9_1 RUNNING tiny\n7_1 RUNNING other\n7_2\n\n"
        "7_3 RUNNING tiny and more\n7_4 PENDING\n"))
    found = slurm.SlurmLauncher().status(WorkerGroup(tmp_path, "tiny"))
    assert [(each.worker, each.state) for each in found] == [("7_0", "queued"), ("8", "running")]
    assert found[1].log == tmp_path / "tiny.slurm/8_0_log.err"


def test_only_the_user_may_write_what_slurm_jobs_run(tmp_path):
    before = os.umask(0o002)
    try:
        made = slurm._own_folder(tmp_path / "new/tiny.slurm")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o755
    (tmp_path / "link").symlink_to(tmp_path / "new")
    for name, mode in (("open", 0o1777), ("group", 0o2775)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, 65534)
    for name in ("link", "open", "group", *(["theirs"] if os.geteuid() == 0 else [])):
        with pytest.raises(UserError, match="jobs run what they find there"):
            slurm._own_folder(tmp_path / name)


def test_a_run_taken_over_meanwhile_is_readable(plan, monkeypatch):
    """Between the listing of its leases and the look at each, or of its failure."""
    run = plan.runs[0].folder
    begin(plan.runs[0], 5)
    gone = run.path / LEASE
    monkeypatch.setattr(lease, "_leases", lambda folder: [gone])
    assert run_state(plan.runs[0]).state == "partial"
    real = state.read_json

    def retried(path, **options):
        path.unlink(missing_ok=True)
        return real(path, **options)

    record_failure(run, ValueError("no room"))
    monkeypatch.setattr(state, "read_json", retried)
    assert run_state(plan.runs[0]).state == "partial"


@pytest.mark.parametrize("content", [
    "[]", '{"jobs": 5}', '{"jobs": [["1"]]}', '{"jobs": ["-u root"]}', '{"jobs": [7]}', "{", "{}"])
def test_invalid_slurm_jobs_are_ignored(command, sweep_file, runs, content, tmp_path):
    (runs / "logs").mkdir()
    (runs / "logs/tiny.grid.slurm.json").write_text(content)
    cancelled = command("sweep", "cancel", sweep_file, cwd=tmp_path)
    assert cancelled.code == 2
    assert "tiny.grid.slurm.json" in cancelled.err
    assert "squeue --me" in " ".join(cancelled.err.split())


def test_an_unwritable_folder_is_skipped(plan, runs, monkeypatch):
    """Its run is no failure, and the launcher does not wait for it."""
    planned = plan.runs[0]
    begin(planned, 5)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not (
        Path(path) == planned.folder.path and mode & os.W_OK))
    launched = train_runs([planned], 1, runs / "logs", "tiny", lambda: None, lambda _: None)
    assert launched is None
    assert run_state(planned).state == "partial"


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied", "lease"),
                                   UserError("lease: has the highest number of a lease")])
def test_a_worker_continues_without_a_run_that_it_cannot_claim(plan, monkeypatch, capsys, error):
    from scaling.launch.claim import train
    from scaling.launch.packing import shape_of

    def refuse(folder):
        raise error

    monkeypatch.setattr("scaling.runs.folder.acquire", refuse)
    planned = plan.runs[0]
    job, = jobs_of([planned])
    assert train(job, [job], {shape_of(planned.run): 1}, lambda: False, list) == "left out"
    assert f"{planned.run_id}: left out: lease: " in capsys.readouterr().out


def test_files_follow_the_umask(plan, runs):
    before = os.umask(0o077)
    try:
        with plan.runs[0].folder.lock() as lease, plan.runs[0].folder.metrics_writer() as metrics:
            metrics.write("{}\n")
            path = write_plan([], runs / "logs", "tiny")
            for file in (lease.path, plan.runs[0].folder.metrics_path, path):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)
