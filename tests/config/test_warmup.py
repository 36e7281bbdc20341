"""Warm-up ends before the rate decays, for every schedule and length of run; a fraction of the run
is equivalent to the same number of steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scaling.config import RunConfig, SweepConfig, override, run_identity, validate
from scaling.errors import UserError
from scaling.optim.schedule import learning_rate
from scaling.runs.trunk import trunk_identity
from scaling.runs.trunk_groups import trunk_groups
from scaling.sweeps.plan import claim_results, make_plan

pytestmark = pytest.mark.quick

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*/*.yaml"))
CONTENT = {
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 1, "context": 32, "vocab_size": 257},
    "data": {"store": "somewhere"}, "batch_sequences": 8,
}


def run_of(steps: int, schedule: dict[str, object]) -> RunConfig:
    return validate(RunConfig, CONTENT | {"tokens": steps * 256, "schedule": schedule}, "f")


@pytest.mark.parametrize(("steps", "schedule", "words"), [
    # the first is a sweep of 64 steps whose rate dropped from 1e-2 to 1.7e-3 in one step
    (64, {"kind": "wsd", "warmup_steps": 60, "decay_fraction": 0.2},
     ["schedule.warmup_steps = 60", "64 steps", "begins after 51 (decay_fraction 0.2)",
      "at most 51 steps", "schedule.warmup: 0.02"]),
    (64, {"kind": "wsd", "warmup_steps": 52}, ["at most 51"]),
    (64, {"kind": "wsd", "warmup_steps": 64}, ["at most 51"]),
    (64, {"kind": "wsd"}, []),
    (60, {"kind": "wsd"}, ["schedule.warmup_steps = 50", "at most 48"]),
    (64, {"kind": "wsd", "warmup": 0.9},
     ["schedule.warmup: 0.9 of the run", "the last 0.2", "lower one"]),
    (64, {"kind": "wsd", "warmup": 0.02}, []),
    (1, {"kind": "wsd", "warmup": 0.02}, []),
    (2, {"kind": "wsd", "warmup_steps": 1}, []),
    (64, {"kind": "wsd", "warmup_steps": 1, "decay_fraction": 1}, ["at most 0 steps"]),
    (64, {"kind": "wsd", "warmup_steps": 0, "decay_fraction": 1}, []),
    (64, {"kind": "wsd", "warmup": 0.5, "decay_fraction": 0.5}, []),
    (64, {"kind": "wsd", "warmup": 0.6, "decay_fraction": 0.5},
     ["schedule.warmup: 0.6 of the run"]),
    (64, {"kind": "cosine", "warmup_steps": 63}, []),
    (64, {"kind": "cosine", "warmup_steps": 64}, ["at most 63 steps"]),
    (64, {"kind": "cosine", "warmup": 0.999}, []),
    (3, {"kind": "wsd", "warmup": 0.5, "decay_fraction": 0.5}, []),
    (64, {"kind": "wsd", "warmup": 0.1, "warmup_steps": 50}, ["schedule.warmup", "keep one"]),
    (64, {"kind": "cosine", "warmup": 0.1, "warmup_steps": 5}, ["schedule.warmup", "keep one"]),
    (64, {"kind": "wsd", "warmup": 1}, ["schedule.warmup: a number less than 1"]),
    (64, {"kind": "wsd", "warmup": -0.1}, ["schedule.warmup: a number greater than or equal to 0"]),
    (64, {"kind": "wsd", "warmup": "some"}, ["schedule.warmup: a number is expected"]),
])
def test_a_warm_up_that_meets_the_cool_down_is_refused(steps, schedule, words):
    if not words:
        assert run_of(steps, schedule).steps == steps
        return
    with pytest.raises(UserError) as caught:
        run_of(steps, schedule)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@given(st.integers(1, 300), st.one_of(st.integers(0, 300), st.floats(0, 0.99)),
       st.floats(0.01, 1), st.sampled_from(["1-sqrt", "linear", "cosine"]))
def test_the_rate_has_one_peak(steps, warmup, fraction, shape):
    schedule = {"warmup_steps" if isinstance(warmup, int) else "warmup": warmup} | (
        {"kind": "cosine"} if shape == "cosine"
        else {"kind": "wsd", "decay_fraction": fraction, "decay_shape": shape})
    try:
        run = run_of(steps, schedule)
    except UserError:
        return
    rates = [learning_rate(run.schedule, 1.0, step, steps) for step in range(steps)]
    rise = run.schedule.warmup_steps_of(steps)
    assert max(rates) == pytest.approx(1.0)
    assert rates[:rise] == sorted(rates[:rise])
    assert rates[rise:] == sorted(rates[rise:], reverse=True)
    assert rise == steps or rates[rise] == pytest.approx(1.0)  # no step down from a half-way peak


def test_a_warmup_fraction_equals_its_number_of_steps():
    share, steps = (run_of(100, {"kind": "wsd", **one})
                    for one in ({"warmup": 0.07}, {"warmup_steps": 7}))
    assert run_identity(share, "data") == run_identity(steps, "data")
    assert run_identity(run_of(200, {"kind": "wsd", "warmup": 0.07}), "data") == run_identity(
        run_of(200, {"kind": "wsd", "warmup_steps": 14}), "data")
    default = run_of(100, {"kind": "wsd", "warmup": 0.5})
    assert run_identity(default, "data") == run_identity(run_of(100, {"kind": "wsd"}), "data")
    again = validate(RunConfig, share.model_dump(mode="json"), "json")
    assert again == share


def test_a_warmup_fraction_is_rounded_to_the_nearest_step():
    steps = [run_of(count, {"kind": "wsd", "warmup": share}).schedule.warmup_steps_of(count)
             for share, count in ((0.29, 100), (0.26, 10), (0.04, 10), (0.06, 10))]
    assert steps == [29, 3, 0, 1]  # 0.29 x 100 is a little less than 29 in binary
    assert run_of(100, {"kind": "cosine", "warmup": 0.999}).schedule.warmup_steps_of(100) == 99


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_files_use_a_warmup_fraction_or_explain(path):
    text = path.read_text()
    content = yaml.safe_load(text)
    schedule = content.get("run", content)["schedule"]
    if path.parent.name == "runs":
        assert "warmup" in schedule
    else:
        assert "warmup" in schedule or "not a fraction (warmup: " in text


def test_only_runs_of_equal_warm_up_share_a_trunk():
    def name(steps, **schedule):
        return trunk_identity(run_of(steps, {"kind": "wsd", **schedule}), "data")

    assert name(100, warmup_steps=10) == name(200, warmup_steps=10)
    assert name(100, warmup=0.1) == name(200, warmup=0.05) == name(300, warmup_steps=10)
    assert name(100, warmup=0.1) != name(200, warmup=0.1)


def content(store_path, schedule, tokens):
    return {
        "name": "wu", "sizes": [{"d_model": 16, "n_layers": 1, "n_heads": 1}],
        "run": {"model": {"context": 32}, "data": {"store": str(store_path)}, "batch_sequences": 8,
                "schedule": schedule, "evaluation": {"sequences": 10}},
        "grids": [{"kind": "product", "tokens": tokens}], "learning_rate": 1e-2,
    }


def planned(store_path, tmp_path, schedule, tokens=(16_384, 20_480, 32_768), *more):
    sweep = validate(SweepConfig, override(content(store_path, schedule, list(tokens)), more), "f")
    return make_plan(sweep, "f", tmp_path / "runs")


@pytest.mark.parametrize(("schedule", "more", "words"), [
    ({"kind": "wsd", "warmup_steps": 60}, [],
     ["run with d_model 16 x 1, 16,384 tokens", "warmup_steps = 60", "64 steps", "at most 51"]),
    ({"kind": "cosine", "warmup_steps": 64}, [], ["16,384 tokens", "at most 63"]),
    ({"kind": "wsd", "warmup": 0.9}, [], ["run.schedule.warmup: 0.9 of the run"]),
    ({"kind": "wsd", "warmup_steps": 50}, ["grids=[{kind: cross, at: [{rung: 0, tokens: 32768}], "
                                           "batch_sequences: [8, 32]}]"],
     ["32,768 tokens", "in the 32 steps"]),
    ({"kind": "wsd", "warmup_steps": 50}, ["heldout=[{rung: 0, tokens: 8192}]"], ["8,192 tokens"]),
    ({"kind": "wsd", "warmup_steps": 50}, ["vary={schedule.decay_fraction: [0.2, 0.9]}"],
     ["schedule.decay_fraction=0.9", "16,384 tokens"]),
])
def test_every_point_of_a_sweep_is_checked(store_path, tmp_path, schedule, more, words):
    with pytest.raises(UserError) as caught:
        planned(store_path, tmp_path, schedule, (16_384, 20_480, 32_768), *more)
    for word in words:
        assert word in str(caught.value)


def test_the_commands_refuse_it(command, store_path, tmp_path):
    plan = content(store_path, {"kind": "wsd", "warmup_steps": 60}, [16_384])
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plan))
    run = CONTENT | {"tokens": 64 * 256, "schedule": {"kind": "wsd", "warmup_steps": 60},
                     "data": {"store": str(store_path)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    for words in (("sweep", "plan", "sweep.yaml"), ("train", "run.yaml")):
        done = command(*words, cwd=tmp_path)
        assert done.code == 2
        assert done.err.count("error:") == 1
        assert "schedule.warmup_steps = 60 does not fit in the 64 steps" in done.err


def test_a_sweep_with_a_warmup_fraction_has_its_own_results(store_path, tmp_path):
    shares = planned(store_path, tmp_path, {"kind": "wsd", "warmup": 0.1})
    steps = planned(store_path, tmp_path, {"kind": "wsd", "warmup_steps": 10})
    assert [len(group) for group in trunk_groups(shares.runs)] == [1, 1, 1]
    assert [len(group) for group in trunk_groups(steps.runs)] == [3]
    claim_results(shares, tmp_path / "results")
    claim_results(shares, tmp_path / "results")
    for other in ({"kind": "wsd", "warmup": 0.05}, {"kind": "wsd", "warmup_steps": 10}):
        with pytest.raises(UserError, match=r"differs in shared\.schedule\.warmup"):
            claim_results(planned(store_path, tmp_path, other), tmp_path / "results")
