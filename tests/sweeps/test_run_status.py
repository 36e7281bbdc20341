"""The status of each planned run: new, done, changed, shared, over budget; and the reason."""

from __future__ import annotations

import json

import pytest

from scaling.accounting import count_parameters
from scaling.accounting.run_memory import device_bytes, estimate_run_bytes
from scaling.config import SweepConfig, override, validate
from scaling.config.run import semantic
from scaling.launch.worker_plan import PLAN_SUFFIX
from scaling.runs.state import RunState
from scaling.sweeps.cost import StepTimeModel, within_hours
from scaling.sweeps.plan import make_plan
from scaling.sweeps.planning.run_status import planned_statuses
from tests.tiny_sweep import begin, end


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
    for p in second.runs_of_role("grid"):
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
    hours = 1.01 * cheapest.flops * 1e-9 / 3600
    plan = within_hours(planned(f"max_device_hours={hours}"), step_times)
    assert [p.run_id for p in plan.runs_of_role("grid")] == [cheapest.run_id]
    found = seen(plan, place)
    assert [found[p.run_id].state for p in plan.runs] == ["new"] + ["over budget"] * 4
    assert within_hours(whole, step_times) is whole


def test_a_measured_run_takes_its_remaining_steps_and_a_start(planned):
    """Three seconds to set up, evaluate and save; then a step costs its tokens."""
    p = planned().runs[0]
    step_times = StepTimeModel(2e-6, 3e-9)
    step = p.run.batch_sequences * 16 * (2e-6 + 3e-9 * p.flops / p.run.trained_tokens)
    assert step_times.seconds_of_step(p) == pytest.approx(step)
    steps = p.run.steps
    for state, at, seconds in (
            ("new", 0, 3 + steps * step), ("partial", 10, 3 + (steps - 10) * step),
            ("done", steps, 0), ("diverged", 5, 0), ("failed", 5, 0)):
        left = step_times.seconds_left(p, RunState(state, at, None))
        assert left == pytest.approx(seconds), state


def test_step_times_from_the_peak_and_the_utilisation(planned):
    step_times = StepTimeModel.from_peak("h100", 0.4)
    p = planned().runs[-1]
    assert step_times.seconds_of_step(p) * p.run.steps == pytest.approx(p.flops / (0.4 * 989e12))
    whole = StepTimeModel.from_peak("h100", 1)
    assert whole.seconds_of_step(p) == pytest.approx(0.4 * step_times.seconds_of_step(p))


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


def test_a_changed_run_is_compared_with_the_most_similar_earlier_one(planned, place):
    """Of the same size, tokens and seed; those of another seed do not count."""
    launched(planned("run.optimizer.b2=0.9", "run.optimizer.b1=0.8"), "tiny.grid", place)
    near = planned("run.optimizer.b2=0.9")
    content = json.loads((place / f"runs/logs/tiny.grid{PLAN_SUFFIX}").read_text())
    content["runs"] += [{"folder": str(p.folder.path), "config": p.run.model_dump(mode="json"),
                         "begins": None} for p in near.runs_of_role("grid")]
    (place / f"runs/logs/tiny.grid{PLAN_SUFFIX}").write_text(json.dumps(content))
    launched(planned("run.optimizer.b2=0.96"), "other.grid", place)
    now = planned("seeds=[0, 1]")
    found = seen(now, place)
    before = {(p.run.model.d_model, p.run.tokens): p.run_id for p in near.runs}
    for p in now.runs_of_role("grid"):
        state, reason = found[p.run_id].state, found[p.run_id].reason
        if p.run.seed == 1:
            assert (state, reason) == ("new", "")
        else:
            assert state == "changed"
            assert "b1" not in reason
            assert reason.startswith(f"was {before[p.run.model.d_model, p.run.tokens]} before: ")


def test_a_run_that_has_begun_or_is_over_is_not_called_changed(planned, place):
    launched(planned("run.optimizer.b2=0.9"), "tiny.grid", place)
    plan = planned(f"max_flops={min(p.flops for p in planned().runs) * 1.01}")
    begun, dearest = plan.runs[0], plan.runs[3]
    begin(begun, 5)
    end(dearest)
    found = seen(plan, place)
    assert found[begun.run_id].state == "partial"
    assert found[dearest.run_id].state == "done"  # although it is beyond max_flops now
    assert [found[p.run_id].state for p in plan.runs].count("over budget") == 3


def test_the_stage_of_a_launched_plan_is_no_part_of_the_sweeps_name(planned, place):
    launched(planned("grids.0.tokens=[1536]"), "other.heldout", place)
    launched(planned("grids.0.tokens=[1536]"), "tiny.heldout", place)
    plan = planned()
    shared = {found for status in seen(plan, place).values() for found in status.shared_with}
    assert shared == {"other"}
