"""Warnings of a fit at both sides of their limits, and the parameters that they mark."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.errors import DataError, UserError
from scaling.laws import (
    FORMS,
    Bootstrap,
    PowerSum,
    ResidualLoss,
    Term,
    allocate,
    constrain,
    fit_law,
    from_frame,
)
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.fitting.diagnose import diagnose
from scaling.laws.fitting.fit_evidence import Evidence

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
    return Evidence(form, table, table, x - centre, np.log(table.loss), theta, theta[None],
                    ResidualLoss("huber", 2e-3), constants, convergence, None, {})


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
        {"boot": _boot(100, 95)},
        {name: getattr(evidence, name)[::2] for name in ("x", "y")} | {
            "fitted": evidence.table.take(np.arange(0, 25, 2))},
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
    few = np.arange(0, 25, 3)
    said, unknown = _said(replace(evidence, fitted=evidence.table.take(few), x=evidence.x[few],
                                  y=evidence.y[few]))
    assert said == "9 runs for 5 parameters: the intervals are too narrow"
    assert unknown == set()
    said, unknown = _said(replace(evidence, boot=_boot(100, 94)))
    assert said.startswith("6 of 100 resamples did not converge")
    assert unknown == set()
    said, unknown = _said(replace(evidence, boot=_boot(100, 50)))
    assert said.startswith("50 of 100 resamples did not converge")
    assert unknown == set()
    said, unknown = _said(replace(evidence, boot=_boot(100, 49)))
    assert said.startswith("only 49 of 100 resamples converged")
    assert unknown == {*PARAMETERS, "a", "b"}
    for name, interval in (("alpha", (0.01, 1.01)), ("A", (1.0, 1.01e12))):
        said, unknown = _said(replace(evidence, intervals={name: interval}))
        assert said.startswith(f"{name} is not determined: its 90% interval")
        assert unknown >= {name}
    for name in ("alpha", "A"):
        error = 3.03 * evidence.params[name]
        said, unknown = _said(replace(evidence, boot=None, se_delta={name: error}))
        assert said.startswith(f"{name} is not determined: its standard error by the delta method")
        assert unknown >= {name}
        assert diagnose(replace(evidence, boot=None, se_delta={name: 0.98 * error})) == ([], set())
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


@pytest.mark.parametrize(("variable", "names", "known"), [
    ("d", {"B", "beta", "E", "a", "b"}, {"A": 406.4, "alpha": 0.34}),
    ("n", {"A", "alpha", "E", "a", "b"}, {"B": 410.7, "beta": 0.28}),
])
@pytest.mark.parametrize("noise", [
    0.0, 3e-3, *(pytest.param(noise, marks=pytest.mark.slow) for noise in (1e-6, 1e-4))])
def test_a_term_that_the_runs_do_not_show_is_not_determined(
    grid: Callable[..., pd.DataFrame], variable: str, names: set[str], known: Mapping[str, float],
    noise: float,
) -> None:
    """The loss depends on one variable: the other term and E are not known, the first term is."""
    frame = grid()
    x = frame["params_total" if variable == "d" else "tokens"].to_numpy(float)
    coefficient, exponent = known.values()
    frame["loss"] = (1.69 + coefficient * x**-exponent) * np.exp(
        noise * np.random.default_rng(0).standard_normal(len(frame)))
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=8)
    assert {name for name, value in law.se.items() if value is None} == names
    assert {*law.intervals} - {k for k, v in law.intervals.items() if v} == names
    # No term that follows noise takes over beyond the runs.
    n, d = frame["params_total"].to_numpy(float), frame["tokens"].to_numpy(float)
    at = {"n": np.array([n.min() / 10, n.max()]), "d": np.array([d.max(), d.max() * 10])}
    at = at if variable == "n" else {"n": np.array([n.min(), n.max()]),
                                     "d": np.array([d.max() * 100, d.min() / 100])}
    np.testing.assert_allclose(law.loss(at), 1.69 + coefficient * at[
        "n" if variable == "d" else "d"] ** -exponent, rtol=1e-6 + 5 * noise)
    (said,) = (text for text in law.warnings if "the fit is as good without" in text)
    assert f"no effect of {variable.upper()}" in said
    assert f"such as henighan-{'n' if variable == 'd' else 'd'}" in said
    for name, value in known.items():
        tolerance = 1e-6 + 40 * noise * (10 if name in "AB" else 1)
        assert law.params[name] == pytest.approx(value, rel=tolerance)


def test_a_term_that_the_runs_show_stays(grid: Callable[..., pd.DataFrame]) -> None:
    for seed in range(5):
        law = fit_law(from_frame(grid(noise=0.01, seed=seed), "runs"), "chinchilla", resamples=0)
        assert not any("as good without" in text for text in law.warnings)


def test_a_run_far_off_is_named(grid: Callable[..., pd.DataFrame]) -> None:
    frame = grid(noise=0.002)
    frame.loc[7, "loss"] *= 1.2
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=40)
    (said,) = (text for text in law.warnings if "far from the law" in text)
    distance = float(re.search(r"row 8 \(run_id run07\) by (\d+);", said)[1])  # type: ignore[index]
    assert 50 < distance < 150  # 18% in units of .2%, estimated from 25 runs
    assert all(value is None or value < 1e3 for value in law.se.values())
    clean = fit_law(from_frame(frame.drop(index=7), "runs"), "chinchilla", resamples=0)
    assert law.params["alpha"] == pytest.approx(clean.params["alpha"], abs=0.01)


def test_residuals_that_follow_a_variable_are_told(grid: Callable[..., pd.DataFrame]) -> None:
    """A loss with an arch over C, against one with independent noise."""
    frame = grid(noise=0.002)
    compute = np.log(frame["params_total"] * frame["tokens"])
    arch = ((compute - compute.mean()) / np.ptp(compute)) ** 2
    for size, expected in ((0.0, False), (0.1, True)):
        bent = frame.assign(loss=frame["loss"] * np.exp(-size * arch))
        law = fit_law(from_frame(bent, "runs"), "chinchilla", resamples=0)
        assert any("residuals follow" in text for text in law.warnings) == expected


def test_lack_of_fit_against_the_scatter_of_seeds() -> None:
    """A law of another form than the runs', whose seeds scatter by .1%; by hand for the means."""
    n = np.repeat(np.geomspace(1e6, 1e9, 6), 3)
    noise = 0.001 * np.random.default_rng(1).standard_normal(18)
    for floor, expected in ((0.0, False), (1.5, True)):
        frame = pd.DataFrame({"n": n, "loss": (floor + 20 * n**-0.1) * np.exp(noise)})
        law = fit_law(from_frame(frame, "runs", n="n", needs=("n",)),
                      _power(), resamples=0)
        said = [text for text in law.warnings if "lack of fit" in text]
        assert bool(said) == expected
        if expected:
            r = np.log(frame["loss"]) - np.log(law.loss({"n": n}))
            means = r.groupby(n).mean()
            miss = np.sqrt(3 * (means**2).sum() / 4)
            scatter = np.sqrt(((r - r.groupby(n).transform("mean")) ** 2).sum() / 12)
            assert f"points by {100 * np.expm1(miss):.2g}%" in said[0]
            assert f"scatter by {100 * np.expm1(scatter):.2g}%" in said[0]


def _power() -> PowerSum:
    return PowerSum(name="power", formula="A/N^alpha", source="a test", variables=("n",),
                    parameters=("A", "alpha"), terms=(Term("A", (("n", "alpha"),)),))


def test_as_many_runs_as_parameters_are_an_interpolation(
    grid: Callable[..., pd.DataFrame],
) -> None:
    frame = grid(noise=0.01).iloc[[0, 3, 11, 17, 24]]
    for by in ("case", "residual", "size"):
        law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=100, by=by)  # type: ignore[arg-type]
        assert (law.bootstrap, law.se, law.se_delta, law.intervals) == (None, {}, {}, {})
        assert any("interpolates the runs" in text for text in law.warnings)
        allocated = allocate(law, AllocationBudget(c=1e21))
        assert any("interpolates the runs" in text for text in allocated.warnings)
        assert allocated.n_interval is None


@pytest.mark.parametrize(("spread", "warned"), [(0.09, True), (0.11, False)])
def test_tokens_that_sizes_determine(evidence: Evidence, spread: float, warned: bool) -> None:
    """The standard deviation of log D about a line in log N."""
    x = evidence.x.copy()
    n = np.repeat(np.linspace(-2, 2, 5), 5)
    off = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 5)
    x[:, 0], x[:, 1] = n, 0.7 * n + spread * off / off.std()
    y = evidence.form.predict(evidence.theta[None], x)[0]
    warnings, unknown = diagnose(replace(evidence, x=x, y=y))
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


@pytest.mark.parametrize(("other", "is_said"), [
    ((0.24, 0.38), False), ((0.15, 0.35), False), ((0.14, 0.36), True), ((0.28, 0.36), True),
    (None, False),
])
def test_methods_that_disagree_on_a_width_are_told(
    evidence: Evidence, other: tuple[float, float] | None, is_said: bool
) -> None:
    """From half as wide again."""
    both = replace(evidence, intervals={"alpha": (0.25, 0.39), "E": (1.2, 1.4)},
                   percentile={"alpha": other, "E": (1.21, 1.38)})
    said, unknown = _said(both)
    assert said.startswith("90% intervals depend on the method: alpha 0.25 to 0.39 by BCa, ") \
        == is_said
    assert bool(said) == is_said
    assert not unknown


def test_a_skewed_distribution_has_another_interval_by_percentiles() -> None:
    """Of a coefficient from few and noisy runs, but not from many."""
    for noise, sizes in ((0.03, 4), (0.001, 6)):
        n, d = (axis.ravel() for axis in np.meshgrid(
            np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 4e10, sizes)))
        scatter = np.exp(noise * np.random.default_rng(1).standard_normal(n.size))
        frame = pd.DataFrame({"n": n, "d": d, "loss": scatter * (
            1.7 + 400 / n**0.34 + 410 / d**0.28)})
        law = fit_law(from_frame(frame, "runs", n="n", d="d"), "chinchilla", resamples=300)
        assert any("by BCa" in warning for warning in law.warnings) == (noise == 0.03)


@pytest.mark.parametrize(("fixed", "enough"), [
    ({"alpha": 0.34}, True), ({"E": 1.7}, True), ({"A": 400.0}, True), ({"beta": 0.28}, False)])
def test_two_sizes_are_enough_where_a_parameter_of_the_size_is_fixed(
    fixed: dict[str, float], enough: bool
) -> None:
    n, d = (axis.ravel() for axis in np.meshgrid([1e7, 1e9], np.geomspace(1e9, 1e11, 6)))
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(n.size))
    frame = pd.DataFrame({"n": n, "d": d, "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise})
    table = from_frame(frame, "runs", n="n", d="d")
    form = constrain(FORMS["chinchilla"], fixed)
    if not enough:
        with pytest.raises(DataError, match="2 distinct sizes N"):
            fit_law(table, form, resamples=0)
        return
    law = fit_law(table, form, resamples=0)
    assert law.params["alpha"] == pytest.approx(0.34, abs=0.02)
    assert law.params["beta"] == pytest.approx(0.28, abs=0.03)


def test_few_clusters_are_too_few_for_the_wild_bootstrap_too() -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(n.size))
    frame = pd.DataFrame({"n": n, "d": d, "loss": (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise})
    for clusters, said in ((4, True), (5, False), (1, None)):
        table = from_frame(frame.assign(run=np.arange(16) % clusters), "runs", n="n", d="d",
                           cluster="run")
        if said is None:
            with pytest.raises(UserError, match="all runs have one cluster"):
                fit_law(table, "chinchilla", resamples=20, by="wild")
            continue
        law = fit_law(table, "chinchilla", resamples=20, by="wild")
        assert said == any("resamples are of 4 clusters" in w for w in law.warnings)
