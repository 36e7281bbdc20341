"""`scaling sweep prune` removes checkpoints that nobody goes on from, and nothing else."""

from __future__ import annotations

import json

from scaling.cli.sweep_upkeep import prune
from scaling.sweeps.ledger import record_failure
from scaling.sweeps.local import write_plan
from scaling.sweeps.plan import make_plan
from scaling.sweeps.prune import idle_trunks, old_checkpoints
from scaling.sweeps.units import units_of
from tests.sweeps.conftest import begin, end


def checkpoints(planned, *steps):
    for step in steps:
        path = planned.folder.checkpoints / str(step) / "state"
        path.mkdir(parents=True)
        (path / "array").write_bytes(b"x" * 1000)


def steps_left(planned):
    return sorted(path.name for path in planned.folder.checkpoints.glob("*"))


def test_only_checkpoints_of_what_is_over_are_removed(plan, index):
    done, diverged, failed, partial, held = plan.runs
    for planned in plan.runs:
        begin(planned, 5)
        checkpoints(planned, 9, 10)
    checkpoints(done, "8.orbax-checkpoint-tmp")
    end(done)
    end(diverged, "diverged")
    end(held)
    record_failure(failed.folder, ValueError("no room"))
    with held.folder.lock():
        final = old_checkpoints(index, keep_final=True)
        assert sum(leftover.size for leftover in final) == 5000
        for leftover in final:
            leftover.remove()
        assert steps_left(done) == steps_left(failed) == ["10"]
        assert not diverged.folder.checkpoints.exists()
        for leftover in old_checkpoints(index, keep_final=False):
            leftover.remove()
    assert not done.folder.checkpoints.exists()
    assert not failed.folder.checkpoints.exists()
    assert steps_left(partial) == steps_left(held) == ["10", "9"]
    for planned in plan.runs:
        assert planned.folder.metrics_path.exists()
    assert done.folder.record_path.exists()


def test_a_trunks_state_goes_when_no_launched_plan_waits_for_it(sweep, runs, plan, tmp_path):
    """Neither this sweep's runs nor those of another launcher."""
    small = [p for p in plan.stage("grid") if p.run.model.d_model == 8]
    units = {p.run.steps: unit for p, unit in zip(small, units_of(small), strict=True)}
    trunk, begins = units[48].trunk, units[24].begins
    for step in (begins, begins + 1):
        (trunk.path / str(step)).mkdir(parents=True)
    (runs / "trunks/unknown/5").mkdir(parents=True)
    gone = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert gone == {trunk.path / str(begins + 1), runs / "trunks/unknown"}
    end(next(p for p in small if p.run.steps == 24))
    gone = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert gone >= {trunk.path / str(begins), trunk.path / str(begins + 1)}
    assert trunk.path not in gone, "the longest run may be writing there"

    longer = make_plan(sweep("grids.0.tokens=[1536, 2304, 3072]", "name=other"), "other", runs)
    units = units_of([p for p in longer.stage("grid") if p.run.model.d_model == 8])
    write_plan(units, runs / "logs", "other.grid")
    branch = next(unit for unit in units if unit.begins and not unit.over())
    (trunk.path / str(branch.begins)).mkdir()
    kept = {leftover.path for leftover in idle_trunks(plan, runs)}
    assert trunk.path / str(branch.begins) not in kept
    assert trunk.path not in kept


def test_prune_says_what_would_go_and_then_removes_it(sweep_file, runs, plan, capsys):
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
