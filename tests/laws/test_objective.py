"""The adaptive objective: a delta that follows the noise; and constants that are zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq, least_squares, minimize

import scaling.laws as sl
from scaling.errors import UserError
from scaling.laws import FORMS, ResidualLoss, RunsTable, constrain, fit_law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import ZERO
from scaling.laws.forms.losses import WIDTH, residual_scale
from scaling.laws.forms.wrapped import of_raw_outcome


def _table(noise: float, seed: int = 0, floor: float = 1.69, sizes: int = 5) -> RunsTable:
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, sizes), np.geomspace(1e9, 1e11, sizes)))
    loss = floor + 406.4 * n**-0.34 + 410.7 * d**-0.28
    z = np.random.default_rng(seed).standard_normal(n.size)
    return from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss * np.exp(noise * z)}), "runs",
                      n="n", d="d")


@pytest.mark.parametrize("outliers", [0, 3])
def test_the_scale_solves_hubers_second_proposal(outliers: int) -> None:
    """The mean of squares of clipped residuals is that of clipped normal numbers."""
    r = 0.3 * np.random.default_rng(1).standard_normal(60)
    r[:outliers] = 5.0
    expected, _ = quad(lambda z: min(z * z, WIDTH**2) * stats.norm.pdf(z), -10, 10,
                       points=[-WIDTH, WIDTH])

    def excess(scale: float) -> float:
        return float(np.minimum((r / scale) ** 2, WIDTH**2).sum() / 56 - expected)

    assert residual_scale(r, 4) == pytest.approx(brentq(excess, 1e-3, 10), rel=1e-6)
    assert residual_scale(7 * r, 4) == pytest.approx(7 * residual_scale(r, 4), rel=1e-6)


def test_delta_follows_the_noise() -> None:
    deltas = []
    for noise in (0.001, 0.01):
        table = _table(noise)
        law = fit_law(table, "chinchilla", resamples=0)
        r = np.log(table.loss) - np.log(law.loss(table.values))
        assert law.convention["objective"] == "adaptive"
        assert law.convention["delta"] == pytest.approx(WIDTH * residual_scale(r, 5), rel=1e-3)
        deltas.append(law.convention["delta"])
        assert law.residual_loss == ResidualLoss("adaptive", deltas[-1])
        # The optimum is that of Huber's loss with this delta.
        fixed = fit_law(table, "chinchilla", robust=ResidualLoss("huber", deltas[-1]), resamples=0)
        assert law.params == pytest.approx(fixed.params, rel=1e-4)
        assert law.objective == pytest.approx(fixed.objective, rel=1e-9)
    assert deltas[1] == pytest.approx(10 * deltas[0], rel=0.1)


def test_a_run_far_off_moves_the_law_less_than_in_least_squares() -> None:
    clean = _table(0.004)
    loss = clean.loss.copy()
    loss[7] *= 1.3
    frame = pd.DataFrame({"n": clean.n, "d": clean.d, "loss": loss})
    table = from_frame(frame, "runs", n="n", d="d")
    at = {"n": np.array([1e10]), "d": np.array([1e12])}
    moved = {kind: abs(np.log(
        fit_law(table, "chinchilla", robust=ResidualLoss(kind), resamples=0).loss(at)[0]  # type: ignore[arg-type]
        / fit_law(clean, "chinchilla", robust=ResidualLoss(kind), resamples=0).loss(at)[0]))  # type: ignore[arg-type]
        for kind in ("adaptive", "squared")}
    assert moved["adaptive"] < 0.2 * moved["squared"]


def test_exact_runs_have_the_smallest_delta() -> None:
    law = fit_law(_table(0.0), "chinchilla", resamples=0)
    assert law.convention["delta"] == 1e-6
    assert law.params["alpha"] == pytest.approx(0.34, rel=1e-9)


@pytest.mark.parametrize("name", ["chinchilla", "q-family"])
def test_a_constant_of_zero_is_a_minimum(name: str) -> None:
    """Against the form with E = 0 fixed, and against scipy with E >= 0."""
    table = _table(0.02, seed=5, floor=0.0)
    law = fit_law(table, name, robust=ResidualLoss("squared"), resamples=40)
    if law.params["E"] == 0:
        held = fit_law(table, constrain(FORMS[name], {"E": 0.0}), robust=ResidualLoss("squared"),
                       resamples=0)
        assert law.objective == pytest.approx(held.objective, rel=1e-7)
    assert law.bootstrap is not None
    assert law.bootstrap.converged == 40
    assert (law.samples[:, 0] == 0).any()
    low, high = law.intervals["E"] or (1.0, 0.0)
    assert low == 0 < high


@pytest.mark.parametrize("name", ["chinchilla", "q-family"])
def test_a_fit_that_begins_at_a_constant_of_zero_leaves_it(name: str) -> None:
    table, form = _table(0.004), FORMS[name]
    x, y = form.coordinates(table.values), np.log(table.loss)
    x = x - x.mean(axis=0)
    right = fit_law(table, name, robust=ResidualLoss("squared"), resamples=0)
    begin = form.starts(x, table.loss)
    begin[:, 0] = ZERO
    with np.errstate(all="ignore"):
        found = minimise(form, x, y, np.ones((len(begin), len(y))), begin, ResidualLoss("squared"))
    assert found.value.min() == pytest.approx(right.objective, rel=1e-7)


def test_zero_is_no_minimum_where_a_constant_helps() -> None:
    """scipy's bounded minimum over (E, A, B, alpha, beta), for resamples of few runs."""
    table = _table(0.03, seed=2, floor=0.3, sizes=4)
    law = fit_law(table, "chinchilla", robust=ResidualLoss("squared"), resamples=0)
    n, d, y = np.log(table.n), np.log(table.d), np.log(table.loss)

    def cost(p: np.ndarray) -> float:
        a = p[1] - p[3] * (n - n.mean())
        b = p[2] - p[4] * (d - d.mean())
        return float(((y - np.log(p[0] + np.exp(a) + np.exp(b))) ** 2).sum() / 2)

    best = min(minimize(cost, [e, 0.0, 0.0, alpha, beta], method="L-BFGS-B",
                        bounds=[(0, None), *[(None, None)] * 4], options={"ftol": 1e-15}).fun
               for e in (0.0, 0.5, 1.5) for alpha in (0.1, 0.4) for beta in (0.1, 0.4))
    assert law.objective is not None
    assert law.objective <= best * (1 + 1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan-nd", "q-family", "skaling"])
def test_residuals_of_the_raw_loss_are_those_of_scipys_fit(name: str) -> None:
    """The optimum of SciPy's least squares with Huber's loss of the loss itself, started there, is
    no lower; and the fit is another than that of the log-loss."""
    table = _table(0.02, seed=3)
    form = of_raw_outcome(FORMS[name])
    law = fit_law(table, form, robust=ResidualLoss("huber", 0.02), resamples=0)
    assert law.converged

    def residuals(logs: np.ndarray) -> np.ndarray:
        params = np.where(law.point[0] > 0, np.exp(logs), 0.0)
        return table.loss - FORMS[name].loss(params[None], table.values)[0]

    start = np.log(np.where(law.point[0] > 0, law.point[0], 1.0))
    rng = np.random.default_rng(0)
    lowest = min(least_squares(residuals, start + 0.01 * rng.standard_normal(len(start)) * i,
                               loss="huber", f_scale=0.02, xtol=1e-14, ftol=1e-14,
                               x_scale="jac").cost for i in range(3))
    assert law.objective == pytest.approx(lowest, rel=1e-6)
    assert law.objective == pytest.approx(
        ResidualLoss("huber", 0.02).cost(residuals(start)).sum(), rel=1e-9)
    in_logs = fit_law(table, name, robust=ResidualLoss("huber", 0.02), resamples=0)
    assert law.params != pytest.approx(in_logs.params, rel=1e-3)


def test_derivatives_of_the_raw_outcome() -> None:
    form = of_raw_outcome(FORMS["chinchilla"])
    assert of_raw_outcome(form) is form
    rng = np.random.default_rng(0)
    x, theta = rng.standard_normal((7, 2)), rng.standard_normal((1, 5)) * 0.3
    weights, step = rng.standard_normal((1, 7)), 1e-5
    _, slopes = form.gradient(theta, x)
    steps = step * np.eye(5)
    numeric = (form.predict(theta + steps, x) - form.predict(theta - steps, x)) / (2 * step)
    np.testing.assert_allclose(slopes[0], numeric.T, rtol=1e-7, atol=1e-9)
    second = form.hessian(theta, x, weights, slopes)[0]
    numeric = np.stack([((form.gradient(theta + s, x)[1] - form.gradient(theta - s, x)[1])[0]
                         * weights[0, :, None]).sum(axis=0) for s in steps]) / (2 * step)
    np.testing.assert_allclose(second, numeric, rtol=1e-6, atol=1e-8)


def test_a_law_of_raw_residuals_is_saved_with_them(tmp_path: Path) -> None:
    """Its prediction interval has the scatter of the loss itself, and its absent terms are told as
    those of any sum."""
    fit = sl.fit(_table(0.02), "chinchilla", residuals="raw", fix={"E": 1.69}, resamples=60)
    fit.save(tmp_path / "laws.json")
    loaded = sl.load(tmp_path / "laws.json")["chinchilla"]
    assert loaded.law.form == fit.law.form
    assert loaded.law.form.constraints == {"fixed": {"E": 1.69}, "tied": []}
    assert '"residuals": "raw"' in (tmp_path / "laws.json").read_text()
    ends = loaded.law.prediction_interval({"n": np.array([1e9]), "d": np.array([1e11])})
    middle = float(loaded.predict(n=1e9, d=1e11))
    residuals = _table(0.02).loss - fit.law.loss(_table(0.02).values)
    assert ends is not None
    assert ends[1] - middle == pytest.approx(np.quantile(residuals, 0.95), rel=0.4)
    flat = _table(0.01)
    flat = replace(flat, loss=1.69 + 410.7 * flat.d**-0.28)
    flat = replace(flat, loss=flat.loss * np.exp(0.01 * np.random.default_rng(1).standard_normal(
        flat.loss.size)))
    assert any("show no effect of N" in warning
               for warning in sl.fit(flat, "chinchilla", residuals="raw",
                                     resamples=0).law.warnings)
    text = (tmp_path / "laws.json").read_text().replace('"residuals": "raw"', '"residuals": "rw"')
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match="residuals"):
        sl.load(tmp_path / "other.json")


@pytest.mark.parametrize("seed", range(3))
def test_a_floor_that_underflows_on_the_way_does_not_end_a_fit(seed: int) -> None:
    """Two pairs of near sizes, three token counts and three seeds: first steps go far below zero in
    the logarithm of E."""
    n, d = (np.tile(axis.ravel(), 3) for axis in np.meshgrid(
        [1e7, 1.3e7, 1e8, 1.3e8], [1e8, 1e9, 1e10]))
    noise = np.exp(0.003 * np.random.default_rng(seed).standard_normal(n.size))
    frame = pd.DataFrame({"n": n, "d": d, "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise})
    table = from_frame(frame, "runs", n="n", d="d")
    raw = fit_law(table, of_raw_outcome(FORMS["chinchilla"]), resamples=0)
    log = fit_law(table, "chinchilla", resamples=0)
    assert raw.converged
    assert raw.params["alpha"] == pytest.approx(log.params["alpha"], abs=0.1)
