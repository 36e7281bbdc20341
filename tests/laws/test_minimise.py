"""Batched minimisation, against regressions by hand, SciPy, and a single fit at a time."""

from __future__ import annotations

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from scipy.optimize import minimize

from scaling.laws import FORMS, PowerSum, ResidualLoss, Term
from scaling.laws.fitting import minimise as module
from scaling.laws.fitting.minimise import minimise

POWER = PowerSum(
    name="power", formula="A/D^alpha", source="a test", variables=("d",),
    parameters=("A", "alpha"), terms=(Term("A", (("d", "alpha"),)),),
)
RNG = np.random.default_rng(0)
D = np.geomspace(1e6, 1e9, 12)
Y = np.log(30 / D**0.2) + 0.02 * RNG.standard_normal((5, 12))
WEIGHTS = RNG.integers(0, 4, (5, 12)).astype(float)
STARTS = POWER.from_params(np.array([[1.0, 0.5]] * 5))


def _power(robust: ResidualLoss, rows: slice = slice(None)):  # type: ignore[no-untyped-def]
    return minimise(POWER, POWER.coordinates({"d": D}), Y[rows], WEIGHTS[rows], STARTS[rows],
                    robust)


def test_a_power_law_is_a_weighted_regression() -> None:
    """log L = log A - alpha log D: least squares, with a design matrix and its normal equations."""
    found = _power(ResidualLoss("squared"))
    assert found.converged.all()
    at = POWER.to_params(found.theta, np.zeros(1))
    for y, w, params, value, hessian in zip(Y, WEIGHTS, at, found.value, found.hessian,
                                            strict=True):
        slope, level = np.polyfit(np.log(D), y, 1, w=np.sqrt(w))
        assert params == pytest.approx([np.exp(level), -slope], rel=1e-7)
        left = y - level - slope * np.log(D)
        assert value == pytest.approx((w * left**2).sum() / 2, rel=1e-9)
        x = POWER.gradient(STARTS[:1], POWER.coordinates({"d": D}))[0][0]
        assert x.shape == (12,)
        jacobian = POWER.gradient(STARTS[:1], POWER.coordinates({"d": D}))[1][0]
        np.testing.assert_allclose(hessian, jacobian.T @ (w[:, None] * jacobian), rtol=1e-9)
    np.testing.assert_allclose(found.gradient, 0, atol=1e-9)


@pytest.mark.parametrize("kind", ["huber", "l1"])
def test_robust_minima_are_as_low_as_scipys(kind: str) -> None:
    found = _power(ResidualLoss(kind, 0.01))  # type: ignore[arg-type]
    assert found.converged.all()
    for row, (y, w) in enumerate(zip(Y, WEIGHTS, strict=True)):
        def total(line: np.ndarray, y: np.ndarray = y, w: np.ndarray = w) -> float:
            size = np.abs(y - line[0] - line[1] * (np.log(D) - 17))
            huber = np.where(size <= 0.01, size**2 / 2, 0.01 * (size - 0.005))
            return float(w @ (size if kind == "l1" else 100 * huber))

        log_a, alpha = np.log(POWER.to_params(found.theta, np.zeros(1))[row, 0]), POWER.to_params(
            found.theta, np.zeros(1))[row, 1]
        here = total(np.array([log_a - 17 * alpha, -alpha]))
        assert found.value[row] * (1 if kind == "l1" else 100) == pytest.approx(here, rel=1e-9)
        best = minimize(total, [log_a - 17 * alpha, -alpha], method="Nelder-Mead",
                        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000}).fun
        assert here <= best * (1 + 1e-4)
        slope, level = np.polyfit(np.log(D) - 17, y, 1, w=np.sqrt(w))
        assert here < total(np.array([level, slope]))  # which is not that of least squares


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_each_problem_is_solved_as_if_alone(kind: str, monkeypatch) -> None:
    """With outcomes, weights and a start of its own, whatever blocks the batch is divided into."""
    robust = ResidualLoss(kind, 0.01)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_BLOCK", 24)  # two problems of twelve runs
    together = _power(robust)
    for row in range(5):
        alone = _power(robust, slice(row, row + 1))
        for name in ("theta", "value", "gradient", "hessian", "converged"):
            np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name)[0],
                                       rtol=1e-6, atol=1e-9, err_msg=name)
    assert len(np.unique(together.value)) == 5


def test_the_curvature_at_the_minimum_is_that_of_the_objective() -> None:
    form, robust = FORMS["chinchilla"], ResidualLoss("squared")
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11,
                                                                                         4)))
    loss = 1.8 + 480 / n**0.35 + 2000 / d**0.37
    x = form.coordinates({"n": n, "d": d, "c": 6 * n * d})
    y = np.log(loss) + 0.05 * np.random.default_rng(1).standard_normal(16)
    w = np.random.default_rng(2).integers(1, 4, (1, 16)).astype(float)
    start = form.from_params(np.array([[1.5, 300.0, 900.0, 0.3, 0.33]]))
    found = minimise(form, x, y, w, start, robust)
    assert found.converged.all()

    def slopes(theta: np.ndarray) -> np.ndarray:
        predicted, jacobian = form.gradient(theta[None], x)
        return np.asarray(-((w[0] * (y - predicted[0])) @ jacobian[0]))

    for place in range(5):
        step = 1e-5 * np.eye(5)[place]
        by_difference = (slopes(found.theta[0] + step) - slopes(found.theta[0] - step)) / 2e-5
        np.testing.assert_allclose(found.hessian[0, place], by_difference, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.gradient[0], slopes(found.theta[0]), atol=1e-9)


def test_types_are_checked_while_tests_run() -> None:
    """By the import hook of tests/conftest.py."""
    x = POWER.coordinates({"d": D})
    with pytest.raises(BeartypeCallHintParamViolation, match="form"):
        minimise("power", x, Y, WEIGHTS, STARTS, ResidualLoss("squared"))  # type: ignore[arg-type]


def test_what_cannot_be_evaluated_has_not_converged() -> None:
    starts = STARTS.copy()
    starts[1] = np.nan
    x = POWER.coordinates({"d": D})
    found = minimise(POWER, x, Y, WEIGHTS, starts, ResidualLoss("squared"))
    assert found.converged.tolist() == [True, False, True, True, True]
    none = minimise(POWER, x, Y, WEIGHTS, np.full_like(starts, np.nan), ResidualLoss("squared"))
    assert not none.converged.any()


def test_a_valley_in_which_a_term_vanishes_is_followed_to_its_end() -> None:
    """Losses without a term of D: all starts find one minimum, far from where they begin."""
    form, rng = FORMS["chinchilla"], np.random.default_rng(0)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 6),
                                                 np.geomspace(1e8, 1e11, 6)))
    y = np.log(1.8 + 480 / n**0.35) + 0.01 * rng.standard_normal(36)
    starts = form.from_params(np.exp(rng.normal(0, 0.3, (6, 5)))
                              * np.array([1.5, 300, 900, 0.3, 0.3]))
    found = minimise(form, form.coordinates({"n": n, "d": d, "c": 6 * n * d}), y, np.ones((6, 36)),
                     starts, ResidualLoss("huber"))
    assert found.converged.all()
    assert np.abs(found.gradient).max() < 1e-8
    np.testing.assert_allclose(found.value, found.value[0], rtol=1e-9)


@pytest.mark.parametrize("floor", [0.0, 1e-4, 1.8])
@pytest.mark.parametrize("start", [0.0, 1e-6, 0.5])
def test_a_constant_goes_to_zero_and_comes_from_it(floor: float, start: float) -> None:
    """Whatever the constant is and wherever it begins, the minimum is no higher than SciPy's, by
    L-BFGS-B with the constant bounded by zero from three starts."""
    form, rng = FORMS["chinchilla"], np.random.default_rng(5)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 6),
                                                 np.geomspace(1e8, 1e11, 6)))
    loss = (floor + 480 / n**0.35 + 2000 / d**0.37) * np.exp(0.01 * rng.standard_normal(36))
    begin = form.from_params(np.array([[start, 300.0, 900.0, 0.3, 0.33]]))
    found = minimise(form, form.coordinates({"n": n, "d": d}), np.log(loss), np.ones((1, 36)),
                     begin, ResidualLoss("squared"))
    assert found.converged.all()

    def total(p: np.ndarray) -> float:
        with np.errstate(over="ignore"):
            predicted = (max(p[0], 0.0) + np.exp(p[1] - p[3] * np.log(n / 3e7))
                         + np.exp(p[2] - p[4] * np.log(d / 3e9)))
        return 0.5 * float(((np.log(loss) - np.log(predicted))**2).sum())

    least = min(
        minimize(total, [e, 0.0, 0.0, 0.35, 0.37], method="L-BFGS-B",
                 bounds=[(0, None), *[(None, None)] * 4],
                 options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}).fun
        for e in (0.0, 0.5, 1.8))
    assert found.value[0] <= least * (1 + 1e-6)
