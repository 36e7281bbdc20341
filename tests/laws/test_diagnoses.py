"""Warnings of a fit at both sides of their limits, and the parameters that they mark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.laws import FORMS, Bootstrap, constrain, fit_law, from_frame
from scaling.laws.fitting.diagnose import Evidence, diagnose

PARAMETERS = ("E", "A", "B", "alpha", "beta")
NOT_E = {"A", "B", "alpha", "beta", "a", "b"}


@pytest.fixture
def evidence(grid: Callable[..., pd.DataFrame], constants: Mapping[str, float]) -> Evidence:
    """A fit without anything to warn of."""
    table = from_frame(grid(noise=1e-3), "runs")
    form = FORMS["chinchilla"]
    x = form.coordinates(table.values)
    theta = form.from_params(np.array([[constants[p] for p in PARAMETERS]]))[0]
    centre = x.mean(axis=0)
    theta = theta - [0, constants["alpha"] * centre[0], constants["beta"] * centre[1], 0, 0]
    convergence = {"converged": True, "condition": 10.0, "start_agreement": 1.0, "grad_norm": 0.0}
    return Evidence(form, table, table, x - centre, theta, constants, convergence, None, {})


def _boot(resamples: int, converged: int) -> Bootstrap:
    return Bootstrap(resamples, converged, 0, np.ones((converged, 5)), np.zeros(3))


def _said(evidence: Evidence) -> tuple[str, set[str]]:
    warnings, unknown = diagnose(evidence)
    assert len(warnings) < 2, warnings
    return "".join(warnings), unknown


def test_a_good_fit_has_no_warning(evidence: Evidence) -> None:
    fine: list[dict[str, Any]] = [
        {}, {"convergence": {**evidence.convergence, "condition": 0.99e10}},
        {"convergence": {**evidence.convergence, "condition": None}},
        {"convergence": {**evidence.convergence, "start_agreement": 0.5}},
        {"boot": _boot(100, 95)}, {"fitted": evidence.table.take(np.arange(10))},
        {"intervals": {"alpha": (0.2, 0.6), "A": (1.0, 100.0), "beta": None}},
    ]
    for changes in fine:
        assert diagnose(replace(evidence, **changes)) == ([], set()), changes


def test_each_warning_at_its_limit(evidence: Evidence) -> None:
    def with_convergence(**values: Any) -> Evidence:
        return replace(evidence, convergence={**evidence.convergence, **values})

    said, unknown = _said(with_convergence(converged=False))
    assert "did not converge" in said
    assert unknown == {*PARAMETERS, "a", "b"}
    said, unknown = _said(with_convergence(condition=1.01e10))
    assert "condition number is 1.0e+10" in said
    assert unknown == set()
    said, unknown = _said(with_convergence(start_agreement=0.49))
    assert "only 49% of the starts" in said
    assert unknown == set()
    said, unknown = _said(replace(evidence, fitted=evidence.table.take(np.arange(9))))
    assert said == "9 runs for 5 parameters: the intervals are too narrow"
    assert unknown == set()
    said, unknown = _said(replace(evidence, boot=_boot(100, 94)))
    assert said.startswith("6 of 100 resamples did not converge")
    assert unknown == set()
    said, unknown = _said(replace(evidence, boot=_boot(100, 1)))
    assert said.startswith("no resample of the bootstrap converged")
    assert unknown == {*PARAMETERS, "a", "b"}
    for name, interval in (("alpha", (0.2, 0.61)), ("A", (1.0, 101.0)), ("A", (-1.0, 2.0)),
                           ("beta", (0.0, 0.1))):
        said, unknown = _said(replace(evidence, intervals={name: interval}))
        assert said.startswith(f"{name} is poorly determined")
        assert unknown == set()
    said, unknown = _said(replace(evidence, params={**evidence.params, "beta": 0.0}))
    assert said.startswith("beta is 0: the loss does not decrease")
    assert unknown == NOT_E


@pytest.mark.parametrize(("coefficient", "names"), [
    (0, {"E"}), (1, {"A", "alpha", "a", "b"}), (2, {"B", "beta", "a", "b"})])
def test_a_term_below_a_ten_thousandth_of_every_loss_has_vanished(
    evidence: Evidence, coefficient: int, names: set[str]
) -> None:
    terms = np.stack([np.full(25, evidence.theta[0]),
                      evidence.theta[1] - evidence.theta[3] * evidence.x[:, 0],
                      evidence.theta[2] - evidence.theta[4] * evidence.x[:, 1]])
    rest = np.exp(np.delete(terms, coefficient, axis=0)).sum(axis=0)
    for share, warned in ((1.1e-4, False), (0.9e-4, True)):
        # The largest share over the runs is that of the run with the largest ratio.
        theta = evidence.theta.copy()
        theta[coefficient] += np.log(share / (np.exp(terms[coefficient]) / rest).max())
        warnings, unknown = diagnose(replace(evidence, theta=theta))
        assert any("has vanished" in text for text in warnings) == warned
        assert unknown == (names if warned else set())


@pytest.mark.parametrize(("spread", "warned"), [(0.09, True), (0.11, False)])
def test_tokens_that_sizes_determine(evidence: Evidence, spread: float, warned: bool) -> None:
    """The standard deviation of log D about a line in log N."""
    x = evidence.x.copy()
    n = np.repeat(np.linspace(-2, 2, 5), 5)
    off = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 5)
    x[:, 0], x[:, 1] = n, 0.7 * n + spread * off / off.std()
    warnings, unknown = diagnose(replace(evidence, x=x))
    assert any("D ~ N^0.70" in text for text in warnings) == warned
    assert unknown == (NOT_E if warned else set())


def _runs(pairs: Mapping[tuple[float, float], float]) -> Any:
    n, d = np.array([*pairs]).T
    frame = pd.DataFrame({"params_non_embedding": n, "tokens": d, "loss": [*pairs.values()]})
    return from_frame(frame, "runs", counting="non-embedding")


def test_a_law_of_one_variable_needs_runs_along_the_other() -> None:
    """Kaplan's laws of N and of D describe the lowest loss over the other variable."""
    single = {(1e5, 1e7): 5.0, (1e6, 2e7): 4.0, (1e7, 3e7): 3.2}
    law = fit_law(_runs(single), "kaplan-n", resamples=0)
    assert any("3 of 3 values of N have only one run, whose loss may be limited by D" in text
               for text in law.warnings)
    law = fit_law(_runs(single), "kaplan-d", resamples=0)
    assert any("3 of 3 values of D have only one run, whose loss may be limited by N" in text
               for text in law.warnings)
    # Half of the sizes may have one run.
    half = single | {(1e5, 2e7): 4.9, (1e6, 4e7): 3.9, (2e7, 3.5e7): 2.9}
    law = fit_law(_runs(half), "kaplan-n", resamples=0)
    assert law.n_runs == 4
    assert not any("only one run" in text for text in law.warnings)


def test_the_lowest_loss_is_expected_at_the_end_of_the_other_variable() -> None:
    """At N = 1e6 the run on fewer tokens is better, which is noise or a fault."""
    runs = {(1e5, 1e7): 5.0, (1e5, 2e7): 4.9, (1e6, 3e7): 4.0, (1e6, 4e7): 4.1,
            (1e7, 5e7): 3.2, (1e7, 6e7): 3.1}
    law = fit_law(_runs(runs), "kaplan-n", resamples=0)
    assert [text for text in law.warnings if "the lowest loss is not" in text] == [
        "at N = 1e+06 the lowest loss is not that of the largest D: noise, or a run that overfits "
        "or diverged unnoticed"]
    fine = fit_law(_runs(runs | {(1e6, 4e7): 3.9}), "kaplan-n", resamples=0)
    assert not any("the lowest loss is not" in text for text in fine.warnings)
    turned = {(d, n): loss for (n, d), loss in runs.items()}
    law = fit_law(_runs(turned), "kaplan-d", resamples=0)
    assert any(text.startswith("at D = 1e+06 the lowest loss is not that of the largest N")
               for text in law.warnings)


def test_a_fixed_exponent_is_no_longer_an_exponent_to_be_determined(
    grid: Callable[..., pd.DataFrame]
) -> None:
    held = constrain(FORMS["chinchilla"], {"alpha": 0.34})
    assert held.exponents == ("beta",)
    tied = constrain(FORMS["chinchilla"], tied=[("alpha", "beta")])
    assert tied.exponents == ("alpha",)
    law = fit_law(from_frame(grid(noise=0.01), "runs"), held, resamples=4)
    assert set(law.se) == {"E", "A", "B", "beta", "a", "b"}
    assert law.params["alpha"] == pytest.approx(0.34, rel=1e-12)
