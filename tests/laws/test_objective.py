"""The adaptive objective: a delta that follows the noise; and constants that are zero."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq, minimize

from scaling.laws import FORMS, ResidualLoss, RunsTable, constrain, fit_law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import ZERO
from scaling.laws.forms.losses import WIDTH, residual_scale


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
