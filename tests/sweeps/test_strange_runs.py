"""Run folders with invalid files: each is one row, and all other runs are shown, exported, trained
and pruned as usual."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest

from scaling.errors import UserError
from scaling.runs import files
from scaling.runs.state import (
    UNREADABLE,
    clear_failure,
    readable_metrics,
    record_failure,
    run_state,
)
from scaling.sweeps.index import index_of
from scaling.sweeps.status import status_of
from tests.sweeps.strange import DEEP, STRANGE, lay
from tests.tiny_sweep import begin, end

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read

CASES = [(where, how) for where, kinds in STRANGE.items() for how in kinds]


@pytest.mark.parametrize(("where", "how"), CASES)
def test_an_invalid_file_is_one_row(plan, index, where, how):
    bad, done, *others = plan.runs
    end(done)
    path = lay(bad.folder, where, how)
    began = time.monotonic()
    for _ in range(2):  # the second time with the cache of the first
        rows = {row.run.run_id: row for row in status_of(index).rows}
        assert rows[bad.run_id].state == UNREADABLE
        assert str(path) in rows[bad.run_id].run_state.note
        assert rows[done.run_id].state == "done"
        assert {rows[p.run_id].state for p in others} == {"new"}
        index = index_of(plan.sweep, "tiny", index.runs_folder)
    assert time.monotonic() - began < 5
    about = path.lstat()
    assert clear_failure(bad.folder), "a retry keeps it under another name"
    (kept,) = (p for p in path.parent.iterdir() if ".unreadable" in p.name)
    assert os.path.samestat(kept.lstat(), about)
    assert run_state(bad).state == "new"
    assert not clear_failure(bad.folder)


def test_huge_metrics_are_not_read(plan, index, monkeypatch):
    """A status looks at their end alone; a learning curve takes all of them."""
    begin(plan.runs[0], *range(1, 100))
    monkeypatch.setattr(files, "LARGEST_BYTES", 1000)
    path = plan.runs[0].folder.metrics_path
    with pytest.raises(UserError, match=f"^{path}: is larger than .*; move it away"):
        plan.runs[0].folder.metrics()
    assert readable_metrics(plan.runs[0].folder) == []
    assert status_of(index).rows[0].run_state.step == 99


@pytest.mark.parametrize("there", [True, False])
def test_metrics_are_not_written_through_a_link(plan, tmp_path, there):
    run, victim = plan.runs[0].folder, tmp_path / "victim"
    run.path.mkdir(parents=True)
    if there:
        victim.write_text("precious")
    run.metrics_path.symlink_to(victim)
    with pytest.raises(UserError, match=f"^{run.metrics_path}: is a link and is not written"), \
            run.metrics_writer() as metrics:
        metrics.write("{}\n")
    assert victim.read_text() == "precious" if there else not victim.exists()


def test_invalid_numbers_of_a_record_are_omitted(plan, index):
    """But for those that the loss is read from, which have to be numbers."""
    run = plan.runs[0].folder
    end(plan.runs[0], mfu=float("nan"), flops_own=float("inf"), tokens_per_second=None)
    record = run.record()
    assert (record["mfu"], record["flops_own"], record["loss"]) == (None, None, 3.5)
    assert status_of(index).rows[0].state == "done"


def test_a_running_run_is_not_retried(plan):
    run = plan.runs[0].folder
    path = lay(run, "metrics", "text")
    before = path.read_bytes()
    with run.lock() as lease:
        assert lease is not None
        with pytest.raises(UserError, match=f"^{run.path}: another process holds this run"):
            clear_failure(run)
    assert path.read_bytes() == before
    assert clear_failure(run)


def test_a_retry_never_overwrites_files_of_an_earlier_one(plan):
    run = plan.runs[0].folder
    for number in range(3):
        run.path.mkdir(parents=True, exist_ok=True)
        run.record_path.write_text(f"strange {number}")
        assert clear_failure(run)
    assert {p.read_text() for p in run.path.iterdir()} == {f"strange {i}" for i in range(3)}


def test_every_command_shows_the_other_runs(command, plan, runs, sweep_file, tmp_path):
    """Each kind of strange file in a run of its own."""
    done = plan.runs[-1]
    end(done)
    begin(done, 5)
    strange = [("record", "deep"), ("metrics", "text"), ("failure", "a pipe"), ("itself", "a file")]
    for planned, (where, how) in zip(plan.runs, strange, strict=False):
        lay(planned.folder, where, how)
    table = command("sweep", "status", sweep_file, cwd=tmp_path)
    assert (table.code, table.err) == (0, "")
    assert "4 not readable, 1 done" in table.out
    shown = json.loads(command("sweep", "status", sweep_file, "--json").out)
    assert shown["states"] == {"not readable": 4, "done": 1}
    exported = command("sweep", "export", sweep_file, "--tensorboard", "events")
    assert exported.code == 0, exported.err
    assert "1 run(s) written" in exported.out
    text = (tmp_path / "results/tiny/runs.csv").read_text()
    assert (text.count("failed"), text.count("done")) == (4, 1)
    planned = command("sweep", "plan", sweep_file, "--no-measure")
    assert planned.code == 0, planned.err
    assert "4 not readable" in planned.out
    logged = command("sweep", "log", plan.runs[0].run_id, sweep_file)
    assert logged.code == 0
    assert "nested too deeply" in logged.out
    assert command("sweep", "cancel", sweep_file).code == 0
    pruned = command("sweep", "prune", sweep_file, "--keep", "none")
    assert pruned.code == 0, pruned.err
    ran = command("sweep", "run", sweep_file)
    assert ran.code == 1
    assert "4 not readable" in ran.out
    for run in plan.runs[:4]:
        held_out = run.role == "heldout"
        assert (f"{run.run_id} is not readable and was skipped" in ran.err) != held_out
    assert "sweep retry" in ran.err
    again = command("sweep", "retry", sweep_file)
    assert again.code == 0
    assert "4 failed run(s)" in again.out


def test_unreadable_runs_are_never_pruned(command, plan, runs, sweep_file, tmp_path):
    for planned, (where, how) in zip(plan.runs, [
            ("record", "text for a loss"), ("record", "a pipe"), ("failure", "numbers"),
            ("metrics", "text")], strict=False):
        (planned.folder.checkpoints / "10/state").mkdir(parents=True)
        lay(planned.folder, where, how)
    pruned = command("sweep", "prune", sweep_file, "--keep", "none", cwd=tmp_path)
    assert "0 folder(s)" in pruned.out
    assert all((p.folder.checkpoints / "10").exists() for p in plan.runs[:4])


@pytest.mark.parametrize("where", ["record", "metrics", "failure", "config"])
def test_a_file_that_may_not_be_read_is_one_row(plan, index, where, monkeypatch):
    bad = plan.runs[0]
    path = lay(bad.folder, where, "deep")
    real = os.open

    def denied(opened, *arguments, **options):  # root may read everything
        if opened == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(opened, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", denied)
        row = status_of(index).rows[0]
        assert (row.state, row.run_state.note) == (UNREADABLE, f"{path}: permission denied")
        assert clear_failure(bad.folder)
    assert path.with_suffix(".unreadable").read_bytes() == DEEP


def test_untrusted_text_does_not_control_the_terminal(
    command, plan, index, sweep_file, tmp_path
):
    """In a reason, a log, a table of another sweep, the name of a metric."""
    failed, strange, running = plan.runs[:3]
    evil = "\x1b]0;title\x07\x1b[31mred\u202e\x9b\r"
    record_failure(failed.folder, ValueError(f"line 1\nline 2 {evil}"))
    begin(strange, 5)
    end(strange)
    with strange.folder.metrics_path.open("a") as file:
        file.write(json.dumps({"step": 6, evil: "text"}) + "\n")
    index.logs.mkdir(exist_ok=True)
    (index.logs / f"tiny.grid.worker-{evil}\n.log").write_text(
        f"{running.run_id}: {evil}\n", encoding="utf-8")
    (tmp_path / "results/other").mkdir(parents=True)
    (tmp_path / "results/other/runs.csv").write_text(
        f"run_id,sweep\n{running.run_id},{evil}\n", encoding="utf-8")
    for words in (["status"], ["status", "--json"], ["plan", "--no-measure"], ["export"],
                  ["retry"]):
        done = command("sweep", *words, sweep_file, cwd=tmp_path)
        assert done.code == 0, done.err
        for text in (done.out, done.err):
            assert not any(sign in text for sign in "\x1b\x07\u202e\x9b\r"), words
        if words == ["status"]:
            assert len(done.out.splitlines()) == 2 + 5 + 2
    for run in (failed, running):
        done = command("sweep", "log", run.run_id, sweep_file)
        assert not any(sign in done.out + done.err for sign in "\x1b\x07\u202e\x9b\r")


def test_names_of_another_format_are_ignored(plan, index):
    for number in range(1000):
        (index.runs_folder / f"junk-{number}").write_text("")
    for name in ("²", "1²", "-1", "\u0661", "9" * 200, ".hidden", "new\nline"):
        (index.runs_folder / "trunks" / ("a" * 16) / name).mkdir(parents=True)
        (plan.runs[0].folder.path / name).mkdir(parents=True)
        (plan.runs[0].folder.path / f"lease.{name}.json").write_text("{}")
    assert [row.state for row in status_of(index).rows] == ["new"] * 5


@pytest.mark.parametrize("linked", ["the run", "its checkpoints"])
def test_a_sweep_does_not_follow_a_link_to_other_files(
    command, plan, runs, sweep_file, tmp_path, linked
):
    docs, run = tmp_path / "docs", plan.runs[0].folder
    for step in ("7", "9.orbax-checkpoint-tmp-1"):
        (docs / step).mkdir(parents=True)
        (docs / step / "text").write_text("mine")
    for planned in plan.runs[1:]:
        end(planned)
    if linked == "the run":
        run.path.symlink_to(docs)
    else:
        run.path.mkdir()
        run.checkpoints.symlink_to(docs)
    done = command("sweep", "run", sweep_file, "--workers", 1, cwd=tmp_path)
    assert done.code == 1
    assert f"{run.path.name} is not readable and was skipped: " in done.err
    assert sorted(str(path.relative_to(docs)) for path in docs.rglob("*")) == [
        "7", "7/text", "9.orbax-checkpoint-tmp-1", "9.orbax-checkpoint-tmp-1/text"]
