"""Frontiers, designs and suggestions of a few runs, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.interpolate import Akima1DInterpolator

from scaling.errors import DataError, UserError
from scaling.laws import Bootstrap, Law, PowerSum, ResidualLoss, RunsTable, Term, from_frame
from scaling.laws.approaches import (
    Curves,
    IsoFlopProfile,
    Screen,
    curves_from_frame,
    fit_approach,
    group_by_budget,
)
from scaling.laws.approaches.akima import akima_minima
from scaling.laws.approaches.line import fit_log_line
from scaling.laws.approaches.optima import ProfileMinimum, noise_at, seed_noise
from scaling.laws.approaches.parabola import polynomial_minima
from scaling.laws.conventions.recount import monotone_interpolation, published_relation, recount
from scaling.laws.design.candidates import candidate_runs, max_run_flops
from scaling.laws.design.fisher import Noise, Target, estimate_noise, target_named
from scaling.laws.design.grid import Design, by_ratio, from_table, isoflop, rectangle
from scaling.laws.design.simulate import Faults, TargetEstimates, simulate, simulate_study
from scaling.laws.design.suggest import suggest
from scaling.laws.published import published_named

POWER = PowerSum(
    name="power", formula="A/D^alpha", source="a test", variables=("d",),
    parameters=("A", "alpha"), robust=ResidualLoss("squared"),
    terms=(Term("A", (("d", "alpha"),)),))
TRUTH = Law(form=POWER, convention={"n": "total"}, params={"A": 30.0, "alpha": 0.2})


def _table(n: Any, c: Any, loss: Any) -> RunsTable:
    return from_frame(pd.DataFrame({"n": n, "c": c, "loss": loss}), "runs", n="n", c="c")


# Approaches


def test_the_interval_of_a_power_law_is_students_t() -> None:
    rng = np.random.default_rng(2)
    c = np.logspace(17, 21, 6)
    y = 3 * c**0.4 * np.exp(0.1 * rng.standard_normal(6))
    line, other = fit_log_line(c, y), stats.linregress(np.log(c), np.log(y))
    t = stats.t.ppf(0.95, 4)
    assert line.exponent_interval == pytest.approx(
        (other.slope - t * other.stderr, other.slope + t * other.stderr))
    x = np.log(c)
    for at in (1e17, 3e22):
        error = other.stderr * np.sqrt(
            ((x - x.mean()) ** 2).mean() + (np.log(at) - x.mean()) ** 2)
        middle = np.exp(other.intercept + other.slope * np.log(at))
        assert line.at(at) == pytest.approx(middle)
        assert line.se(at) == pytest.approx(error)
        assert line.interval(at) == pytest.approx(
            (middle * np.exp(-t * error), middle * np.exp(t * error)))
    two = fit_log_line(c[:2], y[:2])
    assert (two.determined, two.interval(1e18), two.exponent_interval) == (False, None, None)


def _profiles(noise: float) -> tuple[IsoFlopProfile, ...]:
    rng = np.random.default_rng(0)
    log_n = np.array([0.0, 0.5, 1.2, 2.0, 2.2, 3.0])
    return tuple(IsoFlopProfile(c, log_n + shift, 20 - log_n, 3 + 0.05 * (log_n - 1.4) ** 2
                                + noise * rng.standard_normal(6))
                 for c, shift in ((1e18, 12.0), (1e19, 13.0)))


def test_the_error_of_a_vertex_is_that_of_numpys_polynomial() -> None:
    """With the scatter of all runs about their parabolas, or with a given noise."""
    profiles = _profiles(0.003)
    found = polynomial_minima([*profiles])
    given = polynomial_minima([*profiles], noise=0.002)
    logs = polynomial_minima([*profiles], "log-loss", noise=0.002)
    fits = [np.polyfit(p.log_n, p.loss, 2, cov="unscaled") for p in profiles]
    left = [p.loss - np.polyval(fit[0], p.log_n) for p, fit in zip(profiles, fits, strict=True)]
    variance = sum(float(r @ r) for r in left) / (2 * (6 - 3))
    for minimum, (coefficients, covariance), by_noise, log, profile in zip(
            found, fits, given, logs, profiles, strict=True):
        a, b, _ = coefficients
        assert minimum.log_n == pytest.approx(-b / (2 * a))
        assert minimum.loss == pytest.approx(np.polyval(coefficients, -b / (2 * a)))
        slope = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
        assert minimum.log_n_se == pytest.approx(np.sqrt(slope @ covariance @ slope * variance),
                                                 rel=1e-6)
        # The loss has noise in proportion to itself, which here is almost constant.
        constant = 0.002 * profile.loss.mean()
        assert by_noise.log_n_se == pytest.approx(
            constant * np.sqrt(slope @ covariance @ slope), rel=0.05)
        (a, b, _), covariance = np.polyfit(profile.log_n, np.log(profile.loss), 2, cov="unscaled")
        slope = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
        assert log.log_n == pytest.approx(-b / (2 * a))
        assert log.log_n_se == pytest.approx(0.002 * np.sqrt(slope @ covariance @ slope), rel=1e-6)


def test_the_error_of_akimas_minimum_has_a_floor() -> None:
    """A third of a mean step of the grid, where the noise alone would move the minimum less; and
    the loss is that of the interpolant without noise."""
    profile = _profiles(0.0)[0]
    (found,) = akima_minima([profile], 1e-9, resamples=20)
    assert found.log_n_se == pytest.approx(0.33 * 3.0 / 5, rel=1e-6)
    (small,) = akima_minima([profile], 1e-9, resamples=20, floor=0.1)
    assert small.log_n_se == pytest.approx(0.1 * 3.0 / 5, rel=1e-6)
    (none,) = akima_minima([profile], 1e-9, resamples=0)
    assert np.isnan(none.log_n_se)
    assert none.log_n == pytest.approx(found.log_n, abs=1e-6)
    curve = Akima1DInterpolator(profile.log_n, np.log(profile.loss))
    fine = np.linspace(12.0, 15.0, 100_001)
    assert found.log_n == pytest.approx(fine[curve(fine).argmin()], abs=1e-4)
    assert found.loss == pytest.approx(np.exp(curve(fine).min()), rel=1e-8)
    # The draws depend on the seed, and each profile has draws of its own.
    first, second, again, other = (
        akima_minima([profile, profile], 0.01, resamples=50, seed=seed, floor=0.0)
        for seed in (1, 2, 1, 3))
    assert first == again
    assert len({m.log_n for found in (first, second, other) for m in found}) == 6


def test_noise_between_seeds_has_one_degree_of_freedom_less_than_runs() -> None:
    log_n = np.array([1.0, 1.0, 1.0, 2.0, 3.0, 3.0])
    log_loss = np.array([1.00, 1.01, 1.03, 0.9, 0.80, 0.84])
    profile = IsoFlopProfile(1e18, log_n, log_n, np.exp(log_loss))
    squares = np.var(log_loss[:3]) * 3 + np.var(log_loss[4:]) * 2
    assert seed_noise([profile]) == pytest.approx(np.sqrt(squares / 3))
    assert seed_noise([profile, profile]) == pytest.approx(np.sqrt(2 * squares / 6))
    assert seed_noise([replace(profile, log_n=np.arange(6.0))]) is None
    assert noise_at(lambda c: c / 1e20, 1e18) == pytest.approx(0.01)
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UserError, match="noise at"):
            noise_at(wrong, 1e18)


@pytest.mark.parametrize(("log_n", "se", "said"), [
    (1.0, 0.1, ""),                               # one step from the end
    (0.99, 0.1, "less than a step of the grid"),
    (2.99, 0.1, ""), (3.01, 0.1, "less than a step"),
    (0.0, 0.1, "outside the trained sizes"), (4.0, 0.1, "train larger sizes"),
    (2.0, 1.99, ""), (2.0, 2.01, "too flat for its noise"),
])
def test_criteria_of_an_optimum(log_n: float, se: float, said: str) -> None:
    """Of five sizes from 0 to 4 in ln N; at most half a half-width from the middle, at 2."""
    profile = IsoFlopProfile(1e18, np.arange(5.0), np.arange(5.0), np.ones(5))
    reason = Screen().reason(profile, ProfileMinimum(log_n, se, 1.0))
    assert said in reason
    assert bool(reason) == bool(said)
    off = Screen(edge=0.0, off_centre=0.5)
    assert off.reason(profile, ProfileMinimum(3.0, 0.1, 1.0)) == ""
    assert "off-centre" in off.reason(profile, ProfileMinimum(3.01, 0.1, 1.0))
    # Of three sizes a whole step would leave nothing, so a quarter of the grid is enough.
    three = IsoFlopProfile(1e18, np.array([0.0, 2.0, 4.0]), np.arange(3.0), np.ones(3))
    assert Screen().reason(three, ProfileMinimum(1.0, 0.1, 1.0)) == ""
    assert "less than a step" in Screen().reason(three, ProfileMinimum(0.99, 0.1, 1.0))


def test_a_frontier_counts_its_runs_and_weights_its_optima() -> None:
    rng = np.random.default_rng(3)
    budgets = np.logspace(17, 20, 5)
    factors = np.geomspace(1 / 6, 6, 9)
    n = np.outer(np.sqrt(budgets / 6), factors).ravel()
    c = np.repeat(budgets, 9)
    loss = (1.7 + 400 / n**0.3 + 400 / (c / 6 / n) ** 0.3) * np.exp(
        0.001 * rng.standard_normal(45))
    outside = np.append(c, 3e18), np.append(n, 1e9), np.append(loss, 2.0)
    table = _table(outside[1], outside[0], outside[2])

    def noise(budget: float) -> float:
        return 0.001 if budget < 1e19 else 0.004

    found = fit_approach(table, "approach-2", budgets=budgets.tolist(), within=4, noise=noise,
                         weighted=True)
    optima = found.optima
    (slope, level), cov = np.polyfit(np.log(optima.c), np.log(optima.n), 1, w=1 / optima.n_se,
                                     cov=True)
    assert found.params["a"] == pytest.approx(slope, rel=1e-9)
    assert np.log(found.params["G"]) == pytest.approx(level, rel=1e-9)
    assert found.se["a"] == pytest.approx(cov[0, 0] ** 0.5, rel=1e-8)
    assert found.se["log G"] == pytest.approx(cov[1, 1] ** 0.5, rel=1e-8)
    of_d = np.polyfit(np.log(optima.c), np.log(optima.d), 1, w=1 / optima.n_se, cov=True)[1]
    assert found.se["log H"] == pytest.approx(of_d[1, 1] ** 0.5, rel=1e-8)
    assert found.se["b"] == pytest.approx(of_d[0, 0] ** 0.5, rel=1e-8)
    t = stats.t.ppf(0.95, 3)
    assert found.intervals["G"] == pytest.approx(tuple(
        np.exp(level + sign * t * cov[1, 1] ** 0.5) for sign in (-1, 1)))
    assert found.intervals["b"] == pytest.approx(tuple(
        found.exponents["b"] + sign * t * of_d[0, 0] ** 0.5 for sign in (-1, 1)))
    equal = fit_approach(table, "approach-2", budgets=budgets.tolist(), within=4, noise=noise)
    plain = np.polyfit(np.log(optima.c), np.log(optima.n), 1)[0]
    assert equal.params["a"] == pytest.approx(plain, rel=1e-9)
    assert equal.params["a"] != pytest.approx(slope, rel=1e-6)
    # Of nine sizes those within a factor of four of the one with the lowest loss are used.
    lowest = [n[9 * i + loss[9 * i:9 * i + 9].argmin()] for i in range(5)]
    near = sum(int((np.abs(np.log(n[9 * i:9 * i + 9] / lowest[i])) < np.log(4)).sum())
               for i in range(5))
    assert found.n_runs == near < 45
    assert found.excluded["in_no_budget"] == 1
    assert found.excluded["far_from_the_lowest"] == 45 - near
    assert found.excluded["in_budgets_left_out"] == 0
    assert found.convention["range"]["c"] == pytest.approx([1e17, 1e20])
    assert (found.convention["weights"], equal.convention["weights"]) == ("1/n_se^2", "equal")
    with pytest.raises(UserError, match="a factor above 1"):
        fit_approach(table, "approach-2", within=1.0)
    warnings = [len(found.allocation(x).warnings) - len(found.warnings) for x in (0.99e22, 1.01e22)]
    assert warnings == [0, 1]  # a hundred times the largest budget
    # Where D is (C / (6 N))^0.9, its errors in the logarithm are 0.9 of those of N.
    frame = pd.DataFrame({"n": n, "c": c, "d": (c / (6 * n)) ** 0.9, "loss": loss})
    bent = fit_approach(from_frame(frame, "runs", n="n", d="d", c="c"), "approach-2")
    assert bent.se["log H"] == pytest.approx(0.9 * bent.se["log G"], rel=1e-6)
    assert bent.se["b"] == pytest.approx(0.9 * bent.se["a"], rel=1e-6)


def test_budgets_at_the_tolerance() -> None:
    """A run belongs to a given budget within the tolerance in ln C; budgets that are detected are
    apart by more than that."""
    c = 1e18 * np.exp([-0.021, -0.019, 0.0, 0.019, 0.021])
    table = _table(np.geomspace(1e6, 1e8, 5), c, np.linspace(3, 2, 5))
    groups, warnings = group_by_budget(table, budgets=[1e18], tolerance=0.02)
    assert [len(g.loss) for g in groups] == [3]
    assert "2 of 5 runs are further than 0.02" in warnings[0]
    groups, _ = group_by_budget(_table(np.geomspace(1e6, 1e8, 4), 1e18 * np.exp(
        [0.0, 0.019, 0.04, 0.05]), np.linspace(3, 2, 4)), tolerance=0.02)
    assert [len(g.loss) for g in groups] == [2, 2]
    assert [g.c for g in groups] == pytest.approx([1e18 * np.exp(0.0095), 1e18 * np.exp(0.045)])
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UserError, match="tolerance"):
            group_by_budget(table, tolerance=wrong)


def test_an_envelope_by_hand() -> None:
    """Three sizes whose curves cross: at each C the lowest is used, if it is not the smallest or
    the largest of those that have a curve there."""
    frame = pd.DataFrame({"run_id": ["s"] * 2 + ["m"] * 2 + ["l"] * 2, "n": [1e6] * 2 + [3e6] * 2
                          + [9e6] * 2, "d": [1e9, 1e11, 3.4e8, 3.4e10, 1.2e8, 1e10],
                          "loss": [3.0, 2.9, 3.2, 2.5, 3.6, 2.6]})
    curves = curves_from_frame(frame, "curves")
    assert curves.run_id == ("l", "m", "s")
    np.testing.assert_allclose(curves.c, 6 * curves.n * curves.d)
    with pytest.raises(DataError, match="passes through 1 sizes"):
        fit_approach(curves, "approach-1", points=9)
    four = pd.concat([frame, pd.DataFrame({"run_id": "x", "n": 5e6, "d": [2e8, 2e10],
                                           "loss": [3.5, 2.3]})])
    found = fit_approach(curves_from_frame(four, "curves"), "approach-1", points=50, resamples=0)
    np.testing.assert_allclose(found.optima.c, np.geomspace(6e15, 6.12e17, 50))
    losses = {}
    for (n,), rows in four.groupby(["n"]):
        x = np.log(6 * n * rows["d"].to_numpy())
        losses[n] = np.interp(np.log(found.optima.c), x, np.log(rows["loss"]), left=np.nan,
                              right=np.nan)
    grid = np.array([*losses.values()])
    best = np.array([*losses])[np.where(np.isnan(grid), np.inf, grid).argmin(axis=0)]
    np.testing.assert_array_equal(found.optima.n, best)
    np.testing.assert_allclose(found.optima.loss, np.exp(np.nanmin(grid, axis=0)))
    np.testing.assert_allclose(found.optima.d, found.optima.c / (6 * best))
    present = [[n for n, row in zip(losses, grid.T[i], strict=True) if not np.isnan(row)]
               for i in range(50)]
    assert found.optima.used.tolist() == [
        min(some) < n < max(some) for some, n in zip(present, best, strict=True)]
    assert found.convention["points"] == 50
    assert found.n_runs == 4
    # The share of the envelope before the last 15% of its run's tokens.
    ends = four.groupby("n")["d"].max()
    kept = found.optima.kept
    early = np.mean(kept.d < 0.85 * ends.loc[kept.n].to_numpy())
    assert any(text.startswith(f"{early:.0%} of the envelope is before the last 15%")
               for text in found.warnings)


# Conventions


def test_models_of_one_size_are_averaged_in_the_logarithm() -> None:
    x, y = np.array([1e6, 1e8, 1e6, 1e7]), np.array([1e7, 5e9, 4e7, 1e9])
    curve = monotone_interpolation(x, y, "models", "count")
    np.testing.assert_allclose(curve(np.array([1e6, 1e7, 1e8])), [2e7, 1e9, 5e9])


def test_a_curve_goes_on_at_the_slope_of_its_nearer_end() -> None:
    x, y = np.geomspace(1e6, 1e9, 4), 10 ** np.array([3.0, 3.5, 5.0, 8.0])  # steeper and steeper
    curve = monotone_interpolation(x, y, "models", "count")
    for end, away in ((1e6, 0.1), (1e9, 10.0)):
        at, beyond = curve(np.array([end, end * away]))
        inside = curve(np.array([end * away**-1e-4]))[0]
        assert beyond == pytest.approx(at * (at / inside) ** 1e4, rel=1e-2)


def test_the_range_of_a_law_is_recounted_with_it() -> None:
    law = published_named("besiroglu2024").law
    assert law is not None
    total = {"n": (1e7, 1e9), "d": (1e8, 1e10), "c": (6e15, 6e19)}
    bare = recount(replace(law, convention={**law.convention, "range": total}), "non-embedding")
    n = published_relation().non_embedding(np.array([1e7, 1e9]))
    assert bare.convention["range"]["n"] == pytest.approx(n.tolist())
    assert bare.convention["range"]["c"] == pytest.approx((np.array([6e15, 6e19]) * n
                                                           / [1e7, 1e9]).tolist())
    assert bare.convention["range"]["d"] == (1e8, 1e10)
    assert (bare.convention["n"], bare.convention["c"]) == ("non-embedding", "6 N D")


# Designs


def test_designs_by_hand() -> None:
    design = by_ratio([1e6, 2e6], [10, 20])
    np.testing.assert_allclose(design.n, [1e6, 1e6, 2e6, 2e6])
    np.testing.assert_allclose(design.d, [1e7, 2e7, 2e7, 4e7])
    assert design.flops == pytest.approx(6 * (1e13 + 2e13 + 4e13 + 8e13))
    design = isoflop([6e15, 1.2e16], sizes=[1e6, 2e6])
    np.testing.assert_allclose(design.n, [1e6, 2e6, 1e6, 2e6])
    np.testing.assert_allclose(design.d, [1e9, 5e8, 2e9, 1e9])
    held = Design(np.array([1e6, 2e6]), np.array([1e8, 2e8]), {"u": np.array([1e7, 2e7])},
                  np.array([False, True]), {"x": np.array([3.0, 4.0])})
    assert held.fitted().n.tolist() == [1e6]
    assert held.fitted().extra_variables["u"].tolist() == [1e7]
    twice = held.with_seeds(2)
    assert twice.n.tolist() == [1e6, 2e6, 1e6, 2e6]
    assert twice.heldout.tolist() == [False, True, False, True]
    assert twice.columns["x"].tolist() == [3.0, 4.0, 3.0, 4.0]
    assert twice.extra_variables["u"].tolist() == [1e7, 2e7, 1e7, 2e7]
    frame = pd.DataFrame({"params_total": [2e4, 3e4, 4e4], "tokens": [1e6, 2e6, 3e6],
                          "role": ["grid", "former", "heldout"]})
    plan = from_table(frame, "plan", published_named("besiroglu2024").law)
    assert plan.n.tolist() == [2e4, 4e4]
    assert plan.heldout.tolist() == [False, True]


def test_noise_grows_towards_small_runs() -> None:
    noise = Noise(0.01, growth=0.5, at=1e18)
    np.testing.assert_allclose(noise.sd_at(np.array([1e18, 1e16, 1e20])), [0.01, 0.1, 0.001])
    assert Noise(1.0).sd_at(np.ones(1)).tolist() == [1.0]
    for wrong in ({"sd": 1.01}, {"sd": 0.1, "growth": 1.01}, {"sd": -0.1}):
        with pytest.raises(UserError, match="a number from 0 to 1"):
            Noise(**wrong)


def test_faults_are_drawn_with_their_shares() -> None:
    faults = Faults(0.3, 0.2, 0.1)
    errors, done = faults.draw(np.random.default_rng(0), (20_000,))
    assert (~done).mean() == pytest.approx(0.1, abs=0.01)
    assert (errors > 0).mean() == pytest.approx(0.3, abs=0.015)
    assert errors[errors > 0].mean() == pytest.approx(0.2, rel=0.05)
    assert errors[errors > 0].std() == pytest.approx(0.2, rel=0.07)  # exponential
    assert abs(np.corrcoef(errors > 0, done)[0, 1]) < 0.03
    assert not Faults(0.0, 0.2, 0.0).draw(np.random.default_rng(0), (99,))[0].any()


def test_the_noise_of_residuals_of_one_size() -> None:
    """Residuals of +-r are below twice the noise, so that nothing is clipped: their squares divided
    by the runs less two parameters, and by the variance of a clipped normal variable."""
    d = np.geomspace(1e7, 1e10, 10)
    sign = np.tile([1.0, -1.0], 5)
    table = from_frame(pd.DataFrame({"N": 1e6, "D": d, "loss": 30 / d**0.2 * np.exp(0.01 * sign)}),
                       "runs", n="N", d="D")
    clipped = quad(lambda z: min(z * z, 4.0) * stats.norm.pdf(z), -9, 9, points=[-2, 2])[0]
    assert estimate_noise(TRUTH, table) == pytest.approx(0.01 * np.sqrt(10 / 8 / clipped),
                                                         rel=1e-6)


def test_the_objective_of_a_law_is_the_recorded_one() -> None:
    assert TRUTH.residual_loss == ResidualLoss("squared")
    recorded = replace(TRUTH, convention={"n": "total", "objective": "huber", "delta": 0.02})
    assert recorded.residual_loss == ResidualLoss("huber", 0.02)
    assert published_named("besiroglu2024").law.residual_loss.kind == "huber"


def test_intervals_of_targets_and_estimates() -> None:
    half = stats.norm.ppf(0.95)
    plain = Target("x", lambda p: p[:, 0], False)
    relative = Target("x", lambda p: p[:, 0], True)
    assert plain.interval(5.0, 0.1) == pytest.approx((5 - 0.1 * half, 5 + 0.1 * half))
    assert relative.interval(5.0, 0.1) == pytest.approx(
        (5 * np.exp(-0.1 * half), 5 * np.exp(0.1 * half)))
    values = np.exp(np.linspace(-1, 1, 201))
    for target, scaled in ((plain, values), (relative, np.log(values))):
        found = TargetEstimates(target, 1.0, values, 0.0, 0.1)
        ends = np.quantile(scaled, stats.norm.cdf([-1, 1]))
        assert found.sd == pytest.approx((ends[1] - ends[0]) / 2, rel=1e-4)
        low, high = np.quantile(values, [0.05, 0.95])
        assert found.interval == pytest.approx((low, high))
        assert found.width == pytest.approx(high / low if target.log else high - low)


def test_a_study_of_a_line_by_hand() -> None:
    """Without faults every sweep is fitted; with them the others are, and each fit is the
    regression of its own runs."""
    design = rectangle([1e6], [1e8, 4e8, 1.6e9, 6.4e9])
    aim = target_named(POWER, "alpha")
    study = simulate_study(TRUTH, design, Noise(0.01), 25, [aim], draw=4)
    again = simulate_study(TRUTH, design, Noise(0.01), 25, [aim], draw=4)
    other = simulate_study(TRUTH, design, Noise(0.01), 25, [aim], draw=5)
    (found,), (same,), (another,) = study.targets, again.targets, other.targets
    np.testing.assert_array_equal(found.estimates, same.estimates)
    assert not np.isclose(found.estimates, another.estimates).any()
    assert (study.sweeps, study.converged, found.lost, found.truth) == (25, 25, 0.0, 0.2)
    content = study.to_json()["targets"][0]
    assert content["median"] == pytest.approx(np.median(found.estimates))
    assert (content["sd"], content["expected_sd"]) == (found.sd, found.expected_sd)
    rows = [simulate(TRUTH, design, Noise(0.01), draw=seed)["loss"] for seed in (0, 1)]
    assert (rows[0] != rows[1]).all()
    held = Design(design.n, design.d, heldout=np.array([False, False, False, True]))
    assert simulate_study(TRUTH, held, Noise(0.01), 5, [aim]).targets[0].expected_sd == (
        pytest.approx(0.01 / np.sqrt(np.log(design.d[:3]).var() * 3), rel=1e-6))


def test_candidates_are_within_the_limits_of_the_runs_so_far() -> None:
    so_far = rectangle([1e6, 4e6], [2e7, 8e7])
    table = from_frame(simulate(TRUTH, so_far, Noise(0.0)), "runs")
    found = candidate_runs(table, 1e16)
    ratio = found.d / found.n
    # Tokens per parameter of 5 to 80 may be exceeded fourfold.
    assert ratio.max() == pytest.approx(320, rel=0.01)
    assert ratio.min() == pytest.approx(1.25, rel=0.5)
    assert ratio.min() >= 1.25 * 0.99
    assert found.n.min() == 1e6
    assert found.c.max() <= 1e16
    assert found.c.min() >= table.c.min() * 0.999
    for values in (found.n, ratio[found.n == found.n.min()]):
        steps = np.diff(np.log2(np.unique(values)))
        assert steps.max() < 0.52
        assert np.median(steps) > 0.4
    assert max_run_flops(table, 1e16) == 1e16
    assert max_run_flops(table, 1e16, max_flops_per_run=1e15) == 1e15
    assert max_run_flops(table, 1e16, at=1e15) == np.nextafter(1e15, 0)


@pytest.mark.parametrize("status", ["done", "planned"])
def test_runs_stay_below_a_held_out_run_whether_it_is_measured_or_not(status: str) -> None:
    """Those beyond the grid; one within it limits nothing."""
    so_far = simulate(TRUTH, rectangle([1e6, 4e6], [2e7, 8e7]), Noise(0.0))
    for n, limit in ((2e7, np.nextafter(6 * 2e7 * 1e8, 0)), (1e6, 1e20)):
        held = simulate(TRUTH, rectangle([n], [1e8]), Noise(0.0)).assign(
            role="heldout", run_id="large", status=status)
        if status == "planned":
            held["loss"] = np.nan
        assert max_run_flops(from_frame(pd.concat([so_far, held]), "x"), 1e20) == limit


def test_seeds_of_a_suggested_run_are_numbered() -> None:
    """Of a slope the best runs are at the ends: as often as there may be seeds of each."""
    so_far = rectangle([1e6], [1e8, 2e8, 4e8, 8e8])
    table = from_frame(simulate(TRUTH, so_far, Noise(0.0)), "runs")
    aim, noise = target_named(POWER, "alpha"), Noise(0.01)
    found = suggest(TRUTH, table, aim, 1e18, runs=4, seeds=2, noise=noise, sizes=[1e6],
                    ratios=(100, 1e4))
    points = [(run.d, run.seed) for run in found.runs]
    assert len(set(points)) == 4
    assert {seed for _, seed in points} == {0, 1}
    assert max(d for d, _ in points) == pytest.approx(1e10)
    single = suggest(TRUTH, table, aim, 1e18, runs=4, seeds=1, noise=noise, sizes=[1e6],
                     ratios=(100, 1e4))
    assert [run.seed for run in single.runs] == [0] * 4
    assert len({run.d for run in single.runs}) == 4
    # Gains per FLOP fall, each being the decrease of the variance divided by the run's cost.
    for runs in (found, single):
        variances = [runs.sd**2, *(run.sd**2 for run in runs.runs)]
        first = (variances[0] - variances[1]) / runs.runs[0].c

        def alone(d: float) -> float:
            x = np.log([*so_far.d, d])
            return float(0.01**2 / ((x - x.mean()) ** 2).sum())

        for run in runs.runs:
            assert (variances[0] - alone(run.d)) / run.c <= first * (1 + 1e-5)
    content = found.to_json()
    assert content["flops"] == pytest.approx(sum(run.c for run in found.runs))
    assert content["now"]["sd"] == found.sd
    assert content["value"] == pytest.approx(0.2)


def test_the_interval_of_a_suggestion_is_compared_with_the_bootstrap() -> None:
    so_far = rectangle([1e6], [1e8, 2e8, 4e8, 8e8])
    table = from_frame(simulate(TRUTH, so_far, Noise(0.0)), "runs")
    aim, noise = target_named(POWER, "alpha"), Noise(0.01)
    half = stats.norm.ppf(0.95) * 0.01 / np.sqrt(np.log(so_far.d).var() * 4)
    for factor, warned in ((1.4, False), (1.6, True), (1 / 1.4, False), (1 / 1.6, True)):
        alpha = 0.2 + factor * half / 0.9 * np.linspace(-1, 1, 401)
        samples = np.stack([np.full(401, 30.0), alpha], axis=1)
        law = replace(TRUTH, bootstrap=Bootstrap(401, 401, 0, samples, np.zeros(3),
                                                 method="percentile"))
        found = suggest(law, table, aim, 1e17, runs=2, noise=noise, sizes=[1e6], ratios=(100, 1e4))
        assert found.interval == pytest.approx((0.2 - half, 0.2 + half), rel=1e-4)
        assert found.bootstrap_interval == pytest.approx(
            (0.2 - factor * half, 0.2 + factor * half), rel=1e-9)
        assert any("that of the linear theory" in text for text in found.warnings) == warned


def test_curves_are_sorted_by_run_and_tokens() -> None:
    frame = pd.DataFrame({"run_id": ["b", "a", "b", "a"], "n": [2e6, 1e6, 2e6, 1e6],
                          "d": [4e8, 3e8, 1e8, 2e8], "loss": [2.0, 2.5, 3.0, 2.8]})
    curves = curves_from_frame(frame, "curves")
    assert isinstance(curves, Curves)
    assert curves.run.tolist() == [0, 0, 1, 1]
    assert curves.d.tolist() == [2e8, 3e8, 1e8, 4e8]
    assert curves.loss.tolist() == [2.8, 2.5, 3.0, 2.0]
    assert curves.rows(1).tolist() == [2, 3]
