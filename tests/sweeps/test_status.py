"""`scaling sweep status` and `log` agree with the run folders."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from scaling.cli import sweep_status
from scaling.cli.sweep_status import log, status
from scaling.config import SweepConfig, validate
from scaling.errors import UserError
from scaling.launch.launcher import WorkerStatus
from scaling.runs.logs import RunLog, newest_log_by_run
from scaling.runs.state import FAILURE, record_failure, run_state
from scaling.sweeps import index as indices
from scaling.sweeps.index import index_of
from scaling.sweeps.plan import make_plan
from scaling.sweeps.status import ORDER, sort_by_state, speed, status_of
from tests.tiny_sweep import begin, end


def by_id(index):
    return {row.run.run_id: row for row in status_of(index).rows}


def forbid_planning(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("planned again")

    monkeypatch.setattr(indices, "_planned", refuse)


def test_states_equal_those_of_the_run_folders(plan, index):
    done, diverged, failed, partial, running = plan.runs
    end(done)
    end(diverged, "diverged", steps=11)
    begin(failed, 5)
    record_failure(failed.folder, ValueError("no room"))
    begin(partial, 5, 10)
    begin(running, 5, 10, 15)
    with running.folder.lock():
        for _ in range(2):  # the second time, records are cached
            rows = by_id(index)
            for planned in plan.runs:
                row = rows[planned.run_id]
                assert row.run_state == run_state(planned)
                assert row.run.steps == planned.run.steps
                assert row.run.tokens == planned.run.trained_tokens
                assert row.run.flops == planned.flops
            index = index_of(plan.sweep, "tiny", index.runs_folder)
            assert set(index.records) == {done.run_id, diverged.run_id}
        now = status_of(index)
    assert list(now.states) == ["running", "failed", "diverged", "partial", "done"]
    assert [row.state for row in sort_by_state(now.rows)] == [s for s in ORDER if s in now.states]
    row = rows[running.run_id]
    assert row.tokens_per_second == pytest.approx(64 / 0.5)
    assert row.seconds_left == pytest.approx((running.run.steps - 15) * 0.5)
    assert row.to_json() == {
        "run_id": running.run_id, "role": running.role, "tokens": running.run.trained_tokens,
        "state": "running", "step": 15, "steps": running.run.steps, "loss": 4.85,
        "tokens_per_second": row.tokens_per_second, "seconds_left": row.seconds_left, "log": None,
        "note": ""}
    assert rows[done.run_id].tokens_per_second == 7.0
    assert rows[partial.run_id].seconds_left is None
    assert rows[failed.run_id].log == failed.folder.path / FAILURE
    log = index.logs / "tiny.grid.worker-0.log"
    log.write_text(f"{failed.run_id}: 1,536 tokens\n{done.run_id}: 1,536 tokens\n")
    rows = by_id(index)
    assert [rows[p.run_id].log for p in (failed, done, partial)] == [log, log, None]
    shown = rows[done.run_id].to_json()
    assert (shown["tokens_per_second"], shown["log"]) == (7.0, str(log))


def test_speed_is_that_of_the_present_process(plan):
    planned = plan.runs[0]
    assert speed(planned.folder) is None
    begin(planned, 5)
    assert speed(planned.folder) is None
    begin(planned, 10, 15, 20, seconds_a_step=0.5)
    begin(planned, 15, 20, 25, seconds_a_step=0.1)  # resumed at 10, elsewhere
    with planned.folder.metrics_path.open("a") as file:
        file.write('{"step": 25, "eval_loss": 1.0}\n{"step": 30, "tok')
    assert speed(planned.folder) == pytest.approx(64 / 0.1)


@pytest.mark.parametrize("earlier", [
    [(5, 50.0), (10, 100.0)],  # a slow process, whose seconds the next one does not go on with
    [(10, 0.1), (20, 0.2), (15, 0.3)],  # a fast one, which had got further
])
def test_speed_leaves_out_the_lines_of_an_earlier_process(plan, earlier):
    run = plan.runs[0].folder
    run.path.mkdir(parents=True)
    lines = [*earlier, (15, 2.0), (20, 4.0)]
    run.metrics_path.write_text("".join(json.dumps({
        "step": step, "tokens": step * 64, "loss": 3.0, "seconds": seconds}) + "\n"
        for step, seconds in lines))
    assert speed(run) == pytest.approx(5 * 64 / 2)


def test_no_index_is_written_without_a_launch(sweep, runs):
    index_of(sweep(), "tiny", runs)
    assert list(runs.iterdir()) == []  # it may be any folder


def test_the_index_saves_planning_until_something_changes(sweep, runs, index, monkeypatch):
    with monkeypatch.context() as patched:
        forbid_planning(patched)
        assert index_of(sweep(), "tiny", runs).runs == index.runs
        with pytest.raises(AssertionError, match="planned again"):
            index_of(sweep("seeds=[0, 1]"), "tiny", runs)
    assert len(index_of(sweep("seeds=[0, 1]"), "tiny", runs).runs) > len(index.runs)
    for spoil in ("", "{", '{"key": 1}', "[]"):
        index.path.write_text(spoil)
        assert index_of(sweep(), "tiny", runs).runs == index.runs
    kept = json.loads(index.path.read_text())
    for entries in ([["too", "short"]], 5):
        index.path.write_text(json.dumps(kept | {"entries": entries}))
        assert index_of(sweep(), "tiny", runs).runs == index.runs


def test_another_manifest_is_another_plan(sweep_content, store_path, tmp_path, monkeypatch):
    copy = tmp_path / "store"
    copy.symlink_to(store_path)
    sweep_content["run"]["data"]["store"] = str(copy)
    sweep = validate(SweepConfig, sweep_content, "tiny")
    index_of(sweep, "tiny", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()  # the status command creates no folder
    (tmp_path / "runs/logs").mkdir(parents=True)
    index_of(sweep, "tiny", tmp_path / "runs")
    forbid_planning(monkeypatch)
    index_of(sweep, "tiny", tmp_path / "runs")
    copy.unlink()
    copy.mkdir()
    (copy / "manifest.json").write_text((store_path / "manifest.json").read_text() + " ")
    with pytest.raises(AssertionError, match="planned again"):
        index_of(sweep, "tiny", tmp_path / "runs")


def test_a_record_that_changes_is_read_again(plan, index):
    planned = plan.runs[0]
    end(planned)
    assert by_id(index)[planned.run_id].run_state.loss == 3.5
    before = planned.folder.record_path.stat().st_mtime_ns
    end(planned, loss=2.5)  # of the same size
    os.utime(planned.folder.record_path, ns=(before + 1000, before + 1000))
    assert by_id(index)[planned.run_id].run_state.loss == 2.5
    end(planned, loss=2.25)  # of the same time
    os.utime(planned.folder.record_path, ns=(before + 1000, before + 1000))
    assert by_id(index)[planned.run_id].run_state.loss == 2.25
    planned.folder.record_path.unlink()
    assert by_id(index)[planned.run_id].state == "new"


def test_a_time_left_is_shown_if_it_is_one(plan, index):
    """Not beyond a billion seconds, as at the pace of a worker that has stalled."""
    begin(plan.runs[0], 5, 10)
    with plan.runs[0].folder.lock():
        row = by_id(index)[plan.runs[0].run_id]
    left = plan.runs[0].run.steps - 10
    shown = {pace: replace(row, tokens_per_second=pace).seconds_left for pace in
             (64.0, 64 * left / 1e9, 64 * left / 1.01e9, 0.0, None)}
    assert list(shown.values()) == [pytest.approx(left), pytest.approx(1e9), None, None, None]
    late = replace(row, run_state=replace(row.run_state, step=plan.runs[0].run.steps + 5))
    assert late.seconds_left is None


def test_the_index_depends_on_all_that_a_plan_reads(sweep, tmp_path, monkeypatch):
    """Its configuration, the files and folders that it names, and this package."""
    package, run = tmp_path / "package", tmp_path / "runs/0123456789abcdef"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    (run / "checkpoints/7").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (tmp_path / "weights").mkdir()
    (tmp_path / "laws.json").write_text("{}")
    monkeypatch.setattr(indices.scaling, "__file__", str(package / "__init__.py"))
    given = sweep(f"run.init.hf={tmp_path}/weights",
                  f"grids=[{{kind: isoloss, losses: [3], law: {tmp_path}/laws.json}}]")
    keys = [indices._key(given)]

    def changed() -> bool:
        keys.append(indices._key(given))
        return keys[-1] != keys[-2]

    assert not changed()
    (tmp_path / "laws.json").write_text("[]")
    assert changed()
    (tmp_path / "weights/model.safetensors").write_text("x")
    assert changed()
    os.utime(tmp_path / "weights/model.safetensors", ns=(1, 1))
    assert changed()
    (tmp_path / "weights/config.json").write_text("{}")
    assert changed()
    (package / "code.py").write_text("x = 12\n")
    assert changed()
    os.utime(package / "code.py", ns=(1, 1))
    assert changed()
    (package / "notes.txt").write_text("no code")
    assert not changed()
    given = sweep(f"run.init.checkpoint={run}/checkpoints/7")
    assert changed()
    (run / "config.json").write_text('{"seed": 1}')
    assert changed()


def test_compute_counts_what_is_shared_once(plan, index):
    assert status_of(index).flops_done == 0
    assert status_of(index).flops_total == pytest.approx(plan.paid_flops)
    assert plan.paid_flops < plan.flops
    short, long = sorted((p for p in plan.runs_of_role("grid") if p.run.model.d_model == 8),
                         key=lambda p: p.run.steps)
    step = long.flops / long.run.steps
    begin(long, 10)
    assert status_of(index).flops_done == pytest.approx(10 * step)
    begin(short, 15)  # by itself: 10 of its steps are there twice
    assert status_of(index).flops_done == pytest.approx(15 * step)
    for planned in plan.runs:
        end(planned)
    assert status_of(index).flops_done == pytest.approx(plan.paid_flops)
    assert status_of(index).over


def test_runs_over_budget_are_marked(sweep, runs):
    cheapest = min(make_plan(sweep(), "tiny", runs).runs, key=lambda p: p.flops)
    index = index_of(sweep(f"max_flops={1.01 * cheapest.flops}"), "tiny", runs)
    now = status_of(index)
    assert now.states == {"new": 1, "over budget": 4}
    end(cheapest)
    now = status_of(index)
    assert now.over
    assert now.flops_done == now.flops_total == pytest.approx(cheapest.flops)


def test_the_summary_has_the_share_of_the_budget_and_the_workers(
    sweep, runs, command, sweep_file, monkeypatch
):
    """A launcher that does not answer hides no other."""
    (runs / "logs").mkdir()
    plan = make_plan(sweep(), "tiny", runs)
    cheapest = plan.runs[0]
    end(cheapest)

    def group(kind, *states):
        def status():
            if not states:
                raise UserError("squeue: no answer")
            return [WorkerStatus(str(i), state, runs) for i, state in enumerate(states)]

        return SimpleNamespace(kind=SimpleNamespace(name=kind), status=status)

    monkeypatch.setattr("scaling.launch.registry.launched_groups", lambda name, logs: (
        [group("slurm"), group("local", "running", "queued", "running"), group("toy", "queued")],
        [UserError("the launcher bad cannot be loaded")]))
    most = f"max_flops={4 * cheapest.flops}"
    done = command("sweep", "status", sweep_file, most, cwd=sweep_file.parent)
    *_, counts, compute, workers = done.out.splitlines()
    assert counts.endswith(" over budget")
    assert compute.endswith(f", 25% of max_flops {4 * cheapest.flops:.3g}")
    assert workers == ("workers: 2 running (local), 1 queued (local), 1 queued (toy), "
                       "the launcher bad cannot be loaded")
    content = json.loads(command("sweep", "status", sweep_file, most, "--json").out)
    assert content["max_flops"] == pytest.approx(4 * cheapest.flops)
    assert content["workers"] == [
        {"launcher": "local", "worker": "0", "state": "running"},
        {"launcher": "local", "worker": "1", "state": "queued"},
        {"launcher": "local", "worker": "2", "state": "running"},
        {"launcher": "toy", "worker": "0", "state": "queued"}]


def test_the_status_command(command, sweep_file, plan, index, capsys):
    done, failed, running = plan.runs[:3]
    end(done)
    record_failure(failed.folder, ValueError("no room\nat all"))
    begin(running, 5, 10)
    index.logs.mkdir(exist_ok=True)
    (index.logs / "tiny.grid.worker-0.log").write_text(f"{running.run_id}: 1,536 tokens\n")
    with running.folder.lock():
        shown = command("sweep", "status", sweep_file, "--json", cwd=sweep_file.parent)
        assert shown.code == 0, shown.err
        content = json.loads(shown.out)
        assert content["states"] == {"running": 1, "failed": 1, "new": 2, "done": 1}
        assert [row["run_id"] for row in content["runs"]] == [p.run_id for p in plan.runs]
        share = content["flops_done"] / content["flops_total"]
        assert 0 < share < 1
        status(sweep_file, runs=index.runs_folder)
    _, head, first, second, *others = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "run"
    assert first.split()[:4] == [
        running.run_id, "running", f"10/{running.run.steps}", f"{10 / running.run.steps:.0%}"]
    left = round((running.run.steps - 10) * 0.5)  # at two steps of 64 tokens a second
    assert first.split()[4:-1] == [
        "4.9000", "128", f"0:{left:02}", str(running.run.model.d_model), "x", "1",
        f"{running.run.trained_tokens:,}", running.role]
    assert first.endswith("tiny.grid.worker-0.log")
    assert second.split()[:2] == [failed.run_id, "failed"]
    assert second.endswith("at all")
    assert "1 running, 1 failed, 2 new, 1 done" in others
    assert others[-1].endswith(f"FLOPs done ({share:.0%})")
    with pytest.raises(UserError, match="--watch"):
        status(sweep_file, runs=index.runs_folder, watch=True, json_output=True)


def test_a_terminal_shows_the_first_rows_or_all(
    sweep_file, index, plan, capsys, monkeypatch
):
    begin(plan.runs[-1], 5)
    monkeypatch.setattr(sweep_status, "out", Console(force_terminal=True, width=200))
    monkeypatch.setattr(sweep_status, "_MAX_ROWS", 2)
    status(sweep_file, runs=index.runs_folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == [plan.runs[-1].run_id, "partial"]
    assert lines[4] == "... and 3 more; --all shows every run"
    status(sweep_file, runs=index.runs_folder, all_rows=True)
    whole = capsys.readouterr().out
    assert all(p.run_id in whole for p in plan.runs)
    assert "more" not in whole


def test_watching_ends_when_all_runs_are_over(sweep_file, index, plan, capsys):
    for planned in plan.runs:
        end(planned)
    status(sweep_file, runs=index.runs_folder, watch=True)
    assert capsys.readouterr().out.startswith("5 done; ")


def test_the_log_of_a_run_is_shown(command, sweep_file, plan, index, capsys):
    done, failed, running = plan.runs[:3]
    end(done)
    record_failure(failed.folder, ValueError("no room"))
    index.logs.mkdir(exist_ok=True)
    (index.logs / "tiny.grid.worker-0.log").write_text(
        f"{running.run_id}: 1,536 tokens\nWARNING: slow\n{done.run_id}: 3 tokens\nother\n"
        f"{running.run_id}: failed: once\n")
    shown = command("sweep", "log", running.run_id[:8], sweep_file, cwd=sweep_file.parent)
    assert shown.out.splitlines() == [
        f"{running.run_id}: 1,536 tokens", "WARNING: slow", f"{running.run_id}: failed: once"]

    def log_lines(run, **options):
        log(run, sweep_file, runs=index.runs_folder, **options)
        return capsys.readouterr().out.splitlines()

    assert log_lines(running.run_id, lines=1) == [f"{running.run_id}: failed: once"]
    assert log_lines(done.run_id, follow=True) == [  # it is over
        f"{done.run_id}: 3 tokens", "other"]
    assert log_lines(failed.run_id, lines=1) == ["ValueError: no room"]
    assert log_lines(plan.runs[3].run_id) == []
    with pytest.raises(UserError, match="see `scaling sweep status`"):
        log_lines("zz")
    with pytest.raises(UserError, match=r"5 runs .* more digits"):
        log_lines("")


def test_new_log_lines_are_followed(tmp_path):
    mine, other = "a" * 16, "b" * 16
    path = tmp_path / "tiny.grid.slurm/7_0_log.out"
    path.parent.mkdir()
    path.write_text(f"start\n{other}: 5 tokens\n{mine}: 5 tokens\nfirst\nsec")
    words = RunLog(tmp_path, mine)
    assert [line for _, line in words.new_lines()] == [f"{mine}: 5 tokens", "first"]
    with path.open("a") as file:
        file.write(f"ond\n{other}: 6 tokens\nnot mine\n")
    (tmp_path / "tiny.grid.worker-1.log").write_text(f"{mine}: done 3.1\n")
    assert [line for _, line in words.new_lines()] == ["second", f"{mine}: done 3.1"]
    assert words.new_lines() == []
    assert newest_log_by_run(tmp_path)[other] == path
