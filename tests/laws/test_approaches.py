"""Approaches 1 and 2: exact valleys, known laws, misleading grids, published optima."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from scaling.console import finite
from scaling.errors import UserError
from scaling.laws import RunsTable, from_frame
from scaling.laws.approaches import (
    Curves,
    Frontier,
    Screen,
    curves_from_frame,
    fit_approach,
    frontier_from_json,
    group_by_budget,
)
from scaling.laws.approaches.akima import akima_minima, interpolant_minima
from scaling.laws.approaches.envelope import envelope, local_linear_smooth
from scaling.laws.approaches.isoflop import IsoFlopProfile
from scaling.laws.approaches.line import fit_log_line
from scaling.laws.approaches.optima import Optima, ProfileMinimum, seed_noise
from scaling.laws.approaches.parabola import polynomial_minima
from scaling.laws.published import published_named

pytestmark = pytest.mark.quick

BUDGETS = np.logspace(17, 20, 7)


def _table(n: np.ndarray, c: np.ndarray, loss: np.ndarray) -> RunsTable:
    return from_frame(pd.DataFrame({"n": n, "c": c, "loss": loss}), "runs", n="n", c="c")


def _surface(n: np.ndarray, d: np.ndarray, alpha: float = 0.3, beta: float = 0.3) -> np.ndarray:
    return 1.7 + 400 / n**alpha + 400 / d**beta


def _grid(width: float = 4.0, sizes: int = 9, middle: float = 1.0) -> tuple[np.ndarray, ...]:
    """n, c and loss of grids about middle * N*, where N* = sqrt(C / 6)."""
    n = np.concatenate([middle * np.sqrt(c / 6) * np.geomspace(1 / width, width, sizes)
                        for c in BUDGETS])
    c = np.repeat(BUDGETS, sizes)
    return n, c, _surface(n, c / (6 * n))


def _noisy(
    table: RunsTable, sd: float, times: int, rng: np.random.Generator
) -> Iterator[RunsTable]:
    """The same runs with other noise in the log-loss."""
    for _ in range(times):
        yield replace(table, loss=table.loss * np.exp(sd * rng.standard_normal(table.loss.size)))


@pytest.mark.parametrize("of", ["loss", "log-loss"])
def test_a_parabola_recovers_a_quadratic_valley(of: str) -> None:
    """Off the middle of an uneven grid, and with a slope of its own at every budget."""
    best, floor = 3e6 * (BUDGETS / 1e17) ** 0.61, 4 * (BUDGETS / 1e17) ** -0.05
    factors = np.array([0.2, 0.5, 0.7, 1.5, 2.0, 4.0])
    n, c = np.outer(best, factors), np.outer(BUDGETS, np.ones(6))
    y = (np.log(floor) if of == "log-loss" else floor)[:, None] + 0.03 * np.log(factors) ** 2
    loss = np.exp(y) if of == "log-loss" else y
    found = fit_approach(_table(n.ravel(), c.ravel(), loss.ravel()), "approach-2", target=of)
    np.testing.assert_allclose(found.optima.n, best, rtol=1e-10)
    np.testing.assert_allclose(found.optima.loss, floor, rtol=1e-12)
    np.testing.assert_allclose(found.optima.d, BUDGETS / (6 * best), rtol=1e-10)
    assert found.params["a"] == pytest.approx(0.61, abs=1e-11)
    assert found.params["G"] == pytest.approx(3e6 / 1e17**0.61, rel=1e-9)
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["approach-2", "approach-2-akima"])
def test_exponents_of_a_symmetric_law_are_exact(name: str) -> None:
    """alpha = beta, A = B: valleys are symmetric, and N* = D* = sqrt(C / 6)."""
    found = fit_approach(_table(*_grid()), name, resamples=0)
    assert found.exponents == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-10)
    assert found.params["G"] == pytest.approx(6**-0.5, rel=1e-8)
    assert found.params["H"] == pytest.approx(6**-0.5, rel=1e-8)
    row = found.allocation(6e20)
    assert row.n == pytest.approx(1e10, rel=1e-9)
    assert row.d == pytest.approx(1e10, rel=1e-9)
    assert (row.loss, row.counting, found.warnings) == (None, "column n", ())


def test_the_text_of_a_frontier_has_its_power_laws_and_warnings() -> None:
    frontier = fit_approach(_table(*_grid()), "approach-2")
    lines = repr(replace(frontier, warnings=("two budgets",))).splitlines()
    assert lines[:2] == ["approach-2: N* = G C^a, D* = H C^b", "63 runs; 7 of 7 optima used"]
    assert [line.split()[0] for line in lines[2:]] == ["parameter", "G", "a", "H", "b", "warning:"]
    assert "0.5" in lines[4]  # of equal exponents, exactly


def test_the_law_of_tokens_is_that_of_the_table_where_c_is_not_6nd() -> None:
    n, c, loss = _grid()
    frame = pd.DataFrame({"n": n, "c": c, "d": (c / (6 * n)) ** 0.9, "loss": loss})
    found = fit_approach(from_frame(frame, "runs", n="n", d="d", c="c"), "approach-2")
    assert found.exponents["b"] == pytest.approx(0.45, abs=1e-10)


def test_standard_errors_are_the_spread_of_the_optima() -> None:
    n, c, loss = _grid()
    rng = np.random.default_rng(0)
    optima, known, pooled = [], [], []
    for table in _noisy(_table(n, c, loss), 0.003, 200, rng):
        groups, _ = group_by_budget(table)
        given = polynomial_minima(groups, noise=0.003)
        optima.append([m.log_n for m in given])
        known.append([m.log_n_se for m in given])
        pooled.append([m.log_n_se for m in polynomial_minima(groups)])
    spread = np.std(optima, axis=0)
    np.testing.assert_allclose(np.mean(known, axis=0), spread, rtol=0.15)
    # Pooling assumes the same noise of the loss at every budget, which is only approximate here.
    np.testing.assert_allclose(np.mean(pooled, axis=0), spread, rtol=0.4)


def test_intervals_cover() -> None:
    n, c, loss = _grid(sizes=7)
    rng = np.random.default_rng(1)
    hits = {"a": 0, "n": 0}
    trials = 200
    for table in _noisy(_table(n, c, loss), 0.002, trials, rng):
        found = fit_approach(table, "approach-2")
        low, high = found.intervals["a"]
        hits["a"] += low <= 0.5 <= high
        low, high = found.n.interval(1e23)
        hits["n"] += low <= np.sqrt(1e23 / 6) <= high
    # 90%, and four standard deviations of 200 draws.
    assert hits["a"] / trials == pytest.approx(0.9, abs=0.085)
    assert hits["n"] / trials == pytest.approx(0.9, abs=0.085)


def test_lines_equal_those_of_other_libraries() -> None:
    rng = np.random.default_rng(2)
    c = np.logspace(17, 21, 9)
    y = 3 * c**0.4 * np.exp(0.1 * rng.standard_normal(9))
    line, other = fit_log_line(c, y), stats.linregress(np.log(c), np.log(y))
    assert line.exponent == pytest.approx(other.slope, rel=1e-12)
    assert line.exponent_se == pytest.approx(other.stderr, rel=1e-10)
    assert line.se(1.0) == pytest.approx(other.intercept_stderr, rel=1e-9)
    weights = rng.uniform(0.1, 10, 9)
    (slope, level), cov = np.polyfit(np.log(c), np.log(y), 1, w=weights**0.5, cov=True)
    line = fit_log_line(c, y, weights)
    assert line.exponent == pytest.approx(slope, rel=1e-10)
    assert np.log(line.coefficient) == pytest.approx(level, rel=1e-9)
    assert line.exponent_se == pytest.approx(cov[0, 0] ** 0.5, rel=1e-8)


@pytest.mark.parametrize(("rows", "says"), [
    ("n < best / 1.5", "outside the trained sizes"),
    ("n > best * 1.5", "train smaller sizes"),
    ("n < best * 1.4", "less than a step of the grid from the end"),
    ("n < best * 2.1", "off-centre"),
    ("n > best / 2.1", "off-centre"),
    ("n < best / 10", "2 distinct sizes, where 3 are needed"),
])
def test_misleading_grids_are_left_out_with_a_reason(rows: str, says: str) -> None:
    n, c, loss = _grid(width=16, sizes=17)
    frame = pd.DataFrame({"n": n, "c": c, "loss": loss, "best": np.sqrt(c / 6)})
    bad = np.isclose(frame["c"], BUDGETS[2])
    frame = frame[~bad | frame.eval(rows)]
    found = fit_approach(from_frame(frame, "runs", n="n", c="c"), "approach-2")
    assert found.optima.used.tolist() == [True, True, False, True, True, True, True]
    assert says in found.optima.reason[2]
    warnings = [w for w in found.warnings if "1e+18 FLOP is left out" in w]
    assert len(warnings) == 1
    assert says in warnings[0]
    assert found.exponents["a"] == pytest.approx(0.5, abs=1e-9)
    without = fit_approach(from_frame(frame[~bad[frame.index]], "runs", n="n", c="c"),
                           "approach-2")
    assert found.params == without.params
    assert found.excluded["in_budgets_left_out"] == int(bad[frame.index].sum())


def test_an_inverted_or_too_noisy_valley_is_left_out() -> None:
    n, c, loss = _grid()
    hill, noisy = np.isclose(c, BUDGETS[1]), np.isclose(c, BUDGETS[4])
    bent = np.where(hill, 6 - loss, loss)
    found = fit_approach(_table(n, c, bent), "approach-2")
    assert "no valley" in found.optima.reason[1]
    assert np.isnan(found.optima.n[1])
    flat = np.where(noisy, loss.mean() + 1e-3 * (loss - loss.mean()), loss)
    found = fit_approach(_table(n, c, flat), "approach-2", noise=0.002)
    assert "too flat for its noise" in found.optima.reason[4]


def test_akima_needs_sizes_beyond_the_optimum_too() -> None:
    n, c, loss = _grid()
    cut = ~np.isclose(c, BUDGETS[0]) | (n < np.sqrt(c / 6) / 1.3)
    found = fit_approach(_table(n[cut], c[cut], loss[cut]), "approach-2-akima", noise=1e-3,
                         resamples=100)
    assert found.optima.used.tolist() == [False] + [True] * 6
    assert "at an end of the grid" in found.optima.reason[0]
    few = ~np.isclose(c, BUDGETS[0]) | (np.abs(np.log(n / np.sqrt(c / 6))) < 0.4)
    found = fit_approach(_table(n[few], c[few], loss[few]), "approach-2-akima", resamples=0)
    assert "3 distinct sizes, where 4 are needed" in found.optima.reason[0]


def test_an_error_gives_the_reasons_if_no_budget_is_left() -> None:
    with pytest.raises(UserError, match=r"0 of 7 budgets .* off-centre.*; and 4 more"):
        fit_approach(_table(*_grid(middle=3.5, width=8)), "approach-2")


def test_two_and_three_budgets() -> None:
    n, c, loss = _grid()
    loss = loss * np.exp(1e-4 * np.random.default_rng(0).standard_normal(len(loss)))
    two = fit_approach(_table(n[:18], c[:18], loss[:18]), "approach-2")
    assert set(two.intervals.values()) == {None}
    assert "two budgets" in two.warnings[0]
    three = fit_approach(_table(n[:27], c[:27], loss[:27]), "approach-2")
    assert three.intervals["a"] is not None
    assert "3 budgets" in three.warnings[0]


def test_budgets_are_detected_or_given() -> None:
    n, c, loss = _grid()
    near = c * np.exp(0.005 * np.random.default_rng(0).uniform(-1, 1, len(c)))
    groups, warnings = group_by_budget(_table(n, near, loss))
    np.testing.assert_allclose([g.c for g in groups], BUDGETS, rtol=5e-3)
    assert [len(g.loss) for g in groups] == [9] * 7
    assert warnings == ()
    groups, warnings = group_by_budget(_table(n, near, loss), budgets=[1e18, 1e20, 1e22])
    assert [g.c for g in groups] == pytest.approx([1e18, 1e20])
    assert "45 of 63 runs" in warnings[0]
    assert "1e+22" in warnings[1]
    with pytest.raises(UserError, match="cannot be distinguished"):
        group_by_budget(_table(n, np.geomspace(1e18, 1e19, len(n)), loss), tolerance=0.1)
    with pytest.raises(UserError, match="closer than twice"):
        group_by_budget(_table(n, c, loss), budgets=[1e18, 1.01e18])


def test_far_sizes_can_be_left_out() -> None:
    """A valley that is skewed by alpha != beta is less so near its lowest point."""
    truth = (0.4 / 0.25) ** (1 / 0.65) * (BUDGETS / 6) ** (0.25 / 0.65)
    n, c = np.outer(truth, np.geomspace(1 / 20, 20, 41)).ravel(), np.repeat(BUDGETS, 41)
    table = _table(n, c, _surface(n, c / (6 * n), alpha=0.4, beta=0.25))
    wide, close = (fit_approach(table, "approach-2", within=w) for w in (None, 3))
    miss, rest = (np.abs(f.optima.n / truth - 1).max() for f in (wide, close))
    assert miss > 0.1
    assert rest < 0.15 * miss
    assert close.excluded["far_from_the_lowest"] > 0


def test_akimas_minimum_is_the_lowest_point_of_the_interpolant() -> None:
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0, 10, 9))
    y = 0.1 * (x[:, None] - 5) ** 2 + rng.standard_normal((9, 200))
    fine = np.linspace(x[0], x[-1], 20_001)
    curves = Akima1DInterpolator(x, y)
    found = interpolant_minima(x, y)
    assert (np.diagonal(curves(found)) <= curves(fine).min(axis=0) + 1e-12).all()
    inside = (found > x[0]) & (found < x[-1])
    assert 0 < inside.sum() < 200
    at_ends = np.minimum(y[0], y[-1])[~inside]
    np.testing.assert_allclose(y.min(axis=0)[~inside], at_ends)


def _profile(sizes: list[float], loss: list[float], c: float = 1e18) -> IsoFlopProfile:
    n = np.array(sizes, dtype=float)
    return IsoFlopProfile(c, n, np.log(c / 6) - n, np.array(loss, dtype=float))


def test_akimas_error_is_the_spread_of_its_draws() -> None:
    """At least a third of a mean step, and larger by the share of draws that end inside."""
    x = np.array([10.0, 10.5, 11.5, 12.0, 13.0])
    y = 1.0 + 0.02 * (x - 10.7) ** 2
    profiles = [_profile([*x], [*np.exp(y)])] * 2
    noise = 0.03
    found = akima_minima(profiles, noise, resamples=2500, floor=0.0, seed=3)
    draws = interpolant_minima(x, y[:, None] + noise * np.random.default_rng(9).standard_normal(
        (5, 20_000)))
    inside = draws[(draws > 10) & (draws < 13)]
    share = len(inside) / 20_000
    assert 0.6 < share < 0.95
    for minimum in found:
        assert minimum.log_n == pytest.approx(np.median(inside), abs=0.1)
        assert minimum.log_n_se == pytest.approx(inside.std() / share, rel=0.05)
        assert minimum.loss == pytest.approx(
            np.exp(float(Akima1DInterpolator(x, y)(minimum.log_n))), rel=1e-9)
    assert found[0].log_n != found[1].log_n  # each has a stream of its own
    again, other = (akima_minima(profiles, noise, resamples=2500, floor=0.0, seed=s)
                    for s in (3, 4))
    assert again == found
    assert other[0].log_n != found[0].log_n
    for floor, least in ((0.33, 0.33 * 3 / 4), (2.0, 2.0 * 3 / 4)):
        (quiet,) = akima_minima(profiles[:1], 1e-6, resamples=50, floor=floor)
        assert quiet.log_n_se == pytest.approx(least)
    (quiet,) = akima_minima(profiles[:1], 1e-6, resamples=50)
    assert quiet.log_n_se == pytest.approx(0.33 * 3 / 4)
    seen: list[int] = []
    akima_minima(profiles, noise, resamples=100, watch=seen.append)
    assert seen == [50, 100]
    # A third of the draws inside is too few, and the reason says how many are not.
    steep = 1.0 + 0.02 * (x - 9) ** 2
    (lost,) = akima_minima([_profile([*x], [*np.exp(steep)])], noise, resamples=1000)
    draws = interpolant_minima(x, steep[:, None] + noise * np.random.default_rng(9).standard_normal(
        (5, 20_000)))
    outside = ((draws <= 10) | (draws >= 13)).mean()
    assert 0.5 < outside < 0.8
    said = re.search(r"(\d+)% of the draws", lost.problem)
    assert said
    assert float(said[1]) == pytest.approx(100 * outside, abs=5)
    (few,) = akima_minima([_profile([10.0, 11, 12, 13], [3.0, 2.5, 2.6, 3.0])], 0.0, resamples=0)
    assert not few.problem


@pytest.mark.parametrize(("at", "screen", "says"), [
    # The grid is 10, 11, 14, 20: a step of 1 at the lower end, and of 6 at the upper, of which a
    # quarter of the grid, 2.5, is the most that is asked for; its middle is 15.
    (10.9, Screen(off_centre=1), "less than a step"), (11.1, Screen(off_centre=1), ""),
    (17.6, Screen(off_centre=1), "less than a step"), (17.4, Screen(off_centre=1), ""),
    (10.9, Screen(0.5, 1), ""), (10.4, Screen(0.5, 1), "train smaller sizes"),
    (10.01, Screen(0, 1), ""), (9.99, Screen(0, 1), "outside the trained sizes"),
    (19.99, Screen(0, 1), ""), (20.01, Screen(0, 1), "train larger sizes"),
    (17.4, Screen(), ""), (17.6, Screen(0), "train larger sizes"), (12.6, Screen(), ""),
    (12.4, Screen(), "train smaller sizes"), (12.4, Screen(), "is 0.52 of the grid's half-width"),
])
def test_where_a_minimum_may_be(at: float, screen: Screen, says: str) -> None:
    profile = _profile([10, 11, 14, 20], [3, 2, 2.5, 4])
    reason = screen.reason(profile, ProfileMinimum(at, 0.1, 2.0))
    assert says in reason
    assert bool(says) == bool(reason)


@pytest.mark.parametrize(("se", "says"), [(4.9, ""), (5.1, "too flat for its noise"),
                                          (float("nan"), "")])
def test_how_uncertain_a_minimum_may_be(se: float, says: str) -> None:
    profile = _profile([10, 11, 14, 20], [3, 2, 2.5, 4])
    reason = Screen().reason(profile, ProfileMinimum(15, se, 2.0))
    assert says in reason
    assert bool(says) == bool(reason)


def test_noise_of_seeds_has_the_degrees_of_freedom_of_an_analysis_of_variance() -> None:
    losses = [[3.0, 3.03, 2.98], [2.5, 2.51], [2.0]]
    sizes = [10.0] * 3 + [11.0] * 2 + [12.0]
    flat = [x for group in losses for x in group]
    within = sum(((np.log(g) - np.log(g).mean()) ** 2).sum() for g in losses)
    twice = [_profile(sizes, flat), _profile(sizes, flat)]
    assert seed_noise(twice[:1]) == pytest.approx(np.sqrt(within / 3))
    assert seed_noise(twice) == pytest.approx(np.sqrt(within / 3))
    assert seed_noise([_profile([10, 11], [3, 2])]) is None


def test_kept_optima_keep_all_that_is_known_of_them() -> None:
    columns = [np.arange(4.0) + 10 * k for k in range(5)]
    optima = Optima(*columns, np.array([True, False, True, False]), ("", "flat", "", "hill"))
    for name, column in zip(("c", "n", "d", "loss", "n_se"), columns, strict=True):
        np.testing.assert_array_equal(getattr(optima.kept, name), column[[0, 2]])
    assert optima.kept.used.all()
    assert optima.take(np.array([3, 0])).reason == ("hill", "")
    assert optima.warnings == ("the budget of 1 FLOP is left out: flat",
                               "the budget of 3 FLOP is left out: hill")


def test_warnings_of_an_envelope_state_what_is_true() -> None:
    frame = _curves(12, 0.3, 0.3, points=400)
    other = frame["run_id"].str[1:].astype(int) % 2 == 1
    frame = frame[other | (frame["d"] <= 1.02 * frame["n"])]  # the envelope meets the ends of some
    found = fit_approach(curves_from_frame(frame, "curves"), "approach-1", resamples=0)
    said = " ".join(found.warnings)
    assert f"{(~found.optima.used).sum()} of 1500 compute values are left out" in said
    # Each point of the envelope against the last tokens of its run.
    ends = frame.groupby("n")["d"].max()
    kept = found.optima.kept
    np.testing.assert_allclose(kept.d, kept.c / (6 * kept.n))
    early = (kept.d < 0.85 * ends[ends.index[np.searchsorted(ends.index, kept.n * 0.999)]]).mean()
    assert 0.2 < early < 0.95
    assert f"{early:.0%} of the envelope is before the last 15%" in said
    assert len(np.unique(kept.n)) >= 5
    assert "passes through only" not in said
    few = fit_approach(curves_from_frame(_curves(6, 0.3, 0.3), "curves"), "approach-1", resamples=0)
    assert len(np.unique(few.optima.kept.n)) == 4
    assert any("passes through only 4 sizes" in warning for warning in few.warnings)
    assert any("there are no intervals" in warning for warning in few.warnings)
    for noise in (2e-5, 0.0006, 0.004):
        rough = curves_from_frame(_curves(12, 0.3, 0.3, noise=noise, points=300), "curves")
        warned = " ".join(fit_approach(rough, "approach-1", resamples=0, points=50).warnings)
        scatter = re.search(r"scatter by about ([\d.]+)% between points", warned)
        assert bool(scatter) == (noise > 1e-4)
        if scatter:
            assert float(scatter[1]) == pytest.approx(100 * noise, abs=0.051)


def test_subsamples_of_an_envelope_depend_on_their_seed() -> None:
    curves = curves_from_frame(_curves(20, 0.3, 0.3, points=30), "curves")
    seen: list[int] = []
    first, same, other = (envelope(curves, points=60, resamples=20, seed=seed, watch=seen.append)
                          for seed in (1, 1, 2))
    assert seen == [*range(20)] * 3
    assert first.n == same.n
    assert first.n.exponent == other.n.exponent
    assert first.n.exponent_se != other.n.exponent_se


def test_akima_estimates_noise_from_seeds_or_requires_it() -> None:
    n, c, loss = _grid()
    with pytest.raises(UserError, match="needs the noise"):
        fit_approach(_table(n, c, loss), "approach-2-akima")
    rng = np.random.default_rng(4)
    noisy = np.tile(loss, 3) * np.exp(0.004 * rng.standard_normal(3 * len(loss)))
    seeds = _table(np.tile(n, 3), np.tile(c, 3), noisy)
    found = fit_approach(seeds, "approach-2-akima", resamples=400)
    given = fit_approach(seeds, "approach-2-akima", resamples=400, noise=0.004)
    by_budget = fit_approach(seeds, "approach-2-akima", resamples=400,
                             noise=lambda budget: 0.004 if budget < 1e25 else 1.0)
    assert by_budget.params == given.params
    np.testing.assert_allclose(found.optima.n_se, given.optima.n_se, rtol=0.15)
    low, high = found.intervals["a"]
    assert low < 0.5 < high


def test_four_runs_of_a_size_halve_its_noise() -> None:
    """The draws are the same, so the minima are, too."""
    n, c, loss = _grid()
    one, _ = group_by_budget(_table(n, c, loss))
    four, _ = group_by_budget(_table(*(np.tile(x, 4) for x in (n, c, loss))))
    halved, averaged = (akima_minima(profiles, noise, resamples=300, floor=0.0)
                        for profiles, noise in ((one, 0.002), (four, 0.004)))
    for left, right in zip(halved, averaged, strict=True):
        assert 0 < left.log_n_se == pytest.approx(right.log_n_se, rel=1e-6)
        assert left.log_n == pytest.approx(right.log_n, abs=1e-9)


_PORIAN = ["dataset", "hparams", "warmup", "decay", "param_count", "val"]
_STEPS = [("base", "long", "kaplan", "kaplan", "train"),
          ("base", "long", "kaplan", "standard", "val"),
          ("base", "short", "kaplan", "standard", "val"),
          ("base", "short", "chinchilla", "standard", "val"),
          ("tuned", "short", "const", "standard", "val")]
_EXPONENTS = {"rw": (0.835, 0.706, 0.602, 0.571, 0.497),
              "owt2": (0.864, 0.699, 0.603, 0.574, 0.518)}
# What the authors' code adds to each loss, in nats; their README and paper do not print it.
_SEED_NOISE = {"rw": 0.002, "owt2": 0.01}


def _porian(path: Path, corpus: str, step: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.read_csv(path)
    frame = frame[frame["source"].isin(["summary_df", "summary_df_owt2"])]
    return frame[(frame[_PORIAN] == [corpus, *step]).all(axis=1)].reset_index(drop=True)


@pytest.mark.parametrize("corpus", list(_EXPONENTS))
def test_porians_optima_give_porians_exponents(reference, corpus: str) -> None:
    path = reference("porian2024_optimal_pairs.csv")
    for step, exponent in zip(_STEPS, _EXPONENTS[corpus], strict=True):
        pairs = _porian(path, corpus, step).dropna()
        line = fit_log_line(pairs["flops"].to_numpy(), pairs["n_opt"].to_numpy(),
                            pairs["n_star_std"].to_numpy() ** -2.0)
        assert line.exponent == pytest.approx(exponent, abs=6e-4), step


@pytest.mark.parametrize("corpus", list(_EXPONENTS))
def test_porians_points_give_porians_optima(reference, corpus: str) -> None:
    """Theirs are medians of 1000 draws, read off 25 points between two sizes, so two readings of
    one curve differ by up to 1/25 of a step and the draws by chance. RefinedWeb's noise hardly
    moves a minimum; OpenWebText2's does."""
    points = reference("porian2024_isoflop_points.csv")
    pairs_path = reference("porian2024_optimal_pairs.csv")
    closest, exponent_within = {"rw": (0.045, 1e-3), "owt2": (0.25, 4e-3)}[corpus]
    for step, exponent in zip(_STEPS, _EXPONENTS[corpus], strict=True):
        frame = _porian(points, corpus, step)
        pairs = _porian(pairs_path, corpus, step).dropna()
        lowest_loss = frame.groupby("flops")["loss"].min()

        def noise(c: float, at: pd.Series = lowest_loss) -> float:
            return _SEED_NOISE[corpus] / float(at.iloc[np.abs(np.log(at.index / c)).argmin()])

        # The authors leave out only optima at an end of the grid.
        found = fit_approach(from_frame(frame, "points", n="n", c="flops"), "approach-2-akima",
                             noise=noise, screen=Screen(edge=0), resamples=400)
        kept = found.optima.kept
        np.testing.assert_allclose(kept.c, pairs["flops"], rtol=1e-6)
        step_of = frame.groupby("flops")["n"].agg(lambda n: np.ptp(np.log(n)) / (len(n) - 1))
        step_of = step_of.loc[pairs["flops"]].to_numpy()
        miss = np.abs(np.log(kept.n / pairs["n_opt"].to_numpy())) / step_of
        assert np.median(miss) < 0.03, step
        assert miss.max() < closest, step
        np.testing.assert_allclose(kept.n_se, pairs["n_star_std"], rtol=0.12)
        np.testing.assert_allclose(kept.loss, pairs["loss_opt"], rtol=3e-3)
        assert found.exponents["a"] == pytest.approx(exponent, abs=exponent_within), step


@pytest.mark.parametrize(("name", "errors"), [
    ("hoffmann2022-3-printed", (-0.33, -1.3, -2.9, -5.1)),  # arXiv:2603.22339
    ("hoffmann2022-3", (-0.296, -1.18, -2.63, -4.63)),  # the tenth less that alpha - beta is
])
def test_the_bias_of_approach_two(name: str, errors: tuple[float, ...]) -> None:
    law = published_named(name).law
    assert law is not None
    budgets = np.logspace(17, 21, 5)
    best = law.form.optimum(law.point, np.append(budgets, 1e24))
    assert best is not None
    for width, error in zip((2, 4, 8, 16), errors, strict=True):
        n = np.outer(best[:-1], np.geomspace(1 / width, width, 15)).ravel()
        c = np.repeat(budgets, 15)
        found = fit_approach(_table(n, c, law.loss({"n": n, "d": c / (6 * n)})), "approach-2")
        assert found.exponents["a"] == pytest.approx(law.exponents["a"], abs=1e-12)
        off = 100 * (found.d.at(1e24) / (1e24 / 6 / best[-1]) - 1)
        assert off == pytest.approx(error, abs=0.5 * 10 ** (-2 if abs(error) < 1 else -1))
        # N* is too large, which the cubics detect.
        warnings = [w for w in found.warnings if "skewed" in w]
        assert len(warnings) == 1
        assert "N* of cubics differs by -" in warnings[0]


def _curves(
    sizes: int, alpha: float, beta: float, noise: float = 0.0, seed: int = 0, points: int = 60
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for number, n in enumerate(np.geomspace(1e6, 1e9, sizes)):
        d = np.geomspace(n / 50, n * 100, points)
        loss = _surface(np.full(points, n), d, alpha, beta)
        parts.append(pd.DataFrame({"run_id": f"r{number}", "n": n, "d": d, "loss": loss * np.exp(
            noise * rng.standard_normal(points))}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.3), (0.34, 0.28), (0.28, 0.34)])
def test_the_envelope_gives_the_exponent_of_the_law(alpha: float, beta: float) -> None:
    curves = curves_from_frame(_curves(40, alpha, beta), "curves")
    found = fit_approach(curves, "approach-1", resamples=100)
    truth = beta / (alpha + beta)
    assert found.exponents["a"] == pytest.approx(truth, abs=1.5e-3)
    assert found.exponents["b"] == pytest.approx(1 - truth, abs=1.5e-3)
    low, high = found.intervals["a"]
    assert low < truth < high
    assert high - low < 0.02
    best = (alpha / beta) ** (1 / (alpha + beta)) * (1e17 / 6) ** truth
    assert found.n.at(1e17) == pytest.approx(best, rel=0.05)
    # At the ends the envelope is limited by the sizes that were trained.
    assert len(found.optima.c) == 1500
    assert not found.optima.used[[0, -1]].any()
    assert found.optima.kept.n.min() > 1e6
    assert found.optima.kept.n.max() < 1e9
    assert any("are left out" in w for w in found.warnings)
    assert any("not final losses" in w for w in found.warnings)
    assert any("low by chance" in w for w in found.warnings)
    assert not any("between points" in w for w in found.warnings)


def test_noise_biases_the_envelope_and_smoothing_removes_the_bias() -> None:
    clean = fit_approach(curves_from_frame(_curves(20, 0.3, 0.3), "curves"), "approach-1",
                         resamples=0)
    curves = curves_from_frame(_curves(20, 0.3, 0.3, noise=0.01, points=400), "curves")
    rough = fit_approach(curves, "approach-1", resamples=0)
    smooth = fit_approach(curves, "approach-1", resamples=0, smooth=0.4)
    # Without smoothing the envelope is below the truth by a large part of the noise, 1%.
    used = clean.optima.used & rough.optima.used & smooth.optima.used
    bias, smoothed = (np.log(f.optima.loss / clean.optima.loss)[used].mean()
                      for f in (rough, smooth))
    assert bias < -0.004
    assert abs(smoothed) < 0.001
    assert any("about 1.0% between points" in w for w in rough.warnings)


def test_the_spread_of_the_envelopes_exponent_is_known() -> None:
    """The spread over random sizes and seeds, compared with the estimate from subsamples."""
    exponents, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = np.exp(rng.uniform(np.log(1e6), np.log(1e9), 40))
        d = np.outer(n, np.geomspace(1 / 50, 100, 30))
        loss = _surface(n[:, None], d) * np.exp(0.003 * rng.standard_normal((40, 1)))
        curves = Curves(np.repeat(np.arange(40), 30), np.repeat(n, 30), d.ravel(), loss.ravel(),
                        tuple(map(str, range(40))))
        found = fit_approach(curves, "approach-1", points=200, resamples=40)
        exponents.append(found.exponents["a"])
        errors.append(found.se["a"])
    assert 0.8 < np.mean(errors) / np.std(exponents) < 1.6


def test_where_no_runs_compete_the_envelope_is_a_regression() -> None:
    """Each size is the best at one value of C: the standard error is that of White 1980."""
    rng = np.random.default_rng(5)
    points, bounds = 200, np.repeat([1e-4, 1e4], 10)
    log_c = np.linspace(np.log(1e15), np.log(1e20), points)
    log_n = 0.5 * log_c + 0.3 * rng.standard_normal(points)
    reach = 0.4 * (log_c[1] - log_c[0])
    # Runs of a high loss, smaller and larger than all others, at every C.
    n = np.exp([*log_n, *(log_n.mean() + np.log(bounds) + 0.01 * np.arange(20))])
    low = np.array([*(log_c - reach), *([log_c[0]] * 20)])
    high = np.array([*(log_c + reach), *([log_c[-1]] * 20)])
    low, high = np.maximum(low, log_c[0]), np.minimum(high, log_c[-1])
    d = np.exp(np.stack([low, high], axis=1)) / (6 * n[:, None])
    loss = np.repeat(np.where(np.arange(len(n)) < points, 3.0, 9.0), 2)
    curves = Curves(np.repeat(np.arange(len(n)), 2), np.repeat(n, 2), d.ravel(), loss,
                    tuple(map(str, range(len(n)))))
    found = fit_approach(curves, "approach-1", points=points, resamples=2000)
    line = stats.linregress(log_c, log_n)
    x, left = log_c - log_c.mean(), log_n - line.intercept - line.slope * log_c
    assert found.optima.used.all()
    assert found.exponents["a"] == pytest.approx(line.slope, rel=1e-6)
    assert found.se["a"] == pytest.approx(np.sqrt(x**2 @ left**2) / (x @ x), rel=0.05)


def test_smoothing_leaves_a_straight_line_alone_to_its_ends() -> None:
    x = np.sort(np.random.default_rng(0).uniform(0, 5, 50))
    np.testing.assert_allclose(local_linear_smooth(x, 3 - 0.2 * x, 0.5), 3 - 0.2 * x, atol=1e-12)
    y = np.random.default_rng(1).standard_normal(50)
    by_hand = [np.polyval(np.polyfit(x[near], y[near], 1), at) for at in x
               if (near := np.abs(x - at) <= 0.5).sum() > 1]
    np.testing.assert_allclose(local_linear_smooth(x, y, 0.5), by_hand, atol=1e-10)


def test_curves_that_cannot_be_read() -> None:
    frame = _curves(3, 0.3, 0.3)
    with pytest.raises(UserError, match="no column tokens"):
        curves_from_frame(frame, "curves.csv", d="tokens")
    with pytest.raises(UserError, match="run r0 has more than one n"):
        curves_from_frame(frame.assign(n=np.arange(1, len(frame) + 1)), "curves.csv")
    with pytest.raises(UserError, match="run r1 has two rows of the same d"):
        curves_from_frame(pd.concat([frame, frame.iloc[[70]]]), "curves.csv")
    with pytest.raises(UserError, match="row 4, column loss"):
        curves_from_frame(frame.assign(loss=frame["loss"].where(frame.index != 3)), "curves.csv")
    with pytest.raises(UserError, match="through 0 sizes"):
        fit_approach(curves_from_frame(frame, "curves.csv"), "approach-1")


def test_a_wrong_table_or_name_is_an_error() -> None:
    table, curves = _table(*_grid()), curves_from_frame(_curves(3, 0.3, 0.3), "curves")
    with pytest.raises(UserError, match="approach-1 needs training curves"):
        fit_approach(table, "approach-1")
    with pytest.raises(UserError, match="approach-2 needs a table of finished runs"):
        fit_approach(curves, "approach-2")
    with pytest.raises(UserError, match="did you mean approach-2"):
        fit_approach(table, "approach2")
    with pytest.raises(UserError, match="noise at 1e\\+17 FLOP is -1"):
        fit_approach(table, "approach-2", noise=-1.0)


@pytest.mark.parametrize("name", ["approach-1", "approach-2"])
def test_a_frontier_is_the_same_after_json(name: str) -> None:
    n, c, loss = _grid()
    loss = loss * np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(loss)))
    odd = np.isclose(c, BUDGETS[3]) & (n > np.sqrt(c / 6) / 2)
    table = _table(n[~odd], c[~odd], loss[~odd])
    found: Frontier = fit_approach(
        curves_from_frame(_curves(20, 0.3, 0.3), "curves") if name == "approach-1" else table,
        name, resamples=100)
    content = json.loads(json.dumps(finite(found.to_json()), allow_nan=False))
    again = frontier_from_json(content, "laws.json")
    assert again.params == found.params
    assert again.intervals == found.intervals
    assert again.allocation(1e24) == found.allocation(1e24)
    assert finite(again.to_json()) == finite(found.to_json())
    assert {"law", "convention", "n_runs", "excluded", "params", "objective", "se", "intervals",
            "exponents", "convergence", "warnings", "heldout"} <= content.keys()
    assert content["exponents"]["a"] == found.params["a"]
    with pytest.raises(UserError, match="law: 'chinchilla', where one of approach-1"):
        frontier_from_json(content | {"law": "chinchilla"}, "laws.json")
    assert any("extrapolation" in w for w in found.allocation(1e26).warnings)
    assert not any("extrapolation" in w for w in found.allocation(1e19).warnings)
