"""Which runs share a trunk, when a branch may begin, and when a trunk may go."""

from __future__ import annotations

import json

import pytest

from scaling.config import SweepConfig, override, validate
from scaling.sweeps.ledger import FAILURE
from scaling.sweeps.plan import make_plan
from scaling.sweeps.units import Unit, clear_trunks, units_of
from scaling.training.trunk import Trunk


def by_size(content, tmp_path, *overrides):
    sweep = validate(SweepConfig, override(content, overrides), "tiny")
    runs = make_plan(sweep, "tiny", tmp_path / "runs").stage("grid")
    return {(p.run.model.d_model, p.run.steps): unit
            for p, unit in zip(runs, units_of(runs), strict=True)}


@pytest.fixture
def units(sweep_content, tmp_path):
    return by_size(sweep_content, tmp_path)


def said(unit, step):
    unit.folder.path.mkdir(parents=True, exist_ok=True)
    unit.folder.metrics_path.write_text(json.dumps({"step": step, "loss": 3.0}) + "\n")


def ended(unit, name="record.json"):
    unit.folder.path.mkdir(parents=True, exist_ok=True)
    (unit.folder.path / name).write_text("{}")


def left(unit, step):
    (unit.trunk.path / str(step)).mkdir(parents=True)


def test_the_longest_run_of_each_size_is_the_trunk_of_the_others(units):
    assert set(units) == {(8, 24), (8, 48), (16, 24), (16, 48)}
    for width in (8, 16):
        long, short = units[width, 48], units[width, 24]
        assert long.trunk.leave == {short.begins} == {24 - round(0.2 * 24)}
        assert long.after is None
        assert short.after == long.folder
        assert short.trunk.path == long.trunk.path
    assert units[8, 48].trunk.path != units[16, 48].trunk.path


def test_runs_that_differ_in_more_share_nothing(sweep_content, tmp_path):
    seeds = by_size(sweep_content, tmp_path, "seeds=[0, 1]",
                    "grids=[{kind: product, tokens: [1536]}]")
    assert all(unit.trunk is None or not unit.trunk.leave for unit in seeds.values())
    cosine = by_size(sweep_content, tmp_path, "run.schedule={kind: cosine, warmup_steps: 3}")
    assert all(unit.trunk is None for unit in cosine.values())


def test_workers_are_told_all_of_it(units):
    for unit in units.values():
        assert Unit.read(json.loads(json.dumps(unit.plain()))) == unit


def test_a_branch_waits_for_its_state_and_not_for_one_that_will_not_come(units):
    long, short = units[8, 48], units[8, 24]
    assert long.ready()
    assert not short.ready()
    said(long, short.begins)  # the step is done, and the state perhaps being written
    assert not short.ready()
    said(long, short.begins + 1)
    assert short.ready()
    said(long, 5)
    left(short, short.begins - 1)
    assert not short.ready()
    left(short, short.begins)
    assert short.ready()


@pytest.mark.parametrize("name", ["record.json", FAILURE])
def test_a_trunk_that_is_over_is_not_waited_for(units, name):
    ended(units[8, 48], name)
    assert units[8, 24].ready()
    assert not units[16, 24].ready()


def test_a_branch_that_has_begun_goes_on(units):
    said(units[8, 24], 20)
    assert units[8, 24].ready()


def test_what_is_over_takes_no_part(sweep_content, tmp_path, units):
    ended(units[8, 48])
    again = by_size(sweep_content, tmp_path, "grids=[{kind: product, tokens: [1536, 2304, 3072]}]")
    assert not again[8, 48].trunk.leave
    assert again[8, 48].after is None
    assert again[8, 24].after == again[8, 36].folder
    assert again[16, 24].after == again[16, 48].folder


def test_a_state_goes_when_no_branch_needs_it(units):
    everyone = list(units.values())
    for width in (8, 16):
        left(units[width, 24], units[width, 24].begins)
    ended(units[8, 24], FAILURE)
    clear_trunks(everyone)
    assert not Trunk(units[8, 48].trunk.path).steps()
    assert Trunk(units[16, 48].trunk.path).steps() == [units[16, 24].begins]


def test_what_a_trunk_is_writing_stays(units):
    """The last branch so far is over while the trunk writes the state for the next one."""
    long, short = units[8, 48], units[8, 24]
    left(short, short.begins)
    half_written = long.trunk.path / "30.orbax-checkpoint-tmp"
    half_written.mkdir()
    ended(short)
    clear_trunks(list(units.values()))
    assert not long.trunk.steps()
    assert half_written.exists()
    ended(long)
    clear_trunks(list(units.values()))
    assert not long.trunk.path.exists()


def test_states_go_that_a_killed_launcher_could_not_remove(sweep_content, tmp_path, units):
    branches = [units[width, 24] for width in (8, 16)]
    for branch in branches:
        left(branch, branch.begins)
        ended(branch)
    ended(units[8, 48])
    clear_trunks(list(by_size(sweep_content, tmp_path).values()))
    assert not units[8, 48].trunk.path.exists()
    assert not units[16, 48].trunk.steps()
