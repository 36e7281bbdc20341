"""Laws of one variable, of downstream tasks and of hyperparameters, and their published constants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Form, Law, allocate, fit_law, from_frame, published
from scaling.laws.allocation.chain import chain
from scaling.laws.forms import curves, hyperparameters
from scaling.laws.forms.broken import broken
from scaling.laws.forms.formula import Formula
from scaling.laws.published import marks
from tests.laws.derivatives import check_derivatives

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[2]
NAMES = [form.name for form in (*curves.FORMS, *hyperparameters.FORMS)]

RANGES = {"n": (1e6, 1e10), "d": (1e7, 1e12), "c": (1e15, 1e22), "l": (1.2, 4.5),
          "finetuning": (1e5, 1e9)}
RUNS = 24


def _runs(form: Form) -> dict[str, np.ndarray]:
    """Values of the form's variables, spread over their ranges in no common order."""
    rng = np.random.default_rng(0)
    values = {v: np.geomspace(*RANGES[v], RUNS) for v in form.variables}
    first, *others = form.variables
    return {first: values[first]} | {v: rng.permutation(values[v]) for v in others}


def _truth(form: Form) -> dict[str, float]:
    """Constants that are sensible over the ranges."""
    low, high = RANGES[form.variables[0]]
    middle = (low * high) ** 0.5
    return {
        "m1": {"beta": 3 * middle**0.15, "c": 0.15},
        "m2": {"beta": 2 * middle**0.15, "c": 0.15, "e_inf": 1.6},
        "m3": {"beta": 5 * middle**0.15, "c": 0.15, "gamma": 10 / high},
        "m4": {"beta": 2 * middle**0.4, "c": 0.4, "e_inf": 1.7, "e_0": 10.8, "alpha": 0.6},
        "broken": {"E": 1.2, "A": 4 * middle**0.1, "c0": 0.1, "c1": 0.25, "d1": 3 * middle,
                   "f1": 0.4},
        "zhai": {"A": 4000.0, "d": 1e17, "alpha": 0.25, "E": 0.1},
        "cherti": {"beta": 30.0, "alpha": 0.12},
        "hernandez": {"k": 2e4, "alpha": 0.2, "beta": 0.4},
        "gadre-error": {"epsilon": 0.85, "k": 2.0, "gamma": 0.8},
        "olmo-accuracy": {"best": 0.95, "span": 0.7, "k": 3.0, "L_0": 2.2},
        "deepseek-lr": {"k": 0.3, "alpha": 0.12},
        "deepseek-batch": {"k": 0.3, "alpha": 0.33},
        "step-lr": {"k": 2.0, "alpha": 0.7, "beta": 0.3},
        "step-batch": {"k": 0.6, "beta": 0.6},
    }[re.sub("-[ndc]$", "", form.name)]


def _point(form: Form, constants: Mapping[str, float]) -> np.ndarray:
    return np.array([[constants[p] for p in form.parameters]])


def _loss(name: str, values: Mapping[str, np.ndarray], **constants: float) -> np.ndarray:
    form = FORMS[name]
    return np.asarray(form.loss(_point(form, constants), values)[0])


def _fit(form: Form, values: Mapping[str, np.ndarray], outcome: np.ndarray, **options: int) -> Law:
    columns = {v: v for v in values if v in ("n", "d", "c")}
    others = {v: v for v in values if v not in columns}
    table = from_frame(pd.DataFrame({**values, "y": outcome}), "runs", loss="y", extra=others,
                       needs=tuple(columns), **columns)
    return fit_law(table, form, **{"resamples": 0, **options})


@pytest.mark.parametrize("name", [*NAMES, "broken-d-2"])
def test_gradient_and_curvature_are_the_derivatives(name: str) -> None:
    """By central differences of the prediction, and of the gradient."""
    form = broken("d", 2) if name == "broken-d-2" else FORMS[name]
    values = _runs(form)
    x = form.coordinates(values)
    rng = np.random.default_rng(1)
    outcome = np.sort(rng.uniform(2, 9, RUNS))[::-1]
    theta = form.starts(x, outcome)[[0, -1]]
    theta = theta + 0.02 * rng.standard_normal(theta.shape)
    predicted, gradient = form.gradient(theta, x)
    np.testing.assert_allclose(predicted, form.predict(theta, x), rtol=1e-13)
    weights = rng.standard_normal((len(theta), RUNS))
    curvature = form.hessian(theta, x, weights, gradient)
    size = np.abs(curvature).max()
    check_derivatives(form, theta, x, weights, gradient_atol=1e-7, hessian_rtol=1e-5,
                      hessian_atol=1e-8 * size + 1e-7)


@pytest.mark.parametrize("name", ["m4-d", "broken-d"])
def test_derivatives_by_hand_agree_with_the_complex_step(name: str) -> None:
    form = FORMS[name]
    assert isinstance(form, Formula)
    x = form.coordinates(_runs(form))
    theta = form.from_params(_point(form, _truth(form)))
    by_hand, by_step = form.gradient(theta, x), Formula.gradient(form, theta, x)
    for one, other in zip(by_hand, by_step, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_constants_come_back_from_runs_without_noise(name: str) -> None:
    form, values = FORMS[name], _runs(FORMS[name])
    constants = _truth(form)
    law = _fit(form, values, form.loss(_point(form, constants), values)[0])
    assert law.converged
    assert law.convergence["start_agreement"] >= 0.6
    assert law.params == pytest.approx(constants, rel=1e-6)


def test_forms_contain_one_another() -> None:
    d = {"d": np.geomspace(1e6, 1e12, 9)}
    plain = {"beta": 400.0, "c": 0.3}
    m1, m2 = _loss("m1-d", d, **plain), _loss("m2-d", d, **plain, e_inf=1.5)
    np.testing.assert_allclose(m1, 400 / d["d"] ** 0.3, rtol=1e-12)
    np.testing.assert_allclose(_loss("m2-d", d, **plain, e_inf=1e-300), m1, rtol=1e-12)
    np.testing.assert_allclose(_loss("m3-d", d, **plain, gamma=0), m1, rtol=1e-12)
    np.testing.assert_allclose(m2, m1 + 1.5, rtol=1e-12)
    np.testing.assert_allclose(_loss("m4-d", d, **plain, e_inf=1.5, e_0=40, alpha=0), m2,
                               rtol=1e-12)
    broken_law = {"E": 1.5, "A": 400.0, "c0": 0.3, "d1": 1e9, "f1": 0.5}
    np.testing.assert_allclose(_loss("broken-d", d, **broken_law, c1=0), m2, rtol=1e-12)
    shifted = _loss("zhai", {"c": d["d"]}, A=400, alpha=0.3, E=1.5, d=0)
    np.testing.assert_allclose(shifted, m2, rtol=1e-12)
    once = _loss("broken-d", d, **broken_law, c1=0.4)
    two = broken("d", 2)
    second = {"c2": 0.0, "d2": 1e10, "f2": 0.2}
    twice = two.loss(_point(two, broken_law | {"c1": 0.4} | second), d)[0]
    np.testing.assert_allclose(twice, once, rtol=1e-12)


def test_a_sharp_break_is_two_power_laws() -> None:
    """Without overflow, however sharp."""
    d = {"d": np.array([1e4, 1e8, 1e12, 1e16])}
    law = _loss("broken-d", d, E=0, A=1e3, c0=0.1, c1=0.2, d1=1e10, f1=1e-3)
    expected = np.where(d["d"] < 1e10, 1e3 * d["d"]**-0.1, 1e3 * 1e10**0.2 * d["d"]**-0.3)
    np.testing.assert_allclose(law, expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 1.0, 2.5, 12.0])
def test_m4_solves_its_equation(alpha: float) -> None:
    """Against a bracketing search in eps itself, from far above the middle to far below."""
    n = np.geomspace(1e2, 1e16, 15)
    low, high = 1.2, 9.0
    eps = _loss("m4-n", {"n": n}, beta=300, c=0.5, e_inf=low, e_0=high, alpha=alpha)
    for one, x in zip(eps, n, strict=True):
        right = 300 * x**-0.5

        def gap(e: float, right: float = right) -> float:
            return e - low - right * (high - e) ** alpha

        assert one == pytest.approx(brentq(gap, low, high, xtol=1e-14), rel=1e-10)
    if alpha == 1:
        right = 300 * n**-0.5
        np.testing.assert_allclose(eps, (low + right * high) / (1 + right), rtol=1e-12)


def test_m4_needs_its_ends_in_order() -> None:
    assert np.isnan(_loss("m4-n", {"n": np.array([1e6])}, beta=3, c=0.3, e_inf=5, e_0=4,
                          alpha=1)).all()


def test_an_exponent_of_the_wrong_sign_is_named() -> None:
    """Of a loss it is; a batch may grow or shrink with compute."""
    c = {"c": np.geomspace(1e17, 1e20, 8)}
    grows = _fit(FORMS["deepseek-batch"], c, 0.3 * c["c"] ** 0.33)
    shrinks = _fit(FORMS["deepseek-batch"], c, 1e9 * c["c"] ** -0.1)
    assert shrinks.params["alpha"] == pytest.approx(-0.1)
    assert grows.warnings == shrinks.warnings == ()


@pytest.mark.parametrize(("dataset", "entry"), [
    ("c4_original", "c4"), ("rpj", "redpajama"), ("rw_original", "refinedweb")])
def test_gadres_errors(reference, dataset: str, entry: str) -> None:  # type: ignore[no-untyped-def]
    """The published constants follow from six of the published runs (section 3.2): the four
    smallest models and that of 1.4B on 20 tokens a parameter, and the smallest on 320."""
    path = reference("gadre2024_overtraining_104runs.csv")
    frame = pd.read_csv(path).rename(columns={"N": "n", "D": "d", "loss_c4_val": "l"})
    law = published()[f"gadre2024-error-{entry}"].law
    assert law is not None
    runs = frame[frame.dataset_name == dataset]
    fitted = runs[((runs.cc_mult == 1) & (runs.n < 2e9)) | ((runs.cc_mult == 16) & (runs.n < 2e7))]
    assert len(fitted) == 6
    values = {"l": fitted.l.to_numpy()}
    again = _fit(FORMS["gadre-error"], values, fitted.err_avg_subset.to_numpy())
    assert again.convergence["start_agreement"] == 1
    assert again.params["epsilon"] == pytest.approx(law.params["epsilon"], abs=6e-4)
    assert again.params["k"] == pytest.approx(law.params["k"], abs=6e-3)
    assert again.params["gamma"] == pytest.approx(law.params["gamma"], abs=6e-4)


@pytest.mark.parametrize("entry", ["c4", "redpajama", "refinedweb"])
def test_gadres_published_constants_come_back_from_errors_made_with_them(entry: str) -> None:
    law = published()[f"gadre2024-error-{entry}"].law
    assert law is not None
    values = {"l": np.linspace(2.4, 4.0, 12)}
    again = _fit(FORMS["gadre-error"], values, law.form.loss(law.point, values)[0])
    for name, value in law.params.items():
        assert again.params[name] == pytest.approx(value, rel=1e-4), name


def test_a_7b_models_error_from_its_size_and_tokens(reference) -> None:  # type: ignore[no-untyped-def]
    """RedPajama's largest model, which neither of the two published laws has seen."""
    path = reference("gadre2024_overtraining_104runs.csv")
    frame = pd.read_csv(path).set_index("name")
    run = frame.loc["rpj-open_lm_7b-1.0"]
    first = published()["gadre2024-redpajama"].law
    second = published()["gadre2024-error-redpajama"].law
    assert first is not None
    assert second is not None
    n, d = np.array([float(run.N)]), np.array([float(run.D)])
    found = chain(first, second, {"n": n, "d": d, "c": 6 * n * d})
    # The constants are printed to three digits, which alone move the loss by a percent.
    assert found.loss == pytest.approx(run.loss_c4_val, rel=0.02)
    assert found.outcome == pytest.approx(run.err_avg_subset, rel=0.02)


def _with_samples(law: Law, count: int, seed: int) -> Law:
    rng = np.random.default_rng(seed)
    samples = law.point * np.exp(0.02 * rng.standard_normal((count, law.point.shape[1])))
    return replace(law, bootstrap=Bootstrap(count, count, seed, samples, np.zeros(5)))


def test_a_chain_has_the_uncertainty_of_both_laws() -> None:
    first, second = published()["besiroglu2024"].law, published()["gadre2024-error-c4"].law
    assert first is not None
    assert second is not None
    at = {"n": np.array([1e9, 7e9]), "d": np.array([2e10, 2e12])}
    bare = chain(first, second, at)
    assert bare.low is None
    c = second.params
    loss = 1.8172 + 482.01 / at["n"] ** 0.3478 + 2085.43 / at["d"] ** 0.3658
    np.testing.assert_allclose(bare.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(bare.outcome, c["epsilon"] - c["k"] * np.exp(-c["gamma"] * loss))
    wide, other = _with_samples(first, 400, 1), _with_samples(second, 300, 2)
    both = chain(wide, other, at)
    assert both.low is not None
    assert both.high is not None
    assert (both.low < bare.outcome).all()
    assert (bare.outcome < both.high).all()
    still = Bootstrap(400, 400, 0, np.repeat(second.point, 400, axis=0), np.zeros(5))
    one = chain(wide, replace(second, bootstrap=still), at)
    assert one.low is not None
    assert one.high is not None
    assert (both.high - both.low > one.high - one.low).all()
    # By hand: pair i with i, as many as there are of both.
    e, a, b, alpha, beta = wide.samples[:300].T
    eps, k, gamma = other.samples.T
    for run in range(2):
        n, d = at["n"][run], at["d"][run]
        errors = eps - k * np.exp(-gamma * (e + a / n**alpha + b / d**beta))
        assert both.low[run] == pytest.approx(np.quantile(errors, 0.05), rel=1e-10)
        assert both.high[run] == pytest.approx(np.quantile(errors, 0.95), rel=1e-10)


def test_invalid_chains_are_errors() -> None:
    loss, error = published()["besiroglu2024"].law, published()["gadre2024-error-c4"].law
    rate = published()["step2025-lr"].law
    assert loss is not None
    assert error is not None
    assert rate is not None
    at = {"n": np.array([1e9]), "d": np.array([2e10])}
    with pytest.raises(UserError, match="a law of the loss alone is expected"):
        chain(loss, loss, at)
    with pytest.raises(UserError, match="predicts learning rate"):
        chain(rate, error, at)


def _published(name: str, **values: float) -> float:
    law = published()[name].law
    assert law is not None
    return float(law.loss({v: np.array([value]) for v, value in values.items()})[0])


def test_published_laws_by_hand() -> None:
    # 5.86 * 10^-1.11 at 1e10 GMACs; 23.18 * 10^-1.968 at 1e12. A MAC is two FLOPs.
    assert _published("cherti2023-openclip", c=2e19) == pytest.approx(0.45488, rel=1e-4)
    assert _published("cherti2023-clip", c=2e21) == pytest.approx(0.24953, rel=1e-4)
    # 0.3118 * 10^-2.5 and 0.292 * 10^6.542 at 1e20 FLOP.
    assert _published("deepseek2024-lr", c=1e20) == pytest.approx(9.8600e-4, rel=1e-4)
    assert _published("deepseek2024-batch", c=1e20) == pytest.approx(1.01714e6, rel=1e-4)
    # 1.79 * 10^(-6.417 + 3.377) and 0.58 * 10^6.281 at a billion parameters on 1e11 tokens.
    assert _published("step2025-lr", n=1e9, d=1e11) == pytest.approx(1.6325e-3, rel=1e-4)
    assert _published("step2025-batch", d=1e11) == pytest.approx(1.1077e6, rel=1e-4)
    # 1.9e4 * 10^(1.08 + 3.04).
    assert _published("hernandez2021", finetuning=1e6, n=1e8) == pytest.approx(2.5047e8, rel=1e-4)


def test_deepseeks_division_of_compute() -> None:
    """D is printed as well, 5.8316 C^0.4757, and follows from M."""
    for c in (1e18, 1e21, 1e24):
        best = allocate(published()["deepseek2024"], c)
        assert best.d == pytest.approx(5.8316 * c**0.4757, rel=1e-3)
        assert best.a == pytest.approx(1 - 0.4757)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"a key stands twice among {names}"
    return dict(pairs)


def test_published_entries_say_where_they_are_from() -> None:
    path = ROOT / "scaling/laws/published.json"
    content = json.loads(path.read_text(), object_pairs_hook=_unique)
    cited = {entry["citation"] for entry in content["entries"].values()}
    assert cited <= set(content["citations"])
    for name, entry in content["entries"].items():
        assert entry["mark"] in marks(), name
        assert entry["where"], name
        assert {"n", "d", "c", "loss"} <= set(entry["convention"]), name
    assert set(published()) == set(content["entries"])


def test_constants_are_written_in_one_place_only() -> None:
    """No file of the package has a published constant of four digits or more a second time."""
    content = json.loads((ROOT / "scaling/laws/published.json").read_text(), parse_float=str)
    constants = {value for entry in content["entries"].values()
                 for value in entry.get("params", {}).values()
                 if isinstance(value, str) and len(re.sub(r"\D", "", value).strip("0")) >= 4}
    assert {"0.3118", "482.01", "406.4"} <= constants
    shorter = {value.lstrip("0") for value in constants}
    for path in (ROOT / "scaling").rglob("*"):
        if path.suffix in (".py", ".json") and path.name != "published.json":
            numbers = set(re.findall(r"\d*\.\d+", path.read_text()))
            assert not (constants | shorter) & numbers, path
