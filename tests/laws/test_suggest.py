"""Suggested runs: against enumeration, against the slope of a line, and against simulation."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scaling.cli.main import app
from scaling.errors import UserError
from scaling.laws import Law, PowerSum, ResidualLoss, RunsTable, Term, fit_law, from_frame
from scaling.laws.design.candidates import candidate_runs, max_run_flops
from scaling.laws.design.exchange import CandidateSet
from scaling.laws.design.fisher import (
    Noise,
    estimate_noise,
    fisher_information,
    gradient_and_moments,
    target_gradient,
    target_named,
)
from scaling.laws.design.grid import Design, by_ratio, rectangle
from scaling.laws.design.simulate import Faults, simulate, simulate_study
from scaling.laws.design.suggest import suggest
from scaling.laws.published import published_named

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def law() -> Law:
    found = published_named("hoffmann2022-3").law
    assert found is not None
    return found


PILOT = by_ratio([2e7, 4.3e7, 9.3e7, 2e8], [5, 20, 80])


@pytest.fixture
def table(law: Law) -> RunsTable:
    return from_frame(simulate(law, PILOT, Noise(0.003)), "pilot")


def _joined(table: RunsTable, runs: tuple) -> Design:  # type: ignore[type-arg]
    return Design(np.array([*table.n, *(run.n for run in runs)]),
                  np.array([*table.d, *(run.d for run in runs)]))


def test_one_more_run_for_a_slope_is_the_one_farthest_out() -> None:
    """The variance of a line's slope is sigma^2 / Sxx, so a single run is best where Sxx is
    largest, at an end; and that variance is the expected one."""
    form = PowerSum(name="power", formula="A/D^alpha", source="a test", variables=("d",),
                    parameters=("A", "alpha"), robust=ResidualLoss("squared"),
                    terms=(Term("A", (("d", "alpha"),)),))
    truth = Law(form=form, convention={"n": "total"}, params={"A": 30.0, "alpha": 0.2})
    so_far = rectangle([1e6], [1e8, 2e8, 4e8, 5e8])
    table = from_frame(simulate(truth, so_far, Noise(0.0)), "x")
    found = suggest(truth, table, target_named(form, "alpha"), 6e16, runs=1, noise=Noise(0.01),
                    sizes=[1e6], ratios=(100, 1e4))

    def by_hand(d: float) -> float:
        x = np.log([*so_far.d, d])
        return float(0.01 / np.sqrt(((x - x.mean()) ** 2).sum()))

    (run,) = found.runs
    assert run.d == pytest.approx(1e10)  # of 1e8 to 1e10 tokens
    assert run.sd == pytest.approx(by_hand(run.d), rel=1e-5)
    low, high = run.interval
    assert high - low == pytest.approx(2 * 1.6449 * run.sd, rel=1e-4)
    assert found.sd > run.sd


@pytest.mark.parametrize(("name", "runs"), [("n-star", 2), ("loss", 3)])
def test_the_choice_is_as_good_as_trying_all(law: Law, table: RunsTable, name: str, runs: int
                                             ) -> None:
    design = by_ratio(np.geomspace(2e7, 1e9, 7).tolist(), [2, 20, 200])
    noise, theta = Noise(0.003), law.form.from_params(law.point)[0]
    robust = law.residual_loss
    known = fisher_information(*gradient_and_moments(law.form, theta, table.values, noise, robust))
    gradient = target_gradient(law.form, theta, target_named(law.form, name, 1e22))
    choice = CandidateSet.from_runs(
        known, gradient, gradient_and_moments(law.form, theta, design.values, noise, robust),
        design.c)
    budget = 1e20
    affordable = [group for size in range(1, runs + 1)
                  for group in itertools.combinations(range(len(design.n)), size)
                  if design.c[list(group)].sum() <= budget]
    lowest = min(choice.variance(group) for group in affordable)
    chosen = choice.choose(budget, runs, 1)
    assert design.c[chosen].sum() <= budget * (1 + 1e-9)
    assert len(set(chosen)) == len(chosen) <= runs
    assert choice.variance(chosen) <= 1.05 * lowest
    assert choice.variance([]) > 2 * lowest


def _candidates(seed: int = 4) -> CandidateSet:
    """Forty candidates for a target of three parameters, of every price."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((3, 3))
    return CandidateSet(h=half @ half.T + np.eye(3), m=np.eye(3) + half.T @ half,
                        gradient=rng.standard_normal(3), z=rng.standard_normal((40, 3)),
                        curvature=rng.uniform(0.5, 2, 40), score_variance=rng.uniform(0.5, 2, 40),
                        cost=np.geomspace(1, 100, 40))


def test_the_variance_of_a_choice_is_that_of_its_sums() -> None:
    """w' m w with h w = g, where h and m are sums over the runs; and that of one more run."""
    c = _candidates()
    for chosen in ([], [3], [3, 17, 17, 30]):
        h = c.h + sum((c.curvature[k] * np.outer(c.z[k], c.z[k]) for k in chosen), np.zeros((3, 3)))
        m = c.m + sum((c.score_variance[k] * np.outer(c.z[k], c.z[k]) for k in chosen),
                      np.zeros((3, 3)))
        w = np.linalg.inv(h) @ c.gradient
        assert c.variance(chosen) == pytest.approx(float(w @ m @ w))
        np.testing.assert_allclose(c._variance_after_each(chosen),
                                   [c.variance([*chosen, k]) for k in range(40)])


@pytest.mark.parametrize(("budget", "runs", "seeds"), [
    (60.0, 3, 1), (200.0, 8, 2), (30.0, 50, 1), (400.0, 4, 4), (60.0, 6, 2), (4.0, 2, 1)])
@pytest.mark.parametrize("case", [1, 4, 7, 9, 10])
def test_no_exchange_improves_a_choice(case: int, budget: float, runs: int, seeds: int) -> None:
    """Within the limits, no run can be added, and none be replaced by a better one; and what is
    chosen one by one, by gain or by gain per FLOP, is not better."""
    c = _candidates(case)
    chosen = c.choose(budget, runs, seeds)
    assert 0 < len(chosen) <= runs
    assert c.cost[chosen].sum() <= budget * (1 + 1e-9)
    assert np.bincount(chosen).max() <= seeds
    now = c.variance(chosen)
    rests = [chosen[:k] + chosen[k + 1:] for k in range(len(chosen))]
    for rest in [*rests, chosen] if len(chosen) < runs else rests:
        for k in range(40):
            allowed = c.cost[[*rest, k]].sum() <= budget and rest.count(k) < seeds
            assert not allowed or c.variance([*rest, k]) > now * (1 - 1e-5)
    for price in (np.ones(40), c.cost):
        one_by_one: list[int] = []
        while len(one_by_one) < runs:
            gains = [(c.variance(one_by_one) - c.variance([*one_by_one, k])) / price[k]
                     if c.cost[[*one_by_one, k]].sum() <= budget and one_by_one.count(k) < seeds
                     else 0.0 for k in range(40)]
            if max(gains) <= 0:
                break
            one_by_one.append(int(np.argmax(gains)))
        assert now <= c.variance(one_by_one) * (1 + 1e-9)
    order = c.order_by_gain(chosen)
    assert sorted(order) == sorted(chosen)
    for done in range(len(order)):
        before = c.variance(order[:done])
        gains = [(before - c.variance([*order[:done], k])) / c.cost[k] for k in order[done:]]
        assert gains[0] == pytest.approx(max(gains))


def test_expected_intervals_agree_with_simulation(law: Law, table: RunsTable) -> None:
    noise, target = Noise(0.003), target_named(law.form, "n-star", 1e22)
    found = suggest(law, table, target, 1e20, at=1e22, max_flops_per_run=3e19, noise=noise, runs=10)
    study = simulate_study(law, _joined(table, found.runs), noise, 300, [target])
    assert study.targets[0].sd == pytest.approx(found.runs[-1].sd, rel=0.15)
    assert found.value == pytest.approx(float(target.evaluate(law.point)[0]))
    sds = [found.sd, *(run.sd for run in found.runs)]
    assert sds == sorted(sds, reverse=True)
    np.testing.assert_allclose([run.cumulative_flops for run in found.runs],
                               np.cumsum([6 * run.n * run.d for run in found.runs]))


def test_limits_are_kept(law: Law) -> None:
    frame = simulate(law, PILOT, Noise(0.003))
    held = simulate(law, rectangle([5e8], [1e10]), Noise(0.0)).assign(role="heldout", run_id="big")
    table = from_frame(pd.concat([frame, held]), "x")
    target = target_named(law.form, "loss", 1e21)
    found = suggest(law, table, target, 1e22, at=1e21, runs=6, seeds=2)
    heldout = 6 * 5e8 * 1e10
    assert max(run.c for run in found.runs) < heldout  # so that it still tests extrapolation
    found = suggest(law, table, target, 6e19, at=1e21, max_flops_per_run=1.5e19,
                    sizes=[3e7, 1.1e8, 2.9e8], ratios=(10, 40), max_tokens=2e9, runs=12)
    assert {run.n for run in found.runs} <= {3e7, 1.1e8, 2.9e8}
    assert all(10 * 0.99 <= run.d / run.n <= 40 * 1.01 for run in found.runs)
    assert all(run.c <= 1.5e19 and run.d <= 2e9 for run in found.runs)
    assert found.flops <= 6e19
    assert max_run_flops(table, 1e25, at=1e19) < 1e19
    least = candidate_runs(table, 1e20)
    assert least.n.min() >= table.n.min()
    assert least.d.min() >= table.d.min()
    assert (least.c.min(), least.c.max()) >= (table.c.min() * 0.999, 0)


def test_an_undetermined_target_gets_a_warning(law: Law, table: RunsTable) -> None:
    along = from_frame(simulate(law, by_ratio(np.geomspace(2e7, 2e8, 8).tolist(), [20]),
                                Noise(0.003)), "along")
    fitted = fit_law(along, "chinchilla", resamples=0)
    target = target_named(law.form, "a")
    found = suggest(fitted, along, target, 1e20, runs=8)
    assert any("do not determine a" in warning for warning in found.warnings)
    # The suggestion fixes this with new values of tokens per parameter.
    ratios = [run.d / run.n for run in found.runs]
    assert max(ratios) / min(ratios) > 5
    assert found.runs[-1].sd < found.sd / 10
    assert not any("do not determine" in warning for warning in
                   suggest(law, table, target, 1e20, noise=Noise(0.003)).warnings)


def test_a_suggestion_dominated_by_one_run_gets_a_warning(law: Law, table: RunsTable) -> None:
    target = target_named(law.form, "n-star", 1e22)
    alone = suggest(law, table, target, 1e20, at=1e22, noise=Noise(0.003), runs=3)
    spread = suggest(law, table, target, 1e20, at=1e22, noise=Noise(0.003),
                     max_flops_per_run=2e19, runs=10)
    assert any("depends on this one run" in warning for warning in alone.warnings)
    assert not any("depends on this one run" in warning for warning in spread.warnings)


def test_noise_is_measured_through_outliers(law: Law) -> None:
    design = by_ratio(np.geomspace(2e7, 2e8, 8).tolist(), np.geomspace(5, 80, 8).tolist())
    for faults, off in ((Faults(), 0.15), (Faults(outliers=0.05), 0.4)):
        runs = from_frame(simulate(law, design, Noise(0.005), faults=faults, draw=2), "x")
        assert estimate_noise(law, runs) == pytest.approx(0.005, rel=off)
    residual = np.log(runs.loss / law.loss(runs.values))
    assert residual.std() > 3 * estimate_noise(law, runs)


@pytest.mark.parametrize(("change", "message"), [
    ({"budget": 0.0}, "budget 0"), ({"runs": 0}, "from 1 to 100"),
    ({"max_flops_per_run": 1e10}, "no run of"),
    ({"ratios": (80.0, 5.0)}, "the lower one first"), ({"sizes": [-1.0]}, "sizes -1"),
])
def test_invalid_limits_are_refused(law: Law, table: RunsTable, change: dict, message: str  # type: ignore[type-arg]
                              ) -> None:
    given = {"budget": 1e20} | change
    with pytest.raises(UserError, match=message):
        suggest(law, table, target_named(law.form, "a"), **given)


def test_laws_of_an_envelope_are_refused(law: Law, table: RunsTable) -> None:
    kaplan = published_named("kaplan2020-n").law
    assert kaplan is not None
    with pytest.raises(UserError, match="fitted to every run"):
        suggest(kaplan, table, target_named(kaplan.form, "alpha_N"), 1e20)


def _run(*words: object) -> str:
    result = CliRunner().invoke(app, ["sweep", "suggest", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_the_command(law: Law, tmp_path: Path) -> None:
    simulate(law, PILOT, Noise(0.003)).to_csv(tmp_path / "runs.csv", index=False)
    words = (tmp_path, "--target", "n-star", "--at", "1e21", "--budget", "5e19", "--max-runs", 4)
    content = json.loads(_run(*words, "--bootstrap", 50, "--json"))
    assert content["flops"] <= 5e19
    assert len(content["runs"]) <= 4
    low, high = content["now"]["interval"]
    then = content["runs"][-1]["interval"]
    assert low < then[0] < content["value"] < then[1] < high
    assert "scaling sweep suggest " in re.sub(
        r"\s+", " ", _run("--help")).partition("Example")[2]
    with pytest.raises(UserError, match="such as --at 1e21"):
        _run(tmp_path, "--target", "n-star", "--budget", "1e20")
    with pytest.raises(UserError, match="LOW:HIGH"):
        _run(*words, "--ratio-range", "5")


@pytest.fixture
def study() -> ModuleType:
    path = ROOT / "experiments/next_runs.py"
    spec = importlib.util.spec_from_file_location("next_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["next_runs"] = module
    spec.loader.exec_module(module)
    return module


def test_a_short_version_of_the_study(study: ModuleType) -> None:
    """Runs that are chosen for N* narrow it more than a grid of equal compute does."""
    config = study.Config(noises=(0.003,), targets=(("n-star", 1e21),), budgets=(1e20,),
                          uniform_budgets=(3e19, 1e20, 1e21), pilots=2, sweeps=60)
    rows = study.widths(config)
    assert set(rows["design"]) == {"suggested", "grid", "wide grid", "isoflop"}
    np.testing.assert_allclose(rows["width"], rows["expected"], rtol=0.45)
    (line,) = study.savings(rows).to_dict("records")
    assert line["grid: times as wide"] > 1.5
    assert line["grid: times the compute"] > 3
