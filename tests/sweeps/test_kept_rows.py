"""Tables of results: measured rows are kept, and files of other programs are not changed."""

from __future__ import annotations

import csv
import os
import threading

import pytest
import yaml

from scaling.errors import UserError
from scaling.file_lock import _acquire, _open, file_lock
from scaling.laws import read as read_runs
from scaling.runs.state import record_failure
from scaling.sweeps import table
from tests.tiny_sweep import begin, end


def rows(path):
    with path.open(newline="") as file:
        return {row["run_id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def finished(plan):
    """Two finished runs and a diverged one, with their curves."""
    chosen = plan.runs_of_role("grid")[:3]
    for planned, status in zip(chosen, ("done", "done", "diverged"), strict=True):
        begin(planned, 5, 10)
        end(planned, status, loss_se=0.125, bits_per_byte=5.0)
    return chosen


@pytest.fixture
def exported(command, sweep_file, finished):
    done = command("sweep", "export", sweep_file.name, cwd=sweep_file.parent)
    assert done.code == 0, done.err
    return sweep_file.parent / "results" / "tiny"


def test_runs_that_cannot_be_found_keep_their_rows(command, sweep_file, exported, finished):
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    (sweep_file.parent / "empty").mkdir()
    done = command("sweep", "export", sweep_file.name, "--runs", "empty")
    assert done.code == 0
    assert "3 finished run(s) cannot be found or read in empty and keep their rows" in done.err
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    gone, *_ = finished
    gone.folder.record_path.unlink()
    gone.folder.metrics_path.write_text("")
    done = command("sweep", "export", sweep_file.name)
    assert (f"1 finished run(s) cannot be found or read in runs and keep their rows: {gone.run_id}"
            in done.err)
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before


def test_a_finished_run_that_failed_since_keeps_its_row(command, sweep_file, exported, finished):
    before = rows(exported / "runs.csv")
    gone, *_ = finished
    gone.folder.record_path.unlink()
    record_failure(gone.folder, UserError("no room"))
    done = command("sweep", "export", sweep_file.name)
    assert f"keep their rows: {gone.run_id}" in done.err
    assert rows(exported / "runs.csv") == before


def test_a_missing_runs_folder_is_an_error(command, sweep_file, exported):
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    done = command("sweep", "export", sweep_file.name, "--runs", "TYPO")
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert "--runs TYPO: no such folder" in done.err
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before


@pytest.mark.parametrize("change", [
    ["sizes=[{d_model: 16, n_layers: 1, n_heads: 1}]"], ["grids.0.tokens=[1536]"], ["seeds=[7]"],
    ["heldout=[]", "grids.0.tokens=[3200]"],
])
def test_a_smaller_sweep_keeps_finished_rows(command, sweep_file, exported, change):
    before, curves = rows(exported / "runs.csv"), (exported / "curves.csv").read_bytes()
    measured = {key: row for key, row in before.items() if row["status"] in ("done", "diverged")}
    done = command("sweep", "export", sweep_file.name, *change)
    assert done.code == 0, done.err
    assert "keep their rows, with the role former, which fits exclude" in done.err
    after = rows(exported / "runs.csv")
    former = {key for key in measured if after[key]["role"] == "former"}
    assert former
    assert {key: after[key] | {"role": row["role"]} for key, row in measured.items()} == measured
    assert sorted((exported / "curves.csv").read_bytes().split()) == sorted(curves.split())
    again = command("sweep", "export", sweep_file.name)
    assert again.err == ""
    assert rows(exported / "runs.csv") == before
    assert sorted((exported / "curves.csv").read_bytes().split()) == sorted(curves.split())


def test_a_second_sweep_of_the_same_name_keeps_the_rows_of_the_first(
        command, sweep_file, sweep_content, exported):
    before = rows(exported / "runs.csv")
    sweep_content["grids"] = [{"kind": "product", "tokens": [4608]}]
    sweep_content["heldout"] = []
    (sweep_file.parent / "second.yaml").write_text(yaml.safe_dump(sweep_content))
    assert command("sweep", "export", "second.yaml").code == 0
    after = rows(exported / "runs.csv")
    assert sum(row["status"] == "done" for row in after.values()) == 2
    assert all(after[key] == row | {"role": "former"} for key, row in before.items()
               if row["status"] == "done")
    fitted = read_runs(exported / "runs.csv")
    assert (len(fitted.loss), fitted.excluded["former"]) == (0, 3)


def test_a_kept_row_has_the_role_in_the_present_sweep(command, sweep_file, exported,
                                                              finished):
    """A run that is held out now may not be fitted, wherever its row came from."""
    (sweep_file.parent / "empty").mkdir()
    largest = finished[0]
    held = f"{{size: {{d_model: 16, n_layers: 1, n_heads: 1}}, tokens: {largest.run.tokens}}}"
    done = command("sweep", "export", sweep_file.name, "--runs", "empty", f"heldout=[{held}]",
                   "grids.0.tokens=[1536]")
    assert done.code == 0, done.err
    row = rows(exported / "runs.csv")[largest.run_id]
    assert (row["role"], row["status"]) == ("heldout", "done")


def test_training_a_finished_run_again_is_announced(
        command, sweep_file, exported, monkeypatch):
    monkeypatch.setattr("scaling.launch.train.train_runs", lambda *_, **__: None)
    done = command("sweep", "run", sweep_file.name, "--runs", "TYPO")
    assert "3 finished run(s) of results/tiny/runs.csv are not in TYPO" in done.err
    assert "and are trained again" not in command("sweep", "run", sweep_file.name).err


def test_a_newer_result_replaces_an_older_one(command, sweep_file, exported, finished):
    end(finished[0], loss=3.25, loss_se=0.5, bits_per_byte=4.0)
    assert command("sweep", "export", sweep_file.name).err == ""
    assert rows(exported / "runs.csv")[finished[0].run_id]["loss"] == "3.25"


FOREIGN = {"runs.csv": "mine\n1\n", "curves.csv": "run_id,tokens,loss\na,1,2\n",
           "runs.parquet": "PAR1"}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("words", [("export",), ("run", "--workers", "1")], ids=" ".join)
def test_a_folder_with_other_tables_is_refused(command, sweep_file, finished, name, words):
    (sweep_file.parent / "mine").mkdir()
    (sweep_file.parent / "mine" / name).write_text(FOREIGN[name])
    done = command("sweep", words[0], sweep_file.name, "--out", "mine", *words[1:],
                   cwd=sweep_file.parent)
    assert (done.code, done.err.count("error:")) == (2, 1), done.err
    assert f"mine/{name}: was not written by `scaling sweep`" in done.err
    assert [p.name for p in (sweep_file.parent / "mine").iterdir()] == [name]
    assert (sweep_file.parent / "mine" / name).read_text() == FOREIGN[name]


@pytest.mark.parametrize("name", ["runs.csv", "curves.csv", "runs.parquet"])
def test_another_file_in_the_folder_is_kept(command, sweep_file, exported, name):
    (exported / name).write_text("mine\n1\n")
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    done = command("sweep", "export", sweep_file.name, "--parquet")
    assert (done.code, done.err.count("error:")) == (2, 1), done.err
    assert name in done.err
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"1,2,3\n", b'"open\n', b"x" * 200_000 + b"\n",
                                     b"," * (len(table.COLUMNS) - 2) + b"\n",
                                     b"," * len(table.COLUMNS) + b"\n"])
def test_a_damaged_table_is_named_and_kept(command, sweep_file, exported, content):
    path = exported / "runs.csv"
    path.write_bytes(path.read_bytes() + content)
    before = path.read_bytes()
    for words in (("export",), ("run", "--workers", "1")):  # before it trains
        done = command("sweep", words[0], sweep_file.name, *words[1:])
        assert (done.code, done.err.count("error:")) == (2, 1), done.err
        assert "results/tiny/runs.csv: line " in done.err
        assert path.read_bytes() == before
    assert not (sweep_file.parent / "runs/logs/tiny.grid.worker-0.log").exists()


@pytest.mark.parametrize("run_id", [
    "../victim/precious", "0" * 15, "0" * 17, "0123456789ABCDEF", "", "=1+1", "twice"])
def test_a_row_with_an_invalid_run_id_is_named_and_the_table_kept(
    command, sweep_file, exported, run_id
):
    path = exported / "runs.csv"
    with path.open(newline="") as file:
        kept = list(csv.DictReader(file))
    row = kept[0] if run_id == "twice" else kept[0] | {"run_id": run_id}
    with path.open("a", newline="") as file:
        csv.DictWriter(file, table.COLUMNS, lineterminator="\n").writerow(row)
    before = path.read_bytes()
    done = command("sweep", "export", sweep_file.name)
    assert (done.code, done.err.count("error:"), done.err.count("\n")) == (2, 1, 1), done.err
    message = "occurs twice" if run_id == "twice" else "is not the identity of a run"
    assert f"results/tiny/runs.csv: the run_id {row['run_id']!r} {message}" in done.err
    assert path.read_bytes() == before


def test_a_kept_row_has_no_formula(command, sweep_file, exported, finished):
    """Whoever wrote it; its numbers stay, those below zero too."""
    path = exported / "runs.csv"
    with path.open(newline="") as file:
        before = list(csv.DictReader(file))
    evil = "=cmd|' /C calc'!A0"
    theirs = next(row for row in before if row["run_id"] == finished[0].run_id)
    theirs |= {"corpus": evil, "family": "-1+1\rx", "loss": "-1.5", "bits_per_byte": "-2e-05"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table.COLUMNS)
        writer.writeheader()
        writer.writerows(before)
    finished[0].folder.record_path.unlink()
    for _ in range(2):  # the second time from what the first wrote
        assert command("sweep", "export", sweep_file.name).code == 0
        assert rows(path)[finished[0].run_id] == theirs | {
            "corpus": f"'{evil}", "family": "'-1+1\nx"}


def test_a_table_of_an_earlier_version_gets_the_new_columns(command, sweep_file, exported):
    path = exported / "runs.csv"
    whole = path.read_bytes()
    kept = [name for name in table.COLUMNS if name != "bits_per_byte"]
    with path.open(newline="") as file:
        before = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(before)
    assert command("sweep", "export", sweep_file.name).code == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/it"])
def test_a_results_folder_that_is_a_file_is_refused(command, sweep_file, finished, place):
    (sweep_file.parent / "file").write_text("mine")
    for words in (("export",), ("run", "--workers", "1"), ("plan", "--no-measure")):
        done = command("sweep", words[0], sweep_file.name, *words[1:], "--out", place,
                       cwd=sweep_file.parent)
        assert (done.code, done.err.count("error:"), done.err.count("\n")) == (2, 1, 1), done.err
        assert "file" in done.err
    assert (sweep_file.parent / "file").read_text() == "mine"


def test_concurrent_exports_lose_no_row(plan, finished, tmp_path, monkeypatch):
    """One that read the folders before a run was over must not write after one that read them
    when it was."""
    late = plan.runs_of_role("grid")[3]
    folder = tmp_path / "results"
    reading, written = threading.Event(), threading.Event()
    curves = table.curves_table

    def slow(planned):
        if threading.current_thread().name == "early":
            reading.set()
            written.wait(0.5)  # in vain, where the other one has to wait for this one
        return curves(planned)

    monkeypatch.setattr(table, "curves_table", slow)
    early = threading.Thread(target=table.export, args=(plan, folder), name="early")
    early.start()
    assert reading.wait(10)
    end(late, loss_se=0.5, bits_per_byte=4.0)
    table.export(plan, folder)
    written.set()
    early.join(10)
    assert rows(folder / "runs.csv")[late.run_id]["status"] == "done"


def test_a_held_lock_is_waited_for_and_then_reported(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text("{}")
    with file_lock(path), pytest.raises(UserError, match="another process has been writing"), \
            file_lock(path, seconds=0.1):
        pass
    os.replace(_copy(path), path)
    with file_lock(path):
        pass


def test_a_lock_of_a_file_that_was_replaced_since_it_was_opened_does_not_count(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text("{}")
    handle = _open(path)
    os.replace(_copy(path), path)
    assert not _acquire(handle, path)
    os.close(handle)
    handle = _open(path)
    assert _acquire(handle, path)
    os.close(handle)


def _copy(path):
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    return copy
