"""Suggestions from given candidates with a cost, for the loss of a run, and in one call."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.errors import UserError
from scaling.laws import Law, PowerSum, ResidualLoss, Term, from_frame
from scaling.laws.design.fisher import Noise, expected_sd, target_named
from scaling.laws.design.grid import by_ratio
from scaling.laws.design.simulate import simulate
from scaling.laws.fitted import Fit
from scaling.laws.published import published_named

SMALL = by_ratio(np.geomspace(2e7, 2e8, 4).tolist(), [5, 20, 80])
LARGER = by_ratio([2e8, 4e8, 8e8], [5, 20, 80])
AT = {"n": 4e9, "d": 8e10}


@pytest.fixture(scope="module")
def law() -> Law:
    found = published_named("hoffmann2022-3").law
    assert found is not None
    return found


@pytest.fixture(scope="module")
def fit(law: Law) -> Fit:
    """The true law, as if it had been fitted to a pilot."""
    table = from_frame(simulate(law, SMALL, Noise(0.003)), "pilot")
    return Fit(law, law.residual_loss, table)


@pytest.fixture(scope="module")
def planned(law: Law) -> pd.DataFrame:
    """Candidates, dear where they are small, in an order of their own."""
    frame = simulate(law, LARGER, Noise(0.003)).assign(status="planned", loss=np.nan)
    return frame.assign(price=1e20 / frame["flops_6nd"] + 3).sample(frac=1, random_state=0)


def _suggested(fit: Fit, planned: pd.DataFrame, budget: float, **options: Any) -> Any:
    return sl.suggest(fit, "loss", budget, **{
        "at": AT, "candidates": planned, "noise": 0.003, "resamples": 0, **options})


def _sd(law: Law, fit: Fit, rows: pd.DataFrame) -> float:
    """Expected standard deviation after training these runs, from all runs at once."""
    n, d = (np.concatenate([so_far, rows[name]]) for so_far, name in (
        (fit.runs.n, "params_total"), (fit.runs.d, "tokens")))
    return expected_sd(law, {"n": n, "d": d, "c": 6 * n * d}, Noise(0.003),
                       target_named(law.form, "loss", AT))


def test_the_loss_of_a_run_has_the_textbook_variance() -> None:
    """Of a line in log D at x0, sigma^2 (1/n + (x0 - mean)^2 / Sxx)."""
    form = PowerSum(name="power", formula="A/D^alpha", source="a test", variables=("d",),
                    parameters=("A", "alpha"), robust=ResidualLoss("squared"),
                    terms=(Term("A", (("d", "alpha"),)),))
    truth = Law(form=form, convention={}, params={"A": 30.0, "alpha": 0.2})
    d = np.array([1e8, 2e8, 4e8, 1.6e9])
    x = np.log(d)
    target = target_named(form, "loss", {"d": 1e11})
    sd = expected_sd(truth, {"d": d, "c": 6e6 * d}, Noise(0.01), target)
    leverage = 1 / 4 + (np.log(1e11) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    assert sd == pytest.approx(0.01 * np.sqrt(leverage), rel=1e-5)
    assert float(target.evaluate(truth.point)[0]) == pytest.approx(30 * 1e11**-0.2)


@pytest.mark.parametrize("cost", ["price", "flops_6nd"])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_runs_are_as_good_as_any_set_within_the_budget(
    law: Law, fit: Fit, planned: pd.DataFrame, cost: str, share: float
) -> None:
    budget = share * planned[cost].sum()
    found = _suggested(fit, planned, budget, cost=cost)
    rows = planned.set_index("run_id").loc[[run.run_id for run in found.runs]]
    assert len(rows) == len(set(rows.index)) > 0
    assert found.cost == pytest.approx(rows[cost].sum())
    assert found.cost <= budget
    np.testing.assert_allclose([(run.n, run.d) for run in found.runs],
                               rows[["params_total", "tokens"]])
    assert found.runs[-1].sd == pytest.approx(_sd(law, fit, rows), rel=1e-3)
    affordable = [planned.iloc[list(group)] for size in range(1, len(planned) + 1)
                  for group in itertools.combinations(range(len(planned)), size)
                  if planned[cost].iloc[list(group)].sum() <= budget]
    # Adding a run never hurts, so only sets to which no run can be added need be compared.
    largest = [group for group in affordable if planned[cost].drop(group.index).min()
               > budget - group[cost].sum()]
    assert found.runs[-1].sd <= 1.05 * min(_sd(law, fit, group) for group in largest)


def test_only_planned_runs_of_the_grid_are_chosen(fit: Fit, planned: pd.DataFrame) -> None:
    everything = _suggested(fit, planned.drop(columns="status"), 1e30)
    assert everything.candidates == len(planned)
    done = planned.assign(status=["done", "diverged", *["planned"] * (len(planned) - 2)])
    held = done.assign(role=["grid"] * 3 + ["heldout"] + ["grid"] * (len(planned) - 4))
    found = _suggested(fit, held, 1e30, max_runs=100)
    assert {run.run_id for run in found.runs} == set(planned["run_id"].iloc[[2, *range(4, 9)]])
    assert len(found.to_frame()) == len(found.runs) == found.candidates
    assert list(found.to_frame()["run_id"]) == [run.run_id for run in found.runs]


def test_a_run_takes_less_compute_than_its_limits(fit: Fit, planned: pd.DataFrame) -> None:
    c = 6 * planned["params_total"] * planned["tokens"]
    most = float(c.median()) * (1 + 1e-12)
    found = _suggested(fit, planned, 1e30, max_flops_per_run=most, max_runs=100)
    assert max(run.c for run in found.runs) <= most
    near = _suggested(fit, planned, 1e30, at={"n": 0.999 * most / 6e10, "d": 1e10}, max_runs=100)
    assert max(run.c for run in near.runs) < most
    assert found.candidates == (c <= most).sum()
    assert near.candidates == (c < 0.999 * most).sum()


def test_one_call_reads_fits_and_suggests(law: Law, fit: Fit, planned: pd.DataFrame) -> None:
    """The same from a table in other columns, from the runs, and from a fit to them."""
    frame = simulate(law, SMALL, Noise(0.003))
    fitted = sl.fit(frame, "chinchilla", resamples=0)
    aim = {"at": AT, "resamples": 0, "budget": 5e19, "target": "loss"}
    first = sl.suggest(fitted, candidates=planned, **aim)
    names = {"params_total": "size", "tokens": "seen"}
    own = frame[[*names, "loss"]].rename(columns=names)
    rows = planned[["run_id", *names]].rename(columns=names)
    second = sl.suggest(own, candidates=rows, n="size", d="seen", **aim)
    assert [run.run_id for run in first.runs] == [run.run_id for run in second.runs]
    assert first.runs[-1].sd == pytest.approx(second.runs[-1].sd, rel=1e-6)
    assert sl.suggest(fitted, **aim).runs  # from a grid of its own


@pytest.mark.parametrize(("options", "message"), [
    ({"cost": "dollars"}, "has no column dollars"),
    ({"budget": 1.0}, "none of the 9 candidates"),
    ({"budget": float("nan")}, "budget nan: a positive number"),
    ({"candidates": None, "cost": "price"}, "a column of the candidates"),
    ({"sizes": [1e8]}, "drop them, or the candidates"),
    ({"at": {"n": 1e9}}, "needs D of the run"),
    ({"at": {"n": 1e9, "d": -1.0}}, "target loss: D -1"),
    ({"at": {"n": 1e9, "d": 1e10, "u": 1e9}}, "u is not among its variables"),
    ({"target": "n-star"}, "only the target loss"),
    ({"law": "chinchilla"}, "the fit has its law"),
    ({"n": "size"}, "read already"),
])
def test_impossible_requests_are_refused(
    fit: Fit, planned: pd.DataFrame, options: dict[str, Any], message: str
) -> None:
    given = {"target": "loss", "budget": 5e19, "at": AT, "candidates": planned, "resamples": 0}
    with pytest.raises(UserError, match=message):
        sl.suggest(fit, **given | options)


def test_candidates_that_are_no_runs_are_refused(fit: Fit, planned: pd.DataFrame) -> None:
    for wrong, message in ((planned.iloc[:0], "has no rows"),
                           (planned.assign(status="done"), "status planned"),
                           (planned.assign(tokens=-1.0), "column tokens"),
                           (planned.assign(price=0.0), "column price"),
                           (planned.drop(columns="tokens"), "no column tokens")):
        with pytest.raises(UserError, match=message):
            _suggested(fit, wrong, 5e19, cost="price")


@pytest.mark.slow
def test_a_short_version_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise the law is recovered from all designs, whose cost is within their share."""
    path = Path(__file__).resolve().parents[2] / "experiments/suggested_runs.py"
    spec = importlib.util.spec_from_file_location("suggested_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOISE", 1e-4)
    monkeypatch.setattr(module, "BATCHES", 1)
    monkeypatch.setattr(module, "CASES", module.CASES[:1])
    rows = module.study(1)
    assert set(rows["design"]) == set(module.DESIGNS)
    assert (rows["r2"] > 0.99).all()
    limits = rows["design"].map(lambda name: 1.0 if name == "full grid" else
                                0.3 if "three" in name else 0.1)
    assert (rows["cost"] <= limits * (1 + 1e-9)).all()
    assert (rows["cost"] > 0.9 * limits).all()
    assert set(module.summary(rows)["better_than_full_grid"]) <= {0.0, 1.0}
