"""Step times: the models timed within the budget, and the estimates of the others."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scaling.accounting import run_flops_per_token
from scaling.errors import UserError
from scaling.files import cache_folder
from scaling.launch.local import Share
from scaling.sweeps import measure as measuring
from scaling.sweeps.cost import StepTimeModel
from scaling.sweeps.measure import TimedRun, _Measurement, _next, measure

CORE = Share([min(os.sched_getaffinity(0))], None)


@pytest.fixture
def models(plan):
    return [TimedRun(p.run, 1, 1, 1) for p in sorted(plan.runs, key=lambda p: p.run.model.d_model)]


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """Compiled programs from all tests' cache, step times in one of this test's own."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla"))
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "step_times.json"


def test_the_largest_model_within_the_budget_is_timed(models):
    assert _next(models, {}, 20.0) == 0
    first = {0: _Measurement(1e-6, 2.0)}
    assert _next(models, first, 20.0) == len(models) - 1
    assert _next(models, first, 1.0) is None
    assert _next(models, first, float("inf")) == len(models) - 1
    slow = {0: _Measurement(1.0, 2.0 + 7 * models[0].run.batch_tokens)}
    # Steps of 64 s: the middle model takes more than twice, the largest more than thrice as long.
    at_most = next(left for left in range(0, 10_000, 10) if _next(models, slow, left) is not None)
    assert 0 < _next(models, slow, at_most) < len(models) - 1
    assert _next(models, {0: first[0], len(models) - 1: first[0]}, 20.0) is None


def test_the_expected_time_of_a_measurement_is_that_of_compiling_and_of_seven_steps(models):
    """Of 10 s for the smallest, 7 steps took 4.48 s. Half of the rest grows with the layers."""
    small, large = models[0].run, models[-1].run
    large = large.model_copy(update={
        "model": large.model.model_copy(update={"n_layers": 3}), "batch_sequences": 8})
    both = [models[0], TimedRun(large, 1, 1, 1)]
    growth = run_flops_per_token(large) / run_flops_per_token(small)
    expected = (10 - 4.48) * (0.5 + 0.5 * 3) + 4.48 * growth * 2
    found = {0: _Measurement(0.01, 10.0)}
    assert _next(both, found, 1.001 * expected) == 1
    assert _next(both, found, 0.999 * expected) is None


def test_a_time_is_reused_only_for_the_same_step_on_the_same_machine(models, make_run, monkeypatch):
    base = models[0]
    alone, gpu = measuring._key(base, CORE), Share([0], "0")

    def key(*overrides, share=CORE, pack=1, same_shape=1, workers=1):
        return measuring._key(TimedRun(make_run(*overrides), same_shape, pack, workers), share)

    same = {key(), key("seed=1"), key("tokens=3072"), key("optimizer.learning_rate=0.1"),
            key(share=Share([7], None)), key(pack="auto", same_shape=5), key(same_shape=5)}
    assert len(same) == 1
    others = {key(*overrides) for overrides in (
        ["model.d_ff=24"], ["objective={kind: causal, separate_documents: true}"],
        ["trainable={roles: [hidden]}"], ["batch_sequences=8"], ["precision=bfloat16"],
        ["execution.remat=full"])}
    others |= {key(share=Share([0, 1], None)), key(share=gpu), alone,
               key(share=gpu, pack="auto", same_shape=5), key(share=gpu, pack="auto", same_shape=6),
               key(pack=4, same_shape=5), key(pack=4, same_shape=5, workers=2), key(pack=3)}
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another"))
    others.add(key())
    assert len(others | same) == 6 + 8 + 1 + 1


def test_the_measuring_process_is_set_up_like_a_worker(models, tmp_path, monkeypatch, capsys):
    """It times the run whose number it reads, with the slots of its shape."""
    content = {"models": [model._replace(pack=pack)._asdict()
                          | {"run": model.run.model_dump(mode="json")}
                          for model, pack in zip(models, (1, "auto", 1, 1, 1), strict=False)],
               "divide": [models[0].run.model_dump(mode="json")]}
    (tmp_path / "runs.json").write_text(json.dumps(content))
    bound, divided, timed = [], [], []
    monkeypatch.setattr(sys, "argv", [
        "measure", str(tmp_path / "runs.json"), "--cores", "3,1", "--gpu", "2"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n0\n"))
    monkeypatch.setattr(measuring, "keep_to", lambda *words: bound.append(words))
    monkeypatch.setattr(measuring, "slots_of", lambda run, *words: (run, *words))
    monkeypatch.setattr("scaling.parallel.cpu_devices.divide_cores", divided.append)
    for name in ("start_process", "find_devices"):
        monkeypatch.setattr(f"scaling.parallel.process.{name}", lambda: None)
    monkeypatch.setattr("scaling.training.profile.time_steps",
                        lambda run, slots: timed.append((run, slots)) or iter([0.5, 0.25]))
    measuring.main()
    assert bound == [([1, 3], "2")]
    assert divided == [[models[0].run]]
    assert timed == [(models[i].run, (models[i].run, 1, 1, 1)) for i in (2, 0)]
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["per_token"] for answer in answers] == [0.5, 0.25, 0.25] * 2
    assert ["took" in answer for answer in answers] == [False, False, True] * 2


def test_the_smallest_and_largest_are_timed_and_cached(models, own_cache, monkeypatch):
    seen = []
    found = measure(models, CORE, [models[0].run], None, lambda *now: seen.append(now))
    assert found.keys() == {0, len(models) - 1}
    assert all(0 < seconds < 1 for seconds in found.values())
    assert {what for _, what in seen} == {"d_model 8 x 1", "d_model 24 x 1"}
    assert sorted(json.loads(own_cache.read_text()).values()) == sorted(found.values())
    monkeypatch.setattr(measuring, "_TimingProcess", None)  # nothing is measured any more
    assert measure(models, CORE, [models[0].run]) == found


def test_invalid_times_are_measured_again(own_cache):
    own_cache.parent.mkdir()
    wrong = {"b": 10**400, "c": True, "d": "1", "e": float("inf"), "f": -1.0, "g": 0, "h": None}
    own_cache.write_text(json.dumps({"a": 1.5} | wrong))
    assert measuring._read_cache(own_cache) == {"a": 1.5}


def test_without_time_there_is_no_measurement_and_no_process_left(models, own_cache, monkeypatch):
    own_cache.parent.mkdir()
    own_cache.write_text("{broken")  # measured again
    started = []
    popen = measuring.subprocess.Popen
    monkeypatch.setattr(measuring.subprocess, "Popen",
                        lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    began = time.monotonic()
    assert measure(models, CORE, [models[0].run], 0.3) == {}
    assert time.monotonic() - began < 3
    assert started[0].returncode is not None

    def interrupted(seconds, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(models, CORE, [models[0].run], 20.0, interrupted)
    assert started[1].returncode is not None


def test_a_failing_step_is_one_message(models, own_cache):
    broken = models[0].run.model_copy(
        update={"data": models[0].run.data.model_copy(update={"store": "/nowhere"})})
    with pytest.raises(UserError, match=r"could not be timed: .*--no-measure"):
        measure([TimedRun(broken, 1, 1, 1)], CORE, [broken], None)


def test_invalid_cached_times_are_measured_again(own_cache):
    own_cache.parent.mkdir()
    own_cache.write_text(json.dumps({"a": 1.0, "b": -1, "c": "x", "d": None, "e": float("inf")}))
    assert measuring._read_cache(own_cache) == {"a": 1.0}


def test_times_of_models_that_were_not_timed_are_marked(plan, sweep_file, command, monkeypatch):
    monkeypatch.setattr("scaling.sweeps.cost.measure", lambda models, *_: {0: 1e-3})
    step_times = StepTimeModel.measure(plan.runs, CORE)
    smallest, *_, largest = plan.runs
    assert step_times.is_measured(smallest)
    assert not step_times.is_measured(largest)
    assert step_times.seconds_of_step(smallest) == pytest.approx(64e-3)
    growth = (largest.flops / largest.facts["tokens"]) / (smallest.flops / smallest.facts["tokens"])
    assert step_times.seconds_of_step(largest) == pytest.approx(64e-3 * growth)
    shown = command("sweep", "plan", sweep_file.name, cwd=sweep_file.parent)
    lines = {line.split()[0]: line for line in shown.out.splitlines()}
    assert "~" not in lines[smallest.run_id]
    assert "~0:" in lines[largest.run_id]
    assert "from a step of 8 x 1 timed alone" in shown.out
    as_json = json.loads(command("sweep", "plan", sweep_file.name, "--json").out)
    assert [row["seconds_measured"] for row in as_json["runs"]] == [
        row["d_model"] == 8 for row in as_json["runs"]]


def test_the_line_of_step_times_passes_through_both_measured_models(plan, monkeypatch):
    monkeypatch.setattr("scaling.sweeps.cost.measure",
                        lambda models, *_: {0: 1e-3, len(models) - 1: 1.5e-3})
    step_times = StepTimeModel.measure(plan.runs, CORE)
    smallest, *_, largest = plan.runs
    assert step_times.seconds > 0
    for run, per_token in ((smallest, 1e-3), (largest, 1.5e-3)):
        assert step_times.is_measured(run)
        assert step_times.seconds_of_step(run) == pytest.approx(per_token * run.run.batch_tokens)


def test_models_are_timed_with_what_workers_share(plan, monkeypatch):
    """The runs of their shape, and the grid's largest run for each batch, by which workers divide
    their cores; the held-out run is larger."""
    given = []
    monkeypatch.setattr("scaling.sweeps.cost.measure", lambda *words: given.extend(words) or {})
    other = replace(plan.runs[0], run=plan.runs[0].run.model_copy(update={"batch_sequences": 2}))
    assert StepTimeModel.measure([*plan.runs, other], CORE, 3, 7, 5.0) is None
    models, share, divide, budget, _ = given
    assert [(m.run.model.d_model, m.run.batch_sequences) for m in models] in (
        [(8, 4), (16, 4), (24, 4)], [(8, 2), (16, 4), (24, 4)])
    assert [(m.same_shape, m.pack, m.workers) for m in models[1:]] == [(2, 3, 7), (1, 3, 7)]
    assert (share, budget) == (CORE, 5.0)
    assert {(run.batch_sequences, run.model.d_model) for run in divide} == {(4, 16), (2, 8)}


def test_twelve_models_of_many_are_candidates_evenly_by_rank(make_run, monkeypatch):
    given = []
    monkeypatch.setattr("scaling.sweeps.cost.measure", lambda *words: given.extend(words) or {})
    runs = [SimpleNamespace(run=make_run(f"model.d_ff={width}"), role="grid",
                            facts={"params_total": width}) for width in range(8, 31)]
    StepTimeModel.measure(runs, CORE)
    assert [m.run.model.d_ff for m in given[0]] == list(range(8, 31, 2))


def test_a_plan_measures_for_20_seconds_at_most(sweep_file, command, monkeypatch):
    given = []

    def measured(models, share, divide, budget, watch):
        given.append(budget)
        return {0: 1e-3}

    monkeypatch.setattr("scaling.sweeps.cost.measure", measured)
    for words in ((), ("--json",), ("max_device_hours=1",), ("--workers", "1", "pack=2")):
        done = command("sweep", "plan", sweep_file.name, *words, cwd=sweep_file.parent)
        assert done.code == 0, done.err
    assert len(given) == 4  # once a plan, however many models
    assert all(0 < budget <= 20 for budget in given)


def test_a_plan_without_a_measured_step_has_no_times(sweep_file, command, monkeypatch):
    monkeypatch.setattr("scaling.sweeps.cost.measure", lambda models, *_: {})
    shown = command("sweep", "plan", sweep_file.name, "max_device_hours=1", cwd=sweep_file.parent)
    assert shown.code == 0, shown.err
    assert "finished within 20 s, so times are unknown" in shown.err
    assert "max_device_hours is ignored" in shown.err


@pytest.mark.slow
@pytest.mark.alone
def test_workers_reuse_what_a_plan_compiled(scaling, sweep_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))

    def steps():
        return {path.name for path in (tmp_path / "cache/xla").glob("jit_train_step-*-cache")}

    words = (sweep_file, "--workers", "1", "heldout=[]")
    assert scaling("sweep", "plan", *words).returncode == 0
    planned = steps()
    assert planned
    assert scaling("sweep", "run", *words).returncode == 0
    assert planned <= steps()
    assert len(steps()) == 2  # one for each size
