"""Every column of `sweep plan --json`, against values worked out by hand."""

from __future__ import annotations

import json

import pytest

from scaling.accounting.run_memory import estimate_run_bytes
from tests.tiny_sweep import begin, end

PEAK = 989e12  # of an H100, FLOP/s in bfloat16


@pytest.fixture
def shown(command, sweep_file):
    def show(*words):
        done = command("sweep", "plan", sweep_file.name, *words, "--json", cwd=sweep_file.parent)
        assert done.code == 0, done.err
        content = json.loads(done.out)
        return content, {row["run_id"]: row for row in content["runs"]}

    return show


def test_the_rows_of_a_plan_are_those_of_the_runs(shown, plan, store):
    content, rows = shown("--gpu", "H100", "--mfu", "0.25")
    assert list(rows) == [p.run_id for p in plan.runs]
    once = (store.split("train").tokens - 1) // 16 * 16
    for p in plan.runs:
        d, tokens, row = p.run.model.d_model, p.run.trained_tokens, rows[p.run_id]
        total, seconds = p.facts["params_total"], p.flops / (0.25 * PEAK)
        expected = {
            "role": p.role, "d_model": d, "n_layers": 1, "tokens": tokens, "batch_tokens": 64,
            "steps": tokens // 64, "seed": 0, "params_kaplan": 12 * d * d, "params_total": total,
            "params_active": total, "tokens_per_parameter": tokens / total,
            "epochs": tokens / once, "flops_6nd": 6 * total * tokens, "flops_counted": p.flops,
            "lr": p.run.optimizer.learning_rate, "seconds": seconds, "seconds_left": 3 + seconds,
            "memory_bytes": estimate_run_bytes(p.run), "fits": True}
        assert {key: row[key] for key in expected} == pytest.approx(expected)
        assert (row["grids"], row["varied"]) == ([{"grid": "product"}.get(p.role, "heldout")], {})
        assert (row["state"], row["why"], row["shared_with"]) == ("new", "", [])
        assert row["seconds_measured"] is None
    hours = sum(p.flops for p in plan.runs) / (0.25 * PEAK) / 3600
    assert content["device_hours"] == pytest.approx(hours)
    assert content["seconds_left"] == pytest.approx(hours * 3600 + 5 * 3)
    assert content["wall_seconds_left"] == content["seconds_left"]  # of one device
    assert content["device_memory_bytes"] == 80e9


def test_what_is_over_begun_or_beyond_the_budget_costs_less(shown, plan):
    """Sorted by cost: the first is done, the second has taken 10 steps, the last two are beyond."""
    done, begun, third, *beyond = plan.runs
    end(done)
    begin(begun, 5, 10)
    most = 1.001 * (done.flops + begun.flops + third.flops)
    content, rows = shown("--gpu", "H100", f"max_flops={most}")
    speed = 0.4 * PEAK  # a share of 0.4 by default
    left = {done.run_id: 0, begun.run_id: 3 + begun.flops / speed * (1 - 10 / begun.run.steps),
            third.run_id: 3 + third.flops / speed} | {p.run_id: 0 for p in beyond[1:]}
    found = {run_id: row["seconds_left"] for run_id, row in rows.items()}
    assert {key: found[key] for key in left} == pytest.approx(left)
    kept = [p for p in plan.runs if rows[p.run_id]["state"] != "over budget"]
    assert content["states"]["over budget"] == 5 - len(kept)
    assert content["states"] == {"done": 1, "partial": 1, "new": len(kept) - 2,
                                 "over budget": 5 - len(kept)}
    assert content["device_hours"] * 3600 == pytest.approx(sum(p.flops for p in kept) / speed)
    assert content["seconds_left"] == pytest.approx(sum(found.values()))
    assert content["flops_counted"] == pytest.approx(sum(p.flops for p in kept))


def test_workers_share_the_time_that_is_left(shown, plan, monkeypatch):
    monkeypatch.setattr("scaling.launch.local.available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr("scaling.sweeps.cost.measure", lambda models, *_: {0: 1e-3})
    limit = [1e6]
    monkeypatch.setattr("scaling.accounting.run_memory.device_bytes", lambda *_: limit[0])
    one, rows = shown("--workers", "1")
    two, _ = shown("--workers", "2")
    assert two["seconds_left"] == one["seconds_left"] == one["wall_seconds_left"]
    assert two["wall_seconds_left"] == pytest.approx(one["seconds_left"] / 2)
    assert (one["workers"], two["workers"]) == (1, 2)
    needs = sorted({row["memory_bytes"] for row in rows.values()})
    limit[0] = needs[0]  # just enough for the smallest
    _, rows = shown("--workers", "1")
    assert {row["memory_bytes"]: row["fits"] for row in rows.values()} == {
        need: need == needs[0] for need in needs}
    unknown, rows = shown("--no-measure")
    assert {row["seconds"] for row in rows.values()} == {None}
    assert unknown["seconds_left"] is unknown["wall_seconds_left"] is None
