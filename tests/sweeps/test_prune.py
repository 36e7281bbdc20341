"""`scaling sweep prune` removes only checkpoints that no run needs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from scaling.cli.sweep_upkeep import _bytes, prune
from scaling.errors import UserError
from scaling.launch.jobs import jobs_of
from scaling.launch.worker_plan import write_plan
from scaling.runs.state import record_failure
from scaling.runs.trunk import Trunk, holds_only_checkpoints
from scaling.sweeps import prune as prune_module
from scaling.sweeps.plan import make_plan
from scaling.sweeps.prune import Leftover, idle_trunks, old_checkpoints
from tests.tiny_sweep import begin, end

pytestmark = pytest.mark.quick


def checkpoints(planned, *steps):
    for step in steps:
        path = planned.folder.checkpoints / str(step) / "state"
        path.mkdir(parents=True)
        (path / "array").write_bytes(b"x" * 1000)


def steps_left(planned):
    return sorted(path.name for path in planned.folder.checkpoints.glob("*"))


def test_only_checkpoints_of_runs_that_are_over_are_removed(plan):
    done, diverged, failed, partial, held = plan.runs
    for planned in plan.runs:
        begin(planned, 5)
        checkpoints(planned, 9, 10)
    checkpoints(done, "8.orbax-checkpoint-tmp")
    checkpoints(partial, "damaged-8.1")
    checkpoints(failed, "damaged-12.1")
    end(done)
    end(diverged, "diverged")
    end(held)
    record_failure(failed.folder, ValueError("no room"))
    with held.folder.lock():
        final = old_checkpoints(plan, keep_final=True)
        assert sum(leftover.size for leftover in final) == 6000
        for leftover in final:
            leftover.remove()
        assert steps_left(done) == steps_left(failed) == ["10"]
        assert not diverged.folder.checkpoints.exists()
        for leftover in old_checkpoints(plan, keep_final=False):
            leftover.remove()
    assert not done.folder.checkpoints.exists()
    assert not failed.folder.checkpoints.exists()
    assert steps_left(partial) == ["10", "9", "damaged-8.1"]
    assert steps_left(held) == ["10", "9"]
    for planned in plan.runs:
        assert planned.folder.metrics_path.exists()
    assert done.folder.record_path.exists()


def test_other_files_next_to_checkpoints_are_kept(plan, runs):
    done, diverged, *_ = plan.runs
    trunk = runs / "trunks" / ("f" * 16)
    for planned in (done, diverged):
        begin(planned, 5)
        checkpoints(planned, 9, 10, "damaged-9.1")
    end(done)
    end(diverged, "diverged")
    (trunk / "9/state").mkdir(parents=True)
    mine = [done.folder.checkpoints / "README", done.folder.checkpoints / "2026/notes",
            diverged.folder.checkpoints / "best/array",
            trunk / "notes.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for leftover in [*old_checkpoints(plan, keep_final=False), *idle_trunks(plan, runs)]:
        leftover.remove()
    assert steps_left(done) == ["2026", "README"]
    assert Trunk(trunk).steps() == []
    assert steps_left(diverged) == ["best"]
    Trunk(trunk).remove([9], folder=True)
    assert [path.name for path in trunk.iterdir()] == ["notes.txt"]
    assert {path.read_text() for path in mine} == {"mine"}


def test_the_rest_of_an_interrupted_removal_is_removed(runs):
    trunk = Trunk(runs / "trunks" / ("f" * 16))
    for step, left in (("5", []), ("9", ["files.json"]), ("10", ["origin", "progress"])):
        for name in left:
            (trunk.path / step / name).mkdir(parents=True)
        (trunk.path / step).mkdir(exist_ok=True, parents=True)
    (trunk.path / "11.orbax-checkpoint-tmp").mkdir()
    assert holds_only_checkpoints(trunk.path)
    trunk.remove([5, 9, 10], folder=True)
    assert not trunk.path.exists()


def test_a_trunk_state_is_removed_when_no_launched_plan_needs_it(sweep, runs, plan, tmp_path):
    """Neither this sweep's runs nor those of another launcher."""
    small = [p for p in plan.runs_of_role("grid") if p.run.model.d_model == 8]
    jobs = {p.run.steps: job for p, job in zip(small, jobs_of(small), strict=True)}
    trunk, begins = jobs[48].trunk, jobs[24].begins
    for step in (begins, begins + 1):
        (trunk.path / str(step)).mkdir(parents=True)
    (trunk.path / "2026/notes").mkdir(parents=True)  # of another program
    unknown = runs / "trunks" / ("f" * 16)
    (unknown / "5/state").mkdir(parents=True)
    (runs / "trunks/precious/5/state").mkdir(parents=True)
    gone = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert gone == {trunk.path / str(begins + 1), unknown}
    end(next(p for p in small if p.run.steps == 24))
    gone = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert gone >= {trunk.path / str(begins), trunk.path / str(begins + 1)}
    assert trunk.path not in gone, "the longest run may be writing there"

    longer = make_plan(sweep("grids.0.tokens=[1536, 2304, 3072]", "name=other"), "other", runs)
    jobs = jobs_of([p for p in longer.runs_of_role("grid") if p.run.model.d_model == 8])
    write_plan(jobs, runs / "logs", "other.grid")
    branch = next(job for job in jobs if job.begins and not job.over())
    (trunk.path / str(branch.begins)).mkdir()
    kept = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert trunk.path / str(branch.begins) not in kept
    assert trunk.path not in kept


def test_a_state_that_a_held_out_run_needs_is_kept(sweep, runs):
    """Of two held-out runs of one size, the shorter begins from the state of the longer."""
    size = "{d_model: 24, n_layers: 1, n_heads: 1}"
    plan = make_plan(sweep(f"heldout=[{{size: {size}, tokens: 4608}}, "
                           f"{{size: {size}, tokens: 9216}}]"), "tiny", runs)
    branch = next(job for job in jobs_of(plan.runs_of_role("heldout")) if job.begins)
    state = branch.trunk.path / str(branch.begins)
    (state / "state").mkdir(parents=True)
    assert idle_trunks(plan, runs) == []
    end(next(p for p in plan.runs if p.folder.path.name == branch.name))
    assert state in {leftover.path for leftover in idle_trunks(plan, runs)}


def test_a_launched_plan_needs_a_state_until_the_run_is_over(sweep, runs):
    plan, launched = (make_plan(sweep(f"grids.0.tokens=[{tokens}]", f"name={name}"), name, runs)
                      for tokens, name in (("3200", "this"), ("1536, 3072", "other")))
    jobs = jobs_of(launched.runs_of_role("grid"))
    write_plan(jobs, runs / "logs", "other.grid")
    branch = next(job for job in jobs if job.begins)
    state = branch.trunk.path / str(branch.begins)
    (state / "state").mkdir(parents=True)
    assert idle_trunks(plan, runs) == []
    end(next(p for p in launched.runs if p.folder.path.name == branch.name))
    assert [leftover.path for leftover in idle_trunks(plan, runs)] == [state]


def test_the_size_of_a_folder_is_that_of_its_own_files(tmp_path):
    """At any depth, and not of what a link in it leads to."""
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    folder = tmp_path / "runs" / "9"
    (folder / "state/deep").mkdir(parents=True)
    for path in (folder / "a", folder / "state/b", folder / "state/deep/c"):
        path.write_bytes(b"x" * 300)
    (folder / "link").symlink_to("../../large")
    (folder / "folder").symlink_to("../..")
    link = len("../../large")
    assert Leftover.at(folder, tmp_path / "runs").size in (900 + link, 900 + link + len("../.."))


def test_prune_lists_and_then_removes_checkpoints(sweep_file, runs, plan, capsys):
    done = plan.runs[0]
    checkpoints(done, 9, 10)
    end(done)
    prune(sweep_file, runs=runs, dry_run=True)
    assert "1 folder(s) of checkpoints would be removed, 1 kB" in capsys.readouterr().out
    assert steps_left(done) == ["10", "9"]
    prune(sweep_file, runs=runs, json_output=True)
    did = json.loads(capsys.readouterr().out)
    assert (did["removed"], did["bytes"]) == (True, 1000)
    assert steps_left(done) == ["10"]


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.35 MB"), (5e9, "5 GB"),
    (7e12, "7000 GB")])
def test_sizes_have_decimal_units(size, text):
    assert _bytes(size) == text


@pytest.fixture
def victim(tmp_path):
    """Checkpoints outside the folder of runs."""
    folder = tmp_path / "victim/precious/checkpoints"
    for step in ("9", "10"):
        (folder / step / "state").mkdir(parents=True)
        (folder / step / "state/array").write_bytes(b"precious")
    return folder


def intact(victim):
    return [path.read_bytes() for path in sorted(victim.glob("*/state/array"))] == [b"precious"] * 2


def test_an_index_names_nothing_to_remove(command, sweep_file, index, plan, victim, tmp_path):
    """The identity in a crafted index leads outside; nor does one of another run count."""
    end(plan.runs[0])
    (victim.parent / "record.json").write_text('{"status": "done", "steps": 1, "loss": 1.0}')
    other = index.runs_folder / ("e" * 16)
    (other / "checkpoints/5/state").mkdir(parents=True)
    (other / "record.json").write_text('{"status": "done", "steps": 1, "loss": 1.0}')
    good = json.loads(index.path.read_text())
    for run_id in ("../victim/precious", str(victim.parent), other.name):
        good["entries"][0][0] = run_id
        index.path.write_text(json.dumps(good))
        pruned = command("sweep", "prune", sweep_file, "--keep", "none", cwd=tmp_path)
        assert (pruned.code, pruned.out[:11]) == (0, "0 folder(s)")
        assert command("sweep", "retry", sweep_file).code == 0
    assert intact(victim)
    assert (other / "checkpoints/5").exists()


def lay_run(plan, runs, victim):
    run = plan.runs[0].folder
    (victim.parent / "record.json").write_text('{"status": "done", "steps": 1, "loss": 1.0}')
    run.path.symlink_to(victim.parent)


def lay_checkpoints(plan, runs, victim):
    end(plan.runs[0])
    plan.runs[0].folder.checkpoints.symlink_to(victim)


def lay_checkpoint(plan, runs, victim):
    end(plan.runs[0])
    for step in (5, 100):
        (plan.runs[0].folder.checkpoints / str(step)).parent.mkdir(exist_ok=True)
        (plan.runs[0].folder.checkpoints / str(step)).symlink_to(victim / "9")


def lay_trunks(plan, runs, victim):
    (victim.parent / ("f" * 16)).symlink_to(victim)
    (runs / "trunks").symlink_to(victim.parent)


def lay_trunk(plan, runs, victim):
    (runs / "trunks").mkdir()
    (runs / "trunks" / ("f" * 16)).symlink_to(victim)


def lay_state(plan, runs, victim):
    (runs / "trunks" / ("f" * 16)).mkdir(parents=True)
    (runs / "trunks" / ("f" * 16) / "5").symlink_to(victim / "9")


def lay_names(plan, runs, victim):
    for name in ("notes", "..hidden", "5.txt", "G" * 16):
        (runs / "trunks" / name / "5/state").mkdir(parents=True)


@pytest.mark.parametrize("lay", [lay_run, lay_checkpoints, lay_checkpoint, lay_trunks, lay_trunk,
                                 lay_state, lay_names])
@pytest.mark.parametrize("keep", ["none", "final"])
def test_nothing_behind_a_link_is_removed(
    command, sweep_file, runs, plan, victim, lay, keep, tmp_path
):
    lay(plan, runs, victim)
    before = sorted(p for p in (runs / "trunks").glob("*") if not p.name.startswith("f"))
    pruned = command("sweep", "prune", sweep_file, "--keep", keep, cwd=tmp_path)
    assert pruned.code == 0, pruned.err
    assert intact(victim)
    assert (victim.parent / "checkpoints").is_dir()
    if (runs / "trunks").exists():
        assert set(before) <= set((runs / "trunks").iterdir())


def test_a_link_created_meanwhile_is_refused(plan, runs, victim):
    """Between the look and the removal."""
    done = plan.runs[0]
    checkpoints(done, 9, 10)
    end(done)
    (leftover,) = old_checkpoints(plan, keep_final=False)
    done.folder.checkpoints.rename(runs / "moved")
    done.folder.checkpoints.symlink_to(victim)
    with pytest.raises(UserError, match="leads through a link"):
        leftover.remove()
    done.folder.checkpoints.unlink()
    done.folder.path.rename(runs / "moved too")
    done.folder.path.symlink_to(victim.parent)
    with pytest.raises(UserError, match="leads through a link"):
        leftover.remove()
    assert intact(victim)


def test_a_trunk_is_cleared_only_within_its_folder(runs, victim):
    (runs / "trunks").mkdir()
    trunk = Trunk(runs / "trunks" / ("f" * 16))
    trunk.path.symlink_to(victim)
    trunk.remove([9, 10], folder=True)
    assert intact(victim)
    assert trunk.steps() == [9, 10], "it is a link to a folder with these"


def test_only_half_written_files_are_removed(plan, victim):
    run = plan.runs[0].folder
    run.path.mkdir(parents=True)
    left = [".record.json.0123abcd", ".lease.json." + "0" * 32, ".config.json.ffffffff"]
    kept = [".mine.json.0123abcd", ".record.json.backup", "record.json.0123abcd"]
    for name in left + kept:
        (run.path / name).write_text("{")
    (run.path / ".record.json.01234567").mkdir()
    (run.path / ".failure.json.01234567").symlink_to(victim / "9/state/array")
    run.remove_half_written()
    assert {p.name for p in run.path.iterdir()} == {
        *kept, ".record.json.01234567", ".failure.json.01234567"}
    assert intact(victim)


def test_a_failed_removal_does_not_stop_the_others(
    command, sweep_file, runs, plan, monkeypatch, tmp_path
):
    """A folder of another user among one's own."""
    theirs, mine, *_ = plan.runs
    for planned in (theirs, mine):
        checkpoints(planned, 9, 10)
        end(planned)
    real = prune_module.remove_below

    def remove(root, path):
        if path.is_relative_to(tmp_path / theirs.folder.path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(root, path)

    monkeypatch.setattr(prune_module, "remove_below", remove)
    pruned = command("sweep", "prune", sweep_file, "--runs", runs)
    assert pruned.code == 1
    assert pruned.out == "1 folder(s) of checkpoints removed, 1 kB\n"
    assert f"{theirs.folder.checkpoints / '9'} is kept: " in pruned.err
    assert "permission denied" in pruned.err
    assert steps_left(theirs) == ["10", "9"]
    assert steps_left(mine) == ["10"]


def test_an_inaccessible_run_does_not_stop_pruning(
    command, sweep_file, runs, plan, monkeypatch
):
    theirs, mine, *_ = plan.runs
    for planned in (theirs, mine):
        checkpoints(planned, 9, 10)
        end(planned)
    real = os.listdir

    def listed(path="."):
        if Path(path) == theirs.folder.checkpoints:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", listed)
        pruned = command("sweep", "prune", sweep_file, "--runs", runs)
    assert (pruned.code, pruned.out) == (0, "1 folder(s) of checkpoints removed, 1 kB\n")
    assert steps_left(theirs) == ["10", "9"]
    assert steps_left(mine) == ["10"]
