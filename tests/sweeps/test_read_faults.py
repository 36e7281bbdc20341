"""An error of the file system or of memory at any read of a sweep's folders: every command ends
with a message, no measured or saved file is lost, and the next command finds all of them."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from scaling.runs import state
from scaling.runs.state import record_failure
from scaling.sweeps import table
from tests.tiny_sweep import begin, end
from tests.training.test_read_faults import ERRORS, Faults, contents

WORDS = {
    "status": ["status"], "export": ["export"], "retry": ["retry"],
    "prune": ["prune", "--keep", "none"],
}


@pytest.fixture
def work(command, plan, sweep_file, runs, store_path):
    """A sweep with a run of each kind, exported; the folder that all of it lies in."""
    done, diverged, failed, strange, partial = plan.runs
    for planned in plan.runs:
        begin(planned, 5, 10)
        for step in ("9", "10"):
            saved = planned.folder.checkpoints / step / "state"
            saved.mkdir(parents=True)
            (saved / "array").write_bytes(b"x" * 100)
    end(done, loss_se=0.125, bits_per_byte=5.0)
    end(diverged, "diverged")
    record_failure(failed.folder, ValueError("no room"))
    strange.folder.record_path.write_text("{")
    with partial.folder.lock():
        pass
    (runs / "trunks" / ("f" * 16) / "5/state").mkdir(parents=True)
    assert command("sweep", "export", sweep_file.name, cwd=sweep_file.parent).code == 0
    assert command("sweep", "status", sweep_file.name).code == 0  # makes the index
    return sweep_file.parent


def attempt(command, words, work, faults):
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        return command("sweep", words[0], "tiny.yaml", *words[1:], cwd=work)


def may_go(plan, words, name):
    """Whether a command may remove or change a file, by its path below the folder, as it would if
    nothing failed."""
    done, diverged, failed, strange, _ = (planned.run_id for planned in plan.runs)
    if name.startswith(("runs/logs/", "results/tiny/sweep.json")):
        return True
    if words == "retry":
        return name in (f"runs/{failed}/failure.json", f"runs/{strange}/record.json")
    return words == "prune" and name.startswith(
        ("runs/trunks/", *(f"runs/{run}/checkpoints/" for run in (done, diverged, failed))))


def measured(plan, text):
    """The lines of a table, but those of runs that are not over: where they stand may be read
    again."""
    over = [planned.run_id for planned in plan.runs[:2]]
    return sorted(line for line in text.splitlines() if line.decode().startswith((*over, "run_id")))


# At every read; and in `make test` at a few of each command.
@pytest.mark.parametrize(("error", "stride"), [
    ("EIO", 5), ("ESTALE", 19), ("EMFILE", 18), ("MemoryError", 17),
    *(pytest.param(error, 1, marks=pytest.mark.slow)
      for error in ("EIO", "ESTALE", "EMFILE", "MemoryError"))])
@pytest.mark.parametrize("words", WORDS)
def test_a_read_that_fails_loses_nothing(
    command, plan, work, store_path, tmp_path_factory, words, error, stride
):
    kept = shutil.copytree(work, tmp_path_factory.mktemp("kept") / "work")
    before = contents(kept)
    folders = (work, store_path)
    count = Faults(folders, ERRORS[error], 0)
    whole = attempt(command, WORDS[words], work, count)
    expected = contents(work)
    assert count.reads > 10
    looked_at = set()
    for at in range(1, count.reads + 1, stride):
        shutil.rmtree(work)
        shutil.copytree(kept, work)
        faults = Faults(folders, ERRORS[error], at)
        done = attempt(command, WORDS[words], work, faults)
        where = f"read {at}, of {faults.seen[at - 1]}: {done}"
        assert done.code in (0, 1, 2), where
        assert "Traceback" not in done.err, where
        assert done.code != 2 or done.err.count("error:") == done.err.count("\n") == 1, where
        now = contents(work)
        for path, content in before.items():
            name = str(path.relative_to(kept))
            if name.endswith(".csv"):
                assert measured(plan, now[work / name]) == measured(plan, content), (where, name)
            elif not may_go(plan, words, name):
                assert now.get(work / name) == content, (where, name)
        if faults.seen[at - 1] in looked_at:
            continue
        looked_at.add(faults.seen[at - 1])
        again = attempt(command, WORDS[words], work, Faults(folders, ERRORS[error], 0))
        assert again.code == whole.code, (where, again)
        if words != "retry":  # what has been told once is not told again
            assert contents(work).keys() == expected.keys(), where


@pytest.mark.parametrize("error", ERRORS)
def test_a_table_that_cannot_be_read_now_keeps_its_rows(command, plan, work, error):
    """Those too of which nothing is left but the row."""
    plan.runs[0].folder.record_path.unlink()
    results = work / "results"
    before = contents(results)
    count = Faults((results,), ERRORS[error], 0)
    assert attempt(command, WORDS["export"], work, count).code == 0
    assert {"runs.csv", "curves.csv"} <= {path.rpartition("/")[2] for path in count.seen}
    for at in range(1, count.reads + 1):
        attempt(command, WORDS["export"], work, Faults((results,), ERRORS[error], at))
        for path, content in contents(results).items():
            assert measured(plan, content) == measured(plan, before[path]), count.seen[at - 1]


def test_a_record_is_read_once_for_a_row(plan, monkeypatch):
    """A run that ends meanwhile, or a record that can be read at the second look, is no run that
    is done without a loss."""
    end(plan.runs[0], loss_se=0.125, bits_per_byte=5.0)
    monkeypatch.setattr(state, "readable_record", lambda folder: None)
    row = table.runs_table(plan).set_index("run_id").loc[plan.runs[0].run_id]
    assert row["status"] == "planned"
    monkeypatch.undo()
    row = table.runs_table(plan).set_index("run_id").loc[plan.runs[0].run_id]
    assert (row["status"], row["loss"], row["loss_se"]) == ("done", 3.5, 0.125)


def test_an_unavailable_file_server_removes_no_record(command, plan, work, monkeypatch):
    """A retry renames what cannot be understood, and not what cannot be read today."""
    done = plan.runs[0].folder
    before = contents(done.path)
    real = os.open

    def away(path, *arguments, **options):
        if str(path).endswith(str(done.record_path.relative_to(work))):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", away)
        retried = command("sweep", "retry", "tiny.yaml", cwd=work)
    assert retried.code == 1
    assert f"{plan.runs[0].run_id} is not changed: " in retried.err
    assert "input/output error" in retried.err
    assert contents(done.path) == before
