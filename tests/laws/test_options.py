"""Every option of a function of laws changes its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.errors import DataError
from scaling.laws import (
    FORMS,
    Law,
    PowerSum,
    ResidualLoss,
    RunsTable,
    Term,
    allocate,
    fit_law,
    from_frame,
)
from scaling.laws import published as published_laws
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.approaches import Screen, curves_from_frame, fit_approach
from scaling.laws.conventions.compare import compare
from scaling.laws.conventions.reconcile import fit_under_conventions, frontier, kaplan_power_law
from scaling.laws.conventions.recount import published_relation, recount
from scaling.laws.design.fisher import Noise, expected_sd, target_named
from scaling.laws.design.grid import isoflop, rectangle
from scaling.laws.design.simulate import Faults, simulate, simulate_study
from scaling.laws.design.suggest import suggest
from scaling.laws.evidence import (
    checklist,
    likelihood_ratio,
    outlier_sensitivity,
    profile,
    residuals,
    rolling_origin,
)
from scaling.laws.forms.constrained import constrain

LINE = replace(FORMS["kaplan-n"], envelope=None)
POWER = PowerSum(
    name="power", formula="A/D^alpha", source="a test", variables=("d",),
    parameters=("A", "alpha"), robust=ResidualLoss("squared"),
    terms=(Term("A", (("d", "alpha"),)),))
TRUTH = Law(form=POWER, convention={"n": "total"}, params={"A": 30.0, "alpha": 0.2})
AIM = target_named(POWER, "alpha")
BUDGETS = np.logspace(17, 20, 5)
HUBER = ResidualLoss("huber", 1e-4)


def _published(name: str) -> Law:
    law = published_laws()[name].law
    assert law is not None
    return law


BESIROGLU = _published("besiroglu2024")


def _line() -> RunsTable:
    """Four runs of each of three sizes, of which one run is far off."""
    rng = np.random.default_rng(0)
    n = np.repeat([1e5, 1e6, 1e7], 4)
    d = np.tile([1e8, 2e8, 4e8, 8e8], 3)
    loss = (1e9 / n) ** 0.1 * np.exp(0.05 * rng.standard_normal(12))
    loss[5] *= 1.3
    return from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "line", n="N", d="D")


def _isoflop() -> RunsTable:
    """Two seeds of nine sizes at five budgets, and a run near the first budget."""
    rng = np.random.default_rng(0)
    n = np.tile(np.outer(np.sqrt(BUDGETS / 6), np.geomspace(1 / 12, 2.5, 9)).ravel(), 2)
    c = np.tile(np.repeat(BUDGETS, 9), 2)
    n, c = np.append(n, n[4]), np.append(c, 1.05e17)
    loss = (1.7 + 400 / n**0.32 + 400 / (c / 6 / n) ** 0.28) * np.exp(
        0.001 * rng.standard_normal(91))
    return from_frame(pd.DataFrame({"n": n, "c": c, "loss": loss}), "runs", n="n", c="c")


def _curves() -> Any:
    rng = np.random.default_rng(0)
    parts = []
    for i, n in enumerate(np.geomspace(1e6, 1e8, 12)):
        d = np.geomspace(n / 10, n * 200, 25)
        loss = (1.7 + 400 / n**0.3 + 400 / d**0.3) * np.exp(0.01 * rng.standard_normal(25))
        parts.append(pd.DataFrame({"run_id": f"r{i:02d}", "n": n, "d": d, "loss": loss}))
    return curves_from_frame(pd.concat(parts), "curves")


def _frontier(found: Any) -> Any:
    """The numbers of a frontier, without the options that it records."""
    return (found.params, found.se, found.optima.n.tolist(), found.optima.n_se.tolist(),
            found.optima.used.tolist(), dict(found.excluded))


def _sweep(**options: Any) -> Any:
    return simulate(TRUTH, rectangle([1e6], [1e8, 4e8, 1.6e9]), **{"noise": Noise(0.01), **options}
                    ).to_csv()


def _study(**options: Any) -> Any:
    found = simulate_study(TRUTH, rectangle([1e6], [1e8, 2e8, 4e8, 8e8, 1.6e9]), **{
        "noise": Noise(0.01), "repeats": 8, "targets": [AIM], **options})
    return found.targets[0].estimates.tolist()


SO_FAR = from_frame(simulate(TRUTH, rectangle([1e6, 2e6], [1e8, 2e8, 4e8, 8e8]), Noise(0.01)), "x")


def _suggested(**options: Any) -> Any:
    given = {"budget": 1e18, "runs": 3, "noise": Noise(0.01), "sizes": [1e6], **options}
    return [(run.n, run.d, run.seed, run.sd) for run in suggest(TRUTH, SO_FAR, AIM, **given).runs]


def _conventions(**options: Any) -> Any:
    n = np.repeat(np.geomspace(1e6, 1e8, 5), 5)
    d = np.tile(np.geomspace(1e8, 1e10, 5), 5)
    loss = 1.8 + 480 / n**0.35 + 2000 / d**0.37
    frame = pd.DataFrame({"params_total": n, "tokens": d, "loss": loss, "seen": 0.9 * d,
                          "other": loss * (1 + 0.01 * (np.arange(25) % 3))})
    given = {"budgets": [1e18], "resamples": 0, **options}
    (found,) = fit_under_conventions(frame, "runs", **given)
    return found.to_json()


def _budget(**options: Any) -> Any:
    law = Law(form=FORMS["muennighoff"], convention={"n": "total"},
              params={**BESIROGLU.params, "R_D": 15.4, "R_N": 5.3})
    best = allocate(law, AllocationBudget(**{"c": 1e21, **options}))
    return best.n, best.d, best.loss, best.excess, best.epochs


LARGER = published_relation(1e5)
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "fit_law": (lambda **o: fit_law(_line(), **{"form": LINE, "resamples": 6, **o}).to_json(), {
        "form": replace(FORMS["m2-n"]), "robust": HUBER, "resamples": 7, "seed": 1,
        "by": "residual", "method": "percentile"}),
    "fit_law by size": (lambda **o: fit_law(_line(), LINE, **{"resamples": 6, **o}).samples, {
        "by": "size", "seed": 2}),
    "approach-2": (lambda **o: _frontier(fit_approach(_isoflop(), "approach-2", **o)), {
        "budgets": BUDGETS[1:].tolist(), "tolerance": 0.1, "within": 3.0, "target": "log-loss",
        "noise": 0.002, "weighted": True, "screen": Screen(off_centre=0.01, edge=0.0)}),
    "approach-2-akima": (
        lambda **o: _frontier(fit_approach(
            _isoflop(), "approach-2-akima", **{"resamples": 8, "noise": 0.02, **o})),
        {"resamples": 9, "seed": 1, "noise": 0.01, "weighted": False, "within": 3.0,
         "budgets": BUDGETS[1:].tolist()}),
    "approach-1": (
        lambda **o: _frontier(fit_approach(_curves(), "approach-1",
                                           **{"points": 60, "resamples": 6, **o})),
        {"points": 70, "smooth": 0.5, "resamples": 7, "seed": 1}),
    "simulate": (_sweep, {"noise": Noise(0.02), "seeds": 2, "draw": 1, "source": "x",
                          "faults": Faults(outliers=0.9)}),
    "simulate_study": (_study, {"noise": Noise(0.02), "repeats": 9, "draw": 1,
                                "robust": ResidualLoss("l1"), "faults": Faults(outliers=0.5)}),
    "expected_sd": (
        lambda **o: expected_sd(TRUTH, rectangle([1e6], [1e8, 4e8]).values,
                                **{"noise": Noise(0.01), "target": AIM, **o}),
        {"noise": Noise(0.02), "target": target_named(POWER, "A"), "robust": ResidualLoss("l1")}),
    "suggest": (_suggested, {
        "budget": 2e16, "at": 1e16, "max_flops_per_run": 8e15, "sizes": [1e6, 1.7e6],
        "ratios": (50.0, 300.0), "max_tokens": 9e8, "runs": 2, "seeds": 2,
        "noise": Noise(0.02)}),
    "likelihood_ratio": (
        lambda **o: likelihood_ratio(
            _line(), **{"small": constrain(FORMS["m1-n"], {"c": 0.1}), "large": "m1-n",
                        "robust": ResidualLoss("squared"), "samples": 40, **o}).p_value,
        {"small": constrain(FORMS["m1-n"], {"c": 0.12}), "robust": HUBER,
         "samples": 41, "seed": 1}),
    "profile": (lambda **o: (found := profile(_line(), **{
        "form": LINE, "name": "alpha_N", "values": (0.05, 0.1, 0.15, 0.2), **o})) and (
        found.objectives, found.critical_rise, found.interval), {
        "name": "N_c", "values": (0.05, 0.1, 0.15, 0.21), "robust": HUBER, "level": 0.5}),
    "rolling_origin": (lambda **o: rolling_origin(_line(), **{
        "forms": [POWER], "by": "d", "cuts": 2, **o}).to_json(), {
        "forms": [FORMS["m1-d"], POWER], "by": "c", "cuts": [4e8], "robust": HUBER}),
    "rolling_origin by its number of cuts": (
        lambda **o: rolling_origin(_line(), [POWER], "d", **o).cuts, {"cuts": 1}),
    "outlier_sensitivity": (lambda **o: outlier_sensitivity(_line(), LINE, **{
        "drops": (1,), **o}).to_json(), {"drops": (2,), "by": "residual", "robust": HUBER}),
    "residuals": (lambda **o: residuals(fit_law(_line(), LINE, resamples=0), _line(), **o).heaviest,
                  {"heaviest": 2}),
    "checklist": (lambda **o: checklist(BESIROGLU, **o), {
        "table": _line(), "frame": pd.DataFrame({"corpus": ["c4"]}), "answers": {"code": "yes"}}),
    "allocate": (_budget, {
        "c": 2e21, "inference_tokens": 1e12, "unique_tokens": 1e10, "n": 1e9, "d": 1e10,
        "flops_per_token": lambda n: 7 * n}),
    "isoflop": (lambda **o: isoflop(**{"budgets": [1e18, 1e19], "law": BESIROGLU, **o}).n.tolist(),
                {"budgets": [1e18], "sizes": [1e7], "law": _published("hoffmann2022-3")}),
    "recount": (lambda **o: recount(BESIROGLU, "non-embedding", **o).loss(
        {"n": np.array([1e6]), "d": np.array([1e9])}), {"relation": LARGER}),
    "kaplan_power_law": (lambda **o: kaplan_power_law(BESIROGLU, **o), {"relation": LARGER}),
    "frontier": (
        lambda **o: frontier(BESIROGLU, **{"counting": "non-embedding", "budgets": [1e17, 1e18],
                                           **o}).to_json()["power"],
        {"counting": "total", "budgets": [1e17, 1e19], "relation": LARGER}),
    "compare": (
        lambda **o: [row.to_json() for row in compare(
            [("x", BESIROGLU)], **{"budgets": [1e18], **o})[0].allocations],
        {"budgets": [1e19], "counting": "non-embedding"}),
    "compare of recounted laws": (
        lambda **o: [entry.allocations[0].n for entry in compare(
            [("x", BESIROGLU), ("y", published_laws()["hoffmann2022-1"])], [1e18],
            "non-embedding", **o)], {"relation": LARGER}),
    "compare of laws of other variables": (
        lambda **o: compare([("x", published_laws()["krajewski2024"])], [1e20],
                            **{"given": {"granularity": 4.0}, **o})[0].allocations[0].loss,
        {"given": {"granularity": 8.0}}),
    "fit_under_conventions": (_conventions, {
        "budgets": [1e19], "d": "seen", "loss": "other",
        "form": constrain(FORMS["chinchilla"], {"E": 1.7})}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_option_changes_the_result(name: str) -> None:
    function, options = CASES[name]

    def result(**changed: Any) -> str:
        try:
            return repr(function(**changed))
        except DataError as error:  # no budget is left by a strict criterion
            return str(error)

    plain = repr(function())
    assert repr(function()) == plain  # whatever is drawn is drawn again
    for option, value in options.items():
        assert result(**{option: value}) != plain, option


def test_progress_ends_with_all_that_is_done() -> None:
    done: list[int] = []
    fit_law(_line(), LINE, resamples=6, watch=done.append)
    assert done == [6]
    simulate_study(TRUTH, rectangle([1e6], [1e8, 2e8, 4e8]), Noise(0.01), 8, [AIM],
                   watch=done.append)
    assert done == [6, 8]
    fit_approach(_isoflop(), "approach-2-akima", resamples=10, budgets=BUDGETS.tolist(),
                 watch=done.append)
    assert done[2:] == [2, 4, 6, 8, 10]
    fit_approach(_curves(), "approach-1", points=40, resamples=3, watch=done.append)
    assert done[7:] == [0, 1, 2]
