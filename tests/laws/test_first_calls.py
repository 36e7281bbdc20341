"""What a newcomer's first calls in a notebook say: names that are guessed, and reprs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.errors import UserError

COLUMNS = {"n": "model_size", "d": "tokens", "loss": "val_loss"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(n.size))
    return pd.DataFrame({"model_size": n, "tokens": d, "flops": 6 * n * d,
                         "val_loss": (1.69 + 406 / n**0.34 + 410 / d**0.28) * noise})


@pytest.fixture(scope="module")
def fit(frame: pd.DataFrame) -> Any:
    return sl.fit(frame, "chinchilla", **COLUMNS, resamples=50)


@pytest.mark.parametrize(("formula", "message"), [
    ("c + a*n**-b", r"c is a variable of a run, C \(FLOP\), .* variables=\['n'\]"),
    (lambda n, a, b, c: c + a * n**-b, r"c is a variable of a run"),
    ("c + a*size**-b", r"variables=\['size'\]"),
    ("s + a*n**-b", "s is a variable of a run"),
    ("E + A*n**-alpha + B*D**-beta", r"D would be a parameter; the variable is written d"),
    ("E + B/N + A*d**-alpha", "N would be a parameter"),
])
def test_a_name_that_is_taken_for_a_variable_or_a_parameter_by_mistake(
    formula: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sl.law(formula)


@pytest.mark.parametrize(("formula", "variables"), [
    ("a + b*l", ("l",)), ("c**-a + b*n**-d0", ("c", "n")), ("E + k*exp(-g*l)", ("l",)),
    ("E + A*n**-alpha + (c/1e20)**-beta", ("n", "c")), ("D*n**-alpha + E", ("n",)),
])
def test_names_that_are_used_as_variables_and_parameters(
    formula: str, variables: tuple[str, ...]
) -> None:
    assert sl.law(formula).variables == variables


def test_declared_variables_are_not_questioned() -> None:
    assert sl.law("c + a*n**-b", variables=["n"]).parameters == ("c", "a", "b")
    assert sl.law("E + B*D**-beta", variables=["D"]).variables == ("D",)


def test_a_column_in_a_formula_is_no_parameter(frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match=r"tokens is a column .* variables=\['n', 'tokens'\]"):
        sl.fit(frame, "E + A*n**-alpha + B*tokens**-beta", **COLUMNS)
    law = sl.law("E + A*n**-alpha + B*tokens**-beta", variables=["n", "tokens"],
                 exponents=["alpha", "beta"], floor="E")
    found = sl.fit(frame, law, n="model_size", loss="val_loss", resamples=0)
    right = sl.fit(frame, "chinchilla", **COLUMNS, resamples=0)
    assert found.params["alpha"] == pytest.approx(right.params["alpha"], rel=1e-3)
    # A parameter that has only the name of a column is one.
    assert "E" in sl.fit(frame.assign(E=1.0), "E + A*n**-alpha", n="model_size", loss="val_loss",
                         resamples=0).params


def test_exponents_of_a_formula_start_as_exponents() -> None:
    form = sl.law("E + A*n**-alpha + B*exp(-k*d)")
    assert len(form.grid["alpha"]) == 6
    assert max(form.grid["alpha"]) == 1.1
    assert form.exponents == ()  # only what is declared is checked
    assert max(form.grid["k"]) == 10


@pytest.mark.parametrize("law", ["step-lr", "step-batch", "deepseek-lr", "critical-batch"])
def test_losses_are_no_outcome_of_a_law_of_rates_or_batches(frame: pd.DataFrame, law: str) -> None:
    with pytest.raises(UserError, match=r"column val_loss: .* seems to hold losses"):
        sl.fit(frame, law, **COLUMNS, extra={"l": "val_loss"} if law == "critical-batch" else {})


def test_six_runs_are_no_evidence_that_a_term_is_absent(frame: pd.DataFrame) -> None:
    for seed in range(3):
        found = sl.fit(frame.sample(6, random_state=seed), "chinchilla", **COLUMNS, resamples=0)
        assert not any("as good without" in warning for warning in found.warnings)


def test_arguments_that_are_meant(frame: pd.DataFrame, fit: Any) -> None:
    for call, message in (
        (lambda: fit.allocate(flops=1e21), "did you mean compute"),
        (lambda: fit.allocate(budget=1e21), "did you mean compute"),
        (lambda: sl.fit(frame, tokens="tokens"), "did you mean d"),
        (lambda: sl.fit(frame, accuracy="acc"), "fit_chain"),
        (lambda: sl.fit(frame, lr="lr"), r"best_hyperparameters.*extra=\{'lr': COLUMN\}"),
        (lambda: sl.fit(frame, step="step"), "schedule_law"),
        (lambda: fit.predict(N=1e9, D=1e11), "did you mean n"),
        (lambda: fit.predict(1e9, 2e10), r"predict\(n=\.\.\., d=\.\.\.\)"),
        (lambda: sl.compare(fit, sl.fit(frame.assign(other=frame["val_loss"] + 1), "chinchilla",
                                        n="model_size", d="tokens", loss="other", resamples=0)),
         r"columns val_loss and other"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_two_of_size_tokens_and_compute_are_enough_to_predict(fit: Any) -> None:
    expected = fit.predict(n=1e9, d=1e11)
    assert fit.predict(n=1e9, c=6e20) == pytest.approx(expected, rel=1e-12)
    assert fit.predict(d=1e11, c=6e20) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match="c is not among its variables"):
        fit.predict(n=1e9, d=1e11, c=6e20)


def test_health_is_checked_with_columns_of_ones_own(frame: pd.DataFrame, fit: Any) -> None:
    assert "25 runs, 0 with findings" in repr(sl.check_health(frame, **COLUMNS))
    with pytest.raises(UserError, match="read already"):
        sl.check_health(fit.runs, n="model_size")


def test_reprs_fit_on_a_screen(frame: pd.DataFrame, fit: Any, tmp_path: Any) -> None:
    found = sl.suggest(fit, "n-star", 1e21, at=1e23)
    forecast = sl.seal_forecast(fit, n=2e9, d=2e11, ledger=tmp_path / "ledger.jsonl")
    sealed = sl.read_ledger(tmp_path / "ledger.jsonl")[0]
    assert "function" not in repr(found)
    assert repr(found).splitlines()[2].startswith("now")
    assert repr(sealed).startswith("line 1, sealed ")
    assert repr(fit.law).startswith("chinchilla: E + A/N^alpha + B/D^beta with E = ")
    assert repr(sl.FORMS["chinchilla"]) == (
        "chinchilla: E + A/N^alpha + B/D^beta  (Hoffmann et al. 2022, eq. 2)")
    assert repr(sl.FORMS).startswith(f"{len(sl.FORMS)} laws: ")
    for each in (found, forecast, fit.law, *sl.FORMS.values(), *sl.published().values()):
        lines = repr(each).splitlines()
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 400, lines
    assert len(repr(sl.FORMS)) < 1500


def test_residuals_are_joined_to_the_table_by_their_row(frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1, random_state=0).set_index(np.arange(100, 125))
    fit = sl.fit(shuffled, "chinchilla", **COLUMNS, resamples=0)
    found = fit.residuals().to_frame()
    rows = shuffled.iloc[found["row"]]
    np.testing.assert_array_equal(found["loss"], rows["val_loss"])
    np.testing.assert_array_equal(found["n"], rows["model_size"])
