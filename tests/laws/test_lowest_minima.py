"""The lowest minimum is found where usual starts end in another one, and it can be printed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from scaling.laws import FORMS, fit_law, from_frame
from scaling.laws.forms.form import MOST_EXPONENT
from scaling.laws.forms.wrapped import of_raw_outcome
from scaling.laws.table import RunsTable

TOKENS = np.geomspace(1e9, 1e12, 6)
SIZES = np.geomspace(1e7, 1e10, 6)
N, D = (axis.ravel() for axis in np.meshgrid(SIZES, TOKENS))


def _table(loss: np.ndarray, **others: np.ndarray) -> RunsTable:
    frame = pd.DataFrame({"N": N, "D": D, "loss": loss, **others})
    return from_frame(frame, "test", n="N", d="D", extra={name: name for name in others})


@pytest.mark.parametrize(("runs", "seed"), [(12, 16), (50, 17)])
def test_no_place_of_a_break_is_better(runs: int, seed: int) -> None:
    """A sharp break may lie between any two runs, and each place is a minimum. A scan of all places
    with several widths and floors, whose best points SciPy continues, finds none lower."""
    x = np.geomspace(1e9, 1e11, runs)
    noise = np.random.default_rng(seed).standard_normal(runs)
    y = np.log((0.8 + 117 * x**-0.21) * np.exp(0.02 * noise))
    log_x = np.log(x)

    def residuals(theta: np.ndarray) -> np.ndarray:
        log_floor, *linear, place, log_width = theta
        width = np.exp(max(log_width, -10.0))
        terms = [np.ones(runs), -log_x, -width * np.logaddexp(0, (log_x - place) / width)]
        return np.logaddexp(log_floor, linear @ np.array(terms)) - y

    scanned = []
    for place in np.linspace(log_x[0], log_x[-1], 60):
        for width in (0.01, 0.1, 0.5):
            terms = np.stack([np.ones(runs), -log_x,
                              -width * np.logaddexp(0, (log_x - place) / width)], axis=-1)
            for floor in np.exp(y.min()) * np.array([0.01, 0.5, 0.9, 0.98]):
                linear, *_ = np.linalg.lstsq(terms, np.log(np.exp(y) - floor), rcond=None)
                scanned.append(np.array([np.log(floor), *linear, place, np.log(width)]))
    scanned.sort(key=lambda theta: float((residuals(theta)**2).sum()))
    lowest = min(least_squares(residuals, theta, x_scale="jac").cost for theta in scanned[:10])
    frame = pd.DataFrame({"D": x, "loss": np.exp(y)})
    law = fit_law(from_frame(frame, "test", d="D", needs=("d",)), "broken-d", resamples=0)
    assert law.objective <= lowest * (1 + 1e-6)


def _sparse_runs(seed: int) -> dict[str, Any]:
    """Runs of Abnar's law whose terms of sparsity have the signs of none of its usual starts."""
    rng = np.random.default_rng(seed)
    sparsity = np.array([0, 0.5, 0.75, 0.9, 0.95, 0.98])[rng.permutation(36) % 6]
    params = np.array([[0.3, 200, 300, 0.5, 0.02, 0.3, 0.28, 0.14, -0.19, -0.12]])
    loss = FORMS["abnar"].loss(params, {"n": N, "d": D, "sparsity": sparsity})[0]
    return {"loss": loss * np.exp(0.01 * rng.standard_normal(36)), "sparsity": sparsity}


def test_wide_starts_find_terms_of_unusual_signs() -> None:
    runs = _table(**_sparse_runs(7))
    form = FORMS["abnar"]
    law = fit_law(runs, form, resamples=0)
    usual = fit_law(runs, replace(form, wide_grid={}), resamples=0)
    assert law.objective < 0.9 * usual.objective
    # No usual start ended at this optimum, and the fit says that.
    assert law.convergence["start_agreement"] == 0
    assert any("of the starts end at the best optimum" in warning for warning in law.warnings)


def test_a_minimum_whose_terms_are_dropped_must_still_be_the_lowest() -> None:
    """The lowest minimum has a term that rises with N and that the runs show no sign of; without
    it, it is above the minimum of the usual starts."""
    runs = _table(**_sparse_runs(15))
    form = FORMS["abnar"]
    law = fit_law(runs, form, resamples=0)
    usual = fit_law(runs, replace(form, wide_grid={}), resamples=0)
    assert law.objective == pytest.approx(usual.objective, rel=1e-6)
    assert law.convergence["start_agreement"] > 0.5


def test_an_exponent_without_a_bound_in_the_runs_has_one_in_the_fit() -> None:
    """The losses of the largest size alone are higher by .5, which no finite exponent fits best.
    All parameters are finite, and predict what was fitted."""
    loss = 1.7 + 400 * D**-0.28 + np.where(N > 5e9, 0.5, 0)
    law = fit_law(_table(loss), replace(FORMS["chinchilla"], grid={"alpha": (-40.0,)}),
                  resamples=0)
    assert law.params["alpha"] == -MOST_EXPONENT
    assert np.isfinite(list(law.params.values())).all()
    assert law.params["A"] > 0
    predicted = law.loss({"n": N, "d": D})
    assert float(law.residual_loss.cost(np.log(loss / predicted)).sum()) == pytest.approx(
        law.objective, rel=1e-6, abs=1e-20)
    assert any("alpha is at its bound of -25" in warning for warning in law.warnings)
    assert law.exponents["a"] is None


def test_a_power_at_its_bound_is_not_determined_nor_is_its_factor() -> None:
    """The floor of Farseer's law is higher at the largest size alone."""
    loss = 1.7 + 400 * D**-0.28 + np.where(N > 5e9, 0.5, 0)
    law = fit_law(_table(loss), "farseer", resamples=50)
    assert law.params["gamma"] == MOST_EXPONENT
    assert law.se["gamma"] is None
    assert law.se["a3"] is None
    np.testing.assert_allclose(law.loss({"n": N, "d": D}), loss, rtol=1e-3)


def test_a_large_power_predicts_what_was_fitted_to_raw_losses() -> None:
    loss = 1.7 + 400 * D**-0.28 + np.where(N > 5e9, 0.5, 0)
    law = fit_law(_table(loss), of_raw_outcome(FORMS["farseer"]), resamples=0)
    assert law.params["gamma"] == MOST_EXPONENT
    np.testing.assert_allclose(law.loss({"n": N, "d": D}), loss, rtol=1e-3)


def test_theta_of_farseers_law_may_be_at_other_sizes() -> None:
    """The same parameters predict the same losses, whichever sizes theta holds values at."""
    form = FORMS["farseer"]
    x = form.coordinates({"n": N, "d": D})
    params = np.array([[-0.2, -0.9, 0.1, 30.0, -20.0, -0.1, 0.5, 0.1, -0.05]])
    scaled = form.scaled_to(x)
    theta, other = form.from_params(params), scaled.from_params(params)
    assert not np.allclose(theta, other)
    np.testing.assert_allclose(scaled.predict(other, x), form.predict(theta, x), rtol=1e-12)
    np.testing.assert_allclose(scaled.to_params(other, np.zeros(2)), params, rtol=1e-9)
