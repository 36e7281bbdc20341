"""Resamples, intervals and standard errors, against theory and against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.errors import UserError
from scaling.laws import FORMS, ResidualLoss, fit_law, from_frame
from scaling.laws.fitting import bootstrap
from scaling.laws.fitting.intervals import bca_intervals
from scaling.laws.fitting.minimise import minimise


def line(runs: int = 40, noise: float = 0.05, seed: int = 0, **options: object):
    """A power law of one variable fitted by least squares: a straight line in log-log."""
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(10, 20, runs))
    loss = (1e9 / n) ** 0.1 * np.exp(noise * rng.standard_normal(runs))
    table = from_frame(pd.DataFrame({"N": n, "loss": loss}), "line", n="N", needs=("n",))
    form = replace(FORMS["kaplan-n"], envelope=None)
    return table, fit_law(table, form, resamples=2000, **options)  # type: ignore[arg-type]


def textbook(table) -> tuple[float, float]:
    """The slope and its standard error, by scipy."""
    found = stats.linregress(np.log(table.n), np.log(table.loss))
    return -found.slope, found.stderr


def test_standard_errors_are_those_of_a_straight_line() -> None:
    table, law = line(runs=200)
    slope, error = textbook(table)
    assert law.params["alpha_N"] == pytest.approx(slope, rel=1e-9)
    for found in (law.se["alpha_N"], law.se_delta["alpha_N"],
                  line(runs=200, by="residual")[1].se["alpha_N"]):
        assert found == pytest.approx(error, rel=0.12)


def test_residuals_are_rescaled_to_the_variance_of_the_errors() -> None:
    """Residuals of few runs are smaller than the errors, most at the ends of the line: with
    leverages h = 1/R + (x - mean)^2 / S_xx, by a factor of sqrt(1 - h)."""
    table, law = line(runs=7, by="residual")
    x, y = np.log(table.n), np.log(table.loss)
    found = stats.linregress(x, y)
    centred = x - x.mean()
    leverage = 1 / 7 + centred**2 / (centred**2).sum()
    wide = (y - found.intercept - found.slope * x) / np.sqrt(1 - leverage)
    expected = wide.std() / np.sqrt((centred**2).sum())
    assert law.se["alpha_N"] == pytest.approx(expected, rel=0.05)


def test_correlated_errors_need_resampling_by_size() -> None:
    """Each size has an error of its own, shared by its eight runs: as good as one run each."""
    rng = np.random.default_rng(1)
    sizes = np.repeat(np.geomspace(1e6, 1e9, 20), 8)
    shared = np.repeat(0.05 * rng.standard_normal(20), 8)
    table = from_frame(pd.DataFrame({"N": sizes * np.exp(1e-9 * np.arange(160)), "S": sizes,
                                     "loss": (1e9 / sizes) ** 0.1 * np.exp(shared)}),
                       "sizes", n="S", needs=("n",))
    form = replace(FORMS["kaplan-n"], envelope=None)
    by_case = fit_law(table, form, resamples=1000).se["alpha_N"]
    by_size = fit_law(table, form, resamples=1000, by="size").se["alpha_N"]
    expected = stats.linregress(np.log(np.unique(sizes)), shared[::8]).stderr
    assert by_size == pytest.approx(expected, rel=0.25)
    assert by_case < 0.6 * by_size


def test_bca_of_a_mean_is_the_closed_form() -> None:
    """The bias and acceleration of a mean have closed forms (Efron 1987, section 4)."""
    rng = np.random.default_rng(2)
    data = rng.exponential(size=60)
    samples = rng.choice(data, (20_000, 60)).mean(axis=1)
    left_out = (data.sum() - data) / 59
    low, high = bca_intervals(samples[:, None], np.array([data.mean()]), left_out[:, None], 0.9)
    acceleration = ((data - data.mean()) ** 3).sum() / (
        6 * ((data - data.mean()) ** 2).sum() ** 1.5)
    bias = stats.norm.ppf((samples < data.mean()).mean())
    for end, z in ((low, stats.norm.ppf(0.05)), (high, stats.norm.ppf(0.95))):
        at = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        assert end[0] == pytest.approx(np.quantile(samples, at), rel=1e-3)
    other = stats.bootstrap((data,), np.mean, confidence_level=0.9, n_resamples=20_000,
                            random_state=rng)
    assert (low[0], high[0]) == pytest.approx(other.confidence_interval, rel=0.01)


def test_intervals_without_a_jackknife_are_percentiles() -> None:
    samples = np.random.default_rng(3).lognormal(size=(500, 2))
    low, high = bca_intervals(samples, np.array([1.0, 1.0]), None, 0.9)
    np.testing.assert_allclose([low, high], np.quantile(samples, [0.05, 0.95], axis=0))
    # All resamples on one side of the estimate: nothing to correct by.
    edge = bca_intervals(samples, np.zeros(2), samples[:50], 0.9)
    np.testing.assert_allclose(edge, (low, high))


@pytest.mark.parametrize(("resamples", "seed"), [
    (bootstrap.MOST_RESAMPLES + 1, 0), (10**9, 0), (10**18, 0), (-1, 0), (0, -1), (0, 2**63)])
def test_invalid_resamples_are_refused(resamples: int, seed: int) -> None:
    with pytest.raises(UserError, match="an integer from 0 to"):
        bootstrap.check_resamples(resamples, seed)


def test_the_most_resamples_and_the_largest_seed_are_allowed() -> None:
    assert bootstrap.MOST_RESAMPLES == 100_000
    for resamples, seed in ((100_000, 0), (0, 0), (1, 2**63 - 1)):
        bootstrap.check_resamples(resamples, seed)


@pytest.mark.slow
def test_with_many_runs_a_newton_step_equals_a_refit(grid, monkeypatch) -> None:
    """Both ways on the same 3,000 runs: the step's error is small beside the spread."""
    rng = np.random.default_rng(4)
    n, d = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e9, 1e11]), (3000, 2))).T
    loss = (1.7 + 400 / n**0.34 + 900 / d**0.33) * np.exp(0.004 * rng.standard_normal(3000))
    table = from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "many", n="N", d="D")
    for by in ("case", "residual"):
        refitted = fit_law(table, "chinchilla", resamples=60, by=by)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, "_MANY_RUNS", 1000)
            stepped = fit_law(table, "chinchilla", resamples=60, by=by)  # type: ignore[arg-type]
        spread = refitted.samples.std(axis=0)
        off = np.abs(stepped.samples - refitted.samples).mean(axis=0)
        assert (off < 0.1 * spread).all(), by
        left_out = stepped.bootstrap.left_out - refitted.bootstrap.left_out
        assert (np.abs(left_out).max(axis=0) < 0.1 * spread).all()


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_a_newton_step_has_the_curvature_of_the_objective(grid, kind: str) -> None:
    """Against differences of the objective, where residuals are large and the law curved."""
    table = from_frame(grid(noise=0.1), "runs")
    form, robust = FORMS["chinchilla"], ResidualLoss(kind, 0.05)  # type: ignore[arg-type]
    x, y = form.coordinates(table.values), np.log(table.loss)
    theta = form.from_params(np.array([[1.3, 24.0, 45.0, 0.34, 0.29]]))[0]
    problem = bootstrap.BootstrapProblem(form, x, y, np.arange(len(y)), theta, theta[None], robust)
    w = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    step = 1e-4 * np.eye(len(theta))

    def objective(point: np.ndarray) -> float:
        return float(w @ robust.cost(y - form.predict(point[None], x)[0]))

    def slope(point: np.ndarray) -> np.ndarray:
        return np.array([(objective(point + s) - objective(point - s)) / 2e-4 for s in step])

    curvature = np.array([(slope(theta + s) - slope(theta - s)) / 2e-4 for s in step])
    found = bootstrap._OneStepFits(problem).theta(np.broadcast_to(y, (1, len(y))), w[None])[0]
    np.testing.assert_allclose(curvature @ (found - theta), -slope(theta), rtol=0.02, atol=1e-4)


def test_all_resamples_are_refitted_if_some_end_lower_from_starts(grid) -> None:
    """From a wrong optimum far away, the check finds the right one for every resample."""
    table = from_frame(grid(noise=0.003), "runs")
    form = FORMS["chinchilla"]
    x = form.coordinates(table.values)
    x, y = x - x.mean(axis=0), np.log(table.loss)
    starts = form.starts(x, table.loss)
    found = minimise(form, x, y, np.ones((len(starts), len(y))), starts, ResidualLoss("huber"))
    right = found.theta[found.value.argmin()]
    problem = bootstrap.BootstrapProblem(form, x, y, np.arange(len(y)), right, starts,
                                         ResidualLoss("huber"))
    good = bootstrap.refit_resamples(problem, "case", 48, 0)

    def stuck(problem, y_BR, w_BR, start_BP):
        """A minimiser that cannot leave a wrong optimum, but works from the starts."""
        ends = minimise(form, problem.x, y_BR, w_BR, start_BP, problem.robust)
        wrong = (start_BP == problem.optimum).all(axis=1)
        ends.value[wrong] *= 2
        ends.theta[wrong] = 7.0
        return ends

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "_solve", stuck)
        again = bootstrap.refit_resamples(problem, "case", 48, 0)
    np.testing.assert_allclose(again, good, rtol=1e-3)


@pytest.mark.slow
def test_a_short_study_of_coverage() -> None:
    """A short version of experiments/interval_coverage.py: 54 sweeps, four quantities each."""
    from experiments.interval_coverage import study

    rows = study(54, resamples=200)
    covered = rows[rows["method"] == "bca"].groupby("quantity")["covered"].mean()
    # Three standard errors of 54 trials at 90%.
    assert covered.between(0.90 - 0.122, 1.0).all(), covered
    assert 0.82 <= covered.mean() <= 0.97


def clustered(clusters: int, rows: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln N and ln L of a straight line with an error that the rows of a cluster share, and the
    clusters."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(clusters), rows)
    x = np.linspace(10, 20, clusters)[group] + 0.1 * rng.standard_normal(group.size)
    errors = 0.05 * rng.standard_normal(clusters)[group] + 0.01 * rng.standard_normal(group.size)
    return x, 2 - 0.1 * x + errors, group


def test_the_wild_bootstrap_has_the_cluster_robust_standard_error() -> None:
    """Its variance for a straight line is the sandwich of residuals rescaled by
    (I - H_gg)^(-1/2) (Bell and McCaffrey 2002), computed here with whole matrices."""
    x, y, group = clustered(16, 5)
    table = from_frame(pd.DataFrame({"N": np.exp(x), "loss": np.exp(y), "run": group}), "line",
                       n="N", needs=("n",), cluster="run")
    form = replace(FORMS["kaplan-n"], envelope=None)
    law = fit_law(table, form, resamples=4000, by="wild")
    slopes = np.column_stack([np.ones_like(x), x])
    bread = np.linalg.inv(slopes.T @ slopes)
    residuals = y - slopes @ (bread @ (slopes.T @ y))
    meat = np.zeros((2, 2))
    for each in range(16):
        rows = group == each
        inside = np.eye(rows.sum()) - slopes[rows] @ bread @ slopes[rows].T
        values, vectors = np.linalg.eigh(inside)
        adjusted = vectors @ ((vectors.T @ residuals[rows]) / np.sqrt(values))
        score = slopes[rows].T @ adjusted
        meat += np.outer(score, score)
    expected = np.sqrt((bread @ meat @ bread)[1, 1])
    assert law.se["alpha_N"] == pytest.approx(expected, rel=0.05)
    assert law.bootstrap.by == "wild"
    # Intervals have Student's quantile for 16 clusters and two parameters.
    assert law.bootstrap.widening == pytest.approx(stats.t.ppf(0.95, 14) / stats.norm.ppf(0.95))
    by_row = fit_law(replace(table, cluster=table.cluster[:0]), form, resamples=1000, by="wild")
    assert by_row.se["alpha_N"] < 0.7 * expected


def test_a_wild_resample_multiplies_the_residuals_of_a_cluster_by_one_factor() -> None:
    """Of six values where there are few clusters (Webb), and of two signs otherwise; a point that
    is known without a run keeps its place."""
    form = replace(FORMS["kaplan-n"], envelope=None)
    for clusters, factors in ((6, np.sqrt([0.5, 1, 1.5])), (12, np.ones(1))):
        x, y, group = clustered(clusters, 3)
        unit = np.append(group, -1)
        problem = bootstrap.BootstrapProblem(
            form, np.append(x, 15.0)[:, None], np.append(y, 0.9), unit, np.array([2.0, 0.1]),
            np.empty((0, 2)), ResidualLoss("squared"))
        _, wide = bootstrap._residuals(problem, unit)
        drawn, weights = bootstrap._draw(problem, "wild", 400, np.random.default_rng(0))
        assert (weights == 1).all()
        fitted = form.predict(problem.optimum[None], problem.x)[0]
        ratio = (drawn - fitted) / wide
        assert (ratio[:, -1] == 0).all()
        for each in range(clusters):
            of_cluster = ratio[:, :-1][:, group == each]
            np.testing.assert_allclose(of_cluster, of_cluster[:, :1].repeat(3, axis=1))
        found = np.unique(np.round(ratio[:, :-1], 9))
        np.testing.assert_allclose(found, [*-factors[::-1], *factors], atol=1e-8)


def test_equal_resamples_of_few_clusters_are_fitted_once(monkeypatch) -> None:
    """Four clusters have 35 different resamples; the result is as if each were fitted."""
    x, y, group = clustered(4, 6)
    table = from_frame(pd.DataFrame({"N": np.exp(x), "loss": np.exp(y), "run": group}), "line",
                       n="N", needs=("n",), cluster="run")
    form = replace(FORMS["kaplan-n"], envelope=None)
    sizes: list[int] = []
    chunk = bootstrap._fit_chunk
    monkeypatch.setattr(bootstrap, "_fit_chunk", lambda problem, y_BR, w_BR, *rest: (
        sizes.append(len(w_BR)), chunk(problem, y_BR, w_BR, *rest))[1])
    law = fit_law(table, form, resamples=400)
    assert 30 < sizes[0] <= 35
    monkeypatch.setattr(bootstrap, "_distinct", lambda y_BR, w_BR: (w_BR, np.arange(len(w_BR))))
    each = fit_law(table, form, resamples=400)
    assert sizes[1:] == [400]
    assert law.bootstrap.numbers.tolist() == each.bootstrap.numbers.tolist()
    np.testing.assert_allclose(law.samples, each.samples, rtol=1e-6)
