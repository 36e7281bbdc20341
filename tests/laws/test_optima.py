"""Optima of fits: never above those of SciPy, and at the end of a flat valley."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import lambertw

from experiments import optima
from scaling.laws import FORMS, Law, fit_law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.losses import ResidualLoss

D = np.geomspace(1e8, 1e11, 12)
FAR = {"d": np.array([1e12])}


@pytest.mark.parametrize(("name", "seed"), [
    *((name, 2) for name in optima.RIVALS if name not in ("farseer", "m4-n")),
    ("farseer", 4), pytest.param("m4-n", 4, marks=pytest.mark.slow),
])
def test_no_optimum_is_above_scipys(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival begins at the true constants, and at a few other points."""
    monkeypatch.setattr(optima, "STARTS", 3)
    monkeypatch.setattr(optima, "_CONTINUED", 2)
    found = optima.compare(name, seed)
    assert found["converged"]
    assert found["ratio"] <= 1 + optima.RTOL
    rounding = found["runs"] * optima.RESIDUAL**2
    assert found["reported"] == pytest.approx(found["ours"], rel=1e-6, abs=rounding)


def _fit(name: str, loss: np.ndarray) -> Law:
    table = from_frame(pd.DataFrame({"D": D, "loss": loss}), "runs", d="D", needs=("d",))
    return fit_law(table, name, resamples=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broken-d", "m4-d"])
def test_a_law_with_too_many_parameters_predicts_as_a_simple_one(name: str) -> None:
    """Without a break or an upper bound the objective has flat valleys."""
    law = _fit(name, 1.7 + 900 / D**0.3)
    assert law.converged
    assert law.loss(FAR)[0] == pytest.approx(1.7 + 900 / 1e12**0.3, rel=1e-3)
    assert any("determine" in text or "condition number" in text for text in law.warnings)


@pytest.mark.slow
def test_m4_warns_of_an_upper_bound_that_the_runs_do_not_show() -> None:
    """At the largest loss, and at the bound of alpha: the latter for x exp(2 x) = 3000 D^-.3."""
    power = 1.7 + 900 / D**0.3
    without = 1.7 + np.real(lambertw(2 * 3000 / D**0.3)) / 2
    for loss, said in ((np.minimum(power, 0.93 * power[0]), "e_0 is at its bound"),
                       (without, "alpha is at its bound of 20")):
        law = _fit("m4-d", loss)
        assert law.converged
        assert said in " ".join(law.warnings)
        assert law.se_delta["e_0"] is None


def test_a_parameter_without_effect_does_not_end_a_fit() -> None:
    """Effective parameters of Muennighoff's law without A: all runs have many more than are best
    for their unique tokens, and A cancels."""
    form = FORMS["muennighoff"]
    case = optima.design("muennighoff", 16)
    x, y = form.coordinates(case.table.values), np.log(case.table.loss)
    starts = form.starts(x, case.table.loss)[::5]
    with np.errstate(all="ignore"):
        found = minimise(form, x, y, np.ones((len(starts), len(y))), starts,
                         ResidualLoss("huber", 0.01))
    slope = np.abs(found.gradient[found.converged])
    assert slope.size == 0 or slope.max() < 1e-4
