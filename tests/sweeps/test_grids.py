"""The points of each kind of grid, and the refusal of impossible grids."""

from __future__ import annotations

import math

import pytest

from scaling.config import RunConfig, SweepConfig, run_identity, validate
from scaling.errors import UserError
from scaling.laws import FORMS, Law, save
from scaling.optim.schedule import learning_rate
from scaling.sweeps.plan import make_plan

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
    sizes = [{"d_model": 16 * k, "n_layers": 1, "n_heads": k} for k in (1, 2, 4)]
    plan = plan_of({"kind": "cuts", "tokens": [6400, 64_000, 640_000], "diagonal": 0.5},
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
