"""Budgets of isoFLOP sweeps in whatever convention they are equal; cubics beside parabolas; a law
and the minima of its own runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.errors import DataError, UserError
from scaling.laws import RunsTable, disagreement, fit_approach, fit_law, from_frame
from scaling.laws.approaches.isoflop import group_by_budget, in_shared_budgets
from scaling.laws.approaches.parabola import polynomial_minima
from scaling.laws.published import published_named

pytestmark = pytest.mark.quick

BUDGETS = np.logspace(17, 19, 5)
BEST = 3e7 * (BUDGETS / 1e17) ** 0.55


def _own_sweep(equal: str, spread: float = 0.0) -> pd.DataFrame:
    """Runs in this package's columns, whose budgets are equal in one count of FLOPs, with parabolic
    valleys about BEST total parameters."""
    total = np.outer(BEST, np.geomspace(1 / 3, 3, 7)).ravel()
    outside = total - 1e4 * total**0.35
    c = np.repeat(BUDGETS, 7) * np.exp(spread * np.tile(np.linspace(-1, 1, 7), 5))
    per_token = {"flops_counted": 6 * outside + 2e5 * total**0.5, "flops_6nd": 6 * total,
                 "6 N D": 6 * total, "non-embedding": 6 * outside}
    d = c / per_token[equal]
    loss = 2 + 0.3 * (c / 1e17) ** -0.1 + 0.02 * np.log(total / np.repeat(BEST, 7)) ** 2
    return pd.DataFrame({
        "params_total": total, "params_non_embedding": outside, "tokens": d,
        "flops_6nd": 6 * total * d, "flops_counted": per_token["flops_counted"] * d,
        "seconds": 1.0, "loss": loss})


@pytest.mark.parametrize(("equal", "counted"), [
    ("flops_counted", "column flops_counted"), ("6 N D", "6 N D"),
    ("non-embedding", "6 N D with N of column params_non_embedding"),
])
@pytest.mark.parametrize("name", ["approach-2", "approach-2-cubic", "approach-2-akima"])
def test_budgets_are_found_where_they_are_equal(name: str, equal: str, counted: str) -> None:
    frame = _own_sweep(equal, spread=0.004)
    found = fit_approach(from_frame(frame, "runs"), name, noise=1e-4, resamples=20)
    assert found.convention["c"] == counted
    np.testing.assert_allclose(found.optima.c, BUDGETS, rtol=1e-3)
    np.testing.assert_allclose(found.optima.n, BEST, rtol=0.05)
    assert found.exponents["a"] == pytest.approx(0.55, abs=0.01)
    # Allocations are in that convention, tokens included.
    row = found.allocation(1e18)
    assert row.n == pytest.approx(3e7 * 10**0.55, rel=0.05)
    per_token = frame["flops_counted"] / frame["tokens"] if equal == "flops_counted" else (
        6 * frame["params_total" if equal == "6 N D" else "params_non_embedding"])
    spent = row.d * np.interp(row.n, frame["params_total"].sort_values(), per_token.sort_values())
    assert spent == pytest.approx(1e18, rel=0.03)
    said = [w for w in found.warnings if "share budgets" in w]
    assert len(said) == (equal != "6 N D")
    assert all(counted in w and "and not 6 N D" in w for w in said)


def test_a_column_of_c_that_has_budgets_is_kept() -> None:
    frame = _own_sweep("flops_6nd").rename(columns={"flops_6nd": "my_c"})
    found = fit_approach(from_frame(frame, "runs", n="params_total", d="tokens", c="my_c"),
                         "approach-2")
    assert found.convention["c"] == "column my_c"
    other = _own_sweep("flops_counted")
    other["gpu_flops"] = np.where(other.index < 7, np.nan, other["flops_counted"] * 1.1)
    found = fit_approach(from_frame(other, "runs", n="params_total", d="tokens", c="flops_6nd"),
                         "approach-2")
    assert found.convention["c"] == "column flops_counted"
    assert any("and not column flops_6nd" in w for w in found.warnings)


def test_runs_that_share_no_budget_keep_their_c() -> None:
    n, d = (each.ravel() for each in np.meshgrid(np.geomspace(1e7, 1e8, 5) * [1, 1.1, 1, 1, 1.3],
                                                 np.geomspace(1e9, 7e9, 5)))
    frame = pd.DataFrame({"params_total": n, "tokens": d, "flops_counted": 6.5 * n**1.01 * d,
                          "loss": 2 + 100 / n**0.3 + 300 / d**0.3})
    table = from_frame(frame, "runs")
    assert in_shared_budgets(table, 3) == (table, ())
    with pytest.raises(DataError, match=r"budgets \(C 6 N D\) .*given with budgets="):
        fit_approach(table, "approach-2")


def test_given_budgets_choose_the_convention_and_the_tolerance() -> None:
    table = from_frame(_own_sweep("flops_counted", spread=0.04), "runs")
    # Runs of a budget are up to 0.08 apart, so that the budgets have to be given.
    found = fit_approach(table, "approach-2", budgets=BUDGETS[1:4].tolist(), tolerance=0.05)
    large = table.take(np.flatnonzero(table.n > 0.99 * BEST[3] / 3))
    assert fit_approach(large, "approach-2", budgets=BUDGETS[3:].tolist(),
                        tolerance=0.05).n_runs == 14
    assert found.convention["c"] == "column flops_counted"
    assert found.optima.c.tolist() == pytest.approx(BUDGETS[1:4].tolist())
    assert found.excluded["in_no_budget"] == 14
    few = fit_approach(table, "approach-2", budgets=BUDGETS[1:4].tolist(), tolerance=0.03)
    assert few.excluded["in_no_budget"] == 14 + 3 * 2
    with pytest.raises(DataError, match=r"none of the 35 runs is within .* Give other budgets"):
        fit_approach(table, "approach-2", budgets=[1e25], tolerance=0.05)
    for wrong, says in (({"budgets": [-1.0]}, r"budgets=\[-1\]: positive numbers"),
                        ({"budgets": [1e18, 1.01e18]}, "closer than twice"),
                        ({"tolerance": -1.0}, "tolerance=-1: a non-negative number")):
        with pytest.raises(UserError, match=says):
            fit_approach(table, "approach-2", **wrong)


def _skewed(width: float, sizes: int = 9, middle: float = 1.0) -> RunsTable:
    """Noiseless runs of Hoffmann's law at five budgets, on grids about its optima times `middle`.
    """
    law = published_named("hoffmann2022-3").law
    assert law is not None
    c = np.logspace(17, 21, 5)
    best = law.form.optimum(law.point, c)
    assert best is not None
    n = np.outer(best, middle * np.geomspace(1 / width, width, sizes)).ravel()
    loss = law.loss({"n": n, "d": np.repeat(c, sizes) / (6 * n)})
    return from_frame(pd.DataFrame({"n": n, "c": np.repeat(c, sizes), "loss": loss}), "runs",
                      n="n", c="c")


@pytest.mark.parametrize("of", ["loss", "log-loss"])
@pytest.mark.parametrize("skew", [-0.004, 0.0, 0.004])
def test_a_cubic_recovers_a_cubic_valley(of: str, skew: float) -> None:
    factors = np.array([0.3, 0.5, 0.7, 1.5, 2.0, 4.0, 8.0])  # off their middle
    x = np.log(factors)
    y = 1.1 + 0.03 * x**2 + skew * x**3
    losses = np.exp(y) if of == "log-loss" else y
    found = fit_approach(_valleys(factors, losses), "approach-2-cubic", target=of)
    np.testing.assert_allclose(found.optima.n, BEST, rtol=1e-8)
    np.testing.assert_allclose(found.optima.loss, np.exp(1.1) if of == "log-loss" else 1.1)
    parabola = fit_approach(_valleys(factors, losses), "approach-2", target=of)
    assert (np.abs(np.log(parabola.optima.n / BEST)) > 0.01).all() == (skew != 0)


def test_a_cubic_without_a_minimum_or_of_three_sizes_is_left_out() -> None:
    factors = np.geomspace(0.3, 8, 7)
    falling = 5 - np.log(factors) - 0.1 * np.log(factors) ** 3
    with pytest.raises(DataError, match="a cubic through them has no minimum"):
        fit_approach(_valleys(factors, falling), "approach-2-cubic")
    with pytest.raises(DataError, match="has 3 distinct sizes, where 4 are needed"):
        fit_approach(_valleys(factors[:3], np.array([2.1, 2.0, 2.1])), "approach-2-cubic")


def _valleys(factors: np.ndarray, losses: np.ndarray) -> RunsTable:
    """Runs with the same losses at every budget, at sizes that are multiples of BEST."""
    return from_frame(pd.DataFrame({
        "n": np.outer(BEST, factors).ravel(), "c": np.repeat(BUDGETS, len(factors)),
        "loss": np.tile(losses, len(BEST))}), "runs", n="n", c="c")


def test_cubics_cover_the_minimum_of_a_skewed_valley_and_parabolas_do_not() -> None:
    """90% intervals of N* of every budget, and of the power law at the middle one."""
    table, noise, trials = _skewed(8.0), 0.002, 60
    law = published_named("hoffmann2022-3").law
    assert law is not None
    truth = np.asarray(law.form.optimum(law.point, np.logspace(17, 21, 5)))
    rng = np.random.default_rng(0)
    hits = {"approach-2": [0.0, 0.0], "approach-2-cubic": [0.0, 0.0]}
    for _ in range(trials):
        noisy = replace(table, loss=table.loss * np.exp(noise * rng.standard_normal(
            table.loss.size)))
        for name, counts in hits.items():
            found = fit_approach(noisy, name)
            error = np.abs(np.log(found.optima.n / truth))
            counts[0] += float((error <= 1.645 * found.optima.n_se).mean()) / trials
            low, high = found.n.interval(1e19)
            counts[1] += float(low <= truth[2] <= high) / trials
    # 90%, and three standard deviations of 60 trials.
    assert min(hits["approach-2-cubic"]) > 0.78, hits
    assert max(hits["approach-2"]) < 0.6, hits


def test_the_standard_error_of_a_cubic_is_the_spread_of_its_minima() -> None:
    table, rng = _skewed(8.0, middle=4.0), np.random.default_rng(1)
    minima, errors = [], []
    for _ in range(150):
        noisy = replace(table, loss=table.loss * np.exp(0.001 * rng.standard_normal(
            table.loss.size)))
        found = polynomial_minima(group_by_budget(noisy)[0], noise=0.001, degree=3)
        minima.append([m.log_n for m in found])
        errors.append([m.log_n_se for m in found])
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(minima, axis=0), rtol=0.2)


def test_a_law_is_held_against_the_minima_of_its_runs() -> None:
    table = _skewed(8.0)
    noisy = replace(table, loss=table.loss * np.exp(
        5e-4 * np.random.default_rng(0).standard_normal(table.loss.size)))
    law = fit_law(noisy, "chinchilla", resamples=60)
    assert disagreement(law, fit_approach(noisy, "approach-2-cubic"), noisy) is None
    biased = fit_approach(noisy, "approach-2")
    said = disagreement(law, biased, noisy)
    assert said is not None
    count, c, n, low, high, n_2, low_2, high_2 = (float(x) for x in re.findall(
        r"(?<![\w.-])\d+(?:\.\d+)?(?:e\+?\d+)?(?![\w%])", said.replace("of 5 budgets", ""))[:8])
    assert high < low_2 or high_2 < low
    k = int(np.abs(np.log(biased.optima.c / c)).argmin())
    assert n_2 == pytest.approx(biased.optima.n[k], rel=0.01)
    assert n == pytest.approx(float(np.asarray(law.form.optimum(law.point, c))[0]), rel=0.02)
    assert 1 <= count <= 5
    assert "\n" not in said
    # With other parameters in N there is nothing to hold against each other.
    other = replace(law, convention={**law.convention, "n": "non-embedding"})
    assert disagreement(other, biased, noisy) is None


def test_laws_are_held_against_minima_of_counted_flops() -> None:
    """Runs of one law on budgets of counted FLOPs: its optimum there is that of approach 2."""
    n = np.outer(BEST, np.geomspace(1 / 3, 3, 9)).ravel()
    per_token, c = 6 * n + 3e6 * n**0.4, np.repeat(BUDGETS, 9)
    d = c / per_token
    noise = np.exp(3e-4 * np.random.default_rng(0).standard_normal(n.size))
    frame = pd.DataFrame({"params_total": n, "tokens": d, "flops_counted": c,
                          "loss": noise * (1.7 + 400 / n**0.3 + 1000 / d**0.3)})
    table = from_frame(frame, "runs")
    law, found = fit_law(table, "chinchilla", resamples=40), fit_approach(table, "approach-2-cubic")
    assert found.convention["c"] == "column flops_counted"
    assert disagreement(law, found, table) is None
    wrong = replace(found, optima=replace(found.optima, n=2 * found.optima.n))
    assert "at 5 of 5 budgets" in str(disagreement(law, wrong, table))


def test_the_command_takes_budgets_and_names_their_convention(command, tmp_path: Path) -> None:
    _own_sweep("flops_counted", spread=0.04).to_csv(tmp_path / "runs.csv", index=False)
    budgets = ",".join(f"{c:.6g}" for c in BUDGETS[:4])
    done = command("fit", tmp_path / "runs.csv", "--law", "approach-2-cubic", "--budgets", budgets,
                   "--tolerance", "0.05", "--save", tmp_path / "laws.json")
    assert done.code == 0, done.err
    assert "C column flops_counted" in done.out
    assert "4 of 4 optima used" in done.out
    assert "C is column flops_counted" in command(
        "allocate", tmp_path / "laws.json", "--compute", "1e18").out


def test_the_command_says_where_a_law_and_its_runs_disagree(command, tmp_path: Path) -> None:
    table = _skewed(8.0)
    noise = np.exp(5e-4 * np.random.default_rng(0).standard_normal(table.loss.size))
    pd.DataFrame({"n": table.n, "c": table.c, "loss": table.loss * noise}).to_csv(
        tmp_path / "runs.csv", index=False)
    words = ("fit", tmp_path / "runs.csv", "--n", "n", "--c", "c", "--bootstrap", 20, "--law",
             "chinchilla", "--law")
    assert command(*words, "approach-2").out.count(
        "warning: chinchilla and approach-2 disagree beyond both 90% intervals at ") == 1
    assert "disagree" not in command(*words, "approach-2-cubic").out


@pytest.mark.parametrize(("words", "message"), [
    (("--law", "chinchilla", "--budgets", "1e18"), "--budgets 1e18: an option of approach 2"),
    (("--law", "approach-1", "--tolerance", "0.1"), "--tolerance 0.1: an option of approach 2"),
    (("--law", "approach-2", "--budgets", "many"), "--budgets many: positive numbers"),
    (("--law", "approach-2", "--budgets", "1e18,1.01e18"), "smaller --tolerance"),
    (("--law", "approach-2", "--tolerance", "-1"), "--tolerance -1: a non-negative number"),
])
def test_wrong_options_are_refused(command, tmp_path: Path, words, message) -> None:
    _own_sweep("6 N D").to_csv(tmp_path / "runs.csv", index=False)
    done = command("fit", tmp_path / "runs.csv", *words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_budget_that_no_run_has_is_named() -> None:
    table = from_frame(_own_sweep("6 N D"), "runs")
    with pytest.raises(DataError, match=r"needed: .*no run has the given budget of 1e\+30 FL"):
        fit_approach(table, "approach-2", budgets=[1e17, 1e30])
    with pytest.raises(DataError, match="1 of 1 budgets"):
        fit_approach(table, "approach-2", budgets=1e17)  # one number is one budget
