"""Laws and evidence as they are printed, from numbers that are written here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Law, ResidualLoss, RunsTable, from_frame, show
from scaling.laws.evidence import (
    Comparison,
    LikelihoodRatio,
    Profile,
    Rolling,
    Sensitivity,
    checklist,
    compare_forms,
    residuals,
    rolling_origin,
)
from scaling.laws.evidence.comparison import ComparedForm, _verdict, log_likelihood
from scaling.laws.evidence.refit import group_sizes
from scaling.laws.evidence.residuals import Residual, Residuals, Trend
from scaling.laws.evidence.rolling import Forecast, _cuts
from scaling.laws.evidence.sensitivity import Refit, _tie_note, objective_sensitivity
from scaling.laws.show import TextTable

LAW = Law(
    form=FORMS["chinchilla"],
    convention={"n": "total", "d": "tokens", "c": "6 N D", "loss": "nats per token",
                "objective": "huber", "delta": 0.001,
                "range": {"n": (1e6, 4e6), "d": (2e7, 3e8), "c": (1.2e14, 7.2e15)}},
    params={"E": 1.5, "A": 400.0, "B": 2085.43, "alpha": 0.34, "beta": 0.28}, n_runs=24,
    excluded={"diverged": 1, "heldout": 0, "above_envelope": 3}, objective=0.00123456789,
    se={"E": 0.0123, "A": None, "a": 0.02}, se_delta={"E": 0.021, "B": 300.0},
    intervals={"E": (1.4, 1.6), "A": None, "a": (0.42, 0.48)}, exponents={"a": 0.4516, "b": 0.5484},
    convergence={"converged": True, "start_agreement": 0.75, "grad_norm": 1.26e-9,
                 "condition": 45678.0},
    heldout={"x": {"relative_error": -0.03}, "y": {"relative_error": 0.01},
             "z": {"relative_error": None}},
    bootstrap=Bootstrap(200, 198, 7, np.full((198, 5), 0.3), np.zeros(4), by="size"),
)


def _table(n: Any, d: Any, loss: Any) -> RunsTable:
    frame = pd.DataFrame({"n": n, "d": d, "loss": loss})
    frame["run_id"] = [f"run{i:02d}" for i in range(len(frame))]
    return from_frame(frame, "runs", n="n", d="d")


def test_numbers() -> None:
    assert [show.number(v) for v in (3.14159, 0.000123456, None, float("nan"))] == [
        "3.142", "0.0001235", "-", "-"]
    assert show.number(3.14159, 2) == "3.1"
    assert [show.count(v) for v in (12_345_678, 999_999_999, 1e9, 2.34567e10, None)] == [
        "12,345,678", "999,999,999", "1e+09", "2.346e+10", "-"]
    assert (show.span((1.23456, 2)), show.span((1.23456, 2), 3), show.span(None)) == (
        "1.235 to 2", "1.23 to 2", "-")
    assert (show.short_span((1.2e6, 3e9)), show.short_span(None)) == ("1.2M to 3B", "-")
    assert (show.percent(0.01234), show.percent(-0.5), show.percent(None)) == (
        "+1.23%", "-50.00%", "-")


def test_a_law() -> None:
    assert show.equation(LAW) == "L(N, D) = 1.5 + ?/N^0.34 + 2085/D^0.28"
    assert list(show.parameter_table(LAW).rows) == [
        ("E", "1.5", "0.0123", "0.021", "1.4 to 1.6", ""),
        ("A", "not determined", "-", "-", "-", ""),
        ("B", "2085", "-", "300", "-", ""),
        ("alpha", "0.34", "-", "-", "-", ""), ("beta", "0.28", "-", "-", "-", ""),
        ("a (N* ~ C^a)", "0.4516", "0.02", "-", "0.42 to 0.48", ""),
        ("b (D* ~ C^b)", "0.5484", "-", "-", "-", ""),
    ]
    assert show.run_counts(LAW) == "24 runs; left out: 1 diverged, 3 above envelope"
    assert show.run_counts(replace(LAW, excluded={"heldout": 0})) == "24 runs; none left out"
    assert show.convention(LAW) == ("N total, D tokens, C 6 N D; nats per token; "
                                    "huber loss of its logarithm, delta 0.001")
    plain = {k: v for k, v in LAW.convention.items() if k not in ("objective", "delta")}
    assert show.convention(replace(LAW, convention=plain)) == (
        "N total, D tokens, C 6 N D; nats per token")
    assert show.convention(replace(LAW, form=FORMS["gadre"])).endswith(
        "huber loss of the outcome itself, delta 0.001")
    assert show.convergence(LAW) == (
        "converged; 75% of starts agree; objective 0.00123457; gradient 1.3e-09; condition "
        "4.6e+04; 198 of 200 resamples converged")
    failed = replace(LAW, convergence={"converged": False}, bootstrap=None)
    assert show.convergence(failed) == ("NOT CONVERGED; 0% of starts agree; objective 0.00123457; "
                                        "gradient -; condition -")


def test_tables_and_plain_data() -> None:
    table = show.text_table(("name", "value", "yes"), [("x", 1.23456, True), ("long", 12, False),
                                                       ("", None, True)])
    assert table.text() == ("name  value  yes\n"
                            "x     1.235  yes\n"
                            "long     12   no\n"
                            "-         -  yes")
    assert show.to_plain({1: np.float64(2.0), "x": [np.nan, np.inf, np.int64(3)],
                          "y": np.array([1.5]), "z": (True, None)}) == {
        "1": 2.0, "x": [None, None, 3], "y": [1.5], "z": [True, None]}


def _rows(part: Any) -> tuple[tuple[str, ...], ...]:
    assert isinstance(part, TextTable)
    return part.rows


def test_printed_evidence() -> None:
    compared = Comparison(25, 5, "l1 loss of residuals", (
        ComparedForm("one", "f", 5, 0.00123456, 10.0, -8.0, 0.0123, -0.0456, 0.1, False, "best"),
        ComparedForm("two", "f", 3, 0.002, 7.0, -3.5, None, None, None, True, "worse")))
    head, rows = compared.parts()
    assert head == "25 runs of 5 sizes, l1 loss of residuals"
    assert _rows(rows) == (("one", "5", "0.001235", "0", "1.23", "-4.56", "best"),
                           ("two", "3", "0.002", "4.5", "-", "-", "worse"))
    assert LikelihoodRatio("s", "l", 2, 0.00123456, 0.0305, 199).text() == (
        "s within l: 2 more parameters lower the objective by 0.001235, p = 0.0305 "
        "(199 wild bootstrap samples)")
    found = Profile("form", "beta", 0.3, 2.0, (0.2, 0.3), (2.5, 2.0), (True, True), 0.9, 0.1,
                    (0.25, None), False, (0.2, 0.3), ("careful",))
    head, rows, warning = found.parts()
    assert head == "form: profile of beta, 90% interval 0.25 to open"
    assert _rows(rows) == (("0.2", "2.5", "0.25"), ("0.3", "2", "0"))
    assert warning == "warning: careful"
    rolled = Rolling("d", (1e9,), (
        Forecast("one", "f", 1e9, 20, 5, 0.01, -0.005, 0.02, "run03", 3.0, None),
        Forecast("two", "f", 1e9, 20, 5, warning="no fit")))
    rows, warning = rolled.parts()
    assert _rows(rows) == (("one", "1e+09", "20", "5", "1", "-0.5", "2", "run03"),
                           ("two", "1e+09", "20", "5", "-", "-", "-", "-"))
    assert warning == "warning: two at D = 1e+09: no fit"
    seen = Residuals("form", 0.01234, (
        Residual("x", 1e6, 2e7, 3.0, 3.1, -0.0328, -3.0),
        Residual("y", 2e6, 4e7, 2.5, 2.4, 0.0408, 3.7)),
        (Trend("d", -0.5, 0.02, False),), ("y",), ())
    head, rows, trends = seen.parts()
    assert head == "form: residuals of 2 runs, robust standard deviation 0.0123"
    assert _rows(rows) == (("y", "2e+06", "4e+07", "2.5", "2.4", "0.0408", "3.7"),)
    assert _rows(trends) == (("log D", "-0.5", "0.02", "no"),)


def test_the_spread_of_a_sensitivity_is_over_fits_that_converged() -> None:
    base = Refit("all", 9, {"A": 2.0}, 0.5, 0.1, True)
    found = Sensitivity("form", "left out", base, (
        Refit("x", 8, {"A": 3.0}, 0.45, 0.1, True), Refit("y", 8, {"A": 1.0}, 0.7, 0.1, False)))
    assert found.spread("a") == (0.45, 0.5)
    assert found.spread("A") == (2.0, 3.0)
    with pytest.raises(UserError, match="has no B"):
        found.spread("B")
    (rows,) = found.parts()
    assert _rows(rows) == (("all", "9", "2", "0.5", "0.1", "yes"),
                           ("x", "8", "3", "0.45", "0.1", "yes"),
                           ("y", "8", "1", "0.7", "0.1", "no"))


def test_objectives_are_listed_from_l1_over_growing_deltas_to_squared() -> None:
    n = np.geomspace(1e5, 1e9, 12)
    loss = 20 * n**-0.08 * np.exp(0.02 * np.random.default_rng(0).standard_normal(12))
    found = objective_sensitivity(_table(n, n, loss), "m1-n", (1e-1, 1e-3))
    assert [refit.choice for refit in found.refits] == ["l1", "huber 0.001", "huber 0.1", "squared"]
    assert found.base.choice == "all runs, squared"
    # Every residual is below 0.1, where Huber's loss is half the square.
    line = stats.linregress(np.log(n), np.log(loss))
    for refit in (found.base, *found.refits[2:]):
        assert refit.params["c"] == pytest.approx(-line.slope, rel=1e-6)
        assert refit.n_runs == 12
    left = np.log(loss) - line.intercept - line.slope * np.log(n)
    assert found.refits[3].objective == pytest.approx((left**2).sum() / 2, rel=1e-8)
    assert found.refits[0].params["c"] != pytest.approx(-line.slope, rel=1e-3)


def test_sizes_within_two_percent_are_one() -> None:
    n = np.array([3e6, 1e6, 1.019e6, 1.05e6, 1.0705e6, 1.095e6])
    assert group_sizes(n).tolist() == [3, 0, 0, 1, 1, 2]


def test_ties_among_dropped_runs() -> None:
    values = np.array([1.0, 3.0, 2.0, 3.0, 3.0])
    assert [_tie_note(values, drop) for drop in range(5)] == [
        "", ", 1 of 3 alike", ", 2 of 3 alike", "", ""]
    assert _tie_note(np.array([4.0, 5.0, 4.0, 4.0]), 2) == ", 1 of 3 alike"


def test_cuts_are_spread_over_the_runs() -> None:
    values = np.arange(1.0, 11.0)
    assert _cuts(values, "c", 4) == (2.0, 4.0, 6.0, 8.0)
    assert _cuts(values, "c", [7.0, 3.0, 7.0]) == (3.0, 7.0)
    for outside in (0.5, 10.0):
        with pytest.raises(UserError, match="both sides"):
            _cuts(values, "c", [outside])


@pytest.mark.parametrize("by", ["n", "d", "c"])
def test_a_forecast_by_hand(by: Any) -> None:
    """The runs up to the cut lie on the law, and those beyond it are off by known factors."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 2e10, 5)))
    values = {"n": n, "d": d, "c": 6 * n * d}[by]
    cut = float(np.sort(values)[14])
    ahead = np.flatnonzero(values > cut)
    factors = np.ones(25)
    factors[ahead] = 1 + 0.01 * np.arange(len(ahead))
    factors[ahead[1]] = 0.8
    table = _table(n, d, (1.5 + 400 / n**0.34 + 900 / d**0.3) * factors)
    (found,) = rolling_origin(table, ["chinchilla"], by, [cut]).forecasts
    errors = 1 / factors[ahead] - 1
    assert found.mean == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert found.bias == pytest.approx(errors.mean(), rel=1e-4)
    assert found.worst == pytest.approx(0.25, rel=1e-4)
    assert found.worst_run == f"run{ahead[1]:02d}"
    assert found.reach == pytest.approx(values.max() / cut)
    assert (found.cut, found.n_fitted, found.n_predicted) == (cut, 25 - len(ahead), len(ahead))


def test_residuals_by_hand() -> None:
    """The largest one is negative, and the p-values of two trends are 0.005 and 0.05."""
    rng = np.random.default_rng(1528)
    n, d = np.exp(rng.uniform(12, 18, 15)), np.exp(rng.uniform(16, 22, 15))
    error = 0.03 * rng.standard_normal(15) + 0.01
    table = _table(n, d, (1.5 + 400 / n**0.34 + 2085.43 / d**0.28) * np.exp(error))
    found = residuals(LAW, table, heaviest=2)
    at = [int(row.run_id.removeprefix("run")) for row in found.rows]
    assert sorted(at) == list(range(15))
    spread = stats.median_abs_deviation(error, scale="normal")
    assert found.spread == pytest.approx(spread, rel=1e-4)
    np.testing.assert_allclose([row.residual for row in found.rows], error[at], rtol=1e-8)
    np.testing.assert_allclose([row.standardised for row in found.rows], error[at] / spread,
                               rtol=1e-4)
    np.testing.assert_allclose([row.d for row in found.rows], d[at])
    order = np.argsort(-np.abs(error))
    assert found.heaviest == (f"run{order[0]:02d}", f"run{order[1]:02d}")
    for trend, values in zip(found.trends, (n, d, n * d), strict=True):
        known = stats.spearmanr(values, error)
        assert (trend.rho, trend.p_value) == pytest.approx(tuple(known), rel=1e-9)
        assert trend.significant == (known.pvalue < 0.01)


@pytest.mark.parametrize(("kind", "law"), [("squared", stats.norm), ("l1", stats.laplace)])
def test_the_likelihood_is_that_of_scipys_density(kind: Any, law: Any) -> None:
    r = 0.02 * np.random.default_rng(0).standard_normal(50)
    scale = law.fit(r, floc=0)[1]
    assert log_likelihood(r, ResidualLoss(kind)) == pytest.approx(law.logpdf(r, scale=scale).sum())


def test_aic_of_a_straight_line() -> None:
    """Slope, level and the scale of the residuals are three parameters."""
    rng = np.random.default_rng(0)
    n = np.repeat(np.geomspace(1e5, 1e9, 6), 3)
    loss = 20 * n**-0.08 * np.exp(0.02 * rng.standard_normal(18))
    found = compare_forms(_table(n, n * np.tile([10.0, 20.0, 40.0], 6), loss), ["m1-n", "m1-d"],
                          robust=ResidualLoss("squared"))
    entry = next(entry for entry in found.entries if entry.form == "m1-n")
    line = stats.linregress(np.log(n), np.log(loss))
    left = np.log(loss) - line.intercept - line.slope * np.log(n)
    likelihood = stats.norm.logpdf(left, scale=left.std()).sum()
    assert entry.log_likelihood == pytest.approx(likelihood, rel=1e-8)
    assert entry.aic == pytest.approx(6 - 2 * likelihood, rel=1e-8)
    assert entry.objective == pytest.approx((left**2).sum() / 2, rel=1e-6)
    costs = []
    for size in np.unique(n):
        some = n != size
        other = stats.linregress(np.log(n[some]), np.log(loss[some]))
        costs += list((np.log(loss[~some]) - other.intercept - other.slope * np.log(size)) ** 2 / 2)
    assert entry.held_out_cost == pytest.approx(np.mean(costs), rel=1e-6)
    assert (found.n_runs, found.sizes, found.objective) == (18, 6, "squared loss of residuals")


def test_forms_are_apart_by_two_standard_errors_and_two_of_aic() -> None:
    best, size_index = np.array([1.0, 0, 0, 0, 0, 0]), np.array([0, 0, 1, 2, 3, 3])
    cost = best + np.array([0.5, 0.5, 2.0, 3.0, 1.0, 1.0])
    # Sums over sizes are 1, 2, 3, 2: their mean is 2, with a standard error of 0.408.
    chinchilla = FORMS["chinchilla"]
    assert _verdict(chinchilla, best, cost, 2.1, size_index) == (
        True, "worse than chinchilla: 4.9 standard errors at unseen sizes, AIC +2.1")
    assert _verdict(chinchilla, best, cost, 2.0, size_index) == (
        False, "not distinguishable from chinchilla: 4.9 standard errors at unseen sizes, "
               "AIC +2.0")
    # Sums of 0, 4, 1, 4 are 2.25 on average, with a standard error of 1.03.
    near = best + np.array([0.0, 0.0, 4.0, 1.0, 4.0, 0.0])
    assert _verdict(chinchilla, best, near, 9.0, size_index)[0]
    wide = best + np.array([0.0, 0.0, 5.0, 0.0, 4.0, 0.0])
    assert not _verdict(chinchilla, best, wide, 9.0, size_index)[0]
    assert not _verdict(chinchilla, best, np.where(best > 0, np.nan, cost), 9.0, size_index)[0]


def test_answers_of_the_checklist() -> None:
    n, d = np.array([1e6, 1e6, 2e6, 4e6]), np.array([2e7, 5e7, 2e7, 3e8])
    table = _table(n, d, [4.0, 3.5, 3.4, 2.9])
    frame = pd.DataFrame({"seed": [1, 0, 1, 2], "lr": [0.001, 0.002, 0.001, np.nan],
                          "loss_se": [0.01, 0.02, 0.01, 0.03], "batch_tokens": [1, 2, 3, 4],
                          "status": ["done", "done", "done", "failed"], "mode": "decoder",
                          "family": "gpt", "epochs": np.arange(4)})
    answers = {question: answer for _, question, answer in checklist(LAW, table, frame)}
    for begin, answer in {
        "What is the form": "L(N, D) = E + A/N^alpha + B/D^beta",
        "Which variables": "N (parameters), D (tokens)",
        "Which parameters": "E, A, B, alpha, beta",
        "How are N, D and C counted": "N: total; D: tokens; C: 6 N D",
        "How many models": "3 distinct N, 1M to 4M parameters",
        "On how many tokens": "20M to 300M tokens",
        "Which range of tokens": "10 to 75, median 35",
        "Which range of compute": "120T to 7.2e+15 FLOP",
        "Is any data repeated": "0, 1, 2 epochs",
        "Which architecture": "decoder, gpt",
        "Which learning rates": "0.001, 0.002",
        "Which batch sizes": "1, 2, 3 tokens",
        "Which seeds": "0, 1",
        "How many data points": "24 runs",
        "Which points were collected": "left out: 1 diverged, 3 above envelope",
        "How large is the error": "0.01, 0.02 nats per token, standard error",
        "Were points selected": "not by the fit: every run is one point, with the loss from the "
                                "table",
        "Which objective does": "huber loss, delta 0.001, of residuals of the logarithm of the "
                                "outcome, summed over runs; its minimum is 0.00123457",
        "Which algorithm": "damped Newton's method with exact derivatives; converged, gradient "
                           "1.3e-09, condition of the Hessian 4.6e+04",
        "How are intervals": "90% bca intervals of a size bootstrap: 198 of 200 resamples "
                             "converged, seed 7",
        "How well does it predict": "predictions of 2 held-out runs: mean relative error 2.00%, "
                                    "worst -3.00%",
        "Which warnings": "none",
    }.items():
        (found,) = [text for question, text in answers.items() if question.startswith(begin)]
        assert found == answer, begin
    altered = replace(table, selection=("only rows where d > 1", "unhealthy runs are left out"),
                      cluster=np.array([0, 0, 1, 2]))
    answers = {question: answer for _, question, answer in checklist(LAW, altered)}
    assert answers["Were points selected or altered after the measurement?"] == (
        "only rows where d > 1; unhealthy runs are left out")
    assert answers["Are points the ends of their schedules, or intermediate checkpoints?"] == (
        "4 rows of 3 runs, which are checkpoints or repeated measurements")
    many = pd.DataFrame({"lr": np.arange(1, 9) / 10, "corpus": list("abcdefgh")})
    answers = {question: answer for _, question, answer in checklist(LAW, table, many)}
    assert answers["Which learning rates?"] == "0.1 to 0.8, 8 distinct"
    assert answers["On which data?"] == "8 distinct"
    repeated = replace(table, extra={"u": np.array([2e7, 2e7, 2e7, 2e7])})
    answers = {question: answer for _, question, answer in checklist(LAW, repeated)}
    assert answers["Is any data repeated within a run?"] == "15 epochs at most"


def test_the_checklist_has_the_evidence_about_its_law() -> None:
    def refit(a: float, runs: int, converged: bool = True) -> dict[str, Any]:
        return {"a": a, "params": {"alpha": 9.0}, "n_runs": runs, "converged": converged}

    evidence = {
        "profiles": [{"form": "chinchilla", "name": "alpha", "interval": [0.25, None]},
                     {"form": "q-family", "name": "alpha", "interval": [0.1, 0.2]}],
        "comparison": {"entries": [
            {"form": "q-family", "held_out": 0.5, "verdict": "best"},
            {"form": "chinchilla", "held_out": 0.0123, "verdict": "not distinguishable"}]},
        "rolling": [{"by": "c", "forecasts": [
            {"form": "chinchilla", "mean": None}, {"form": "chinchilla", "mean": 0.02},
            {"form": "chinchilla", "mean": 0.01}, {"form": "q-family", "mean": 0.9}]}],
        "sensitivity": {"chinchilla": {
            "objective": {"refits": [refit(0.4, 24), refit(0.45, 24), refit(0.9, 24, False)]},
            "outliers": {"refits": [refit(0.99, 24), refit(0.5, 23)]}},
            "q-family": {"sizes": {"refits": [refit(0.1, 20)]}}},
        "choice": {"forms": ["chinchilla", "q-family"], "verdict": "q-family predicts best"},
    }
    law = replace(LAW, exponents={"a": 0.45, "b": 0.55})
    answers = {question: answer for _, question, answer in checklist(law, evidence=evidence)}
    assert answers["Was the form compared with others?"] == (
        "q-family predicts best; by sizes left out: not distinguishable")
    assert answers["How are intervals computed?"].endswith("; profile of alpha: 0.25 to open")
    assert answers["How well does it predict held-out runs?"].endswith(
        "worst -3.00%; runs above 2 cuts of C: mean relative error 1.00% to 2.00%; sizes left out "
        "one by one: mean relative error 1.23%")
    assert answers["How much do the values depend on the choices of the fit?"] == (
        "a 0.4 to 0.45 with other objectives; a 0.5 to 0.5 with the largest losses left out")
    other = replace(law, form=FORMS["kaplan-nd"])
    answers = {question: answer for _, question, answer in checklist(other, evidence=evidence)}
    assert answers["Was the form compared with others?"] == "not recorded"
    assert answers["How much do the values depend on the choices of the fit?"] == "not recorded"
