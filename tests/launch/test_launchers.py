"""What every launcher does: the local one, Slurm's, and one that another package registers."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from scaling.data.prepare import prepare
from scaling.data.prepare.tasks import TaskBatch, write_tasks
from scaling.data.prepare.workers import WorkerDied
from scaling.errors import DataError, UserError
from scaling.launch import disk_full, piece_worker
from scaling.launch.launcher import Launcher, LauncherKind, WorkerGroup, WorkerStatus
from scaling.launch.local import LocalLauncher
from scaling.launch.piece_worker import _plain, read_error
from scaling.launch.prepare import LaunchedTasks
from scaling.launch.registry import find_launcher
from scaling.launch.slurm import SlurmLauncher
from scaling.launch.worker_plan import TASKS_SUFFIX
from scaling.runs.lease import is_free
from tests.launch.test_slurm import restarts, slurm, slurm_test, with_slurm
from tests.launch.toy.toy_plugin import SECONDS

DOCUMENTS = 8


@pytest.fixture(params=["local", "toy", pytest.param("slurm", marks=with_slurm)])
def kind(request, toy, monkeypatch) -> LauncherKind:
    if request.param == "slurm":
        request.getfixturevalue("cluster")
    kind = find_launcher(request.param)
    monkeypatch.setattr(type(kind.open()), "poll_seconds", 0.1)
    return kind


@pytest.fixture
def source(tmp_path, toy, monkeypatch) -> str:
    """A corpus of one piece for each document; each takes a while to read."""
    monkeypatch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 1)
    monkeypatch.setenv("SCALING_LEASE_SECONDS", "5")
    (tmp_path / "text").mkdir()
    for number in range(DOCUMENTS):
        text = f"document {number} of a few words, each of its own {number % 5}"
        (tmp_path / f"text/{number:02}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    return "slow:text/*.txt"


def prepared(source: str, out: str, run_tasks=None, progress=None, tokenizer=("byte", None)):
    return prepare(source, *tokenizer, Path(out), 0.2, run_tasks=run_tasks, progress=progress,
                   workers=1)


def files_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def living(launcher: Launcher, group: WorkerGroup, **others) -> list[WorkerStatus]:
    return [each for each in launcher.status(group, **others) if each.state != "ended"]


def until(holds, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def slowly(monkeypatch, seconds: float) -> None:
    """Documents take this time in processes that are started from now on."""
    monkeypatch.setenv(SECONDS, str(seconds))


def killed_holders(folder: Path) -> list[int]:
    """Kill the first worker that has a task, if any has; its process id."""
    for lease in folder.glob(".*.work-*/claims/tokens-*/lease.*.json"):
        content = json.loads(lease.read_text())
        if not content["released"]:
            os.kill(content["pid"], signal.SIGKILL)
            return [content["pid"]]
    return []


@dataclass
class Dangerous:
    """A launcher one of whose workers is killed while it has a task."""

    launcher: Launcher
    killed: list[int] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)

    def __getattr__(self, name: str):
        return getattr(self.launcher, name)

    def submit(self, *words):
        new = self.launcher.submit(*words)
        self.submitted += [each.worker for each in new]
        return new

    def status(self, group, **others):
        self.killed += [] if self.killed else killed_holders(Path.cwd())
        return self.launcher.status(group, **others)


def test_a_worker_that_dies_loses_only_its_piece(kind, source, monkeypatch):
    """The store is the one of a single process, to the byte."""
    bpe = ("bpe", 270)
    expected = prepared(source, "expected", tokenizer=bpe)
    for count in (3, 1) if kind.name == "slurm" else (1,):
        launcher, told, said = Dangerous(kind.open()), [], []
        out = f"store-{count}"

        def tell(*stage, told=told):
            told.append(stage)
            slowly(monkeypatch, 0.1 if stage[0] == "tokenizing" else 0.03)

        store = prepared(source, out, LaunchedTasks(launcher, count, said.append), tell, bpe)
        assert launcher.killed
        # With others, it may not be needed any more when the launcher reports that it is gone.
        assert len(launcher.submitted) == 3 or count > 1, "the dead worker is replaced once"
        assert store.hash == expected.hash
        assert len(store.manifest.train.shards) > 3
        assert files_of(out) == files_of("expected")
        assert not list(Path.cwd().glob(f".{out}*"))
        for stage in ("scanning", "tokenizing"):
            done = [done / total for name, done, total in told if name == stage]
            assert done == sorted(done)
            assert len(set(done)) > 2
            assert done[-1] == pytest.approx(1)
        if kind.open().detached:
            assert any(text.startswith(f"submitted {count} worker(s)") for text in said)


@slurm_test
def test_a_requeued_job_of_slurm_comes_back_and_goes_on(source, cluster, tmp_path, monkeypatch):
    expected = prepared(source, "expected")
    monkeypatch.setattr(SlurmLauncher, "poll_seconds", 0.1)
    launcher, requeued = SlurmLauncher(), []

    def requeue(stage, done, total):
        if stage == "tokenizing" and done and not requeued:
            (logs,) = Path().glob(".store.work-*/logs")
            (job,) = living(launcher, WorkerGroup(logs, "prepare-tokens", TASKS_SUFFIX))
            requeued.append(job.worker)
            slurm("scontrol", "requeue", job.worker)

    store = prepared(source, "store", LaunchedTasks(launcher, 1), requeue)
    assert restarts(*requeued) == 1
    assert store.hash == expected.hash
    assert files_of("store") == files_of("expected")


def a_group(source: str, folder: Path) -> tuple[TaskBatch, WorkerGroup]:
    """The tasks of a scan, in a file for workers."""
    batches = []

    def keep(batch, report_bytes):
        batches.append(batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(source, str(folder), keep)
    group = WorkerGroup(batches[0].work / "logs", "prepare-scan", TASKS_SUFFIX)
    group.logs.mkdir()
    write_tasks(batches[0], group.plan)
    return batches[0], group


def test_workers_are_submitted_listed_cancelled_and_submitted_again(
    kind, source, tmp_path, monkeypatch
):
    batch, group = a_group(source, tmp_path / "store")
    launcher, other = kind.open(), kind.open()
    assert launcher.cancel(group) == launcher.status(group) == []
    assert other.status(group, others=True) == []
    total = launcher.count_workers(min(2, os.cpu_count() or 1), DOCUMENTS)
    slowly(monkeypatch, 0.5)
    (worker,) = launcher.submit(group, 1, total)
    assert [each.worker for each in living(launcher, group)] == [worker.worker]
    until(lambda: any(task.step.noted() for task in batch.tasks))
    # Another command finds the worker, and may stop it.
    assert [(each.worker, each.state) for each in living(other, group, others=True)] == [
        (worker.worker, "running")]
    assert len((launcher if kind.name == "local" else other).cancel(group)) == 1
    until(lambda: not living(launcher, group))
    assert not living(other, group, others=True)
    done = [task for task in batch.tasks if task.step.noted()]
    assert 0 < len(done) < len(batch.tasks)
    assert all(task.step.load_result() for task in done)
    slowly(monkeypatch, 0.03)
    launcher.submit(group, total, total)
    until(lambda: not living(launcher, group))
    assert all(task.step.load_result() for task in batch.tasks)
    logs = "".join(path.read_text() for path in group.logs.rglob("*") if path.is_file()
                   and path.suffix in (".log", ".out"))
    assert Counter(re.findall(r"(scan-.*): done", logs)) == {
        task.step.name: 1 for task in batch.tasks}, "a task is done by one worker"


def test_an_error_of_a_worker_is_the_error_of_one_process(kind, source, tmp_path):
    (tmp_path / "text/05.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError) as alone:
        prepared(source, "alone")
    with pytest.raises(UserError) as launched:
        prepared(source, "launched", LaunchedTasks(kind.open(), 1))
    assert type(launched.value) is UserError
    assert str(launched.value) == str(alone.value)
    assert "05.txt" in str(alone.value)
    assert not list(tmp_path.glob(".launched.work*"))


def test_ctrl_c_ends_the_workers_and_the_same_call_continues(
    kind, source, tmp_path, monkeypatch
):
    expected = prepared(source, "expected")
    launcher, groups = kind.open(), []

    def interrupt(stage, done, total):
        slowly(monkeypatch, 0.3 if stage == "tokenizing" else 0.03)
        if stage == "tokenizing" and done and not groups:
            groups.extend(WorkerGroup(path.parent, "prepare-tokens", TASKS_SUFFIX)
                          for path in Path().glob(".store.work-*/logs/prepare-tokens.tasks.json"))
            assert living(launcher, groups[0])
            signal.raise_signal(signal.SIGINT)

    said = []
    with pytest.raises(KeyboardInterrupt):
        prepared(source, "store", LaunchedTasks(launcher, 1, said.append), interrupt)
    assert not living(launcher, groups[0])
    assert "the same command continues" in said[-1]
    notes = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".store.work-*/*-0*.json")}
    assert DOCUMENTS < len(notes) < 2 * DOCUMENTS
    slowly(monkeypatch, 0.03)
    scans, again = {path for path in notes if "scan-" in path.name}, []

    def look(stage, done, total):
        if stage == "tokenizing":
            again.extend(path for path in scans if path.stat().st_mtime_ns != notes[path])

    assert prepared(source, "store", LaunchedTasks(launcher, 1), look).hash == expected.hash
    assert len(scans) == DOCUMENTS
    assert not again
    assert files_of("store") == files_of("expected")


def test_workers_that_see_other_files_say_so_and_finished_parts_stay(source, tmp_path):
    """As on a machine that does not share the folder of the corpus."""
    launcher = LocalLauncher()
    written = LocalLauncher.submit

    def submit(group, count, total):
        if group.name == "prepare-tokens":
            (tmp_path / "text/07.txt").write_text("another text of another length")
        return written(launcher, group, count, total)

    launcher.submit = submit
    with pytest.raises(WorkerDied, match=r"its files on .* have other sizes or times"):
        prepared(source, "store", LaunchedTasks(launcher, 1))
    assert len(list(tmp_path.glob(".store.work-*/scan-*[0-9].json"))) == DOCUMENTS


def test_a_task_whose_files_are_damaged_is_done_again(source, tmp_path, monkeypatch):
    expected = prepared(source, "expected")
    monkeypatch.setattr("scaling.launch.prepare.UNSEEN_SECONDS", 0.2)
    launcher, damaged = LocalLauncher(), []
    ask = launcher.status

    def status(group, **others):
        shards = sorted(tmp_path.glob(".store.work-*/store/train-*[0-9].bin"))
        notes = list(tmp_path.glob(".store.work-*/tokens-*[0-9].json"))
        if not damaged and shards and notes:
            damaged.append(shards[0])
            shards[0].write_bytes(b"")
        return ask(group, **others)

    launcher.status = status
    store = prepared(source, "store", LaunchedTasks(launcher, 1))
    assert damaged
    assert files_of("store") == files_of("expected")
    assert store.hash == expected.hash


def test_a_task_that_another_worker_has_just_done_is_not_done_again(source, tmp_path, monkeypatch):
    """Between the look at its note and the claim."""
    batch, _ = a_group(source, tmp_path / "store")
    task = batch.tasks[0]
    real = piece_worker.acquire

    def late(folder):
        task.step.finish({"documents": [1], "not_utf8": 0}, {})
        return real(folder)

    monkeypatch.setattr(piece_worker, "acquire", late)
    monkeypatch.setattr(piece_worker, "run_task", None)
    assert piece_worker._claim(task, lambda size: None)
    assert is_free(piece_worker.claims_folder(task))


@pytest.mark.parametrize("error", [
    UserError("text/1.txt: not UTF-8; convert it"), DataError("too few"),
    OSError(errno.EIO, "Input/output error", "text/1.txt"), OSError(errno.EIO, "no file is named"),
    PermissionError(errno.EACCES, "Permission denied", "a"), MemoryError("of 5 GB"),
])
def test_an_error_arrives_as_it_was_raised(tmp_path, error):
    path = tmp_path / "scan.error.json"
    assert read_error(path, tmp_path) is None
    path.write_text(json.dumps(_plain(error)))
    arrived = read_error(path, tmp_path)
    assert type(arrived) is type(error)
    assert str(arrived).endswith(str(error))
    assert getattr(arrived, "filename", None) == getattr(error, "filename", None)


def test_a_bug_in_a_worker_names_its_log(tmp_path):
    path = tmp_path / "scan.error.json"
    path.write_text(json.dumps(_plain(ZeroDivisionError("by zero"))))
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError: by zero in a worker; see logs"):
        raise read_error(path, Path("logs"))


def test_a_full_disk_of_a_worker_names_the_store(source, tmp_path):
    launcher = LocalLauncher()
    ask = launcher.status
    launcher.status = lambda group: [
        replace(each, state="ended", exit_status=disk_full.STATUS) for each in ask(group)]
    launcher.cancel = lambda group: []
    with pytest.raises(OSError, match="No space left") as error:
        prepared(source, "store", LaunchedTasks(launcher, 1))
    assert error.value.filename == "store"
    assert list(tmp_path.glob(".store.work-*"))
    for process in launcher._processes.popitem()[1].values():
        process.terminate()
        process.wait()
