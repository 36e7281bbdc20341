"""Parts of profiles and of refits, by hand and by differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from scaling.laws import FORMS, ResidualLoss, RunsTable, from_frame
from scaling.laws.evidence import profile
from scaling.laws.evidence.constrained_profile import add_quantity_row, quantity_gradient
from scaling.laws.evidence.profile import _crossings, quantity_named
from scaling.laws.evidence.refit import _best_of, prepare
from scaling.laws.evidence.sensitivity import has_enough_runs, leave_one_size_out_weights
from scaling.laws.fitting.minimise import Minimum


def _line(low: float, high: float) -> RunsTable:
    rng = np.random.default_rng(3)
    n = np.geomspace(low, high, 12)
    loss = (1e9 / n) ** 0.1 * np.exp(0.05 * rng.standard_normal(12))
    return from_frame(pd.DataFrame({"N": n, "D": 2e9, "loss": loss}), "line", n="N", d="D")


def test_crossings_of_a_parabola_are_exact() -> None:
    at = np.array([0.0, 1.0, 2.2, 3.0, 5.0])
    rises = (at - 2.0) ** 2
    rises[2] = 0.0  # interpolation is between the square roots of neighbours, outwards
    assert _crossings(at, rises, 2.25) == pytest.approx((0.5, 3.5))
    assert _crossings(at, rises, 4.0) == pytest.approx((None, 4.0))
    assert _crossings(at, rises, 9.0) == (None, None)
    assert _crossings(at, rises, 3.999) == pytest.approx((2 - 3.999**0.5, 2 + 3.999**0.5))


@pytest.mark.parametrize(("low", "high", "flat"), [(1e5, 5e5, True), (1e5, 1e6, False)])
def test_a_flat_parameter_spans_a_factor_of_ten(low: float, high: float, flat: bool) -> None:
    """Kaplan's N_c, whose objective is least squares of a line through (log N_c, 0), and may rise
    by one percent: over a factor of 53, and over one of 9.5."""
    table = _line(low, high)
    form = replace(FORMS["kaplan-n"], envelope=None)
    y = np.log(table.loss)

    def objective(log_n_c: float) -> float:
        x = log_n_c - np.log(table.n)
        return float(((y - x * (x @ y) / (x @ x)) ** 2).sum() / 2)

    grid = np.linspace(15, 30, 3001)
    best = grid[np.argmin([objective(x) for x in grid])]
    limit = 1.01 * objective(best)
    ends = [brentq(lambda x: objective(x) - limit, best, best + far) for far in (-6, 6)]
    ends = sorted(ends)
    assert (ends[1] - ends[0] >= np.log(10)) == flat
    found = profile(table, form, "N_c", np.exp(np.linspace(ends[0] - 1, ends[1] + 1, 61)))
    assert np.log(found.flat_range) == pytest.approx(ends, abs=0.02)
    assert found.flat == flat
    assert any("weakly identified" in text for text in found.warnings) == flat


def test_quantities_that_can_be_profiled(grid: Any) -> None:
    prepared = prepare(from_frame(grid(noise=0.002), "runs"), "chinchilla")
    point, theta = prepared.law.params, prepared.theta[None]
    known = {name: np.log(point[name]) for name in ("E", "A", "B")}
    known |= {name: point[name] for name in ("alpha", "beta")}
    known["a"] = point["beta"] / (point["alpha"] + point["beta"])
    known["b"] = 1 - known["a"]
    for name, value in known.items():
        quantity, logged = quantity_named(prepared, name)
        assert quantity(theta)[0] == pytest.approx(value, rel=1e-6)
        assert logged == (name in ("E", "A", "B"))
    # By theta, whose coefficients are centred: log A changes with theta's A, and with alpha.
    gradient = quantity_gradient(quantity_named(prepared, "A")[0], theta)[0]
    np.testing.assert_allclose(gradient, [0, 1, 0, prepared.centre[0], 0], rtol=1e-6, atol=1e-8)
    assert prepared.objective(theta)[0] == pytest.approx(prepared.law.objective, rel=1e-9)
    weights = np.zeros(25)
    weights[4] = 3.0
    cost = prepared.robust.cost(prepared.residuals[4:5])[0]
    assert prepared.objective(theta, weights[None])[0] == pytest.approx(3 * cost)


def test_derivatives_of_a_form_with_a_row_for_a_quantity(grid: Any) -> None:
    prepared = prepare(from_frame(grid(noise=0.002), "runs"), "chinchilla")
    quantity = quantity_named(prepared, "a")[0]
    form = add_quantity_row(prepared.form, quantity)
    x = np.concatenate([prepared.x, prepared.x[:1]])
    theta = prepared.theta[None] + 0.01
    predicted, gradient = form.gradient(theta, x)
    np.testing.assert_allclose(predicted, form.predict(theta, x))
    np.testing.assert_allclose(predicted[:, -1], quantity(theta))
    np.testing.assert_allclose(predicted[:, :-1], prepared.form.predict(theta, prepared.x))
    weights = np.random.default_rng(0).standard_normal((1, 26))
    weights[:, -1] = 40.0  # the quantity counts
    curvature = form.hessian(theta, x, weights, gradient)
    for place in range(5):
        step = 1e-4 * np.eye(5)[place]
        slope = (form.predict(theta + step, x) - form.predict(theta - step, x)) / 2e-4
        np.testing.assert_allclose(gradient[..., place], slope, rtol=1e-5, atol=1e-7)
        bend = form.gradient(theta + step, x)[1] - form.gradient(theta - step, x)[1]
        np.testing.assert_allclose(curvature[:, place], np.einsum("br,brp->bp", weights, bend)
                                   / 2e-4, rtol=1e-3, atol=1e-2)


def test_the_lowest_of_several_minima() -> None:
    def minima(*values: float) -> Minimum:
        value = np.array(values)
        return Minimum(value[:, None] * 10, value, value[:, None], value[:, None, None] * 2,
                       value > 2)

    found = _best_of(minima(3.0, 1.0), minima(2.0, 4.0, 5.0, 0.5))  # two starts, then one
    assert found.value.tolist() == [2.0, 0.5]
    assert found.theta.tolist() == [[20.0], [5.0]]
    assert found.hessian.tolist() == [[[4.0]], [[1.0]]]
    assert found.converged.tolist() == [False, False]


def test_refits_without_some_runs(grid: Any) -> None:
    """Of a weight of zero, two, or under another objective; and sizes by their median."""
    table = _line(1e5, 1e9)
    form = replace(FORMS["kaplan-n"], envelope=None)
    prepared = prepare(table, form)
    w = np.ones((2, 12))
    w[0, 3], w[1, 5] = 0.0, 2.0
    found = prepared.refit(w)
    for row, theta in zip(w, found.theta, strict=True):
        slope = np.polyfit(np.log(table.n), np.log(table.loss), 1, w=np.sqrt(row))[0]
        assert theta[1] == pytest.approx(-slope, rel=1e-8)
    other = prepared.refit(w[:1], ResidualLoss("huber", 1e-3))
    assert other.theta[0, 1] != pytest.approx(found.theta[0, 1], rel=1e-4)
    frame = grid(noise=0.002)
    prepared = prepare(from_frame(frame, "runs"), "chinchilla")
    sizes, weights = leave_one_size_out_weights(prepared)
    assert sizes == sorted(frame["params_total"].unique())
    for size, row in zip(sizes, weights, strict=True):
        assert (row == 0).tolist() == (prepared.runs.n == size).tolist()
    enough = np.zeros((4, 25))
    for row, runs in zip(enough, ((0, 6, 12, 18, 24), (0, 6, 12, 18), (0, 1, 2, 5, 6, 7),
                                  (0, 1, 5, 6, 10, 11)), strict=True):
        row[list(runs)] = 1
    # Five runs of three sizes and three token counts are needed.
    assert has_enough_runs(prepared, enough).tolist() == [True, False, False, False]
