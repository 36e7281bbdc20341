"""Laws of pretraining beyond Kaplan's and Hoffmann's: their formulas, fits and published constants.

Formulas are written again here, one run at a time, so that an error would have to be made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, log10
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

import scaling.laws as sl
from scaling.errors import DataError, UserError
from scaling.laws import FORMS, Form, ResidualLoss, fit_law, from_frame, published
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms import (
    annealing,
    batch,
    data,
    experts,
    farseer,
    mixture,
    powers,
    precision,
    pruning,
    streams,
    vocabulary,
)
from scaling.laws.forms.annealing import annealing_areas
from scaling.laws.forms.batch import critical_batch, minimum_compute, minimum_steps
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.mixture import data_mixture

_SIZES, _TOKENS = np.geomspace(1e7, 1e10, 9), np.geomspace(1e8, 3e11, 8)
_N, _D = np.repeat(_SIZES, 8), np.tile(_TOKENS, 9)
_RUNS = np.arange(72)
_S1, _S2 = (area[40:4000:55] for area in annealing_areas(
    np.r_[np.full(3000, 1.0), np.linspace(1, 0.1, 1000)]))


def _cycle(*values: float) -> np.ndarray:
    return np.array(values)[_RUNS % len(values)]


VALUES = {
    "n": _N, "d": _D, "c": 6 * _N * _D, "u": np.minimum(_D, _cycle(1e9, 1e10, 1e12)),
    "s": _D / 1e5, "l": np.linspace(2, 5, 72), "experts": _cycle(1, 2, 4, 8, 32, 128, 512),
    "granularity": _cycle(1, 2, 4, 8, 16), "sparsity": _cycle(0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.25),
    "bits": _cycle(3, 4, 6, 8, 16), "encoder": _N, "decoder": _D / 1e2,
    "lr_area": _S1, "drop_area": _S2, "batch": _cycle(3e4, 1e5, 3e5, 1e6, 4e6),
    "streams": _cycle(1, 2, 4, 8), "n_average": _N, "vocabulary": _cycle(1e6, 1e7, 1e8, 3e6, 5e7),
    "share1": _cycle(0, 0.25, 0.5, 0.1, 0.3), "share2": _cycle(0.2, 0.1, 0),
    "share3": _cycle(0.1, 0, 0.05, 0.2),
}
"""Of 72 runs."""

TRUTH: dict[str, dict[str, float]] = {
    "kaplan-ns": published()["kaplan2020-ns"].law.params,
    "critical-batch": published()["kaplan2020-batch"].law.params,
    "henighan-n": {"L_inf": 1.2, "N_0": 1e9, "alpha_N": 0.2},
    "henighan-d": {"L_inf": 1.2, "D_0": 1e9, "alpha_D": 0.2},
    "henighan-c": {"L_inf": 1.2, "C_0": 1e18, "alpha_C": 0.1},
    "ghorbani": {"L_inf": 1.0, "A": 3000.0, "p_e": 0.18, "p_d": 0.31},
    "q-family": {"E": 1.7, "A": 400, "B": 1500, "alpha": 0.34, "beta": 0.3, "q": 0.6},
    "muennighoff": {"E": 1.87, "A": 521, "B": 1488, "alpha": 0.36, "beta": 0.35, "R_D": 15.4,
                    "R_N": 5.3},
    "gadre": published()["gadre2024-c4"].law.params,
    "farseer": {"a1": -0.124, "b1": 0.424, "alpha": 0.123, "a2": 88.0, "b2": -6.29, "beta": -0.1,
                "a3": -0.021, "b3": 0.091, "gamma": 0.169},
    "clark": published()["clark2022-s-base"].law.params,
    "krajewski": published()["krajewski2024"].law.params,
    "abnar": published()["abnar2025"].law.params,
    "kumar": {"E": 2.0, "A": 400, "B": 1500, "alpha": 0.34, "beta": 0.3, "gamma": 2.2},
    "kumar-weights": {"E": 2.0, "A": 400, "B": 1500, "alpha": 0.34, "beta": 0.3, "gamma": 2.67},
    "skaling": {"E": 1.7, "A": 2e4, "B": 2e5, "alpha": 0.57, "beta": 0.5, "k": 0.6},
    "bryant": {"E": 1.7, "L_0": 10.5, "A": 40.0, "B": 150.0, "C": 0.1, "alpha": 0.3, "beta": 0.3,
               "gamma": 0.5, "delta": 0.6},
    "schaipp": {"E": 1.7, "A": 400.0, "B": 30.0, "C": 20.0, "alpha": 0.34, "gamma": 0.45,
                "beta": 0.4},
    "jin": {"E": 1.7, "A": 400, "B": 1500, "alpha": 0.34, "beta": 0.3},
    "parscale": published()["chen2025-stack"].law.params,
    "tao": published()["tao2024"].law.params,
    "tao-vocabulary": published()["tao2024-vocabulary"].law.params,
    "ye-1": {"c": 1.11, "k": 0.5, "t1": -1.65},
    "ye-2": {"c": 1.2, "k": 0.55, "t1": -2.5, "t2": 0.7},
    "ye-3": {"c": 1.2, "k": 0.55, "t1": -2.5, "t2": 0.7, "t3": -1.0},
    "tissue": {"L_0": 2.6, "A": 4.0, "C": 4e-4, "alpha": 0.55},
}
"""Constants as papers print them, or like them."""


def _by_hand(name: str, p: dict[str, float], v: dict[str, float]) -> float:
    """The outcome of one run, from the formulas of the papers."""
    n, d = v.get("n", 0.0), v.get("d", 0.0)
    if name == "kaplan-ns":
        return (p["N_c"] / n) ** p["alpha_N"] + (p["S_c"] / v["s"]) ** p["alpha_S"]
    if name == "critical-batch":
        return p["B_star"] / v["l"] ** (1 / p["alpha_B"])
    if name.startswith("henighan"):
        (x,) = v.values()
        limit, scale, alpha = p.values()
        return limit + (scale / x) ** alpha
    if name == "ghorbani":
        return p["L_inf"] + p["A"] * v["encoder"] ** -p["p_e"] * v["decoder"] ** -p["p_d"]
    if name == "q-family":
        of_n, of_d = p["A"] / n ** p["alpha"], p["B"] / d ** p["beta"]
        return p["E"] + (of_n ** (1 / p["q"]) + of_d ** (1 / p["q"])) ** p["q"]
    if name == "muennighoff":
        alpha, beta, a, b = p["alpha"], p["beta"], p["A"], p["B"]
        g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        u_d = min(d, v["u"])
        # The compute at which u_d tokens are optimal, and the N that is optimal there.
        c = 6 * (g * u_d) ** ((alpha + beta) / alpha)
        u_n = min(n, g * (c / 6) ** (beta / (alpha + beta)))
        data = u_d + u_d * p["R_D"] * (1 - exp(-(d / u_d - 1) / p["R_D"]))
        size = u_n + u_n * p["R_N"] * (1 - exp(-(n / u_n - 1) / p["R_N"]))
        return p["E"] + a / size**alpha + b / data**beta
    if name == "gadre":
        m, c = d / n, v["c"]
        return p["E"] + (p["A"] * m ** p["eta"] + p["B"] * m ** -p["eta"]) * c ** -p["eta"]
    if name == "farseer":
        slope = exp(p["a1"] * n ** p["alpha"] + p["b1"])
        return (exp(p["a3"] * n ** p["gamma"] + p["b3"])
                + exp(p["a2"] * n ** p["beta"] + p["b2"]) * d**-slope)
    if name == "clark":
        start, most = p["E_start"], p["E_max"]
        inverse = 1 / (v["experts"] - 1 + 1 / (1 / start - 1 / most)) + 1 / most
        x, y = log10(n), -log10(inverse)
        return 10 ** (p["a_N"] * x + p["b_E"] * y + p["c_NE"] * x * y + p["d"])
    if name == "krajewski":
        of_n = (p["g"] / v["granularity"] ** p["gamma"] + p["A"]) / n ** p["alpha"]
        return p["E"] + of_n + p["B"] / d ** p["beta"]
    if name == "abnar":
        active = 1 - v["sparsity"]
        return (p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]
                + p["c"] / active ** p["lambda"]
                + p["d"] / (active ** p["delta"] * n ** p["gamma"]))
    if name.startswith("kumar"):
        worth = (1 - exp(-v["bits"] / p["gamma"])) ** (1 if name.endswith("weights") else 3)
        return p["E"] + p["A"] / (n * worth) ** p["alpha"] + p["B"] / d ** p["beta"]
    if name == "skaling":
        return p["E"] + (p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]) ** p["k"]
    if name == "bryant":
        small, short = p["A"] / n ** p["alpha"], p["B"] / d ** p["beta"]
        h = small + short + p["C"] * n ** p["gamma"] / min(d, v["u"]) ** p["delta"]
        return p["E"] + (p["L_0"] - p["E"]) * h / (1 + h)
    if name == "schaipp":
        return (p["E"] + p["A"] / n ** p["alpha"] + p["B"] / v["batch"] ** p["gamma"]
                + p["C"] / v["s"] ** p["beta"])
    if name == "jin":
        return p["E"] + p["A"] / v["n_average"] ** p["alpha"] + p["B"] / d ** p["beta"]
    if name == "parscale":
        return (p["A"] / (n * (p["k"] * log(v["streams"]) + 1))) ** p["alpha"] + p["E"]
    if name == "tao":
        return (p["A1"] / n ** p["alpha1"] + p["A2"] / v["vocabulary"] ** p["alpha2"]
                + p["B"] / d ** p["beta"] - p["E"])
    if name == "tao-vocabulary":
        return p["k"] * n ** p["gamma"]
    if name.startswith("ye-"):
        return p["c"] + p["k"] * exp(sum(p[f"t{share[-1]}"] * r for share, r in v.items()))
    assert name == "tissue"
    return p["L_0"] + p["A"] * v["lr_area"] ** -p["alpha"] - p["C"] * v["drop_area"]


def _outcomes(name: str) -> tuple[Form, dict[str, np.ndarray], np.ndarray]:
    form = FORMS[name]
    values = {v: VALUES[v] for v in form.variables}
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return form, values, np.array([_by_hand(name, TRUTH[name], row) for row in rows])


def test_every_form_here_is_tested() -> None:
    files = (batch, powers, data, farseer, experts, precision, annealing, mixture, streams,
             vocabulary, pruning)
    names = [form.name for file in files for form in file.FORMS]
    assert set(names) == set(TRUTH)
    assert set(names) <= set(FORMS)
    for name in names:
        form = FORMS[name]
        assert set(form.units) <= set(form.parameters)
        assert set(form.exponents) <= set(form.parameters)
        assert form.scaling_params <= set(form.parameters)
        assert not {"a", "b"} & set(form.parameters)  # names of the exponents of allocation


@pytest.mark.parametrize("name", list(TRUTH))
def test_formulas_equal_those_of_the_papers(name: str) -> None:
    form, values, outcome = _outcomes(name)
    point = np.array([[TRUTH[name][p] for p in form.parameters]])
    np.testing.assert_allclose(form.loss(point, values)[0], outcome, rtol=1e-10)
    again = form.to_params(form.from_params(point), np.zeros(len(values)))
    np.testing.assert_allclose(again, point)


@pytest.mark.parametrize("name", list(TRUTH))
def test_gradients_are_differences(name: str) -> None:
    form, values, outcome = _outcomes(name)
    x = form.coordinates(values)
    starts = form.starts(x, outcome)
    for theta in (form.from_params(np.array([[TRUTH[name][p] for p in form.parameters]])),
                  starts[[0, -1]]):
        prediction, gradient = form.gradient(theta, x)
        np.testing.assert_allclose(prediction, form.predict(theta, x), rtol=1e-10)
        for place in range(theta.shape[1]):
            step = np.zeros(theta.shape[1])
            step[place] = 1e-6
            ahead, behind = form.predict(theta + step, x), form.predict(theta - step, x)
            np.testing.assert_allclose(gradient[..., place], (ahead - behind) / 2e-6,
                                       rtol=1e-5, atol=1e-7 * abs(prediction).max())


@pytest.mark.parametrize("name", list(TRUTH))
def test_curvatures_are_differences_of_gradients(name: str) -> None:
    form, values, _ = _outcomes(name)
    x = form.coordinates(values)
    theta = form.from_params(np.array([[TRUTH[name][p] for p in form.parameters]]))
    weights = np.random.default_rng(0).standard_normal((1, len(x)))
    curvature = form.hessian(theta, x, weights, form.gradient(theta, x)[1])
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = 1e-5
        ahead, behind = (form.gradient(theta + s * step, x)[1] for s in (1, -1))
        difference = np.einsum("br,brp->bp", weights, ahead - behind) / 2e-5
        np.testing.assert_allclose(curvature[:, place], difference, rtol=1e-4,
                                   atol=1e-9 + 1e-5 * np.abs(curvature).max())


@pytest.mark.parametrize("name", list(TRUTH))
def test_runs_without_noise_give_the_constants_back(name: str) -> None:
    """And all starts find them."""
    form, values, outcome = _outcomes(name)
    x, y = form.coordinates(values), form.apply_link(outcome)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    starts = form.starts(x - centre, outcome)
    assert len(starts) > 1
    found = minimise(form, x - centre, y, np.ones((len(starts), len(y))), starts, form.robust)
    best = int(found.value.argmin())
    assert found.converged[best]
    assert np.mean(found.value < len(y) * 1e-20) > 0.9
    printed = form.to_params(found.theta[[best]], centre)[0]
    np.testing.assert_allclose(printed, [TRUTH[name][p] for p in form.parameters], rtol=1e-6)


def test_minimum_steps_and_compute() -> None:
    """At the critical batch size a run takes twice the steps and twice the compute it need."""
    at_two = critical_batch(2.0, 2e8, 0.21)
    assert at_two == pytest.approx(2e8 * 2 ** (-1 / 0.21))
    assert minimum_steps(1000.0, at_two, at_two) == pytest.approx(500)
    assert minimum_compute(1e18, at_two, at_two) == pytest.approx(5e17)
    # McCandlish's trade-off: (S/S_min - 1)(D/D_min - 1) = 1, with D = B S and C_min/C = D_min/D.
    s, b = np.full(4, 1e4), np.geomspace(1e4, 1e8, 4)
    more_steps = s / minimum_steps(s, b, at_two) - 1
    more_tokens = b * s / minimum_compute(b * s, b, at_two) - 1
    np.testing.assert_allclose(more_steps * more_tokens, 1)
    law = published()["kaplan2020-batch"].law
    assert law is not None
    assert law.loss({"l": np.array([2.0])})[0] == pytest.approx(at_two)


def test_kaplans_compute_law_is_of_the_corrected_compute() -> None:
    """A run at 32 times the critical batch size wastes all but a 33rd of its compute."""
    law = published()["kaplan2020-c-min"].law
    assert law is not None
    c_min = minimum_compute(33 * 8.64e19, 32.0, 1.0)
    assert law.loss({"c": np.array([c_min])})[0] == pytest.approx(3.1e8**0.05)


def test_the_family_contains_hoffmanns_and_kaplans_laws() -> None:
    form, at = FORMS["q-family"], {"n": _N, "d": _D}
    hoffmann = np.array([[1.7, 406.4, 410.7, 0.34, 0.28]])
    np.testing.assert_allclose(form.loss(np.append(hoffmann, [[1.0]], axis=1), at),
                               FORMS["chinchilla"].loss(hoffmann, at), rtol=1e-12)
    n_c, d_c, alpha_n, alpha_d = 6.4e13, 1.8e13, 0.076, 0.103
    kaplan = np.array([[0.0, n_c**alpha_n, d_c**alpha_d, alpha_n, alpha_d, alpha_d]])
    np.testing.assert_allclose(
        form.loss(kaplan, at),
        FORMS["kaplan-nd"].loss(np.array([[n_c, d_c, alpha_n, alpha_d]]), at), rtol=1e-12)


def test_the_power_of_a_sum_is_the_family() -> None:
    """L = E + (A N^-alpha + B D^-beta)^k, with A^k, B^k, k alpha, k beta and k in the family."""
    at = {"n": _N, "d": _D}
    own, family = FORMS["skaling"], FORMS["q-family"]
    e, a, b, alpha, beta, k = 1.7, 2e4, 2e5, 0.57, 0.5, 0.6
    point = np.array([[e, a, b, alpha, beta, k]])
    same = np.array([[e, a**k, b**k, k * alpha, k * beta, k]])
    np.testing.assert_allclose(own.loss(point, at), family.loss(same, at), rtol=1e-12)
    np.testing.assert_allclose(own.optimum(point, 1e21), family.optimum(same, 1e21), rtol=1e-12)
    np.testing.assert_allclose(own.allocation_exponent(point), family.allocation_exponent(same))
    # Fits to the same runs find the same law, and either can be held at Chinchilla's.
    noise = np.exp(2e-3 * np.random.default_rng(0).standard_normal(72))
    frame = pd.DataFrame({"params_total": _N, "tokens": _D,
                          "loss": own.loss(point, at)[0] * noise})[::2]
    table = from_frame(frame, "runs")
    laws = [fit_law(table, name, resamples=0, robust=ResidualLoss("squared"))
            for name in ("skaling", "q-family")]
    assert laws[0].objective == pytest.approx(laws[1].objective, rel=1e-9)
    found = laws[0].params
    assert found["A"] ** found["k"] == pytest.approx(laws[1].params["A"], rel=1e-3)
    assert found["alpha"] * found["k"] == pytest.approx(laws[1].params["alpha"], rel=1e-4)
    held = fit_law(table, constrain(own, {"k": 1.0}), resamples=0)
    assert held.params["alpha"] == pytest.approx(
        fit_law(table, "chinchilla", resamples=0).params["alpha"], rel=1e-6)


def test_saturation_is_chinchillas_law_where_the_loss_is_near_its_floor() -> None:
    form = FORMS["bryant"]
    params = TRUTH["bryant"] | {"C": 1e-12}
    at = {"n": np.array([1e15]), "d": np.array([1e16]), "u": np.array([1e16])}
    scale = params["L_0"] - params["E"]
    near = FORMS["chinchilla"].loss(np.array([[params["E"], scale * params["A"],
                                               scale * params["B"], 0.3, 0.3]]), at)
    point = np.array([[params[p] for p in form.parameters]])
    np.testing.assert_allclose(form.loss(point, at), near, rtol=1e-4)
    # Without parameters or tokens nothing is learnt; more parameters on few tokens overfit.
    none = form.loss(point, {"n": np.array([1e-9]), "d": np.ones(1), "u": np.ones(1)})
    assert none[0, 0] == pytest.approx(params["L_0"], rel=1e-3)
    full = np.array([[TRUTH["bryant"][p] for p in form.parameters]])
    few = form.loss(full, {"n": np.array([1e8, 1e12]), "d": np.full(2, 1e9), "u": np.full(2, 1e6)})
    assert few[0, 1] > few[0, 0]


def test_the_best_batch_is_a_power_of_the_tokens() -> None:
    """At given tokens D = B S the three-term law has its minimum at B ~ D^(beta/(beta + gamma))."""
    form, p = FORMS["schaipp"], TRUTH["schaipp"]
    point = np.array([[p[name] for name in form.parameters]])
    best = []
    for d in (1e9, 1e11):
        b = np.geomspace(1e3, 1e8, 20001)
        loss = form.loss(point, {"n": np.full(b.shape, 1e8), "batch": b, "s": d / b})[0]
        best.append(b[loss.argmin()])
    assert log10(best[1] / best[0]) / 2 == pytest.approx(0.4 / 0.85, abs=1e-3)


# Losses of Chen et al. 2025 after 42 billion tokens of Stack-V2 Python, and non-embedding
# parameters, by streams and size.
_STREAM_SIZES = [
    [535813376, 693753856, 1088376320, 1571472384, 2774773760, 4353203200],
    [538195842, 696738818, 1092762882, 1577522690, 2784937986, 4368529922],
    [540577412, 699722756, 1097148164, 1583571460, 2795100164, 4383854084],
    [545340552, 705690632, 1105918728, 1595669000, 2815424520, 4414502408]]
_STREAM_LOSSES = [[1.1722, 1.1496, 1.1131, 1.0817, 1.0451, 1.0213],
                  [1.1507, 1.1262, 1.0940, 1.0623, 1.0244, 1.0025],
                  [1.1354, 1.1124, 1.0808, 1.0490, 1.0126, 0.9906],
                  [1.1231, 1.0997, 1.0688, 1.0383, 1.0016, 0.9794]]


def test_parallel_streams_as_published() -> None:
    """The authors print k = 0.39 and an R2 of 0.9978 for these runs."""
    frame = pd.DataFrame({"n": np.ravel(_STREAM_SIZES), "loss": np.ravel(_STREAM_LOSSES),
                          "streams": np.repeat([1, 2, 4, 8], 6)})
    table = from_frame(frame, "runs", n="n", needs=("n",), extra={"streams": None})
    law = fit_law(table, "parscale", resamples=0)
    assert law.convergence["start_agreement"] == 1
    assert round(law.params["k"], 2) == 0.39
    residuals = table.loss - law.loss(table.values)
    assert 1 - residuals.var() / table.loss.var() == pytest.approx(0.9978, abs=5e-5)
    assert law.params == pytest.approx(published()["chen2025-stack"].law.params, rel=1e-5)


def test_the_optimal_vocabulary_as_published() -> None:
    """The loss's minimum over the vocabulary at a fixed compute, C = 6 (N + N_v) D, is at the
    authors' 60, 218 and 37 thousand tokens for models of 7, 70 and 3 billion parameters. C is the
    authors' optimum for N, and their widths are 4096, 8192 and 3200."""
    law, other = published()["tao2024"].law, published()["tao2024-vocabulary"].law
    for n, width, thousands in ((7e9, 4096, 60), (7e10, 8192, 218), (3e9, 3200, 37)):
        c = (n * exp(2.4846510161625193)) ** 2

        def loss(log_v: float, n: float = n, c: float = c) -> float:
            v = np.exp([log_v])
            return float(law.loss({"n": np.array([n]), "vocabulary": v, "d": c / 6 / (n + v)})[0])

        best = exp(minimize_scalar(loss, bounds=(log(1e6), log(1e11)), method="bounded",
                                   options={"xatol": 1e-9}).x)
        assert best / width == pytest.approx(1e3 * thousands, rel=0.015)
        # The derivative-based approach agrees within 20%, as the paper says of its approaches.
        assert other.loss({"n": np.array([n])})[0] == pytest.approx(best, rel=0.2)


def test_unigram_normalised_losses_are_negative() -> None:
    """They are read, fitted and predicted; a law of another loss refuses them."""
    _, values, outcome = _outcomes("tao")
    assert (outcome < 0).any()
    frame = pd.DataFrame({**values, "loss": outcome})
    columns = {"n": "n", "d": "d", "extra": {"vocabulary": None}}
    found = sl.fit(frame, "tao", resamples=0, **columns)
    assert found.law.converged
    assert found.predict(n=7e9, d=1.4e11, vocabulary=2e8) == pytest.approx(
        _by_hand("tao", TRUTH["tao"], {"n": 7e9, "d": 1.4e11, "vocabulary": 2e8}), rel=1e-6)
    with pytest.raises(UserError, match="positive number is expected"):
        sl.fit(frame, "chinchilla", n="n", d="d")


# Losses of Ye et al. 2024's models of 70 million parameters after 30,000 steps, by the share of the
# domain itself in the mixture of Github and Pile-CC.
_GITHUB = {0.25: 1.44434, 0.375: 1.38597, 0.5: 1.32782, 0.625: 1.29360, 0.75: 1.25677}
_PILE_CC = {0.25: 3.70329, 0.375: 3.62689, 0.5: 3.56695, 0.625: 3.53159, 0.75: 3.49873}


@pytest.mark.parametrize(("losses", "t", "log_k"), [
    (_GITHUB, -1.6405, -0.6819), (_PILE_CC, -2.5189, -0.6257)])
def test_data_mixing_as_published(losses: dict[float, float], t: float, log_k: float) -> None:
    """Within the steps of the authors' grid of c: they take the one of a thousand values that makes
    log(L - c) most nearly linear."""
    frame = pd.DataFrame({"share1": losses.keys(), "loss": losses.values()})
    table = from_frame(frame, "runs", needs=(), extra={"share1": None})
    law = fit_law(table, "ye-1", resamples=0)
    assert law.convergence["start_agreement"] == 1
    assert law.params["t1"] == pytest.approx(t, rel=0.04)
    assert log(law.params["k"]) == pytest.approx(log_k, abs=0.01)
    assert np.abs(law.loss(table.values) / table.loss - 1).max() < 0.004


def test_shares_of_a_mixture() -> None:
    """More than one in all are refused, and so are those of all domains; a law of more of them is
    made by its number."""
    form = data_mixture(4)
    assert form.formula == "c + k exp(t1 r_1 + t2 r_2 + t3 r_3 + t4 r_4)"
    with pytest.raises(UserError, match=r"ye-2: shares .* add up to 1.2 in a run"):
        FORMS["ye-2"].coordinates({"share1": np.array([0.2, 0.6]), "share2": np.array([0.1, 0.6])})
    first = np.linspace(0.1, 0.9, 9)
    frame = pd.DataFrame({"share1": first, "share2": 1 - first, "loss": 2 + np.exp(-first)})
    table = from_frame(frame, "runs", needs=(), extra={"share1": None, "share2": None})
    with pytest.raises(DataError, match="leave out the share of one domain"):
        fit_law(table, "ye-2", resamples=0)


def test_a_fit_of_the_family_finds_what_it_nests() -> None:
    """Kaplan's runs give an E of nothing and q = beta."""
    loss = FORMS["kaplan-nd"].loss(np.array([[6.4e13, 1.8e13, 0.076, 0.103]]),
                                   {"n": _N, "d": _D})[0]
    loss *= np.exp(1e-4 * np.random.default_rng(0).standard_normal(72))
    frame = pd.DataFrame({"params_total": _N, "tokens": _D, "loss": loss})
    law = fit_law(from_frame(frame, "runs"), "q-family", resamples=0)
    assert law.params["E"] < 1e-3
    assert law.params["q"] == pytest.approx(0.103, rel=1e-2)
    assert law.params["beta"] == pytest.approx(0.103, rel=1e-2)
    # Held at q = 1 the family is Chinchilla's law, and fits as it does.
    table = from_frame(frame.assign(loss=1.7 + 400 / _N**0.34 + 1500 / _D**0.3), "runs")
    held = fit_law(table, constrain(FORMS["q-family"], {"q": 1.0}), resamples=0)
    free = fit_law(table, "chinchilla", resamples=0)
    for name, value in free.params.items():
        assert held.params[name] == pytest.approx(value, rel=1e-6)
    assert held.exponents["a"] == pytest.approx(0.3 / 0.64)


@pytest.mark.parametrize("name", ["q-family", "gadre"])
def test_optima_are_minima(name: str) -> None:
    """Against a search, at three budgets, which also give the exponent."""
    form = FORMS[name]
    point = np.array([[TRUTH[name][p] for p in form.parameters]])
    found = []
    for c in (1e18, 1e21, 1e24):
        def loss(log_n: float, c: float = c) -> float:
            n = np.exp([log_n])
            return float(form.loss(point, {"n": n, "d": c / 6 / n, "c": np.array([c])})[0, 0])

        best = minimize_scalar(loss, bounds=(log(c) / 4, log(c)), method="bounded",
                               options={"xatol": 1e-7})
        optimum = form.optimum(point, c)
        assert optimum is not None
        assert np.log(optimum[0]) == pytest.approx(best.x, abs=1e-3)
        found.append(np.log(optimum[0]))
    exponent = form.allocation_exponent(point)
    assert exponent is not None
    np.testing.assert_allclose(np.diff(found) / np.log(1e3), exponent[0])


def test_over_training_is_chinchilla_with_equal_exponents() -> None:
    e, a, b, eta = 1.5, 141.0, 190.0, 0.12
    at = {"n": _N, "d": _D, "c": 6 * _N * _D}
    np.testing.assert_allclose(
        FORMS["gadre"].loss(np.array([[e, a, b, eta]]), at),
        FORMS["chinchilla"].loss(np.array([[e, a / 6**eta, b / 6**eta, 2 * eta, 2 * eta]]), at))


def test_data_that_never_repeats_is_chinchillas() -> None:
    """A model no larger than its tokens warrant, on tokens seen once."""
    params = np.array([[1.87, 521, 1488, 0.36, 0.35, 15.4, 5.3]])
    at = {"n": np.array([1e8]), "d": np.array([1e11]), "u": np.array([1e11])}
    np.testing.assert_allclose(FORMS["muennighoff"].loss(params, at),
                               FORMS["chinchilla"].loss(params[:, :5], at), rtol=1e-14)
    # Tokens beyond what is trained on are worth nothing.
    more = FORMS["muennighoff"].loss(params, at | {"u": np.array([1e13])})
    np.testing.assert_allclose(more, FORMS["muennighoff"].loss(params, at), rtol=1e-14)


@pytest.fixture
def repeated(reference: Callable[[str], Path]) -> tuple[Form, pd.DataFrame]:
    """Muennighoff's form with all but R_D and R_N as published, and the 182 runs."""
    known = published()["muennighoff2023"].law
    assert known is not None
    held = {name: known.params[name] for name in ("E", "A", "B", "alpha", "beta")}
    return (constrain(FORMS["muennighoff"], held),
            pd.read_csv(reference("muennighoff2023_repeat_runs_182.csv")))


def test_muennighoffs_published_point_is_a_local_optimum(
    repeated: tuple[Form, pd.DataFrame],
) -> None:
    """Sum of Huber of log-loss, delta 1e-3, over all 182 runs."""
    form, frame = repeated
    table = from_frame(frame, "runs", n="N", d="tokens", extra={"u": "unique_tokens"})
    x, y = form.coordinates(table.values), np.log(table.loss)
    known = published()["muennighoff2023"].law
    assert known is not None
    at_published = np.log([[known.params["R_D"], known.params["R_N"]]])
    cost = ResidualLoss("huber").cost(y - form.predict(at_published, x)[0]).sum()
    assert cost == pytest.approx(0.0158259, abs=1e-7)
    ones = np.ones((1, len(y)))
    local = minimise(form, x, y, ones, at_published, ResidualLoss("huber"))
    assert local.value[0] == pytest.approx(0.0158259, abs=1e-7)
    np.testing.assert_allclose(local.theta[0], at_published[0], atol=1e-2)

    law = fit_law(table, form, robust=ResidualLoss("huber"), resamples=20)
    assert law.converged
    assert law.objective == pytest.approx(0.0158047, abs=1e-7)
    assert law.params["R_D"] == pytest.approx(95, rel=0.05)
    assert law.params["R_N"] == pytest.approx(1.7, rel=0.05)
    low, high = law.intervals["R_D"] or (0.0, np.inf)
    assert high > 4 * low  # weakly identified


GADRE = {"c4_original": "gadre2024-c4", "rpj": "gadre2024-redpajama",
         "rw_original": "gadre2024-refinedweb"}


@pytest.mark.parametrize(("dataset", "entry"), list(GADRE.items()))
def test_gadres_constants(reference: Callable[[str], Path], dataset: str, entry: str) -> None:
    """Least squares of the loss on C4's validation set itself, not of its logarithm, over the five
    smallest runs that the paper extrapolates from."""
    frame = pd.read_csv(reference("gadre2024_overtraining_104runs.csv"))
    frame = frame.astype({"flops": float})
    table = from_frame(
        frame, "runs", n="N", d="D", c="flops", loss="loss_c4_val",
        where=f"dataset_name == '{dataset}' and ((tok_mult == 20 and N < 5e8) or "
              "(tok_mult == 320 and N < 5e7))")
    law = fit_law(table, "gadre", resamples=0)
    assert law.n_runs == 5
    assert law.convergence["start_agreement"] == 1
    known = published()[entry].law
    assert known is not None
    for name, digits in (("E", 2), ("A", 0), ("B", 0), ("eta", 3)):
        assert abs(law.params[name] - known.params[name]) < 0.51 * 10**-digits, name


def test_clarks_constants(reference: Callable[[str], Path]) -> None:
    """S-Base with the dense models as one expert; errors of log10 L."""
    frame = pd.read_csv(reference("clark2022_routing_final_step.csv"))
    table = from_frame(
        frame, "runs", n="dense_parameter_count", loss="loss_validation", needs=("n",),
        extra={"experts": "num_experts"}, where="router_type in ['S-Base', 'Dense']")
    known = published()["clark2022-s-base"].law
    assert known is not None

    def rmse(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.log10(table.loss / predicted) ** 2)))

    assert rmse(known.loss(table.values)) == pytest.approx(0.0037, abs=5e-5)
    law = fit_law(table, "clark", robust=ResidualLoss("squared"), resamples=0)
    assert law.n_runs == 61
    assert law.convergence["start_agreement"] == 1
    assert rmse(law.loss(table.values)) == pytest.approx(0.0032, abs=5e-5)


def test_experts_saturate() -> None:
    known = published()["clark2022-s-base"].law
    assert known is not None
    many = known.loss({"n": np.full(3, 1e8), "experts": np.array([1e5, 1e9, 1e12])})
    assert many[1] == pytest.approx(many[2], rel=1e-6)
    assert many[0] > many[1]


def test_a_sparsity_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="abnar: a sparsity of 1"):
        FORMS["abnar"].coordinates({"n": np.ones(2), "d": np.ones(2),
                                    "sparsity": np.array([0.5, 1.0])})


def test_fewer_bits_reduce_effective_parameters() -> None:
    """At many bits the law is Chinchilla's; at few, that of a smaller model."""
    params = np.array([[2.0, 400, 1500, 0.34, 0.3, 2.0]])
    whole = FORMS["chinchilla"].loss(params[:, :5], {"n": _N, "d": _D})
    for name, parts in (("kumar", 3), ("kumar-weights", 1)):
        form = FORMS[name]
        np.testing.assert_allclose(
            form.loss(params, {"n": _N, "d": _D, "bits": np.full(72, 200.0)}), whole)
        # At gamma log 2 bits, half of the parameters are left for each part.
        few = form.loss(params, {"n": _N * 2**parts, "d": _D,
                                 "bits": np.full(72, 2 * np.log(2))})
        np.testing.assert_allclose(few, whole)


def test_annealing_areas_by_hand() -> None:
    """Rates 4, 4, 2, 1 at lambda 1/2: the drops 0, 0, 2, 1 leave 0, 0, 2, 2 behind, and a step of
    no drop would leave 1 of that."""
    s1, s2 = annealing_areas([4, 4, 2, 1, 1], decay=0.5)
    np.testing.assert_allclose(s1, [4, 8, 10, 11, 12])
    np.testing.assert_allclose(s2, [0, 0, 2, 4, 5])
    # The double sum of the paper, on a schedule that also rises.
    rates = np.random.default_rng(0).uniform(0, 1, size=30)
    expected = [sum((rates[k - 1] - rates[k]) * 0.9 ** (i - k)
                    for i in range(1, s + 1) for k in range(1, i + 1)) for s in range(30)]
    np.testing.assert_allclose(annealing_areas(rates, decay=0.9)[1], expected, atol=1e-14)
    # A drop of one counts in full at once, and 0.999 as much at every later step; without decay it
    # counts in full for ever, and with a decay of zero only once.
    np.testing.assert_allclose(annealing_areas([2, 1, 1])[1], [0, 1, 1.999])
    np.testing.assert_allclose(annealing_areas([2, 1, 1], decay=1)[1], [0, 1, 2])
    np.testing.assert_allclose(annealing_areas([2, 1, 0], decay=0)[1], [0, 1, 2])


def test_a_warm_up_counts_as_steps_at_its_end() -> None:
    s1, s2 = annealing_areas([1, 2, 3, 4, 4, 2], decay=0.5, warmup=3)
    np.testing.assert_allclose(s1, [4, 8, 12, 16, 20, 22])
    np.testing.assert_allclose(s2, [0, 0, 0, 0, 0, 2])
    for rates, decay, warmup in (([1, -1], 0.5, 0), ([[1.0]], 0.5, 0), ([1, 1], 1.5, 0),
                                 ([1, np.nan], 0.5, 0), ([1, 1], 0.5, 2)):
        with pytest.raises(UserError, match="expected"):
            annealing_areas(rates, decay, warmup)


def test_one_schedule_predicts_another() -> None:
    """Fitted to a constant rate with a linear cooldown, the law gives a cosine's whole curve."""
    schedules = [np.r_[np.full(4000, 1e-3), np.linspace(1e-3, 0, 1000)],
                 5e-4 * (1 + np.cos(np.linspace(0, np.pi, 5000)))]
    curves = []
    for rates in schedules:
        s1, s2 = (area[100::50] for area in annealing_areas(rates))
        curves.append(pd.DataFrame({"s1": s1, "s2": s2,
                                    "loss": 2.6 + 0.43 * s1**-0.55 - 0.4 * s2}))
    scatter = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(curves[0])))
    table = from_frame(curves[0].assign(loss=curves[0].loss * scatter), "runs", needs=(),
                       extra={"lr_area": "s1", "drop_area": "s2"})
    law = fit_law(table, "tissue", resamples=0)
    assert law.convergence["start_agreement"] == 1
    cosine = curves[1]
    predicted = law.loss({"lr_area": cosine.s1.to_numpy(), "drop_area": cosine.s2.to_numpy()})
    np.testing.assert_allclose(predicted, cosine.loss, rtol=5e-3)


def test_henighans_laws_are_fitted_to_the_envelope(grid: Callable[..., pd.DataFrame]) -> None:
    """Of the runs at each size, that on the most tokens."""
    law = fit_law(from_frame(grid(), "runs"), replace(FORMS["henighan-n"]), resamples=0)
    assert law.n_runs == 5
    assert law.excluded["above_envelope"] == 20
    # Of 4e6 tokens, the law behind these runs leaves 1.3 + 45/4e6^.29 to no size.
    assert law.params["L_inf"] == pytest.approx(1.3 + 45 / 4e6**0.29, rel=1e-6)
    assert law.params["alpha_N"] == pytest.approx(0.34, rel=1e-6)
    assert law.params["N_0"] == pytest.approx(24 ** (1 / 0.34), rel=1e-6)
