"""Workers that train runs of one shape side by side, and compile each shape once."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import jax
import pytest

from scaling.config import FromRun, SweepConfig, override, validate
from scaling.errors import UserError
from scaling.launch import claim, packing
from scaling.launch.jobs import jobs_of
from scaling.launch.packing import shape_of, slots_by_shape
from scaling.launch.worker import work
from scaling.launch.worker_plan import write_plan
from scaling.sweeps.plan import make_plan
from tests.tiny_sweep import end


@pytest.fixture
def make_plan_of(sweep_content, tmp_path):
    def make(runs, *overrides):
        content = override(sweep_content, [
            "heldout=[]", "seeds=[0, 1]", *overrides])
        return make_plan(validate(SweepConfig, content, "tiny"), "tiny", tmp_path / runs)
    return make


def trained(plan, tmp_path, pack, asked_to_stop=lambda: False):
    """Records by identity, of a worker that goes through the plan in this process."""
    runs = plan.runs_of_role("grid")
    path = write_plan(jobs_of(runs), runs[0].folder.path.parent / "logs", "tiny", pack)
    stopped = work(path, asked_to_stop, cores=1)
    return stopped, {p.run_id: p.folder.record() for p in runs}


@pytest.mark.slow
def test_a_packed_sweep_is_the_same_sweep(make_plan_of, tmp_path):
    """Two sizes of four runs each, in three slots: half of them are branches of the others."""
    _, alone = trained(make_plan_of("alone"), tmp_path, 1)
    stopped, packed = trained(make_plan_of("packed"), tmp_path, 3)
    assert not stopped
    assert alone.keys() == packed.keys()
    assert len(packed) == 8
    for run_id, record in packed.items():
        assert (alone[run_id]["packed"], record["packed"]) == (1, 3)
        assert record["loss"] == pytest.approx(alone[run_id]["loss"], rel=1e-5)
        assert record["flops_shared"] == alone[run_id]["flops_shared"]
    assert sum(record["trunk"] is not None for record in packed.values()) == 4


@pytest.mark.slow
def test_a_packed_sweep_stops_and_goes_on(make_plan_of, tmp_path):
    _, whole = trained(make_plan_of("whole"), tmp_path, 3)
    plan, rounds = make_plan_of("parts"), 0
    records = {}
    while len(records) < 8 or None in records.values():
        calls = iter(range(10**6))
        _, records = trained(plan, tmp_path, 3, lambda calls=calls: next(calls) > 100)
        rounds += 1
        assert rounds < 50
    assert rounds > 2
    assert {n: r["loss"] for n, r in records.items()} == {n: r["loss"] for n, r in whole.items()}


def test_a_pack_that_does_not_fit_trains_one_by_one(make_plan_of, tmp_path, monkeypatch, capsys):
    def too_many(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(claim, "drive_together", too_many)
    _, records = trained(make_plan_of("runs", "sizes=[{d_model: 8, n_layers: 1, n_heads: 1}]"),
                         tmp_path, 4)
    assert {record["packed"] for record in records.values()} == {1}
    assert capsys.readouterr().out.count("4 runs side by side: RESOURCE_EXHAUSTED") == 1


@pytest.mark.parametrize(("pack", "context"), [
    (1, 12), pytest.param(4, 20, marks=pytest.mark.slow)])
def test_programs_are_compiled_once_a_shape(make_plan_of, tmp_path, caplog, pack, context):
    """Two shapes, whatever runs differ in beside: tokens, seeds, rates, the optimizer's b1."""
    plan = make_plan_of("runs", f"run.model.context={context}",  # that no other test compiles
                        "grids=[{kind: product, tokens: [1024, 1536]}]",
                        "vary={optimizer.b1: [0.8, 0.9]}")
    assert len({shape_of(p.run) for p in plan.runs}) == 2
    with jax.log_compiles():
        _, records = trained(plan, tmp_path, pack)
    assert len(records) == 16
    assert all(record["status"] == "done" for record in records.values())
    compiled = Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert {name: compiled[name] for name in ("train_step", "eval_step", "init")} == {
        "train_step": 2, "eval_step": 2, "init": 2}


def test_runs_of_one_shape_train_the_same_parameters(make_run):
    one = make_run()
    begun = one.model_copy(update={"seed": 1, "init": FromRun(run=Path("runs/x"))})
    assert shape_of(begun) == shape_of(one)
    assert shape_of(make_run(trainable={"roles": ["hidden"]})) != shape_of(one)


def test_what_is_over_starts_no_pack(make_plan_of, tmp_path, monkeypatch):
    """Else going through a plan would look at each of its runs once for each other."""
    started = []
    monkeypatch.setattr(claim, "drive_together", lambda *_: started.append(1))
    plan = make_plan_of("runs")
    for planned in plan.runs:
        end(planned)
    trained(plan, tmp_path, 3)
    assert not started


class Accelerator:
    platform = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 10**9}


def test_slots_are_as_many_as_are_worth_it_and_fit(make_plan_of, monkeypatch):
    runs = [p.run for p in make_plan_of("runs").runs]
    assert set(slots_by_shape(runs, "auto", 1).values()) == {1}, "a pack is slower on a CPU"
    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    assert set(slots_by_shape(runs, "auto", 1).values()) == {4}, "all of a size"
    assert set(slots_by_shape(runs, "auto", 3).values()) == {2}, "shared out among workers"
    assert set(slots_by_shape(runs, 1, 1).values()) == {1}
    assert set(slots_by_shape(runs, 3, 3).values()) == {3}
    assert set(slots_by_shape(runs, 50, 1).values()) == {4}
    assert set(slots_by_shape(runs, "auto", 1, processes=2).values()) == {1}
    divided = [run.model_copy(update={"execution": run.execution.model_copy(
        update={"mesh": run.execution.mesh.model_copy(update={"fsdp": 2})})}) for run in runs]
    assert set(slots_by_shape(divided, 3, 1).values()) == {1}
    small, large = sorted(slots_by_shape(runs, "auto", 1), key=lambda shape: shape[0].d_model)
    monkeypatch.setattr(packing, "estimate_run_bytes", lambda run: 10**8 * run.model.d_model / 3.4)
    slots = slots_by_shape(runs, "auto", 1)
    assert (slots[small], slots[large]) == (3, 1), "of 800 MB, at 235 MB and 471 MB a run"
    monkeypatch.setattr(packing, "estimate_run_bytes", lambda run: 1.0)
    monkeypatch.setattr(packing, "run_flops_per_token", lambda run: 1e12 / (2.5 * 4 * 16))
    assert set(slots_by_shape(runs, "auto", 1).values()) == {3}, "10^12 FLOPs keep a device busy"
    monkeypatch.setattr(packing, "BUSY_FLOPS", 1.0)
    assert set(slots_by_shape(runs, "auto", 1).values()) == {1}, "one keeps the device busy"


@pytest.mark.parametrize("pack", ["many", 0, -1, 1.5, True, False, None])
def test_what_pack_may_be(sweep_content, pack):
    with pytest.raises(UserError, match=r"^tiny: pack: auto, or the number of .* not [^\n]*$"):
        validate(SweepConfig, sweep_content | {"pack": pack}, "tiny")


def test_workers_are_told(sweep_content, tmp_path, make_plan_of):
    path = write_plan(jobs_of(make_plan_of("runs").runs_of_role("grid")), tmp_path, "tiny", 7, 2)
    told = json.loads(path.read_text())
    assert (told["pack"], told["workers"]) == (7, 2)
