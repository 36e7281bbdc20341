"""What `plan` says of each run: new, done, changed, shared, over budget; and why."""

from __future__ import annotations

import json

import pytest

from scaling.config import SweepConfig, override, validate
from scaling.config.run import semantic
from scaling.sweeps.cost import SECONDS_PER_HOUR, Pace, within_hours
from scaling.sweeps.local import PLAN_SUFFIX
from scaling.sweeps.plan import make_plan
from scaling.sweeps.planning.memory import bytes_of, device_bytes
from scaling.sweeps.planning.outlook import outlooks


@pytest.fixture
def place(tmp_path):
    """Runs and results folders, where every sweep of the test has its things."""
    (tmp_path / "runs/logs").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    return tmp_path


@pytest.fixture
def planned(sweep_content, place):
    def plan(*overrides):
        sweep = validate(SweepConfig, override(sweep_content, overrides), "tiny")
        return make_plan(sweep, "tiny", place / "runs")

    return plan


def seen(plan, place):
    found = outlooks(plan, place / "runs", place / "results")
    return {p.run_id: outlook for p, outlook in zip(plan.runs, found, strict=True)}


def launched(plan, name, place):
    content = {"runs": [{"folder": str(p.folder.path), "config": p.run.model_dump(mode="json"),
                         "begins": None}
                        for p in plan.stage("grid")]}
    (place / f"runs/logs/{name}{PLAN_SUFFIX}").write_text(json.dumps(content))


def test_a_run_that_is_not_what_it_was_is_changed_and_says_in_what(planned, place):
    first = planned()
    assert {outlook.state for outlook in seen(first, place).values()} == {"new"}
    launched(first, "tiny.grid", place)
    assert {outlook.state for outlook in seen(first, place).values()} == {"new"}
    second = planned("run.optimizer.b2=0.9", "grids.0.tokens=[1536, 6400]")
    found = seen(second, place)
    before = {(p.run.model.d_model, p.run.tokens): p.run_id for p in first.runs}
    for p in second.stage("grid"):
        outlook = found[p.run_id]
        if p.run.tokens == 1536:
            assert outlook.state == "changed"
            assert f"was {before[p.run.model.d_model, 1536]}" in outlook.why
            assert outlook.why.endswith("optimizer.b2 0.95 -> 0.9")
        else:
            assert (outlook.state, outlook.why) == ("new", "")
    moved = planned("run.checkpoint.every_seconds=5")  # no part of what a run is
    assert {outlook.state for outlook in seen(moved, place).values()} == {"new"}


def test_a_folder_that_holds_another_run_is_changed(planned, place, store):
    plan = planned()
    right, wrong = plan.runs[:2]
    for folder, run in ((right.folder, right.run), (wrong.folder, right.run)):
        folder.path.mkdir()
        folder.config_path.write_text(json.dumps({
            "run_id": right.run_id, "semantic": semantic(run, store.hash),
            "config": run.model_dump(mode="json")}, indent=2))
    found = seen(plan, place)
    assert found[right.run_id].state == "new"
    assert found[wrong.run_id].state == "changed"
    assert "tokens" in found[wrong.run_id].why
    assert "move that folder away" in found[wrong.run_id].why


def test_runs_that_other_sweeps_name_are_shared(planned, place):
    plan = planned()
    launched(planned("grids.0.tokens=[1536]"), "other.grid", place)
    (place / "results/third").mkdir()
    (place / "results/third/runs.csv").write_text(f"run_id,sweep\n{plan.runs[0].run_id},third\n")
    (place / "results/tiny").mkdir()
    (place / "results/tiny/runs.csv").write_text(f"run_id,sweep\n{plan.runs[1].run_id},tiny\n")
    found = seen(plan, place)
    for p in plan.runs:
        expected = {"other"} if p.run.tokens == 1536 else set()
        expected |= {"third"} if p is plan.runs[0] else set()
        assert set(found[p.run_id].shared) == expected


def test_hours_are_a_budget_like_flops(planned, place):
    pace = Pace(0.0, 1e-9)
    whole = planned()
    cheapest = whole.runs[0]
    hours = 1.01 * cheapest.flops * 1e-9 / SECONDS_PER_HOUR
    plan = within_hours(planned(f"max_device_hours={hours}"), pace)
    assert [p.run_id for p in plan.stage("grid")] == [cheapest.run_id]
    found = seen(plan, place)
    assert [found[p.run_id].state for p in plan.runs] == ["new"] + ["over budget"] * 4
    assert within_hours(whole, pace) is whole


def test_a_modelled_pace_is_the_peak_times_the_utilisation(planned):
    pace = Pace.modelled("h100", 0.4)
    p = planned().runs[-1]
    assert pace.seconds_of_step(p) * p.run.steps == pytest.approx(p.flops / (0.4 * 989e12))


def test_memory_is_divided_as_the_mesh_divides_it(make_run):
    whole = bytes_of(make_run())
    by_two = bytes_of(make_run("execution.mesh.data=2"))
    assert whole > by_two > whole / 2
    sharded = bytes_of(make_run("execution.mesh.fsdp=2"))
    assert sharded == pytest.approx(whole / 2, rel=0.01)
    assert device_bytes("h200", None, 1) == 141e9
    assert device_bytes(None, None, 4) == pytest.approx(device_bytes(None, None, 1) / 4)
