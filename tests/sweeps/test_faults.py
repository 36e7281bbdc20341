"""Faults of a sweep's environment: a full disk, and unreadable files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pandas as pd
import pytest
import typer
import yaml

from scaling.cli.sweep import run
from scaling.cli.sweep_status import log, status
from scaling.cli.sweep_upkeep import retry
from scaling.errors import UserError
from scaling.files import DISK_FULL
from scaling.launch import disk_full, local
from scaling.launch.cancel import held
from scaling.launch.train import train_runs
from scaling.launch.worker_plan import plan_path
from scaling.runs.state import FAILURE, UNREADABLE, clear_failure, record_failure, run_state
from scaling.sweeps.index import index_of
from scaling.sweeps.plan import claim_results
from scaling.sweeps.planning.run_status import planned_statuses
from scaling.sweeps.prune import idle_trunks
from scaling.sweeps.status import status_of
from scaling.sweeps.table import runs_table
from tests.conftest import ROOT, assert_refused
from tests.tiny_sweep import begin, end


@pytest.mark.slow
@pytest.mark.alone
def test_a_full_disk_fails_no_run_and_the_same_command_continues(
    scaling, sweep_file, sweep_content, monkeypatch, tmp_path
):
    sweep_content["grids"] = [{"kind": "product", "tokens": [24 * 64]}]
    sweep_content["sizes"] = [{"d_model": 64, "n_layers": 1, "n_heads": 1}]
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No room for arrays, and room for the log, in which TensorStore says of each array that the
    # write of another one has failed.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with monkeypatch.context() as patched:  # nor for compiled programs, which JAX leaves torn
            patched.setenv("SCALING_CACHE", str(tmp_path / "cache"))
            full = scaling("sweep", "run", sweep_file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(full, "runs: a worker could not write there", "GB free. Free some space",
                   "run the same command again")
    logs = "".join(p.read_text() for p in sweep_file.parent.glob("runs/logs/*.log"))
    assert ("checkpoints: file too large; lift the limit on the size of files (ulimit -f)\n"
            in logs)
    now = json.loads(scaling("sweep", "status", sweep_file, "--json").stdout)
    assert "failed" not in now["states"]
    assert now["states"]["partial"] == 1
    assert not list(sweep_file.parent.glob(f"runs/*/{FAILURE}"))
    again = scaling("sweep", "run", sweep_file)
    assert again.returncode == 0, again.stderr
    assert "1 done" in again.stdout


@pytest.mark.parametrize("number", DISK_FULL)
def test_a_full_disk_stops_the_worker_but_does_not_fail_the_run(plan, runs, monkeypatch, number):
    planned = plan.runs[0]
    full = OSError(number, os.strerror(number), "checkpoints")
    with pytest.raises(OSError, match="checkpoints") as error:
        record_failure(planned.folder, full)
    assert error.value is full
    assert run_state(planned).state == "new"
    code = f"""if True:
        from scaling.launch.disk_full import exit_if_disk_full
        with exit_if_disk_full():
            print("words that find no place")
            raise OSError({number}, "No room", "checkpoints")"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as log:  # takes nothing
        ended = subprocess.run([sys.executable, "-c", code], stdout=log, stderr=subprocess.PIPE,
                               text=True, check=False, env=environment)
    assert ended.returncode == disk_full.STATUS
    assert ended.stderr == f"stopped: checkpoints: no room; {DISK_FULL[number]}\n"

    def worker(part, group, log):
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({disk_full.STATUS})"])

    monkeypatch.setattr(local, "_start", worker)
    with pytest.raises(UserError, match=r"could not write there.* Free some space"):
        train_runs([planned], 1, runs / "logs", "tiny.grid", lambda: None, lambda _: None)


def damaged(path, how):
    good = path.read_text()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    else:
        path.write_bytes({
            "empty": b"", "torn": good[: len(good) // 2].encode(), "zeros": bytes(500),
            "binary": b"\xff\xfe\x00\x80" * 20, "no object": b"[1, 2]",
            "of another version": b'{"state": "finished", "loss": 3.5}',
            "of an unknown end": good.replace('"done"', '"cancelled"').encode(),
        }[how])


@pytest.mark.parametrize("how", ["empty", "torn", "zeros", "binary", "no object", "a folder",
                                 "of another version", "of an unknown end"])
def test_a_record_that_cannot_be_read_is_a_row(plan, index, sweep_file, scaling, capsys, how):
    bad, good, *others = plan.runs
    begin(bad, 5)
    end(bad)
    end(good)
    assert {row.state for row in status_of(index).rows} == {"done", "new"}
    damaged(bad.folder.record_path, how)
    for _ in range(2):  # the second time with the cache of the first
        rows = {row.run.run_id: row for row in status_of(index).rows}
        row = rows[bad.run_id]
        assert (row.state, row.run_state.step, row.run_state.loss) == (UNREADABLE, 5, None)
        assert row.run_state == run_state(bad)
        assert str(bad.folder.record_path) in row.run_state.note
        assert "move it away" in row.run_state.note
        assert rows[good.run_id].state == "done"
        assert all(rows[p.run_id].state == "new" for p in others)
        index = index_of(plan.sweep, "tiny", index.runs_folder)
        assert set(index.records) == {good.run_id}
    table = runs_table(plan).set_index("run_id")
    assert table.loc[bad.run_id, "status"] == "failed"
    assert pd.isna(table.loc[bad.run_id, "loss"])
    planned_status = planned_statuses(plan, index.runs_folder, sweep_file.parent / "results")[0]
    assert (planned_status.state, planned_status.reason) == (UNREADABLE, row.run_state.note)
    status(sweep_file, runs=index.runs_folder)
    assert "1 not readable, 3 new, 1 done" in capsys.readouterr().out
    log(bad.run_id, sweep_file, runs=index.runs_folder)
    assert row.run_state.note in " ".join(capsys.readouterr().out.split())


def test_it_is_trained_again_only_after_a_retry(
    scaling, sweep_file, plan, index, capsys, tmp_path
):
    stage = plan.runs_of_role("grid")
    bad = stage[0]
    for planned in stage[1:]:
        end(planned)
    begin(bad, 5)
    bad.folder.record_path.write_text('{"status": "do')
    with pytest.raises(typer.Exit) as ended:
        run(sweep_file, runs=index.runs_folder, results=tmp_path / "results")
    assert ended.value.exit_code == 1
    shown = capsys.readouterr()
    assert "3 done, 1 not readable" in shown.out
    assert "record.json: not readable as JSON" in " ".join(shown.err.split())
    assert "sweep retry" in shown.err
    assert bad.folder.record_path.read_text() == '{"status": "do'
    retry(sweep_file, runs=index.runs_folder)
    assert "1 failed run(s) will be trained again" in capsys.readouterr().out
    assert bad.folder.record_path.with_suffix(".unreadable").read_text() == '{"status": "do'
    assert run_state(bad).state == "partial"
    assert not clear_failure(bad.folder)
    ran = scaling("sweep", "run", sweep_file)
    assert ran.returncode == 0, ran.stderr
    assert bad.folder.record()["status"] == "done"


@pytest.mark.parametrize("content", ["", '{"why": "x"}', "\x00" * 9])
def test_an_unreadable_failure_is_a_failure(plan, index, content):
    failed = plan.runs[0]
    record_failure(failed.folder, ValueError("no room"))
    (failed.folder.path / FAILURE).write_text(content)
    row = status_of(index).rows[0]
    assert row.state == UNREADABLE
    assert FAILURE in row.run_state.note
    assert clear_failure(failed.folder)
    assert run_state(failed).state == "new"


@pytest.mark.parametrize("torn", [b'{"step": 9, "lo', bytes(300), b"\xff\xfe{}", b"7\n", b"{}\n",
                                  b'{"step": "x"}\n'])
def test_an_incomplete_line_of_metrics_is_skipped(plan, index, torn):
    planned = plan.runs[0]
    begin(planned, 5, 10)
    with planned.folder.metrics_path.open("ab") as file:
        file.write(torn)
    with planned.folder.lock():
        row = status_of(index).rows[0]
    assert (row.state, row.run_state.step, row.tokens_per_second) == ("running", 10, 128.0)
    assert [line["step"] for line in planned.folder.metrics()] == [5, 10]


@pytest.mark.parametrize("content", ['{"runs', '{"jobs": []}', '{"runs": [{"run": "x"}]}'])
def test_a_plan_of_another_version_is_refused(index, plan, tmp_path, content):
    path = plan_path(index.logs, "tiny.grid")
    path.write_text(content)
    for ask in (lambda: planned_statuses(plan, index.runs_folder, tmp_path), lambda: held(path),
                lambda: idle_trunks(plan, index.runs_folder)):
        with pytest.raises(UserError, match=r"tiny\.grid\.plan\.json: .* move it away"):
            ask()


def test_an_unreadable_table_names_no_run(plan, index, tmp_path):
    (tmp_path / "results/other").mkdir(parents=True)
    (tmp_path / "results/other/runs.csv").write_bytes(b"\xff\xfe\x00run_id,sweep\n")
    statuses = planned_statuses(plan, index.runs_folder, tmp_path / "results")
    assert {status.state for status in statuses} == {"new"}


@pytest.mark.parametrize(("content", "words"), [
    ("", "not readable as JSON"), ("[1]", "a JSON object is expected"),
    ('{"version": 3, "name": "tiny"}', "differs in data, shared, version"),
])
def test_results_of_another_version_are_refused(plan, tmp_path, content, words):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=words):
        claim_results(plan, tmp_path)
