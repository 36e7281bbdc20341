"""Forms: derivatives against differences, and what one more law costs."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import FORMS, Form, PowerSum, Term, fit_law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss

pytestmark = pytest.mark.quick

FIRST = ("kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "chinchilla")
"""Laws of N, D and C whose fits centre their logarithms; the others have files of their own."""


def _points(form: Form, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Centred logs of 12 runs, and two parameter vectors near the form's starts."""
    rng = np.random.default_rng(seed)
    values = {v: np.exp(rng.uniform(5, 12, size=12)) for v in form.variables}
    x = form.coordinates(values)
    x -= x.mean(axis=0)
    starts = form.starts(x, rng.uniform(2, 4, size=12))
    return x, starts[[0, -1]] + 0.05 * rng.standard_normal((2, starts.shape[1]))


@pytest.mark.parametrize("name", FIRST)
def test_gradient_is_the_derivative_of_the_log_loss(name: str) -> None:
    form = FORMS[name]
    x, theta = _points(form)
    log_loss, gradient = form.gradient(theta, x)
    np.testing.assert_allclose(log_loss, form.predict(theta, x), rtol=1e-14)
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = 1e-6
        difference = (form.predict(theta + step, x) - form.predict(theta - step, x)) / 2e-6
        np.testing.assert_allclose(gradient[:, :, place], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FIRST)
def test_curvature_is_the_derivative_of_the_gradient(name: str) -> None:
    form = FORMS[name]
    x, theta = _points(form)
    weights = np.random.default_rng(1).standard_normal((2, len(x)))
    _, gradient = form.gradient(theta, x)
    curvature = form.hessian(theta, x, weights, gradient)
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = 1e-5
        ahead, behind = (form.gradient(theta + s * step, x)[1] for s in (1, -1))
        difference = np.einsum("br,brp->bp", weights, ahead - behind) / 2e-5
        np.testing.assert_allclose(curvature[:, place], difference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curvature, curvature.swapaxes(1, 2), atol=1e-12)


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("kind", ["huber", "l1", "squared"])
def test_gradient_of_the_objective_vanishes_at_the_minimum(name: str, kind: str) -> None:
    """By differences of the objective itself, which know nothing of the analytic derivatives."""
    form, robust = FORMS[name], ResidualLoss(kind)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    values = {v: np.exp(rng.uniform(9, 15, size=30)) for v in ("n", "d", "c")}
    n, d, c = (values[v] for v in ("n", "d", "c"))
    losses = {"n": (1e9 / n) ** 0.1, "d": (1e9 / d) ** 0.1, "c": (1e9 / c) ** 0.1,
              "nd": 1.2 + 25 / n**0.3 + 40 / d**0.3}
    loss = losses.get(name.removeprefix("kaplan-"), losses["nd"])
    loss = loss * np.exp(0.01 * rng.standard_normal(30))
    x = form.coordinates(values)
    x -= x.mean(axis=0)
    starts = form.starts(x, loss)
    found = minimise(form, x, np.log(loss), np.ones((len(starts), 30)), starts, robust)
    best = int(found.value.argmin())
    assert found.converged[best]

    def objective(theta: np.ndarray) -> float:
        return float(robust.cost(np.log(loss) - form.predict(theta[None], x)[0]).sum())

    lowest = objective(found.theta[best])
    assert lowest == pytest.approx(found.value[best], rel=1e-12)
    for _ in range(50):
        aside = found.theta[best] + 1e-3 * rng.standard_normal(starts.shape[1])
        assert objective(aside) >= lowest * (1 - 1e-7)


def test_printed_parameters_give_the_loss_that_was_fitted() -> None:
    """to_params and from_params undo each other, whatever the centre."""
    for form in (FORMS[name] for name in FIRST):
        x, theta = _points(form, seed=5)
        centre = np.linspace(3, 8, len(form.variables))
        printed = form.to_params(theta, centre)
        again = form.predict(form.from_params(printed), x + centre)
        np.testing.assert_allclose(again, form.predict(theta, x), rtol=1e-9)


def test_a_new_law_is_one_entry(grid) -> None:  # type: ignore[no-untyped-def]
    """E + A/N^alpha + B/D^beta + F/(N^alpha D^beta), with nothing written but its terms."""
    frame = grid()
    n, d = frame["params_total"].to_numpy(float), frame["tokens"].to_numpy(float)
    frame["loss"] = 1.1 + 20 / n**0.35 + 30 / d**0.3 + 400 / (n**0.35 * d**0.3)
    form = PowerSum(
        name="cross", formula="E + A/N^alpha + B/D^beta + F/(N^alpha D^beta)", source="a test",
        variables=("n", "d"), parameters=("E", "A", "B", "F", "alpha", "beta"), counting="total",
        distinct=3,
        terms=(Term("E"), Term("A", (("n", "alpha"),)), Term("B", (("d", "beta"),)),
               Term("F", (("n", "alpha"), ("d", "beta")))),
    )
    law = fit_law(from_frame(frame, "runs"), form, resamples=0)
    assert law.convergence["converged"]
    expected = {"E": 1.1, "A": 20, "B": 30, "F": 400, "alpha": 0.35, "beta": 0.3}
    for name, value in expected.items():
        assert law.params[name] == pytest.approx(value, rel=1e-4)


class JointPower(Formula):
    """E + (A/N^alpha + B/D^beta)^gamma."""

    def outcome_of(self, p, v):  # type: ignore[no-untyped-def]
        return p.E + (p.A / v.n**p.alpha + p.B / v.d**p.beta) ** p.gamma


def test_a_formula_starts_where_its_other_terms_alone_exceed_the_outcome(grid) -> None:  # type: ignore[no-untyped-def]
    """At most points of this grid the power alone is larger than every loss."""
    frame = grid()
    n, d = frame["params_total"].to_numpy(float), frame["tokens"].to_numpy(float)
    frame["loss"] = 1.1 + (20 / n**0.35 + 30 / d**0.3) ** 1.2
    form = JointPower(
        name="joint", formula="E + (A/N^alpha + B/D^beta)^gamma", source="a test",
        variables=("n", "d"), parameters=("E", "A", "B", "alpha", "beta", "gamma"),
        counting="total", linear=("E",),
        grid={"A": (20.0, 2e4), "B": (30.0, 3e4), "alpha": (0.3,), "beta": (0.3,), "gamma": (1.0,)},
    )
    table = from_frame(frame, "runs")
    starts = form.starts(form.coordinates({"n": n, "d": d}), frame["loss"].to_numpy())
    assert np.isfinite(starts).all()
    assert fit_law(table, form, resamples=0).params["E"] == pytest.approx(1.1, rel=1e-2)
