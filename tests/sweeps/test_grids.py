"""The points of each kind of grid, and the refusal of impossible grids."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from scaling.accounting import count_parameters
from scaling.config import RunConfig, SweepConfig, run_identity, validate
from scaling.data.prepare import prepare
from scaling.errors import UserError
from scaling.laws import FORMS, Law, fit_approach, read, save
from scaling.optim.schedule import learning_rate
from scaling.sweeps.plan import claim_results, make_plan
from tests.conftest import write_corpus

pytestmark = pytest.mark.quick

CHINCHILLA = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


@pytest.fixture
def plan_of(sweep_content, tmp_path):
    """The plan of the tiny sweep with other top-level keys, and any number of epochs."""
    def plan(*grids, **changes):
        sweep_content["run"]["data"]["epochs"] = 10_000
        content = sweep_content | {"heldout": []} | changes
        if grids:
            content["grids"] = list(grids)
        return make_plan(validate(SweepConfig, content, "tiny"), "tiny", tmp_path / "runs")

    return plan


def where(plan):
    return {(p.run.model.d_model, p.run.trained_tokens) for p in plan.runs}


def test_a_budget_is_met_within_one_percent_of_counted_flops(plan_of, store):
    """The products of a decoder counted by hand: 12 d^2 weights a layer, scores and sums over 16
    tokens, and the head; two FLOPs each, and three times for the backward pass."""
    budgets = [2e8, 1e9]
    plan = plan_of({"kind": "isoflop", "budgets": budgets})
    assert len(plan.runs) == 4
    spent = []
    for p in plan.runs:
        d, layers = p.run.model.d_model, p.run.model.n_layers
        a_token = 3 * 2 * (layers * (12 * d * d + 2 * 16 * d) + d * store.vocab_size)
        spent.append(p.run.trained_tokens * a_token)
    for flops in spent:
        assert min(abs(flops / budget - 1) for budget in budgets) < 0.01
    assert sum(flops < 5e8 for flops in spent) == 2


def test_approach_two_finds_the_budgets_of_an_isoflop_grid(plan_of):
    """They are equal in counted FLOPs, not in 6 N D."""
    plan = plan_of({"kind": "isoflop", "budgets": [1e9, 3e9]},
                   sizes={"kind": "ladder", "params": [1e3, 3e4], "count": 5, "d_head": 4})
    runs = pd.DataFrame([{**p.facts, "tokens": p.run.trained_tokens} for p in plan.runs])
    best = np.log(runs["params_total"].median())
    runs["loss"] = 3 - 1e-10 * runs["flops_counted"] + 0.01 * (
        np.log(runs["params_total"]) - best) ** 2
    found = fit_approach(read(runs), "approach-2")
    assert found.convention["c"] == "column flops_counted"
    np.testing.assert_allclose(found.optima.c, [1e9, 3e9], rtol=0.01)
    np.testing.assert_allclose(found.optima.n, np.exp(best), rtol=0.1)


def test_a_window_of_ratios_excludes_points_by_their_actual_ratio(plan_of):
    wide = plan_of({"kind": "isoflop", "budgets": [1e9]})
    ratios = sorted(p.run.trained_tokens / p.facts["params_total"] for p in wide.runs)
    middle = math.sqrt(ratios[0] * ratios[1])
    kept = plan_of({"kind": "isoflop", "budgets": [1e9], "tokens_per_parameter": [1e-3, middle]})
    assert [p.run_id for p in kept.runs] == [
        p.run_id for p in wide.runs if p.run.trained_tokens / p.facts["params_total"] < middle]
    assert len(kept.runs) == 1


@pytest.mark.parametrize("counting", ["total", "non-embedding"])
def test_a_ratio_is_kept_to_a_batch(plan_of, counting):
    plan = plan_of({"kind": "ratio", "tokens_per_parameter": [2, 5], "counting": counting})
    column = {"total": "params_total", "non-embedding": "params_non_embedding"}[counting]
    found = sorted(p.run.trained_tokens / p.facts[column] for p in plan.runs)
    for p in plan.runs:
        near = min((2, 5), key=lambda r: abs(p.run.trained_tokens / p.facts[column] - r))
        assert 0 <= near * p.facts[column] - p.run.trained_tokens < p.run.batch_tokens
    assert len(found) == 4


@pytest.mark.parametrize(("counting", "column"), [
    ("total", "params_total"), ("non-embedding", "params_non_embedding")])
def test_an_isoloss_point_has_the_loss_that_the_law_gives_in_closed_form(
    plan_of, tmp_path, counting, column
):
    path = tmp_path / "laws.json"
    save([Law(FORMS["chinchilla"], {"n": counting, "d": "tokens"}, CHINCHILLA)], path)
    c = CHINCHILLA
    rungs = plan_of({"kind": "product", "tokens": [6400]}).runs
    reachable = [c["E"] + c["A"] / p.facts[column] ** c["alpha"] for p in rungs]
    losses = [max(reachable) + 33.0, sum(reachable) / 2]
    plan = plan_of({"kind": "isoloss", "losses": losses, "law": str(path)})
    wanted = {
        (p.run.model.d_model, int((c["B"] / (loss - floor)) ** (1 / c["beta"])) // 64 * 64)
        for p, floor in zip(rungs, reachable, strict=True) for loss in losses if loss > floor}
    assert len(wanted) == 3  # the smaller model never gets down to the second loss
    assert where(plan) == wanted
    with pytest.raises(UserError, match=r"no size reaches a loss of 1\.5"):
        plan_of({"kind": "isoloss", "losses": [1.5], "law": str(path)})
    with pytest.raises(UserError, match="no law of parameters and tokens called kaplan-n"):
        plan_of({"kind": "isoloss", "losses": [2], "law": str(path), "form": "kaplan-n"})


def test_the_three_cuts_of_kaplan(plan_of):
    sizes = [{"d_model": 16 * k, "n_layers": 1, "n_heads": k} for k in (1, 4, 2)]
    plan = plan_of({"kind": "cuts", "tokens": [6400, 640_000, 64_000], "diagonal": 0.5},
                   sizes=sizes)
    n = {p.run.model.d_model: p.facts["params_non_embedding"] for p in plan.runs}
    points = where(plan)
    assert {d for d, tokens in points if tokens == 640_000} == {16, 32, 64}
    assert {tokens for d, tokens in points if d == 64} == {6400, 64_000, 640_000}
    diagonal = {d: tokens for d, tokens in points if d != 64 and tokens != 640_000}
    assert len(points) == 3 + 2 + len(diagonal) == 7
    for d, tokens in diagonal.items():
        slope = math.log(640_000 / tokens) / math.log(n[64] / n[d])
        assert slope == pytest.approx(0.5, abs=1e-3)


def test_a_cross_is_every_rate_by_every_batch(plan_of):
    rule = {"rule": "listed", "rates": [0.01, 0.02]}
    plan = plan_of({"kind": "cross", "at": [{"rung": 1, "tokens": 6400}],
                    "rate_factors": [0.5, 1, 2], "batch_sequences": [2, 4]}, learning_rate=rule)
    assert {(p.run.optimizer.learning_rate, p.run.batch_sequences) for p in plan.runs} == {
        (rate, batch) for rate in (0.01, 0.02, 0.04) for batch in (2, 4)}
    assert {p.run.trained_tokens for p in plan.runs} == {6400}
    two = plan_of({"kind": "cross", "at": [{"rung": 0, "tokens": 6400}, {"rung": 1, "tokens": 640}],
                   "rate_factors": [1.2345]}, learning_rate=0.01)
    assert {(p.run.model.d_model, p.run.trained_tokens, p.run.optimizer.learning_rate)
            for p in two.runs} == {(8, 6400, 0.012345), (16, 640, 0.012345)}


def test_every_seed_is_of_the_grid_and_the_first_is_held_out(plan_of):
    plan = plan_of({"kind": "product", "tokens": [6400]}, seeds=[7, 3],
                   heldout=[{"rung": 1, "tokens": 640}])
    assert {(p.role, p.run.model.d_model, p.run.seed) for p in plan.runs} == {
        ("grid", 8, 7), ("grid", 8, 3), ("grid", 16, 7), ("grid", 16, 3), ("heldout", 16, 7)}


def test_every_choice_of_the_varied_keys_reads_its_own_store(plan_of, store_path, tmp_path):
    write_corpus(tmp_path / "other.jsonl", 300)
    other = prepare(f"jsonl:{tmp_path}/other.jsonl#text", "byte", None, tmp_path / "other", 0.1,
                    workers=1)
    plan = plan_of({"kind": "product", "tokens": [6400]}, vary={
        "data.store": [str(store_path), str(other.path)], "optimizer.b2": [0.9, 0.95]})
    assert len({p.run_id for p in plan.runs}) == 8
    for p in plan.runs:
        assert p.choice == {"data.store": str(p.run.data.store), "optimizer.b2": p.run.optimizer.b2}
        assert p.facts["corpus"] == {store_path: "toy", other.path: "other"}[p.run.data.store]
    assert plan.base.data.store == store_path
    claim_results(plan, tmp_path / "results")
    claim = json.loads((tmp_path / "results/sweep.json").read_text())
    assert "data" not in claim
    assert "b2" not in claim["shared"]["optimizer"]
    claim_results(plan_of(vary={"data.store": [str(store_path)]}), tmp_path / "second")
    claim_results(plan_of(vary={"data.store": [str(other.path)]}), tmp_path / "second")


def test_flops_are_those_of_the_runs_within_the_budget(plan_of):
    grid = {"kind": "product", "tokens": [64 * 20, 64 * 40]}
    whole = plan_of(grid)
    plan = plan_of(grid, max_flops=0.7 * whole.paid_flops)
    kept = [p.flops for p in whole.runs if p.run_id not in plan.over_budget]
    assert 0 < len(kept) < 4
    assert plan.flops == pytest.approx(sum(kept))
    # A second budget does not bring back what the first leaves out.
    again = plan.capped(lambda p: 1.0, 1e9, "hours")
    assert again.over_budget == plan.over_budget


def test_a_batch_may_be_two_percent_of_a_budget(plan_of, store):
    """Rounding to whole batches then misses the budget by 1% at most."""
    a_token = 3 * 2 * (12 * 16 * 16 + 2 * 16 * 16 + 16 * store.vocab_size)
    batch = 4 * 16 * a_token  # of d_model 16
    sizes = [{"d_model": 16, "n_layers": 1, "n_heads": 1}]
    assert plan_of({"kind": "isoflop", "budgets": [batch * 50.5]}, sizes=sizes).runs
    with pytest.raises(UserError, match=re.escape(f"of at least {batch * 50:.2g}")):
        plan_of({"kind": "isoflop", "budgets": [batch * 49.5]}, sizes=sizes)


@pytest.mark.parametrize(("counting", "column"), [
    ("total", "params_total"), ("non-embedding", "params_non_embedding")])
def test_the_ends_of_a_window_are_within_it(plan_of, counting, column):
    grid = {"kind": "isoflop", "budgets": [1e9], "counting": counting}
    wide = plan_of(grid).budgets[0][1]
    assert [ratio == pytest.approx(p.run.trained_tokens / p.facts[column], rel=0.02)
            for ratio, p in zip(wide.ratios, sorted(
                plan_of(grid).runs, key=lambda p: p.run.model.d_model), strict=True)] == [True] * 2
    ends = sorted(wide.ratios)
    assert len(plan_of(grid | {"tokens_per_parameter": ends}).runs) == 2


def test_an_isoloss_grid_takes_the_law_that_is_named(plan_of, tmp_path):
    """Of several in a file; by default the first of parameters and tokens whose count of
    parameters is known."""
    path = tmp_path / "laws.json"
    easy, hard = CHINCHILLA | {"A": 200.0}, CHINCHILLA
    nd = {"N_c": 1e5, "alpha_N": 0.1, "D_c": 1e7, "alpha_D": 0.1}
    save([Law(FORMS["kaplan-n"], {"n": "total", "d": "tokens"}, {"N_c": 1e5, "alpha_N": 0.1}),
          Law(FORMS["chinchilla"], {"n": "column N", "d": "tokens"}, easy),
          Law(FORMS["chinchilla"], {"n": "total", "d": "tokens"}, hard),
          Law(FORMS["kaplan-nd"], {"n": "total", "d": "tokens"}, nd)], path)
    losses = [60.0]

    def tokens(**form):
        grid = {"kind": "isoloss", "losses": losses, "law": str(path)} | form
        return {p.run.model.d_model: p.run.tokens for p in plan_of(grid).runs}

    runs = plan_of({"kind": "product", "tokens": [6400]}).runs
    n = {p.run.model.d_model: p.facts["params_total"] for p in runs}
    assert tokens() == pytest.approx({
        d: (410 / (60 - 1.7 - 400 / size**0.34)) ** (1 / 0.28) for d, size in n.items()}, abs=1)
    losses[0] = 2.0  # L^(1 / alpha_D) is N_c / N + D_c / D where the exponents are equal
    assert tokens(form="kaplan-nd") == pytest.approx({
        d: 1e7 / (2.0**10 - 1e5 / size) for d, size in n.items()}, abs=1)


def test_the_range_of_losses_that_a_law_gives_is_named(plan_of, tmp_path):
    """From one token for the smallest size to 10^18 for the largest."""
    path = tmp_path / "laws.json"
    save([Law(FORMS["chinchilla"], {"n": "total", "d": "tokens"}, CHINCHILLA)], path)
    small, large = (1.7 + 400 / p.facts["params_total"] ** 0.34
                    for p in plan_of({"kind": "product", "tokens": [6400]}).runs)
    words = f"start at {small + 410:.4g} and stay above {large + 410 / 1e18**0.28:.4g};"
    with pytest.raises(UserError, match=re.escape(words)):
        plan_of({"kind": "isoloss", "losses": [1000.0], "law": str(path)})


def test_a_ladder_is_geometric_in_counted_parameters(plan_of):
    plan = plan_of({"kind": "product", "tokens": [6400]},
                   sizes={"kind": "ladder", "params": [1e4, 1e6], "count": 5, "d_head": 8})
    runs = sorted(plan.runs, key=lambda p: p.facts["params_non_embedding"])
    for i, p in enumerate(runs):
        model = p.run.model
        assert model.d_model == 8 * model.n_heads
        assert p.facts["params_non_embedding"] == pytest.approx(1e4 * 100 ** (i / 4), rel=0.25)
        assert 32 / 2 < model.d_model / model.n_layers < 32 * 2
    assert len(runs) == 5


@pytest.mark.parametrize(("d_head", "low", "high", "count"), [
    (8, 3e4, 3e6, 6), (4, 3e4, 1e6, 9)])
def test_a_size_of_a_ladder_is_the_nearest_by_parameters_and_a_quarter_by_aspect(
    plan_of, d_head, low, high, count
):
    """Against all sizes of up to 40 heads and 20 layers."""
    plan = plan_of({"kind": "product", "tokens": [6400]}, sizes={
        "kind": "ladder", "params": [low, high], "count": count, "d_head": d_head,
        "aspect_ratio": 20})
    model = plan.runs[0].run.model
    shapes = {(heads, layers): count_parameters(model.model_copy(update={
        "d_model": d_head * heads, "n_heads": heads, "n_layers": layers})).non_embedding
        for heads in range(1, 41) for layers in range(1, 21)}
    found = sorted((p.run.model.n_heads, p.run.model.n_layers) for p in plan.runs)
    nearest = []
    for i in range(count):
        target = low * (high / low) ** (i / (count - 1))
        nearest.append(min(shapes, key=lambda shape, target=target: (
            abs(math.log(shapes[shape] / target))
            + abs(math.log(d_head * shape[0] / shape[1] / 20)) / 4)))
    assert found == sorted(nearest)


def test_grids_are_merged_and_varied_keys_are_crossed(plan_of):
    product = {"kind": "product", "tokens": [6400, 12_800]}
    ratio = {"kind": "points", "at": [{"rung": 0, "tokens": 6400}, {"rung": 0, "tokens": 640}]}
    united = plan_of(product, ratio)
    assert len(united.runs) == 5
    assert {p.grids for p in united.runs} == {("product",), ("points",), ("product", "points")}
    crossed = plan_of(product, seeds=[0, 1], vary={
        "model.positions": ["rotary", "learned"], "optimizer.b2": [0.9, 0.95]})
    assert len(crossed.runs) == 4 * 2 * 4
    assert {(p.run.model.positions, p.run.optimizer.b2, p.run.seed) for p in crossed.runs} == {
        (kind, b2, seed) for kind in ("rotary", "learned") for b2 in (0.9, 0.95)
        for seed in (0, 1)}


def test_a_run_equals_the_completely_validated_one(plan_of, store):
    """Plans copy a validated run and set numbers in it; a launched plan is read from JSON."""
    plan = plan_of({"kind": "cross", "at": [{"rung": 0, "tokens": 6400}], "rate_factors": [0.5],
                    "batch_sequences": [2]}, {"kind": "product", "tokens": [6400]}, seeds=[3, 4])
    for p in plan.runs:
        again = validate(RunConfig, p.run.model_dump(mode="json"), "again")
        assert again == p.run
        assert run_identity(again, store.hash) == p.run_id


def test_a_family_counts_shared_steps_once(plan_of):
    """Steps are alike as long as all learning rates are, the next one's too: a branch starts where
    its cool-down begins, whose first rate is still the peak."""
    plan = plan_of({"kind": "product", "tokens": [64 * k for k in (20, 40, 80, 160)]})
    paid = 0.0
    for d_model in (8, 16):
        runs = [p for p in plan.runs if p.run.model.d_model == d_model]
        prefixes = set()
        for p in runs:
            rates = [learning_rate(p.run.schedule, 1.0, step, p.run.steps)
                     for step in range(p.run.steps)]
            prefixes |= {(step, *rates[: step + 2]) for step in range(p.run.steps)}
        paid += len(prefixes) * runs[0].flops / runs[0].run.steps
    assert plan.paid_flops == pytest.approx(paid)
    assert plan.paid_flops < 0.7 * plan.flops
    cosine = plan_of(vary={"schedule": [{"kind": "cosine", "warmup_steps": 3}]})
    assert cosine.paid_flops == pytest.approx(cosine.flops)


@pytest.mark.parametrize("priority", ["cheapest", "most_expensive", "order"])
def test_a_budget_keeps_runs_in_order_of_priority(plan_of, priority):
    grid = {"kind": "product", "tokens": [64 * k for k in (20, 40, 80, 160)]}
    heldout = [{"rung": 0, "tokens": 640}]
    whole = plan_of(grid, priority=priority, heldout=heldout)
    most = 0.4 * whole.paid_flops
    plan = plan_of(grid, priority=priority, max_flops=most, heldout=heldout)
    assert [p.run_id for p in plan.runs] == [p.run_id for p in whole.runs]
    assert 0 < plan.paid_flops <= most
    kept = plan.runs_of_role("grid") + plan.runs_of_role("heldout")
    assert {p.run_id for p in kept} == {p.run_id for p in plan.runs} - plan.over_budget
    assert plan.over_budget
    if priority == "cheapest":
        most_expensive_kept = max(p.flops for p in plan.runs_of_role("grid"))
        assert all(p.flops >= most_expensive_kept for p in plan.runs
                   if p.run_id in plan.over_budget and p.role == "grid")
    generous = plan_of(grid, priority=priority, max_flops=whole.paid_flops * 1.000001,
                       heldout=heldout)
    assert not generous.over_budget


def test_a_budget_that_is_met_exactly_covers_the_run(plan_of):
    grid = {"kind": "product", "tokens": [64 * 20]}
    costs = sorted(p.flops for p in plan_of(grid).runs)
    assert not plan_of(grid, max_flops=sum(costs)).over_budget
    less = plan_of(grid, max_flops=sum(costs) - 1)
    assert [p.flops for p in less.runs if p.run_id in less.over_budget] == costs[-1:]


@pytest.mark.parametrize(
    ("grid", "changes", "words"),
    [
        ({"kind": "isoflop", "budgets": [1e6]}, {},
         ["grids.0", "a batch of d_model 8 x 1", "smaller run.batch_sequences"]),
        ({"kind": "isoflop", "budgets": [1e9], "tokens_per_parameter": [1e6, 1e7]}, {},
         ["budget of 1e+09 FLOPs has no feasible point", "widen tokens_per_parameter"]),
        ({"kind": "points", "at": [{"tokens": 640}]}, {}, ["either a size or a rung"]),
        ({"kind": "points", "at": [{"rung": 7, "tokens": 640}]}, {},
         ["rung 7", "sizes has 2 rungs, from 0 to 1"]),
        ({"kind": "isoloss", "losses": [2], "law": "nowhere.json"}, {},
         ["nowhere.json: no such file"]),
        ({"kind": "ratio", "tokens_per_parameter": [0.01]}, {}, ["less than one batch"]),
        ({"kind": "product", "tokens": [64 * 3]}, {}, ["d_model 8 x 1, 192 tokens", "warm"]),
        ({"kind": "product", "tokens": [6400]}, {"max_flops": 1e3},
         ["max_flops covers no run", "raise max_flops"]),
        ({"kind": "product", "tokens": [6400]}, {"vary": {"model.d_model": [8]}},
         ["vary.model.d_model", "leave it out"]),
        ({"kind": "product", "tokens": [6400]}, {"vary": {"optimizer.b2": [2.0]}},
         ['with optimizer.b2=2.0', "optimizer.b2"]),
        ({"kind": "product", "tokens": [6400]},
         {"vary": {"optimizer": [{"b2": 0.9}], "schedule": []}}, ["vary.schedule"]),
        ({"kind": "product", "tokens": [6400]},
         {"sizes": {"kind": "ladder", "params": [1e4, 2e4], "count": 20, "d_head": 16}},
         ["sizes", "choose a smaller d_head, fewer sizes"]),
        ({"kind": "product", "tokens": [6400]},
         {"sizes": {"kind": "ladder", "params": [2e4, 1e4], "count": 3}}, ["smaller number first"]),
        ({"kind": "product", "tokens": [6400]}, {"heldout": [{"rung": 0, "tokens": 6400}]},
         ["heldout", "is also a run of the grid"]),
    ],
)
def test_impossible_grids_are_refused_in_one_message(plan_of, grid, changes, words):
    with pytest.raises(UserError) as caught:
        plan_of(grid, **changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
