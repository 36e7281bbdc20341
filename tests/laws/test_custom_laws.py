"""Laws that a user writes are fitted, saved, loaded and allocated like those of the catalogue."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.laws.forms.expression import FUNCTIONS, evaluate, names_in

CHINCHILLA = "E + A*n**-alpha + B*d**-beta"
TOLD = {"exponents": ["alpha", "beta"], "floor": "E"}
FEW = {"alpha": (0.2, 0.5), "beta": (0.2, 0.5)}
"""Initial values, instead of all combinations of six each."""


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    n, d = map(np.ravel, np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 4)))
    noise = np.random.default_rng(0).normal(0, 0.003, n.size)
    return pd.DataFrame({"params_total": n, "tokens": d, "width": np.sqrt(n) / 10,
                         "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(noise)})


@pytest.fixture(scope="module")
def built_in(frame) -> sl.Fit:
    return sl.fit(frame, "chinchilla", resamples=8)


def test_a_formula_is_fitted_as_the_law_of_the_catalogue(frame, built_in):
    fit = sl.fit(frame, sl.law(CHINCHILLA, **TOLD, start=FEW), resamples=8)
    for name, value in built_in.params.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-6), name
        assert fit.intervals()[name] == pytest.approx(built_in.intervals()[name], rel=1e-4), name
    assert fit.predict(n=1e9, d=1e10) == pytest.approx(built_in.predict(n=1e9, d=1e10), rel=1e-9)
    best, other = fit.allocate(1e21), built_in.allocate(1e21)
    assert (best.n, best.d, best.loss, best.a) == pytest.approx(
        (other.n, other.d, other.loss, other.a), rel=1e-4)
    assert "1.7" not in fit.law.form.formula
    assert repr(fit).startswith(f"custom: L(N, D) = {fit.params['E']:.4g} + ")


def test_a_function_is_recorded_as_its_formula(frame, built_in):
    @sl.law(**TOLD, start=FEW)
    def mine(n, d, E, A, B, alpha, beta):
        scale = np.exp(-beta * np.log(d))
        return E + A / n**alpha + B * scale

    assert (mine.name, mine.variables) == ("mine", ("n", "d"))
    assert mine.formula == "E + A / n ** alpha + B * exp(-beta * log(d))"
    fit = sl.fit(frame, mine, resamples=0)
    assert fit.params == pytest.approx(built_in.params, rel=1e-5)


@pytest.mark.parametrize("value", [
    lambda x, a: 2 - x * a, lambda x, a: (x - a) - (a - 3), lambda x, a: x / (a / 2),
    lambda x, a: -(x**a) + 9, lambda x, a: a * (-x + 5) ** 2.0, lambda x, a: 2**-a * x,
    lambda x, a: np.float64(3) * x + a, lambda x, a: np.tanh(x) + np.log1p(a) - np.expm1(-x),
    lambda x, a: 1 / (1 + np.exp(-x * a)), lambda x, a: np.sqrt(x) ** (a**x), lambda x, a: +x - a,
    lambda x, a: np.subtract(3, x) ** 2 + np.negative(a), lambda x, a: sum([x, a, x]),
])
def test_a_recorded_formula_computes_what_the_function_does(value):
    named = sl.law(value, variables=["x"])
    for x, a in ((0.3, 0.7), (2.5, 1.25), (1.0, 3.0)):
        assert evaluate(named.formula, {"x": x, "a": a}) == pytest.approx(value(x, a), rel=1e-14)


def test_every_function_is_that_of_mathematics():
    known = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "tanh": math.tanh,
             "sin": math.sin, "cos": math.cos, "log1p": math.log1p, "expm1": math.expm1,
             "sigmoid": lambda x: 1 / (1 + math.exp(-x))}
    assert {*FUNCTIONS} == {*known}
    for name, function in known.items():
        assert evaluate(f"{name}(x)", {"x": 0.7}) == pytest.approx(function(0.7), rel=1e-14)
    assert evaluate("1 - 2*-x**2 + +3", {"x": 3.0}) == 1 - 2 * -(3.0**2) + 3
    assert names_in("b*exp(-a*x) + b") == ("b", "a", "x")


def test_a_law_is_loaded_and_allocated_without_its_code(frame, tmp_path):
    @sl.law(**TOLD, start=FEW, units={"A": "nats"}, source="here")
    def mine(n, d, E, A, B, alpha, beta):
        return E + A / n**alpha + B / d**beta

    fit = sl.fit(frame, mine, resamples=0, fix={"E": 1.69})
    fit.save(tmp_path / "law.json")
    del mine
    loaded = sl.load(tmp_path / "law.json")["mine"]
    assert loaded.params == fit.params
    assert loaded.law.form == fit.law.form
    assert loaded.allocate(1e21).n == fit.allocate(1e21).n
    assert loaded.law.form.units == {"A": "nats"}
    assert loaded.law.form.source == "here"
    # What a file says is no code.
    content = json.loads((tmp_path / "law.json").read_text())
    content["laws"][0]["form"]["formula"] = "__import__('os').system('true')"
    (tmp_path / "law.json").write_text(json.dumps(content))
    with pytest.raises(sl.UserError, match=r"law\.json: formula: .*: only numbers, names"):
        sl.load(tmp_path / "law.json")


def test_variables_of_ones_own(frame):
    """Of the same name as their column, or of another that is given."""
    law = sl.law("E + A*width**-alpha + B*d**-beta", variables=["width", "d"],
                 start=FEW, **TOLD)
    fit = sl.fit(frame, law, resamples=0)
    assert fit.params["alpha"] == pytest.approx(2 * 0.34, abs=0.1)
    assert fit.predict(frame.head(3)).to_numpy() == pytest.approx(
        frame["loss"].head(3).to_numpy(), rel=0.02)
    renamed = sl.fit(frame.rename(columns={"width": "w"}), law, extra={"width": "w"}, resamples=0)
    assert renamed.params == fit.params
    with pytest.raises(sl.UserError, match="has no column width; "):
        sl.fit(frame.drop(columns="width"), law)
    with pytest.raises(sl.UserError, match=r"needs width \(as in its column\)"):
        fit.predict(d=1e9)


def test_parameters_may_have_the_names_of_the_optimums_exponents(frame, built_in, tmp_path):
    """And a formula or a function may be given without `law`."""
    fit = sl.fit(frame, sl.law("E + A*n**-a + B*d**-b", exponents=["a", "b"], start={
        "a": (0.3,), "b": (0.3,)}), resamples=8)
    alpha = built_in.params["alpha"]
    assert fit.params["a"] == pytest.approx(alpha, rel=1e-5)
    assert fit.to_frame().loc["a", "value"] == fit.params["a"]
    assert fit.intervals()["a"][0] < alpha < fit.intervals()["a"][1]
    assert f"{alpha:.4g}" in repr(fit)
    fit.save(tmp_path / "law.json")
    assert sl.load(tmp_path / "law.json")["custom"].to_frame().loc["a", "value"] == fit.params["a"]
    one = sl.fit(frame, "E + A*n**-0.34", resamples=0)
    assert one.params == sl.fit(frame, lambda n, E, A: E + A * n**-0.34, resamples=0).params


def test_parameters_of_either_sign(frame):
    """A line through the logarithm of N with a negative slope, by least squares of the outcome."""
    line = sl.law("a + b*log(n)", free=["a", "b"], outcome="score, points", link="identity")
    score = 30.0 - 0.5 * np.log(frame["params_total"])
    fit = sl.fit(frame.assign(score=score), line, loss="score", objective="squared", resamples=0)
    assert fit.params == pytest.approx({"a": 30.0, "b": -0.5}, rel=1e-6)


def test_starts_are_those_that_are_given(frame):
    scale = "E + (c_n/n)**alpha"
    with_start = sl.law(scale, **{**TOLD, "exponents": ["alpha"]}, start={"c_n": (1e10, 1e13)})
    assert with_start.grid["c_n"] == (1e10, 1e13)
    assert with_start.linear == ("E",)
    runs = frame.assign(loss=1.7 + (2e10 / frame["params_total"]) ** 0.34)
    fit = sl.fit(runs, with_start, resamples=0)
    assert fit.params == pytest.approx({"E": 1.7, "c_n": 2e10, "alpha": 0.34}, rel=1e-4)


ALLOWED = "only numbers, names, "


@pytest.mark.parametrize(("formula", "options", "words"), [
    ("E + A*n^-alpha", {}, "a power is written with **"),
    ("E + abs(n)", {}, "abs(n): " + ALLOWED), ("n.real", {}, "n.real: " + ALLOWED),
    ("n[0]", {}, ALLOWED), ("E if n else 1", {}, ALLOWED), ("(lambda: n)()", {}, ALLOWED),
    ("E + 'a'", {}, ALLOWED), ("E + True*n", {}, ALLOWED), ("E // n", {}, ALLOWED),
    ("E < n", {}, ALLOWED), ("exp(n, E)", {}, ALLOWED), ("exp(x=n)", {}, ALLOWED),
    ("[n for n in E]", {}, ALLOWED), ("E := n", {}, "invalid syntax"), ("E +", {}, "syntax"),
    ("E; n", {}, "invalid syntax"), ("E + log", {}, "log is a function"),
    ("E + 1e999*n", {}, "too large"), ("(" * 500 + "n" + ")" * 500, {}, "nested"),
    ("E*n" + " " * 2000, {}, "2,003 characters"), ("n*d", {}, "no parameter to fit"),
    ("A*w", {}, "is a variable"), ("A*n", {"variables": ["d"]}, "d is not in the formula"),
    ("A*n", {"floor": "E"}, "floor: E is not a parameter"), ("A*n", {"free": ["n"]}, "free: n is"),
    ("A*n", {"exponents": ["a"]}, "exponents: a"), ("A*n", {"start": {"a": [1]}}, "start: a"),
    ("A*n", {"units": {"a": "m"}}, "units: a"), ("A*log(-n)", {}, "is not a number at any"),
    ("+".join(f"p{i}*n" for i in range(50)), {}, "51 names"),
])
def test_what_is_no_formula_is_refused(formula, options, words):
    with pytest.raises(sl.UserError) as caught:
        sl.law(formula, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(("function", "words"), [
    (lambda n, E: E if n > 1 else 0, "is not a formula of its arguments"),
    (lambda n, E: E if n else 0, "decides by a value"),
    (lambda n, E: np.maximum(n, E), "maximum is not a function of a formula"),
    (lambda n, E: abs(n) + E, "is not a formula of its arguments"),
    (lambda n, E: math.log(n) + E, "use NumPy's functions"),
    (lambda n, E: "a", "computes with a str"),
    (lambda *values: values[0], "any number of arguments"),
    (lambda n, E: np.sum(n) + E, "is not"),
])
def test_what_a_formula_cannot_record_is_refused(function, words):
    with pytest.raises(sl.UserError, match=words):
        sl.law(function)


def test_outcomes_of_any_sign_are_fitted_without_a_logarithm(frame):
    """Losses less a constant have the law of the losses less that constant."""
    shifted = frame.assign(loss=frame["loss"] - frame["loss"].mean())
    shifted.loc[shifted["loss"].abs().idxmin(), "loss"] = 0.0
    with pytest.raises(sl.UserError, match=r"a positive number is expected, since chinchilla"):
        sl.fit(shifted)
    form = sl.law(CHINCHILLA, exponents=["alpha", "beta"], free=["E"], start=FEW, link="identity",
                  outcome="gain, nats per token")
    fit, same = (sl.fit(each, form, resamples=0, objective="squared")
                 for each in (shifted, frame))
    assert fit.law.converged
    assert fit.params["E"] == pytest.approx(same.params["E"] - frame["loss"].mean(), abs=0.05)
    assert fit.params["alpha"] == pytest.approx(same.params["alpha"], rel=0.05)
    assert np.isfinite(fit.residuals().to_frame()["residual"]).all()
    with pytest.raises(sl.UserError, match="rolling: needs positive outcomes"):
        fit.rolling()
    heldout = shifted.assign(role=["heldout"] + ["grid"] * (len(shifted) - 1),
                             run_id=[f"run{i}" for i in range(len(shifted))])
    heldout.loc[0, "loss"] = 0.0
    row = sl.fit(heldout, form, resamples=0).law.heldout["run0"]
    assert row["relative_error"] is None
    assert row["measured"] == 0.0


def test_a_parameter_that_is_held_positive_is_named(frame):
    fit = sl.fit(frame, sl.law("a + b*log(n)"), resamples=0)  # the losses fall with N
    assert any("name it in free=['b']" in warning for warning in fit.warnings)
    free = sl.fit(frame, sl.law("a + b*log(n)", free=["a", "b"]), resamples=0)
    assert free.params["b"] < 0
    assert not any("free=" in warning for warning in free.warnings)


def test_values_of_a_laws_own_variables_are_given_to_an_allocation(frame):
    form = sl.law(f"{CHINCHILLA} + C*width**-0.5", **TOLD, variables=["n", "d", "width"], start=FEW)
    width = np.tile([100.0, 300.0, 500.0, 200.0, 400.0], 4)
    runs = frame.assign(width=width, loss=frame["loss"] + 3 * width**-0.5)
    fit = sl.fit(runs, form, resamples=0)
    best = fit.allocate(1e21, given={"width": 200})
    assert best.loss == pytest.approx(fit.predict(n=best.n, d=best.d, width=200), rel=1e-9)
    with pytest.raises(sl.UserError, match=r"no variable depth; .* further variables are width"):
        fit.allocate(1e21, given={"depth": 3})
