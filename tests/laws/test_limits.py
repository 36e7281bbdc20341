"""Checks of a table and warnings of an allocation, at both sides of their limits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Law, RunsTable, allocate, fit_law, from_frame, published
from scaling.laws.allocation.allocate import can_allocate, is_determined
from scaling.laws.allocation.budgets import AllocationBudget


def _frame() -> pd.DataFrame:
    n = np.repeat(np.geomspace(1e7, 1e9, 4), 4)
    d = np.tile(np.geomspace(1e9, 1e11, 4), 4)
    return pd.DataFrame({"N": n, "D": d, "C": 6 * n * d,
                         "loss": 1.8 + 480 / n**0.35 + 2000 / d**0.37})


def _read(frame: pd.DataFrame, c: str | None = "C") -> RunsTable:
    return from_frame(frame, "runs", n="N", d="D", c=c)


@pytest.mark.parametrize(("factor", "said"), [
    (1.0, ""), (1.019, ""), (1.03, "note"), (1 / 1.019, ""), (1 / 1.03, "note"), (1.9, "note"),
    (2.1, "warning"), (1 / 1.9, "note"), (1 / 2.1, "warning"), (240.0, "warning"),
    (260.0, r"median of 260, where about 1 is expected"), (5e-9, "warning"),
    (3.5e-9, r"units of 1e\+09 FLOP"), (3.5e-12, r"units of 1e\+12 FLOP"),
    (1 / 8.64e19, "PF-days"), (0.3 / 8.64e19, "PF-days"),
])
def test_compute_in_proportion_to_6_n_d(factor: float, said: str) -> None:
    frame = _frame()
    frame["C"] *= factor
    if said in ("", "note", "warning"):
        table = _read(frame)
        assert len(table.notes) == (said == "note")
        assert len(table.warnings) == (said == "warning")
        for text in (*table.notes, *table.warnings):
            assert text.startswith(f"column C: C / (6 N D) is {factor:.3g} in every run")
    else:
        with pytest.raises(UserError, match=said):
            _read(frame)


@pytest.mark.parametrize(("spread", "said"), [
    (1.019, ""), (1.03, "note"), (1.9, "note"), (2.1, "warning"), (0.9e4, "warning"),
    (1.1e4, "error")])
def test_compute_that_is_not_constant(spread: float, said: str) -> None:
    frame = _frame()
    frame["C"] *= np.geomspace(spread**-0.5, spread**0.5, 16)
    if said == "error":
        with pytest.raises(UserError, match=r"C / \(6 N D\) ranges from"):
            _read(frame)
        return
    table = _read(frame)
    assert len(table.notes) == (said == "note")
    assert len(table.warnings) == (said == "warning")


@pytest.mark.parametrize(("factor", "mixed"), [(1e-3, True), (1.3e3, True), (1e-6, True),
                                               (9e-3, False), (20.0, False)])
def test_one_run_in_another_unit(factor: float, mixed: bool) -> None:
    """By a factor of 1000, to 40%; a factor that is no power of 1000 is another mistake."""
    frame = _frame()
    frame.loc[5, "C"] *= factor
    if mixed:
        with pytest.raises(UserError, match=r"row 6, .*units of N, D or C are mixed"):
            _read(frame)
    else:
        assert any("not constant" in text for text in _read(frame).warnings)


@pytest.mark.parametrize(("column", "value", "said"), [
    ("N", 1e15, None), ("N", 1.01e15, "more than any run has"), ("D", 1e17, None),
    ("D", 1.01e17, "more than any run has"), ("N", 1.0, None), ("D", 0.99, "where a whole number"),
    ("N", 0.99, "where a whole number"),
])
def test_bounds_of_sizes_and_tokens(column: str, value: float, said: str | None) -> None:
    frame = pd.DataFrame({"N": [1e13, 1e14, 1e15], "D": [1e15, 1e16, 1e17], "loss": [3.0, 2.5, 2]})
    if value < 2:
        frame = pd.DataFrame({"N": [1.0, 2.0, 4.0], "D": [1.0, 2.0, 4.0], "loss": [3.0, 2.5, 2]})
    frame.loc[2 if value > 2 else 0, column] = value
    if said is None:
        assert _read(frame, None).loss.size == 3
    else:
        with pytest.raises(UserError, match=said):
            _read(frame, None)


@pytest.mark.parametrize(("low", "said"), [
    (1e9 / 90, None),                       # a gap of 90
    (1e9 / 1e3, "multiplied by 1e+03; if"),  # a warning: a million parameters are plausible
    (1e9 / 2e4, None),                      # no power of 1000 closes it
    (1e9 / 1e6, "error"),                   # a thousand parameters are not
])
def test_a_gap_in_sizes(low: float, said: str | None) -> None:
    frame = pd.DataFrame({"N": [low, 1e9, 2e9, 4e9], "D": [1e9, 2e9, 1e9, 2e9],
                          "loss": [3.5, 3.0, 2.8, 2.6]})
    if said == "error":
        with pytest.raises(UserError, match=r"row 1, column N: .*multiplied by 1e\+06; one unit"):
            _read(frame, None)
        return
    found = [text for text in _read(frame, None).warnings if "gap" in text]
    assert len(found) == (said is not None)
    assert all(said in text for text in found)


@pytest.mark.parametrize(("ratio", "warned"), [(0.099, True), (0.101, False)])
def test_few_tokens_per_parameter(ratio: float, warned: bool) -> None:
    n = np.geomspace(1e7, 1e9, 5)
    frame = pd.DataFrame({"N": n, "D": ratio * n, "loss": np.linspace(4, 3, 5)})
    assert any("median of D/N" in text for text in _read(frame, None).warnings) == warned


@pytest.mark.parametrize(("middle", "warned"), [(999.0, True), (1001.0, False)])
@pytest.mark.parametrize("column", ["N", "D"])
def test_few_parameters_or_tokens(column: str, middle: float, warned: bool) -> None:
    frame = pd.DataFrame({"N": 1e5, "D": 1e6, "loss": [4.0, 3.5, 3.0]})
    frame[column] = [middle / 2, middle, middle * 2]
    said = {"N": "are few parameters", "D": "are few tokens"}[column]
    assert any(said in text for text in _read(frame, None).warnings) == warned


def test_duplicates_are_counted() -> None:
    frame = _frame()
    again = pd.concat([frame, frame.iloc[[2, 2, 7]]], ignore_index=True)
    (text,) = (text for text in _read(again).warnings if "duplicate" in text)
    assert text.startswith("row 3, row 17, row 18 are equal in every column, and there are 1 more "
                           "duplicates")
    many = pd.concat([frame, *[frame.iloc[[2]]] * 5], ignore_index=True)
    (text,) = (text for text in _read(many).warnings if "duplicate" in text)
    assert text.startswith("row 3, row 17, row 18, row 19, ... are equal")


@pytest.mark.parametrize(("factor", "warned"), [(2.9, False), (3.1, True), (1 / 2.9, False),
                                                (1 / 3.1, True)])
def test_a_column_of_6_n_d_that_is_not_used(grid: Any, factor: float, warned: bool) -> None:
    frame = grid()
    frame["flops_6nd"] = frame["flops_6nd"] * factor
    assert any(text.startswith("column flops_6nd") for text in from_frame(frame, "runs").warnings
               ) == warned


# Allocations


@pytest.fixture
def law() -> Law:
    found = published()["besiroglu2024"].law
    assert found is not None
    return replace(found, convention={**found.convention, "range": {"c": (1e17, 1e20)}})


@pytest.mark.parametrize(("without", "warned"), [(4, False), (6, True)])
def test_resamples_without_an_optimum(law: Law, without: int, warned: bool) -> None:
    samples = law.point * np.ones((100, 1)) * (1 + 0.01 * np.linspace(-1, 1, 100)[:, None])
    samples[:without, 3] = -0.1  # alpha
    law = replace(law, bootstrap=Bootstrap(100, 100, 0, samples, np.zeros(3), method="percentile"))
    best = allocate(law, 1e20)
    said = f"{without}% of the resamples have no optimum"
    assert any(said in text for text in best.warnings) == warned
    _, a, b, alpha, beta = samples[without:].T
    n = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (1e20 / 6) ** (beta / (alpha + beta))
    for interval, values in ((best.n_interval, n), (best.d_interval, 1e20 / 6 / n),
                             (best.a_interval, beta / (alpha + beta))):
        assert interval == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), rel=1e-9)
    assert best.total_interval is None  # which the budget fixes


def test_budgets_beyond_a_hundred_times_the_largest(law: Law) -> None:
    for c, warned in ((0.99e22, 0), (1.01e22, 1)):
        texts = [text for text in allocate(law, c).warnings if "extrapolation" in text]
        assert len(texts) == warned
    cheap = allocate(law, AllocationBudget(loss=allocate(law, 1.01e22).loss))
    assert any("extrapolation" in text for text in cheap.warnings)
    with_inference = allocate(law, AllocationBudget(c=1.5e22, inference_tokens=1e12))
    assert with_inference.c < 1e22  # of training alone
    assert not any("extrapolation" in text for text in with_inference.warnings)


def test_what_a_paper_says_of_its_sizes() -> None:
    for entry in published().values():
        if entry.law is None and entry.sizes is not None:
            best = allocate(entry, 1e21)
            assert best.n == pytest.approx(entry.sizes.at(1e21))
            assert best.d == pytest.approx(1e21 / 6 / best.n)
            assert (best.a, best.a_interval, best.level) == (
                entry.sizes.exponent, entry.sizes.interval, entry.sizes.level)
            assert (best.source, best.counting) == (entry.title, entry.convention["n"])
            assert can_allocate(entry, AllocationBudget(c=1e21))
            assert not can_allocate(entry, AllocationBudget(c=1e21, n=1e9))
    intervals = [entry.sizes.interval for entry in published().values()
                 if entry.sizes is not None and entry.sizes.interval is not None]
    assert intervals


def test_a_law_is_determined_if_its_scaling_parameters_are(law: Law, grid: Any) -> None:
    assert is_determined(law)
    assert not is_determined(replace(law, exponents={"a": None, "b": None}))
    joint = fit_law(from_frame(grid(noise=0.01), "runs"), "kaplan-nd", resamples=0)
    assert is_determined(joint)
    assert not is_determined(replace(joint, se={"alpha_N": None}))
    family = Law(form=FORMS["muennighoff"], convention={"n": "total"}, params=dict.fromkeys(
        FORMS["muennighoff"].parameters, 0.5))
    assert is_determined(replace(family, se={"E": None}))
    assert not is_determined(replace(family, se={"R_D": None}))
    assert not is_determined(replace(family, params={**family.params, "A": np.nan}))


def test_values_of_other_variables(law: Law) -> None:
    budget = AllocationBudget(c=1e20, given={"sparsity": 0.0, "experts": 8.0})
    n, d = np.array([1e9, 2e9]), np.array([2e10, 1e10])
    values = budget.values(n, d)
    np.testing.assert_allclose(values["c"], 6 * n * d)
    np.testing.assert_array_equal(values["u"], d)
    assert values["sparsity"].tolist() == [0.0, 0.0]
    assert values["experts"].tolist() == [8.0, 8.0]
    limited = replace(budget, unique_tokens=3e9, flops_per_token=lambda n: 4 * n)
    np.testing.assert_allclose(limited.values(n, d)["c"], 4 * n * d)
    assert limited.values(n, d)["u"].tolist() == [3e9, 3e9]
    assert AllocationBudget(c=1e20, given={"experts": 8.0}).is_plain
    for constraint in ({"unique_tokens": 3e9}, {"n": 1e9}, {"d": 1e9}, {"inference_tokens": 1e9},
                       {"flops_per_token": lambda n: 4 * n}):
        assert not AllocationBudget(c=1e20, **constraint).is_plain
    assert not limited.is_six_nd
    served = AllocationBudget(c=1e20, inference_tokens=3e10)
    # Inference takes 2 N of FLOPs a token, and training 6 N.
    assert served.total_flops(1e9, 2e10) == pytest.approx(6e9 * 2e10 + 2e9 * 3e10)
    assert served.training_tokens(1e9, served.total_flops(1e9, 2e10)) == pytest.approx(2e10)
    assert not served.is_six_nd
    with pytest.raises(UserError, match=re.escape("sparsity 1")):
        allocate(published()["abnar2025"], AllocationBudget(c=1e20, given={"sparsity": 1.0}))
