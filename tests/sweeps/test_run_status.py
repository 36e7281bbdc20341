"""The status of each planned run: new, done, changed, shared, over budget; and the reason."""

from __future__ import annotations

import json

import pytest

from scaling.accounting import count_parameters
from scaling.accounting.run_memory import device_bytes, estimate_run_bytes
from scaling.config import SweepConfig, override, validate
from scaling.config.run import semantic
from scaling.launch.worker_plan import PLAN_SUFFIX
from scaling.sweeps.cost import SECONDS_PER_HOUR, StepTimeModel, within_hours
from scaling.sweeps.plan import make_plan
from scaling.sweeps.planning.run_status import planned_statuses


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
    found = planned_statuses(plan, place / "runs", place / "results")
    return {p.run_id: status for p, status in zip(plan.runs, found, strict=True)}


def launched(plan, name, place):
    content = {"runs": [{"folder": str(p.folder.path), "config": p.run.model_dump(mode="json"),
                         "begins": None}
                        for p in plan.runs_of_role("grid")]}
    (place / f"runs/logs/{name}{PLAN_SUFFIX}").write_text(json.dumps(content))


def test_a_changed_run_names_its_differences(planned, place):
    first = planned()
    assert {status.state for status in seen(first, place).values()} == {"new"}
    launched(first, "tiny.grid", place)
    assert {status.state for status in seen(first, place).values()} == {"new"}
    second = planned("run.optimizer.b2=0.9", "grids.0.tokens=[1536, 6400]")
    found = seen(second, place)
    before = {(p.run.model.d_model, p.run.tokens): p.run_id for p in first.runs}
    for p in second.stage("grid"):
        status = found[p.run_id]
        if p.run.tokens == 1536:
            assert status.state == "changed"
            assert f"was {before[p.run.model.d_model, 1536]}" in status.reason
            assert status.reason.endswith("optimizer.b2 0.95 -> 0.9")
        else:
            assert (status.state, status.reason) == ("new", "")
    moved = planned("run.checkpoint.every_seconds=5")  # not part of the identity
    assert {status.state for status in seen(moved, place).values()} == {"new"}


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
    assert "tokens" in found[wrong.run_id].reason
    assert "move that folder away" in found[wrong.run_id].reason


def test_runs_of_other_sweeps_are_shared(planned, place):
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
        assert set(found[p.run_id].shared_with) == expected


def test_hours_are_a_budget_like_flops(planned, place):
    step_times = StepTimeModel(0.0, 1e-9)
    whole = planned()
    cheapest = whole.runs[0]
    hours = 1.01 * cheapest.flops * 1e-9 / SECONDS_PER_HOUR
    plan = within_hours(planned(f"max_device_hours={hours}"), step_times)
    assert [p.run_id for p in plan.runs_of_role("grid")] == [cheapest.run_id]
    found = seen(plan, place)
    assert [found[p.run_id].state for p in plan.runs] == ["new"] + ["over budget"] * 4
    assert within_hours(whole, step_times) is whole


def test_step_times_from_the_peak_and_the_utilisation(planned):
    step_times = StepTimeModel.from_peak("h100", 0.4)
    p = planned().runs[-1]
    assert step_times.seconds_of_step(p) * p.run.steps == pytest.approx(p.flops / (0.4 * 989e12))


def test_memory_is_divided_by_the_mesh(make_run):
    whole = estimate_run_bytes(make_run())
    by_two = estimate_run_bytes(make_run("execution.mesh.data=2"))
    assert whole > by_two > whole / 2
    sharded = estimate_run_bytes(make_run("execution.mesh.fsdp=2"))
    assert sharded == pytest.approx(whole / 2, rel=0.01)
    # Tensor parallelism divides parameters, gradients and two moments, but not the batch.
    state = 16 * count_parameters(make_run().model).total
    by_tensor = estimate_run_bytes(make_run("execution.mesh.tensor=2"))
    assert whole - by_tensor == pytest.approx(state / 2, abs=2)
    assert device_bytes("h200", None, 1) == 141e9
    assert device_bytes(None, None, 4) == pytest.approx(device_bytes(None, None, 1) / 4)
