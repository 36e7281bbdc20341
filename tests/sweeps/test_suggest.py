"""`scaling sweep suggest` of a sweep's YAML file: its planned runs are the candidates."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from scaling.config import SweepConfig, validate
from scaling.sweeps.plan import make_plan
from tests.tiny_sweep import end

AIM = ("--target", "loss", "--at-n", "1e6", "--at-d", "1e8", "--bootstrap", "0")


@pytest.fixture
def place(sweep_content, tmp_path, monkeypatch):
    """A sweep of 4 sizes by 6 token counts whose runs of few FLOPs are done."""
    monkeypatch.chdir(tmp_path)
    sizes = [{"d_model": width, "n_layers": 1, "n_heads": 1} for width in (8, 16, 32, 64)]
    content = sweep_content | {
        "sizes": sizes, "grids": [{"kind": "product", "tokens": [
            64 * steps for steps in (24, 34, 48, 68, 96, 136)]}],
        "heldout": [{"size": {"d_model": 96, "n_layers": 1, "n_heads": 1}, "tokens": 200 * 64}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    plan = make_plan(validate(SweepConfig, content, "tiny"), "tiny", tmp_path / "runs")
    grid = sorted(plan.runs_of_role("grid"), key=lambda p: p.facts["flops_6nd"])
    rng = np.random.default_rng(0)
    for planned in grid[:14]:
        n, d = planned.facts["params_total"], planned.facts["tokens"]
        loss = (1.5 + 30 * n**-0.4 + 20 * d**-0.35) * np.exp(0.002 * rng.standard_normal())
        end(planned, loss=loss, loss_se=0.01, bits_per_byte=1.0)
    return plan, grid


def found(command, *words):
    done = command("sweep", "suggest", "sweep.yaml", *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_candidates_of_a_sweep_are_its_planned_runs(place, command) -> None:
    _, grid = place
    left = {p.run_id: p for p in grid[14:]}
    budget = sum(p.facts["flops_6nd"] for p in left.values()) / 3
    content = found(command, *AIM, "--budget", budget)
    assert content["candidates"] <= len(left)
    assert content["runs"]
    for run in content["runs"]:
        facts = left[run["run_id"]].facts
        assert (run["n"], run["d"]) == (facts["params_total"], facts["tokens"])
        assert run["flops"] == run["cost"] == facts["flops_6nd"]
    assert len({run["run_id"] for run in content["runs"]}) == len(content["runs"])
    assert content["cost"] <= budget
    assert content["runs"][-1]["sd"] < content["now"]["sd"]
    text = command("sweep", "suggest", "sweep.yaml", *AIM, "--budget", budget).out
    assert all(f"--only {run['run_id']}" in text for run in content["runs"])
    text = command("sweep", "suggest", "sweep.yaml", *AIM, "--budget", budget, "--out", "a b").out
    assert "train them: scaling sweep run sweep.yaml --out 'a b' --only " in text


def test_the_cost_of_a_run_may_be_a_column(place, command) -> None:
    _, grid = place
    facts = {p.run_id: p.facts for p in grid}
    budget = sum(p.flops for p in grid[14:]) / 3
    content = found(command, *AIM, "--budget", budget, "--cost", "flops_counted")
    assert content["runs"]
    for run in content["runs"]:
        assert run["cost"] == facts[run["run_id"]]["flops_counted"] != run["flops"]
    assert sum(run["cost"] for run in content["runs"]) == pytest.approx(content["cost"])
    assert content["cost"] <= budget


def test_finished_runs_are_found_in_the_results(place, command, tmp_path) -> None:
    """Also if their folders are gone; and overrides of the sweep are followed."""
    assert command("sweep", "export", "sweep.yaml").code == 0
    before = found(command, *AIM, "--budget", "1e12")
    (tmp_path / "runs").rename(tmp_path / "away")
    (tmp_path / "runs").mkdir()
    assert found(command, *AIM, "--budget", "1e12") == before
    done = command("sweep", "suggest", "sweep.yaml", *AIM, "--budget", "1e12", "--out", "other")
    assert (done.code, done.out) == (1, "")
    assert "0 finished runs" in done.err
    _, grid = place
    cheapest = sum(p.flops for p in grid[:18])
    fewer = found(command, f"max_flops={cheapest}", *AIM, "--budget", "1e12")
    assert 0 < fewer["candidates"] < before["candidates"]


def test_a_sweep_without_planned_runs_has_nothing_to_suggest(place, command) -> None:
    _, grid = place
    for planned in grid[14:]:
        end(planned, status="diverged")
    done = command("sweep", "suggest", "sweep.yaml", *AIM, "--budget", "1e12")
    assert (done.code, done.out) == (1, "")
    assert "nothing to suggest" in done.err


@pytest.mark.parametrize(("words", "message"), [
    (("--sizes", "1e3"), "--sizes 1e3: belongs to a table of runs"),
    (("--seeds", "2"), "--seeds 2: belongs to a table"),
    (("--n", "params_total"), "--n params_total: belongs to a table"),
    (("--at", "1e12"), "a budget or a run is expected, not both"),
    (("--cost", "dollars"), "has no column dollars"),
    (("--runs", "absent"), "--runs absent: no such folder"),
])
def test_options_of_a_table_are_refused(place, command, words, message) -> None:
    done = command("sweep", "suggest", "sweep.yaml", *AIM, "--budget", "1e12", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_options_of_a_sweep_are_refused_for_a_table(place, command) -> None:
    assert command("sweep", "export", "sweep.yaml").code == 0
    words = ("sweep", "suggest", "results/tiny", "--target", "a", "--budget", "1e12")
    for more in (("--out", "elsewhere"), ("max_flops=1e9",), ("--runs", "elsewhere")):
        done = command(*words, *more)
        assert (done.code, done.out) == (2, "")
        assert "sweep's YAML file" in done.err
