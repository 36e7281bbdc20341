"""The loss about the best learning rate and batch, by hand, against SciPy, and on runs that do not
determine it; sparse pretraining's average parameter count."""

from __future__ import annotations

import re
from math import exp, log

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import least_squares

import scaling.laws as sl
from scaling.errors import DataError, UserError
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3, "H": 0.05, "k": 1.79,
         "gamma": 0.713, "delta": 0.307, "J": 0.02, "m": 0.58, "epsilon": 0.571, "omega": 0.4}
"""Rate and batch as in the Step law; the rest as in pretraining runs."""
FORM, ONE = sl.FORMS["step-loss"], sl.FORMS["step-loss-lr"]


def by_hand(p: dict[str, float], n: float, d: float, lr: float, batch: float | None) -> float:
    """The loss of one run, in powers instead of logarithms."""
    best = p["k"] * n ** -p["gamma"] * d ** p["delta"]
    loss = p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]
    if batch is not None:
        ratio = batch / (p["m"] * d ** p["epsilon"])
        best *= ratio ** p["omega"]
        loss += p["J"] / 2 * log(ratio) ** 2
    return loss + p["H"] / 2 * log(lr / best) ** 2


def grid(
    sizes: int = 3, ratios: tuple[float, ...] = (10, 40, 160), side: int = 3, noise: float = 0.0,
    seed: int = 0, batches: bool = True,
) -> pd.DataFrame:
    """A square of rates and batches for each N and D, in powers of two about the best ones."""
    rows: list[dict[str, float]] = []
    steps = 2.0 ** (np.arange(side) - side // 2)
    for n in np.geomspace(6e7, 1e9, sizes):
        for d in (n * ratio for ratio in ratios):
            batch = 2 ** round(log(TRUTH["m"] * d ** TRUTH["epsilon"], 2))
            lr = 2 ** round(log(TRUTH["k"] * n ** -TRUTH["gamma"] * d ** TRUTH["delta"], 2))
            rows += [{"n": n, "d": d, "lr": lr * i} | ({"batch": batch * j} if batches else {})
                     for i in steps for j in (steps if batches else [1])]
    frame = pd.DataFrame(rows)
    draw = np.random.default_rng(seed)
    frame["loss"] = [by_hand(TRUTH, row["n"], row["d"], row["lr"], row.get("batch"))
                     * exp(noise * draw.standard_normal()) for row in frame.to_dict("records")]
    return frame


@pytest.mark.parametrize("form", [FORM, ONE])
def test_the_loss_is_that_by_hand(form) -> None:
    frame = grid(batches=form is FORM)
    point = np.array([[TRUTH[p] for p in form.parameters]])
    values = {v: frame[v].to_numpy() for v in form.variables}
    np.testing.assert_allclose(form.loss(point, values)[0], frame["loss"], rtol=1e-12)
    again = form.to_params(form.from_params(point), np.zeros(len(values)))
    np.testing.assert_allclose(again, point)


@pytest.mark.parametrize("form", [FORM, ONE])
def test_derivatives_are_differences(form) -> None:
    frame = grid()
    x = form.coordinates({v: frame[v].to_numpy() for v in form.variables})
    theta = form.from_params(np.array([[TRUTH[p] for p in form.parameters]]))
    theta = np.concatenate([theta, 1.05 * theta])
    gradient = form.gradient(theta, x)[1]
    weights = np.random.default_rng(0).standard_normal(gradient.shape[:2])
    exact = form.hessian(theta, x, weights, gradient)
    differences = Form.hessian(form, theta, x, weights, gradient)
    np.testing.assert_allclose(exact, differences, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = 1e-6
        difference = (form.predict(theta + step, x) - form.predict(theta - step, x)) / 2e-6
        np.testing.assert_allclose(gradient[..., place], difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("form", [FORM, ONE])
def test_runs_without_noise_give_the_constants_back(form) -> None:
    """And all starts find them."""
    frame = grid(batches=form is FORM)
    x = form.coordinates({v: frame[v].to_numpy() for v in form.variables})
    y, centre = np.log(frame["loss"].to_numpy()), x.mean(axis=0)
    starts = form.starts(x - centre, np.exp(y))
    found = minimise(form, x - centre, y, np.ones((len(starts), len(y))), starts,
                     ResidualLoss("squared"))
    assert np.mean(found.value < 1e-18) > 0.9
    printed = form.to_params(found.theta[[int(found.value.argmin())]], centre)[0]
    np.testing.assert_allclose(printed, [TRUTH[p] for p in form.parameters], rtol=1e-5)


def test_the_constants_are_within_three_standard_errors() -> None:
    fit = sl.fit(grid(noise=0.002), "step-loss", n="n", d="d", resamples=0)
    assert fit.law.converged
    errors = [abs(fit.params[name] - value) / float(fit.law.se_delta[name] or 0)
              for name, value in TRUTH.items()]
    assert max(errors) < 3
    assert np.mean(errors) > 0.2  # the errors are no smaller than their standard errors say


@pytest.mark.parametrize("design", [
    {}, {"sizes": 4, "ratios": (10, 100)}, {"side": 4, "ratios": (10, 100), "noise": 0.01}])
def test_scipy_finds_no_lower_objective(design) -> None:
    """From eight starts about the truth, in the parameters as they are printed."""
    frame = grid(**{"noise": 0.003, "seed": 1} | design)
    fit = sl.fit(frame, "step-loss", n="n", d="d", objective="squared", resamples=0)
    residuals = np.log(frame["loss"]) - np.log(fit.law.loss(
        {v: frame[v] for v in FORM.variables}))
    ours = float(residuals @ residuals)
    names, signed = [*TRUTH], ("alpha", "beta", "gamma", "delta", "epsilon", "omega")
    n, d, lr, batch = (frame[v].to_numpy(float) for v in FORM.variables)

    def misses(z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            p = {name: v if name in signed else np.exp(v) for name, v in zip(names, z, strict=True)}
            v = np.log(batch) - np.log(p["m"]) - p["epsilon"] * np.log(d)
            u = (np.log(lr) - np.log(p["k"]) + p["gamma"] * np.log(n) - p["delta"] * np.log(d)
                 - p["omega"] * v)
            loss = (p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]
                    + p["H"] / 2 * u**2 + p["J"] / 2 * v**2)
            return np.nan_to_num(np.log(loss) - np.log(frame["loss"].to_numpy()), nan=10, posinf=10)

    centre = np.array([v if name in signed else log(v) for name, v in TRUTH.items()])
    draw = np.random.default_rng(0)
    spread = np.array([0.03 if name in signed else 0.3 for name in names])
    lowest = min(2 * least_squares(misses, centre + spread * draw.standard_normal(13) * (i > 0),
                                   x_scale="jac", max_nfev=100).cost for i in range(8))
    assert ours <= lowest * (1 + 1e-6)


@pytest.mark.parametrize(("kept", "names"), [
    ("lr", {"H", "k", "gamma", "delta", "omega"}), ("batch", {"J", "m", "epsilon", "omega"})])
def test_a_variable_that_follows_n_and_d_determines_nothing(kept: str, names: set[str]) -> None:
    frame = grid(noise=0.002)
    middle = frame.groupby(["n", "d"])[kept].transform(lambda each: each.sort_values().iloc[4])
    with pytest.raises(DataError, match="follows the other variables") as raised:
        sl.fit(frame[frame[kept] == middle], "step-loss", n="n", d="d", resamples=0)
    named = re.search(r"do not determine ([\w, ]+);", str(raised.value))
    assert named is not None
    assert {*named[1].split(", ")} == names
    sl.fit(frame, "step-loss", n="n", d="d", resamples=0)


def test_two_rates_are_too_few() -> None:
    frame = grid()
    frame["lr"] = np.where(frame["lr"] > frame["lr"].median(), 2e-3, 1e-3)
    with pytest.raises(DataError, match=r"2 distinct values of eta .* at least 3 are needed"):
        sl.fit(frame, "step-loss", n="n", d="d", resamples=0)


def test_the_square_root_rule_can_be_fixed() -> None:
    fit = sl.fit(grid(noise=0.002), "step-loss", n="n", d="d", resamples=0, fix={"omega": 0.5})
    assert fit.params["omega"] == 0.5
    assert fit.law.converged
    assert fit.params["H"] == pytest.approx(TRUTH["H"], rel=0.1)


@pytest.mark.parametrize(("start", "end", "sparsity"), [
    (0.25, 0.75, 0.8), (0, 1, 0.5), (0.3, 0.3, 0.9)])
def test_average_parameters_are_integrals_of_the_schedule(
    start: float, end: float, sparsity: float
) -> None:
    def share(x: float) -> float:
        progress = min(max((x - start) / (end - start), 0.0), 1.0) if end > start else x > start
        return 1 - sparsity * (1 - (1 - progress) ** 3)

    points = [start, end]
    mean = quad(share, 0, 1, points=points)[0]
    harmonic = 1 / quad(lambda x: 1 / share(x), 0, 1, points=points)[0]
    of_tokens = sl.average_parameters(1e9, sparsity, start=start, end=end, of="tokens")
    assert of_tokens == pytest.approx(1e9 * mean, rel=1e-7)
    found = sl.average_parameters(1e9, sparsity, start=start, end=end)
    assert found == pytest.approx(1e9 * harmonic, rel=1e-7)
    assert 1e9 * (1 - sparsity) < found < of_tokens < 1e9


def test_average_parameters_by_hand() -> None:
    """Half of training dense and half at 80% sparsity: 0.6 N of tokens, 1/3 N of compute."""
    for of, share in (("tokens", 0.6), ("compute", 1 / 3)):
        found = sl.average_parameters(1e9, 0.8, start=0.5, end=0.5, of=of)
        assert found == pytest.approx(share * 1e9)
    assert sl.average_parameters(1e9, 0) == 1e9
    assert sl.average_parameters(1e9, 0.8, of="tokens") == pytest.approx(5e8)


@pytest.mark.parametrize(("given", "said"), [
    ({"sparsity": 1.0}, "sparsity=1"), ({"sparsity": -0.1}, "sparsity=-0.1"), ({"n": 0}, "n=0"),
    ({"start": 0.8}, "start=0.8, end=0.75"), ({"end": 1.1}, "end=1.1"),
    ({"n": float("nan")}, "n=nan")])
def test_an_impossible_schedule_is_named(given: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sl.average_parameters(**{"n": 1e9, "sparsity": 0.5} | given)
