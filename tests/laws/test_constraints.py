"""`--fix` and `--tie`: invalid values, and parameters that cannot be tied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.laws import FORMS, constrain, fit_law, from_frame

pytestmark = pytest.mark.quick

REFUSED = [
    (["--fix", "alpha=-1"], r"alpha = -1: an exponent above 0"),
    (["--fix", "beta=0"], r"beta = 0: an exponent above 0"),
    (["--fix", "alpha=1e6"], r"alpha = 1e\+06: an exponent above 0 and at most 10 is expected"),
    (["--fix", "A=0"], r"A = 0: a positive number is expected"),
    (["--fix", "B=-3"], r"B = -3: a positive number"),
    (["--fix", "E=-1"], r"E = -1: a positive number"),
    (["--fix", "E=nan"], "E=nan: a finite number"),
    (["--fix", "E=inf"], "E=inf: a finite number"),
    (["--fix", "E=1e999"], "E=1e999: a finite number"),
    (["--fix", "E=100"], r"E = 100 is fixed at or above every loss \(the largest is 3\.\d+\)"),
    (["--fix", "E=1e300"], "at or above every loss"),
    (["--tie", "E=alpha"], "parameters that can be tied are A and B, or alpha and beta"),
    (["--tie", "alpha=A"], "alpha is an exponent, and A is a coefficient"),
    (["--tie", "A=E"], "E is the limit at infinite size"),
    (["--tie", "alpha=alpha"], "tied to one that is itself fixed or tied"),
    (["--fix", "beta=0.3", "--tie", "alpha=beta"], "itself fixed or tied"),
    (["--fix", "alpha=0.3", "--tie", "alpha=beta"], "itself fixed or tied"),
    (["--fix", "=1"], "a name and a value"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_invalid_constraints_are_errors(grid, command, tmp_path: Path, words, said) -> None:
    grid(noise=0.01).to_csv(tmp_path / "runs.csv", index=False)
    done = command("fit", tmp_path, "--law", "chinchilla", "--bootstrap", 0, *words)
    assert done.code == 2
    assert done.out == ""
    assert re.search(said, done.err), done.err
    assert len(done.err.splitlines()) == 1


def test_a_fixed_floor_above_some_losses_gets_a_warning(grid) -> None:
    table = from_frame(grid(), "runs")
    held = constrain(FORMS["chinchilla"], {"E": sorted(table.loss)[4]})
    law = fit_law(table, held, resamples=0)
    assert any("and 5 of 25 losses are not above it" in text for text in law.warnings)
    with pytest.raises(UserError, match="at or above every loss"):
        fit_law(table, constrain(FORMS["chinchilla"], {"E": table.loss.max()}), resamples=0)
    below = fit_law(table, constrain(FORMS["chinchilla"], {"E": 1.25}), resamples=0)
    assert not any("not above it" in text for text in below.warnings)


@pytest.mark.parametrize(("name", "first", "second", "said"), [
    ("clark", "a_N", "E_max", "in experts"),
    ("m3-n", "beta", "c", "exponent"),
    ("q-family", "E", "beta", "infinite size"),
    ("muennighoff", "alpha", "R_D", "in repetitions"),
    ("ghorbani", "L_inf", "p_e", "exponent"),
    ("kumar", "gamma", "A", "in bits"),
])
def test_parameters_of_different_kinds_cannot_be_tied(name, first, second, said) -> None:
    with pytest.raises(UserError, match=said):
        constrain(FORMS[name], tied=[(first, second)])


@pytest.mark.parametrize(("name", "first", "second"), [
    ("chinchilla", "alpha", "beta"), ("chinchilla", "A", "B"), ("muennighoff", "R_D", "R_N"),
    ("ghorbani", "p_e", "p_d"), ("abnar", "c", "d"), ("q-family", "alpha", "beta"),
])
def test_parameters_of_the_same_kind_can_be_tied(name, first, second) -> None:
    assert constrain(FORMS[name], tied=[(first, second)]).constraints["tied"] == [[first, second]]


@pytest.mark.parametrize(("factor", "said"), [
    (1.0, None), (2.5, None), (1e-18, "1e-18 times 6 N D"), (5.0, "5 times 6 N D"),
    (1 / 8.64e19, "1.16e-20 times"),
])
def test_a_wrong_column_of_6_n_d_gets_a_warning(grid, factor, said) -> None:
    frame = grid()
    frame["flops_6nd"] = frame["flops_6nd"] * factor
    warnings = from_frame(frame, "runs").warnings
    found = [text for text in warnings if text.startswith("column flops_6nd: ")]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize("factor", [4.0, 0.2])
def test_given_compute_far_from_6_n_d_gets_a_warning(grid, factor) -> None:
    frame = grid()
    frame["F"] = frame["flops_6nd"] * factor
    table = from_frame(frame, "runs", n="params_total", d="tokens", c="F")
    assert any(re.search(rf"column F: C / \(6 N D\) is {factor:g} in every run", text)
               for text in table.warnings)
