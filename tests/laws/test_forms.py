"""Forms: derivatives against differences, and what one more law costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import lsq_linear
from scipy.special import huber

from scaling.errors import UserError
from scaling.laws import FORMS, Form, PowerSum, Term, fit_law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.form import project_coefficients
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss, ScaledHuber
from scaling.laws.forms.variables import check_amount
from tests.laws.derivatives import check_derivatives

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


def test_losses_of_residuals_are_those_of_scipy() -> None:
    """Huber's loss up to delta and beyond, its absolute limit, and half the square."""
    r = np.array([-0.05, -0.011, -0.01, -0.004, 0.0, 0.002, 0.01, 0.03])
    np.testing.assert_allclose(ResidualLoss("huber", 0.01).cost(r), huber(0.01, r), rtol=1e-14)
    np.testing.assert_allclose(ResidualLoss("huber").cost(r), huber(1e-3, r), rtol=1e-14)
    np.testing.assert_allclose(ResidualLoss("squared").cost(r), r**2 / 2, rtol=1e-14)
    np.testing.assert_allclose(ResidualLoss("l1").cost(r), np.abs(r), rtol=1e-14)
    # The stages of the absolute loss approach it.
    gaps = [np.abs(stage.cost(r) - np.abs(r)).max() for stage in ResidualLoss("l1").stages()]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-7


@pytest.mark.parametrize(("delta", "scale"), [(0.01, 1.0), (0.01, 100.0), (np.inf, 1.0)])
def test_derivatives_of_a_loss_are_differences(delta: float, scale: float) -> None:
    loss = ScaledHuber(delta, scale)
    r = np.array([-0.05, -0.011, -0.004, 0.002, 0.009, 0.03])  # none within a step of delta
    step = 1e-6
    np.testing.assert_allclose(
        loss.psi(r), (loss.cost(r + step) - loss.cost(r - step)) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(
        loss.psi_prime(r), (loss.psi(r + step) - loss.psi(r - step)) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(loss.irls_weight(r), loss.psi(r) / r, rtol=1e-12)


def test_coefficients_minimise_the_relative_error() -> None:
    """By another solver of least squares with bounds, where errors relative to the target and to
    another scale give different coefficients."""
    rng = np.random.default_rng(0)
    terms = rng.uniform(0.2, 5, (20, 2))
    target = terms @ [4.0, 7.0] * np.exp(0.05 * rng.standard_normal(20))
    for scale in (None, np.geomspace(1, 100, 20)):
        by = target if scale is None else scale
        known = lsq_linear(terms / by[:, None], target / by, (0, np.inf), tol=1e-14).x
        assert (known > 0.1).all()
        np.testing.assert_allclose(np.exp(project_coefficients(terms, target, scale)), known,
                                   rtol=1e-6)
    # A coefficient that would be zero gets two percent of the loss, where it still has a slope.
    up, down = np.linspace(1, 2, 20), np.linspace(2, 1, 20)
    log_a, log_b = project_coefficients(np.stack([up, down], axis=1), up**3)
    assert np.exp(log_b) * (down / up**3).mean() == pytest.approx(0.02)
    assert np.exp(log_a) > 1


def test_shares_of_the_terms_add_up_to_the_loss() -> None:
    form = FORMS["chinchilla"]
    n, d = np.array([1e6, 1e8, 1e9]), np.array([1e9, 1e10, 1e12])
    point = np.array([[1.7, 400.0, 900.0, 0.34, 0.28], [1.2, 300.0, 100.0, 0.3, 0.3]])
    shares = form.shares(form.from_params(point), form.coordinates({"n": n, "d": d}))
    for (e, a, b, alpha, beta), found in zip(point, shares, strict=True):
        terms = np.stack([np.full(3, e), a / n**alpha, b / d**beta])
        np.testing.assert_allclose(found, terms / terms.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", ["chinchilla", "q-family"])
def test_derivatives_of_a_constrained_form(name: str) -> None:
    """Of one parameter fixed and two tied, by differences."""
    form = constrain(FORMS[name], {"E": 1.3}, [("alpha", "beta")])
    rng = np.random.default_rng(0)
    values = {v: np.exp(rng.uniform(12, 18, size=12)) for v in ("n", "d")}
    x = form.coordinates(values)
    theta = form.starts(x, rng.uniform(2, 4, size=12))[[0, -1]]
    assert theta.shape[1] == len(form.parameters) - 2
    check_derivatives(form, theta, x, rng.standard_normal((2, 12)),
                      gradient_atol=1e-8, hessian_rtol=1e-4, hessian_atol=1e-5)
    printed = form.to_params(theta, np.zeros(2))
    names = list(form.parameters)
    np.testing.assert_allclose(printed[:, names.index("E")], 1.3, rtol=1e-14)
    np.testing.assert_allclose(printed[:, names.index("alpha")], printed[:, names.index("beta")])


def test_bounds_of_constraints_and_amounts() -> None:
    assert constrain(FORMS["chinchilla"], {"alpha": 10.0}).constraints["fixed"] == {"alpha": 10.0}
    with pytest.raises(UserError, match="at most 10"):
        constrain(FORMS["chinchilla"], {"alpha": 10.1})
    bounds = {"n": (1.0, 1e18), "d": (1.0, 1e20), "c": (6.0, 1e36)}
    for variable, (low, high) in bounds.items():
        for amount in (low, high):
            check_amount("x", amount, variable, "1e9")
        for amount in (low * 0.99, high * 1.01):
            with pytest.raises(UserError, match="is expected, from"):
                check_amount("x", amount, variable, "1e9")


def test_runs_on_an_envelope() -> None:
    """Of runs of equal compute only the best counts, and a later run has to be better than it."""
    n = np.array([1e6, 2e6, 1e6, 4e6, 4e6, 8e6])
    d = np.array([4e8, 2e8, 8e8, 2e8, 4e8, 4e8])
    loss = np.array([3.0, 2.9, 2.9, 2.7, 2.7, 2.6])
    frame = pd.DataFrame({"params_total": n, "tokens": d, "loss": loss})
    table = from_frame(frame, "runs")

    def on(name: str) -> list[tuple[float, float]]:
        rows = FORMS[name].fitted_rows(table)
        assert rows.tolist() == sorted(rows)
        return list(zip(table.n[rows], table.d[rows], strict=True))

    # 1e6 on 8e8 and 4e6 on 2e8 cost the same, and 2e6 on 2e8 as much as 1e6 on 4e8.
    assert on("kaplan-c") == [(2e6, 2e8), (4e6, 2e8), (8e6, 4e8)]
    assert on("kaplan-d") == [(4e6, 2e8), (8e6, 4e8)]
    # No token count is shared by all sizes.
    assert on("kaplan-n") == [(1e6, 8e8), (2e6, 2e8), (4e6, 2e8), (8e6, 4e8)]


def test_of_seeds_of_a_size_the_best_is_on_the_envelope() -> None:
    frame = pd.DataFrame({"params_total": [1e6, 1e6, 1e6, 2e6, 2e6, 2e6], "loss":
                          [3.1, 3.0, 2.8, 2.6, 2.7, 2.5],
                          "tokens": [1e8, 1e8, 4e8, 1e8, 1e8, 8e8]})
    table = from_frame(frame, "runs")
    rows = FORMS["kaplan-n"].fitted_rows(table)
    assert table.loss[rows].tolist() == [3.0, 2.6]  # on the 1e8 tokens of both sizes


def test_what_the_papers_count_fit_and_predict() -> None:
    """Kaplan's, Clark's, Krajewski's and DeepSeek's N leaves embeddings out, Hoffmann's does not;
    Gadre's fits are of the loss or of the error itself; and so on."""
    def having(attribute: str, value: object) -> set[str]:
        return {name for name, form in FORMS.items() if getattr(form, attribute) == value}

    assert having("counting", "non-embedding") == {
        "kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "kaplan-ns", "henighan-n", "henighan-d",
        "henighan-c", "ghorbani", "clark", "krajewski", "hernandez", "deepseek-lr",
        "deepseek-batch", "step-lr", "step-batch", "step-loss", "step-loss-lr", "parscale", "tao",
        "tao-vocabulary"}
    assert having("link", "identity") == {"gadre", "gadre-error", "olmo-accuracy", "tao"}
    for variable in "ndc":
        assert having("envelope", variable) == {f"kaplan-{variable}", f"henighan-{variable}"}
    adaptive = {name for name, form in FORMS.items() if form.robust.kind == "adaptive"}
    assert adaptive == {
        "kaplan-nd", "chinchilla", "henighan-n", "henighan-d", "henighan-c", "ghorbani",
        "q-family", "muennighoff", "farseer", "clark", "krajewski", "abnar", "kumar",
        "kumar-weights", "tissue", "skaling", "bryant", "schaipp", "tao", "jin", "step-loss",
        "step-loss-lr"}
    assert ResidualLoss("huber").delta == 1e-3  # Hoffmann et al. 2022, D.2
    losses = {name for name, form in FORMS.items() if form.outcome == "loss, nats per token"}
    assert set(FORMS) - losses == {
        "critical-batch", "zhai", "cherti", "hernandez", "gadre-error", "olmo-accuracy",
        "deepseek-lr", "deepseek-batch", "step-lr", "step-batch", "tao", "tao-vocabulary"}
    assert FORMS["kaplan-nd"].units == {"N_c": "parameters", "D_c": "tokens"}
    assert FORMS["kaplan-c"].units == {"C_c": "FLOP"}
    assert FORMS["m3-d"].units == {"gamma": "1/tokens"}
    # As many distinct values as the law has parameters in each variable, at least.
    distinct = {"kaplan-n": 2, "kaplan-nd": 3, "chinchilla": 3, "henighan-n": 3, "farseer": 4,
                "m1-n": 2, "m2-n": 3, "m3-n": 3, "m4-n": 5, "broken-n": 6, "zhai": 4,
                "gadre-error": 3, "olmo-accuracy": 4, "kumar": 3}
    assert {name: FORMS[name].distinct for name in distinct} == distinct
