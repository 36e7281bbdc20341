"""Every number of a fit against the textbook: least squares of a straight line in log-log."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.errors import DataError
from scaling.laws import FORMS, Bootstrap, Law, ResidualLoss, RunsTable, fit_law, from_frame
from scaling.laws.evidence import profile
from scaling.laws.fitting import bootstrap
from scaling.laws.fitting import fit_law as fit_module
from scaling.laws.fitting import search as search_module
from scaling.laws.fitting.intervals import bca_intervals
from scaling.laws.fitting.likelihood_ratio import _psi
from scaling.laws.fitting.minimise import Minimum
from scaling.laws.law import percentile_interval

FORM = replace(FORMS["kaplan-n"], envelope=None)
"""log L = alpha (log N_c - log N), by least squares."""


def _table(runs: int = 9, noise: float = 0.05, seed: int = 0) -> RunsTable:
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(10, 20, runs))
    loss = (1e9 / n) ** 0.1 * np.exp(noise * rng.standard_normal(runs))
    return from_frame(pd.DataFrame({"N": n, "D": 2e9, "loss": loss}), "line", n="N", d="D")


def _by_scipy(table: RunsTable) -> tuple[Any, np.ndarray, np.ndarray]:
    """The regression, the centred abscissa, and the residuals."""
    x, y = np.log(table.n), np.log(table.loss)
    line = stats.linregress(x, y)
    return line, x - x.mean(), y - line.intercept - line.slope * x


def _white(table: RunsTable) -> np.ndarray:
    """Covariance of intercept and slope for errors of unequal variance, scaled by R / (R - 2)
    (White 1980; MacKinnon and White 1985, HC1)."""
    _, _, residuals = _by_scipy(table)
    design = np.stack([np.ones_like(table.n), np.log(table.n)], axis=1)
    bread = np.linalg.inv(design.T @ design)
    runs = len(residuals)
    return np.asarray(bread @ (design.T * residuals**2) @ design @ bread * runs / (runs - 2))


def _problem(table: RunsTable, theta: np.ndarray | None = None) -> bootstrap.BootstrapProblem:
    """The fit of the line, with the optimum of scipy unless theta is given."""
    line, x, _ = _by_scipy(table)
    middle = line.intercept + line.slope * np.log(table.n).mean()
    optimum = np.array([middle, -line.slope]) if theta is None else theta
    return bootstrap.BootstrapProblem(FORM, x[:, None], np.log(table.loss),
                                      np.unique(table.n, return_inverse=True)[1], optimum,
                                      optimum[None], ResidualLoss("squared"))


def test_the_point_and_its_errors() -> None:
    table = _table()
    law = fit_law(table, FORM, resamples=0)
    line, _, residuals = _by_scipy(table)
    scale = np.exp(-line.intercept / line.slope)
    assert law.params == pytest.approx({"N_c": scale, "alpha_N": -line.slope}, rel=1e-7)
    assert law.objective == pytest.approx((residuals**2).sum() / 2, rel=1e-9)
    covariance = _white(table)
    by_line = np.array([-scale / line.slope, scale * line.intercept / line.slope**2])
    assert law.se_delta["alpha_N"] == pytest.approx(covariance[1, 1] ** 0.5, rel=1e-6)
    assert law.se_delta["N_c"] == pytest.approx((by_line @ covariance @ by_line) ** 0.5, rel=1e-5)
    # In the centred line the two parameters are orthogonal.
    assert law.convergence["condition"] == pytest.approx(1)
    assert law.convergence["grad_norm"] < 1e-7
    assert law.convention["objective"] == "squared"
    assert law.convention["range"]["n"] == (table.n.min(), table.n.max())
    assert law.convention["range"]["c"] == (table.c.min(), table.c.max())
    assert (law.n_runs, law.data_sha256, law.bootstrap) == (9, table.sha256, None)


def test_the_interval_of_a_profile_is_students_t() -> None:
    """The objective is a parabola, so its interval is the estimate and t standard errors."""
    table = _table(runs=12)
    line, _, _ = _by_scipy(table)
    found = profile(table, FORM, "alpha_N", np.linspace(0.0, 0.2, 41) - line.slope - 0.1)
    half_width = stats.t.ppf(0.95, 10) * _white(table)[1, 1] ** 0.5
    assert found.interval == pytest.approx((-line.slope - half_width, -line.slope + half_width),
                                           rel=1e-3)
    assert found.level == 0.9


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_numbers_of_the_bootstrap(method: Any) -> None:
    table = _table()
    law = fit_law(table, FORM, resamples=30, method=method)
    boot = law.bootstrap
    assert boot is not None
    assert (boot.resamples, boot.converged, boot.method, boot.by) == (30, 30, method, "case")
    # Residuals have nine runs less two parameters as their degrees of freedom.
    _, _, residuals = _by_scipy(table)
    np.testing.assert_allclose(boot.residuals, residuals * np.sqrt(9 / 7), rtol=1e-6)
    slopes = boot.samples[:, 1]
    factor = (9 / 7) ** 0.5  # and so the deviations of the resamples
    assert boot.widening == pytest.approx(factor)
    assert law.se["alpha_N"] == pytest.approx(factor * stats.tstd(slopes))
    without = [-stats.linregress(np.log(np.delete(table.n, i)),
                                 np.log(np.delete(table.loss, i))).slope for i in range(9)]
    np.testing.assert_allclose(boot.left_out[:, 1], without, rtol=1e-7)
    percentiles = np.quantile(slopes, [0.05, 0.95])
    if method == "percentile":
        expected = percentiles
    else:
        expected = np.ravel(bca_intervals(slopes[:, None], law.point[0, 1:],
                                          np.array(without)[:, None], 0.9))
        assert expected != pytest.approx(percentiles, rel=1e-3)
    slope = law.params["alpha_N"]
    assert law.intervals["alpha_N"] == pytest.approx(tuple(slope * (expected / slope) ** factor),
                                                     rel=1e-6)


def test_of_many_runs_the_jackknife_leaves_out_a_hundredth() -> None:
    """In parts that are spread over the sizes, since the runs are sorted by size."""
    table = _table(runs=230)
    found = bootstrap.jackknife(_problem(table))
    assert found.shape == (100, 2)
    for part in (0, 29, 30, 99):
        rows = [row for row in range(230) if row % 100 != part]
        line = stats.linregress(np.log(table.n[rows]), np.log(table.loss[rows]))
        assert found[part, 1] == pytest.approx(-line.slope, rel=1e-9)


def test_resampled_residuals_have_no_mean() -> None:
    problem = _problem(_table())
    fitted, residuals = bootstrap._residuals(problem, np.arange(9))
    _, x, plain = _by_scipy(_table())
    np.testing.assert_allclose(fitted, np.log(_table().loss) - plain)
    wide = plain / np.sqrt(1 - 1 / 9 - x**2 / (x @ x))
    np.testing.assert_allclose(residuals, wide, atol=1e-12)
    assert abs(wide.mean()) > 1e-4
    drawn, _ = bootstrap._draw(problem, "residual", 300, np.random.default_rng(0))
    values = np.unique(np.round((drawn - fitted).ravel(), 12))
    np.testing.assert_allclose(values, np.sort(wide - wide.mean()), atol=1e-11)


@pytest.mark.parametrize("by", ["case", "residual", "size"])
def test_one_newton_step_of_a_line_is_the_refit(monkeypatch: Any, by: Any) -> None:
    """Least squares of a line is quadratic, so a single step from anywhere is exact."""
    problem = _problem(_table(runs=30))
    refitted = bootstrap.refit_resamples(problem, by, 12, 3)
    left_out = bootstrap.jackknife(problem)
    monkeypatch.setattr(bootstrap, "_MANY_RUNS", 20)
    stepped = bootstrap.refit_resamples(problem, by, 12, 3)
    np.testing.assert_allclose(stepped, refitted, rtol=1e-6)
    np.testing.assert_allclose(bootstrap.jackknife(problem), left_out, rtol=1e-6)
    assert len(np.unique(refitted[:, 1])) == 12


def test_a_resample_of_too_few_runs_or_sizes_does_not_count(grid: Any) -> None:
    """Chinchilla's five parameters need five distinct runs, with three values of N and of D."""
    table = from_frame(grid(), "runs")
    form = FORMS["chinchilla"]
    x = form.coordinates(table.values)
    theta = np.zeros(5)
    problem = bootstrap.BootstrapProblem(form, x, np.log(table.loss), np.arange(25), theta,
                                         theta[None], form.robust)
    drawn = {
        (0, 6, 12, 18, 24): True,      # a diagonal: five sizes on five token counts
        (0, 6, 12, 18): False,         # four runs
        (0, 1, 2, 3, 4, 5): False,     # two sizes
        (0, 1, 5, 6, 10, 11): False,   # two token counts
        (0, 1, 7, 10, 12): True,       # three of each
    }
    weights = np.zeros((len(drawn), 25))
    for row, runs in zip(weights, drawn, strict=True):
        row[list(runs)] = 2.0
    assert bootstrap._determined(problem, weights).tolist() == list(drawn.values())


@pytest.mark.parametrize("name", ["kaplan-n", "gadre-error"])
def test_a_prediction_interval_has_every_resample_with_every_residual(
    monkeypatch: Any, name: str
) -> None:
    """Residuals are of the logarithm of a loss, and of an error itself."""
    form = FORMS[name]
    values = {form.variables[0]: np.array([3.0 if name == "gadre-error" else 1e6])}
    samples = np.array([[1e9, 0.1], [2e9, 0.1], [1e9, 0.11]]) if name == "kaplan-n" else np.array(
        [[0.85, 2.0, 0.8], [0.86, 2.0, 0.8], [0.85, 2.2, 0.7]])
    residuals = np.array([0.01, -0.03, 0.02, -0.01, 0.05])
    law = Law(form=form, convention={"n": "total"},
              params=dict(zip(form.parameters, samples[0], strict=True)),
              bootstrap=Bootstrap(3, 3, 0, samples, residuals))
    if name == "kaplan-n":
        each = [(n_c / 1e6) ** alpha * np.exp(r) for n_c, alpha in samples for r in residuals]
        ends = [(n_c / 1e6) ** alpha * np.exp(r) for n_c, alpha in samples for r in (-0.03, 0.05)]
    else:
        each = [e - k * np.exp(-3 * g) + r for e, k, g in samples for r in residuals]
        ends = [e - k * np.exp(-3 * g) + r for e, k, g in samples for r in (-0.03, 0.05)]
    found = law.prediction_interval(values)
    assert found == pytest.approx(tuple(np.quantile(each, [0.05, 0.95])), rel=1e-12)
    # Of too many pairs, the residuals are thinned evenly from the smallest to the largest.
    monkeypatch.setattr(sys.modules["scaling.laws.law"], "_MAX_PAIRS", 6)
    found = law.prediction_interval(values)
    assert found == pytest.approx(tuple(np.quantile(ends, [0.05, 0.95])), rel=1e-12)
    assert replace(law, bootstrap=None).prediction_interval(values) is None


def test_a_percentile_interval_leaves_out_nan() -> None:
    samples = np.array([3.0, np.nan, 1.0, 2.0, 5.0, 4.0])
    assert percentile_interval(samples) == pytest.approx((1.2, 4.8))


def test_the_fit_of_many_runs_refines_the_best_optima_of_a_subset(monkeypatch: Any) -> None:
    """Five starts of a subset end at objectives 3, 1, 1, 2 and 5, and only the two lowest are
    refined on all runs, where the second is the lower one."""
    calls: list[np.ndarray] = []

    def minimise(form: Any, x: Any, y: Any, w: Any, theta: np.ndarray, robust: Any) -> Minimum:
        calls.append(w)
        first = len(calls) == 1
        value = np.array([3.0, 1.0, 1.0, 2.0, 5.0]) if first else np.array([10.0, 7.0])
        point = 100.0 * np.arange(len(value))[:, None] + [0.0, 1.0] if first else theta
        return Minimum(point, value, np.zeros_like(point), np.zeros((*point.shape, 2)),
                       np.ones(len(value), dtype=bool))

    monkeypatch.setattr(search_module, "minimise", minimise)
    monkeypatch.setattr(search_module, "_SUBSET", 4)
    monkeypatch.setattr(search_module, "_MAX_REFINED", 2)
    form = replace(FORM, grid={"alpha_N": (0.05, 0.1, 0.15, 0.2, 0.3)})
    table = _table(runs=10)
    x = form.coordinates(table.values)
    starts, found = search_module.search(form, x, np.log(table.loss), table.loss, form.robust)
    assert len(starts) == 5
    assert [w.shape for w in calls] == [(5, 4), (2, 10)]  # every third of ten runs, then all
    assert found.value.tolist() == [np.inf, 10.0, 10.0, 7.0, np.inf]
    assert found.theta[[1, 2, 3], 0].tolist() == [100.0, 100.0, 300.0]


def test_a_law_can_be_fitted_to_as_many_runs_as_it_has_parameters() -> None:
    law = fit_law(_table(runs=2), FORM, resamples=0)
    assert law.converged
    assert law.objective == pytest.approx(0, abs=1e-20)
    three = FORMS["m3-n"]
    with pytest.raises(DataError, match=r"2 distinct sizes N .* at least 3"):
        fit_law(_table(runs=2), three, resamples=0)


@pytest.mark.parametrize("kind", ["huber", "l1"])
def test_the_expected_curvature_of_normal_residuals(kind: Any) -> None:
    """Of residuals of standard deviation s, P(|r| < delta) are inside Huber's delta, and the
    curvature of the absolute loss is twice the density at zero, 2 / (s sqrt(2 pi))."""
    rng = np.random.default_rng(0)
    residuals = 0.02 * rng.permutation(stats.norm.ppf((np.arange(4000) + 0.5) / 4000))
    psi, curvature = _psi(residuals, 2, ResidualLoss(kind, 0.01))
    if kind == "huber":
        np.testing.assert_allclose(psi, np.clip(residuals, -0.01, 0.01))
        assert curvature.mean() == pytest.approx(stats.norm.cdf(0.5) - stats.norm.cdf(-0.5),
                                                 rel=0.02)
    else:
        assert (psi == 1).all()
        assert (curvature == 0).sum() >= 2  # the runs that a fit of two parameters passes through
        assert curvature.mean() == pytest.approx(2 * stats.norm.pdf(0) / 0.02, rel=0.03)
        # The window is Silverman's: 0.9 standard deviations times R^(-1/5).
        width = 0.9 * 0.02 * 4000**-0.2
        assert curvature.max() == pytest.approx(2 * stats.norm.pdf(0) / width, rel=0.02)
        # Of few residuals far outside, the quartiles know nothing.
        residuals[:10] = 5.0
        curvature = _psi(residuals, 2, ResidualLoss(kind, 0.01))[1]
        assert curvature.max() == pytest.approx(2 * stats.norm.pdf(0) / width, rel=0.02)


def test_convergence_of_the_best_of_several_minima() -> None:
    """The gradient, curvature and convergence are those of the best; starts within a millionth of
    its objective agree with it; the fifth is of a wide start, which does not count."""
    value = np.array([3.0, 2.0, 2.0 * (1 + 0.9e-6), 2.0 * (1 + 1.1e-6), 2.0])
    gradient = np.array([[9.0, 9.0], [3.0, 4.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    hessian = np.tile(np.eye(2), (5, 1, 1))
    hessian[1] = [[4.0, 3.0], [3.0, 9.0]]  # with a unit diagonal, a correlation of a half
    converged = np.array([False, True, False, False, True])
    minima = Minimum(gradient, value, gradient, hessian, converged)
    found = fit_module._convergence(minima, 1, 10, 4)
    assert found == pytest.approx({"start_agreement": 0.5, "grad_norm": 5.0, "condition": 3.0,
                                   "converged": True})
    hessian[1] = [[4.0, 7.0], [7.0, 9.0]]  # not positive definite
    assert fit_module._convergence(minima, 1, 10, 4)["condition"] == np.inf
    assert fit_module._convergence(minima, 0, 10, 4)["converged"] is False


@pytest.mark.parametrize(("sizes", "tokens", "message"), [
    ([1e7, 1.01e7, 1e9, 1.02e9], 6, r"2 distinct sizes N .*values within 3%"),
    ([1e7, 1e9], 6, r"2 distinct sizes N .*needed$"),
    ([1e7, 1e8, 1e9], 2, r"2 distinct token counts D .*needed$"),
    ([1e7, 1.2e7, 1e9], 6, None),  # 4% of the range apart
    (list(np.geomspace(1e7, 1e9, 200)), 3, None),  # neighbours are .5% of the range apart
])
def test_two_levels_of_a_variable_are_refused_even_if_each_has_several_values(
    sizes: list[float], tokens: int, message: str | None,
) -> None:
    """E + A/N^alpha has three parameters, and two levels of N hold two numbers: whatever the fit
    prints, its interval is wrong."""
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, np.geomspace(1e9, 1e11, tokens)))
    rng = np.random.default_rng(0)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.003 * rng.standard_normal(n.size))
    table = from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss}), "runs", n="n", d="d")
    if message is None:
        assert fit_law(table, "chinchilla", resamples=0).converged
        return
    with pytest.raises(DataError, match=message):
        fit_law(table, "chinchilla", resamples=0)
