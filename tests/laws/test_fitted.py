"""`import scaling.laws as sl` in a notebook: from anybody's table to a law and what it says."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl

E, A, B, ALPHA, BETA = 1.7, 400.0, 410.0, 0.34, 0.28


def loss_of(n, d):
    return E + A / np.asarray(n) ** ALPHA + B / np.asarray(d) ** BETA


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Twenty runs with columns of somebody's own names, and noise of 0.3%."""
    n, d = map(np.ravel, np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 4)))
    noise = np.random.default_rng(0).normal(0, 0.003, n.size)
    return pd.DataFrame({"size": n, "seen": d, "nll": loss_of(n, d) * np.exp(noise),
                         "corpus": ["c4", "pile"] * 10})


COLUMNS = {"n": "size", "d": "seen", "loss": "nll"}


@pytest.fixture(scope="module")
def fit(frame) -> sl.Fit:
    return sl.fit(frame, "chinchilla", **COLUMNS, resamples=60)


def formula(fit, n, d):
    p = fit.params
    return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]


def test_a_data_frame_a_file_and_a_table_give_one_fit(frame, fit, tmp_path):
    frame.to_csv(tmp_path / "runs.csv", index=False)
    tables = [sl.read(frame, **COLUMNS), sl.read(tmp_path / "runs.csv", **COLUMNS),
              sl.read(str(tmp_path / "runs.csv"), **COLUMNS)]
    fits = [sl.fit(str(tmp_path / "runs.csv"), "chinchilla", **COLUMNS, resamples=60),
            *(sl.fit(table, "chinchilla", resamples=60) for table in tables)]
    for other in fits:
        assert other.params == fit.params
        assert other.intervals() == fit.intervals()


def test_predictions_are_the_formulas(fit):
    n, d = np.array([1e8, 2e9, 5e10]), np.array([2e9, 4e10, 1e12])
    value = fit.predict(n=1e9, d=2e10)
    assert isinstance(value, float)
    assert value == pytest.approx(formula(fit, 1e9, 2e10), rel=1e-12)
    np.testing.assert_allclose(fit.predict(n=n, d=d), formula(fit, n, d), rtol=1e-12)
    np.testing.assert_allclose(fit.predict(n=list(n), d=2e10), formula(fit, n, 2e10), rtol=1e-12)
    square = fit.predict(n=n[:, None], d=d)
    np.testing.assert_allclose(square, formula(fit, n[:, None], d), rtol=1e-12)


@pytest.mark.parametrize("columns", [("size", "seen"), ("n", "d"), ("params_total", "tokens")])
def test_a_data_frame_is_predicted_row_by_row(fit, columns):
    rows = pd.DataFrame({columns[0]: [3e8, 1e9], columns[1]: [1e10, 5e9], "other": ["x", "y"]},
                        index=["first", "second"])
    predicted = fit.predict(rows) if columns[0] != "params_total" else without_resamples(
        rows_of_package(fit)).predict(rows)
    assert list(predicted.index) == ["first", "second"]
    np.testing.assert_allclose(
        predicted, formula(fit, rows[columns[0]].to_numpy(), rows[columns[1]].to_numpy()),
        rtol=1e-6)


def without_resamples(runs) -> sl.Fit:
    return sl.fit(runs, "chinchilla", resamples=0)


def rows_of_package(fit) -> pd.DataFrame:
    return pd.DataFrame({"params_total": fit.runs.n, "tokens": fit.runs.d, "loss": fit.runs.loss})


def test_the_index_of_series_is_kept(fit):
    n = pd.Series([3e8, 1e9], index=["first", "second"])
    assert list(fit.predict(n=n, d=1e10).index) == ["first", "second"]
    assert list(fit.predict(n=1e9, d=n, interval=True).index) == ["first", "second"]


def test_intervals_of_predictions_and_of_the_law(fit):
    new = fit.predict(n=1e9, d=2e10, interval=True)
    law = fit.predict(n=1e9, d=2e10, interval="confidence")
    assert new.low < law.low < law.value < law.high < new.high  # a run scatters about the law
    assert new == fit.predict(n=1e9, d=2e10, interval="prediction")
    rows = fit.predict(n=[1e9, 1e8], d=2e10, interval=True)
    assert tuple(rows.iloc[0]) == new
    frame = pd.DataFrame({"size": [1e9], "seen": [2e10]}, index=[7])
    assert tuple(fit.predict(frame, interval=True).loc[7]) == new
    # Of the law itself: percentiles of the resamples' predictions, corrected by little.
    losses = [formula_of(row, 1e9, 2e10) for row in fit.law.samples]
    assert law.low == pytest.approx(np.quantile(losses, 0.05), rel=2e-3)
    assert law.high == pytest.approx(np.quantile(losses, 0.95), rel=2e-3)


def formula_of(row, n, d):
    e, a, b, alpha, beta = row
    return e + a / n**alpha + b / d**beta


def test_compute_is_six_n_d_where_a_law_reads_it(frame):
    law = sl.fit(frame, "kaplan-c", **COLUMNS, resamples=0)
    assert law.predict(n=1e8, d=1e9) == law.predict(c=6e17)


def test_intervals_have_the_level_that_is_asked_for(fit):
    wide, narrow = fit.intervals(), fit.intervals(0.5)
    assert wide == {name: pytest.approx(ends) for name, ends in fit.law.intervals.items()}
    assert [*wide] == ["E", "A", "B", "alpha", "beta", "a", "b"]
    for name, (low, high) in narrow.items():
        assert wide[name][0] < low < high < wide[name][1]


def test_every_interval_may_have_another_level(fit):
    at = {"n": 1e9, "d": 2e10}
    half, whole = fit.predict(**at, level=0.5), fit.predict(**at, interval=True)
    assert whole == fit.predict(**at, level=0.9)
    assert whole.low < half.low < half.value < half.high < whole.high
    band = fit.predict(**at, interval="confidence", level=0.5)
    assert half.low < band.low < band.high < half.high
    assert (band.low, band.high) == tuple(
        float(end[0]) for end in fit.law.loss_band({k: np.array([v]) for k, v in at.items()}, 0.5))
    low, high = fit.allocate(1e21, level=0.5).n_interval
    low_90, high_90 = fit.allocate(1e21).n_interval
    assert low_90 < low < high < high_90
    assert fit.allocate(1e21, level=0.5).level == 0.5
    narrow, wide = fit.profile("alpha", level=0.5), fit.profile("alpha")
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]


def test_the_columns_of_the_runs_are_names_of_variables(fit, frame):
    value = fit.predict(n=1e9, d=2e10)
    assert fit.predict(size=1e9, seen=2e10) == value == fit.predict(n=1e9, seen=2e10)
    assert fit.rolling("seen").to_frame().equals(fit.rolling("d").to_frame())
    with pytest.raises(sl.UserError, match="n is given twice, as n= and as size="):
        fit.predict(n=1e9, size=1e9, seen=2e10)
    with pytest.raises(sl.UserError, match="one of n, d, c, size, seen is expected"):
        fit.rolling("nll")


def test_results_are_data_frames(fit, frame):
    residuals = fit.residuals().to_frame()
    order = np.lexsort((residuals["d"], residuals["n"]))
    expected = np.log(frame["nll"] / fit.predict(frame)).to_numpy()
    at = np.lexsort((frame["seen"], frame["size"]))
    np.testing.assert_allclose(residuals["residual"].to_numpy()[order], expected[at])
    profile = fit.profile("alpha", fit.params["alpha"])  # one value is a value
    assert profile.to_frame()["objective"].min() == profile.objective
    assert profile.warnings[0].startswith("1 value: the ends of the interval are interpolated")


def test_few_resamples_are_told(fit):
    few = sl.fit(fit.runs, "kaplan-n", resamples=2)
    assert any(w.startswith("2 resamples: too few for intervals") for w in few.warnings)
    assert not any("too few for intervals" in w for w in fit.warnings)


def test_a_parameter_that_is_not_determined_has_no_interval():
    n = np.geomspace(1e7, 1e9, 5)
    runs = pd.DataFrame({"n": np.repeat(n, 3), "d": np.tile([1e9, 3e9, 1e10], 5)})
    runs["loss"] = E + A / runs["n"] ** ALPHA  # does not depend on d
    fit = sl.fit(runs, "chinchilla", n="n", d="d", resamples=20)
    table = fit.to_frame()
    unknown = table.index[~table["determined"]]
    assert {"B", "beta"} <= {*unknown}
    assert table.loc[unknown, ["se", "low", "high"]].isna().all().all()
    assert all(fit.intervals()[name] is None for name in unknown)
    assert repr(fit).count("not determined") == len(unknown)


def test_the_table_of_parameters(fit):
    table = fit.to_frame()
    assert [*table.columns] == ["value", "se", "low", "high", "determined", "unit"]
    assert table["value"].to_dict() == {**fit.params, **fit.law.exponents}
    assert table.loc["a", "value"] == fit.params["beta"] / (
        fit.params["alpha"] + fit.params["beta"])
    for name, (low, high) in fit.intervals().items():
        assert (table.loc[name, "low"], table.loc[name, "high"]) == pytest.approx((low, high))
        assert table.loc[name, "se"] == fit.se[name]


def test_allocations(fit):
    best = fit.allocate(1e21)
    assert best.n * best.d * 6 == pytest.approx(1e21)
    assert fit.predict(n=best.n, d=best.d) == pytest.approx(best.loss)
    for factor in (0.8, 1.25):  # no other size of this budget is better
        assert fit.predict(n=best.n * factor, d=best.d / factor) > best.loss
    table = fit.allocate([1e20, 1e21])
    assert table["compute"].tolist() == [1e20, 1e21]
    row = table.iloc[1]
    assert (row["n"], row["d"], row["loss"]) == (best.n, best.d, best.loss)
    assert (row["n_low"], row["n_high"]) == best.n_interval
    assert fit.allocate(loss=best.loss).c == pytest.approx(1e21, rel=1e-6)
    assert fit.allocate(1e21, n=2 * best.n).d == pytest.approx(best.d / 2)
    assert fit.allocate(1e21, inference_tokens=1e12).n < best.n


@pytest.mark.parametrize(("options", "differs"), [
    ({"seed": 1}, "intervals"), ({"resample": "residual"}, "intervals"),
    ({"interval": "percentile"}, "intervals"), ({"objective": "squared"}, "params"),
    ({"delta": 1e-4}, "params"), ({"fix": {"E": 1.69}}, "params"),
    ({"tie": [("alpha", "beta")]}, "params"), ({"where": "corpus == 'c4'"}, "params"),
])
def test_each_option_has_its_effect(frame, fit, options, differs):
    other = sl.fit(frame, "chinchilla", **COLUMNS, resamples=60, **options)
    assert (other.params != fit.params) == (differs == "params")
    if differs == "intervals":
        assert other.intervals() != fit.intervals()
    assert other.params["E"] == options.get("fix", {}).get("E", other.params["E"])
    assert ("tie" in options) == (other.params["alpha"] == other.params["beta"])


def test_laws_are_saved_and_loaded(fit, tmp_path):
    fit.save(tmp_path / "law.json")
    laws = sl.load(tmp_path / "law.json")
    assert [*laws] == ["chinchilla"]
    loaded = laws["chinchilla"]
    assert loaded.params == fit.params
    assert loaded.objective == fit.objective
    assert loaded.predict(n=1e9, d=2e10) == fit.predict(n=1e9, d=2e10)
    assert loaded.allocate(1e21).n_interval == pytest.approx(
        fit.allocate(1e21).n_interval, rel=1e-5)
    assert repr(loaded) == repr(fit)
    for needs_runs in (loaded.residuals, loaded.rolling, lambda: loaded.profile("alpha")):
        with pytest.raises(sl.UserError, match="was loaded without its runs"):
            needs_runs()
    other = sl.fit(fit.runs, "chinchilla", fix={"E": 1.69}, resamples=0)
    sl.save([fit.law, other.law], tmp_path / "two.json")
    two = sl.load(tmp_path / "two.json")
    assert [*two] == ["chinchilla", "chinchilla 2"]
    assert two["chinchilla 2"].params["E"] == 1.69
    (tmp_path / "mine.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(sl.UserError, match=r"mine\.json"):
        fit.save(tmp_path / "mine.json")


@pytest.mark.parametrize("unit", ["case", "residual", "size", "cluster"])
def test_resamples_of_every_kind_are_loaded(frame, tmp_path, unit):
    fit = sl.fit(frame.assign(run=np.arange(20) // 2), "chinchilla", **COLUMNS, cluster="run",
                 resample=unit, resamples=20)
    assert fit.law.bootstrap.by == ("cluster" if unit == "case" else unit)
    fit.save(tmp_path / "laws.json")
    loaded = sl.load(tmp_path / "laws.json")["chinchilla"]
    assert loaded.law.bootstrap.by == fit.law.bootstrap.by
    for name, ends in fit.intervals().items():
        assert loaded.intervals()[name] == pytest.approx(ends, rel=1e-5)


def test_evidence(fit, frame):
    assert fit.profile("alpha").text()
    residuals = fit.residuals()
    assert [row.run_id for row in residuals.rows] == [*fit.runs.run_id]
    by_run = {(row.n, row.d): row.residual for row in residuals.rows}
    for row in frame.itertuples():
        expected = np.log(row.nll) - np.log(formula(fit, row.size, row.seen))
        assert by_run[row.size, row.seen] == pytest.approx(expected, abs=1e-9)
    assert fit.rolling("d").text()
    other = sl.fit(fit.runs, "kaplan-nd", resamples=0)
    text = sl.compare([fit, other]).text()
    assert {"chinchilla", "kaplan-nd"} <= {*re.findall(r"[\w-]+", text)}
    assert sl.compare(fit, other).text() == sl.compare({"a": fit, "b": other}).text() == text


def test_it_is_shown_on_one_screen(fit):
    lines = repr(fit).splitlines()
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(f"chinchilla: L(N, D) = {fit.params['E']:.4g} + ")
    assert "20 runs" in lines[1]
    page = fit._repr_html_()
    assert page.count("<tr>") == 1 + 7
    assert f"{fit.params['alpha']:.4g}" in page
    assert fit.summary().startswith("chinchilla: L(N, D) = E + A/N^alpha + B/D^beta")


def test_constraints_are_shown_as_they_are(fit):
    fixed = sl.fit(fit.runs, "chinchilla", fix={"E": 1.69}, resamples=0)
    assert repr(fixed).splitlines()[0].endswith(" with E = 1.69")
    assert " = 1.69 + " in repr(fixed)


def test_a_page_says_names_literally(frame):
    named = frame.assign(run_id=[f"<b>{i}" for i in range(20)])
    named.loc[1] = named.loc[0]
    named.loc[1, "run_id"] = "<b>1"
    fit = sl.fit(named, "chinchilla", **COLUMNS, resamples=20)
    assert any("<b>" in warning for warning in fit.warnings[:3])
    assert "<b>0" not in fit._repr_html_()
    assert "&lt;b&gt;0" in fit._repr_html_()


def test_nothing_in_a_fit_can_be_changed(fit):
    for change in (
        lambda: fit.params.__setitem__("alpha", 3),
        lambda: fit.params.update(alpha=3),
        lambda: fit.law.convention["range"].pop("n"),
        lambda: fit.law.intervals.clear(),
        lambda: fit.runs.convention.setdefault("n", "x"),
        lambda: fit.runs.columns.__delitem__("n"),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    for array in (fit.runs.n, fit.runs.loss, fit.law.samples, fit.law.bootstrap.residuals):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        fit.law = None
    with pytest.raises(AttributeError):
        fit.params = {}
    for other in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert other.params == fit.params
        assert other.law.convention == fit.law.convention


def test_what_is_no_table_is_refused():
    """Not even in a process whose arguments' types nobody checks."""
    code = "import scaling.laws as sl; sl.fit({'n': [1]})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "scaling.errors.UserError: runs: a table of runs from read, a data frame or a path is "
        "expected, not a dictionary; make one with pandas.DataFrame(...)")


NO_RESAMPLES = "has no intervals, since it was fitted without resamples; fit it with resamples="


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda frame, fit: sl.fit(frame), "has no column params_total; .* Choose another with n="),
    (lambda frame, fit: sl.fit(frame, n="size", d="seen"), "column loss; .* with loss="),
    (lambda frame, fit: sl.fit(frame, n="sise", d="seen"), "did you mean size"),
    (lambda frame, fit: sl.fit(frame, "chinchila"), "did you mean chinchilla"),
    (lambda frame, fit: sl.fit(frame, n="size", d="size", loss="nll"), "given as n= and as d="),
    (lambda frame, fit: sl.fit(frame, **COLUMNS, where="corpus > 3"), "where='corpus > 3': not a"),
    (lambda frame, fit: sl.fit(frame, **COLUMNS, where="size > 1e30"), "true for no row"),
    (lambda frame, fit: sl.fit(frame, **COLUMNS, objective="l2"), "objective=l2: one of adaptive"),
    (lambda frame, fit: sl.fit(frame, **COLUMNS, delta=-1), "delta=-1: a positive number"),
    (lambda frame, fit: sl.fit(frame, **COLUMNS, objective="l1", delta=1), "delta=1 is an opt"),
    (lambda frame, fit: sl.fit(fit.runs, "chinchilla", fix={"e": 1}), "has no parameter e"),
    (lambda frame, fit: sl.fit(fit.runs, "chinchilla", fix={"E": 99}), "is fixed at or above"),
    (lambda frame, fit: sl.fit(frame.head(4), **COLUMNS), "4 runs for 5|distinct"),
    (lambda frame, fit: sl.fit(fit.runs, n="size"), "n=: the runs were read already"),
    (lambda frame, fit: sl.fit("no/such.csv"), "no/such.csv: no such file"),
    (lambda frame, fit: sl.fit(frame, "clark", **COLUMNS), r"extra=\{'experts': COLUMN\}"),
    (lambda frame, fit: fit.predict(n=1e9), r"needs D \(tokens\); give predict\(n=..., d=...\)"),
    (lambda frame, fit: fit.predict(n=1e9, d=1e9, x=1), "x is not among its variables.* n, d"),
    (lambda frame, fit: fit.predict(n=-1, d=1e9), "n -1: a number above zero is expected"),
    (lambda frame, fit: fit.predict(n=[1e9, np.nan], d=1e9), "n nan: a number above zero"),
    (lambda frame, fit: fit.predict(frame[["size"]]), r"needs D \(tokens\)"),
    (lambda frame, fit: fit.predict(frame, n=1e9), "one data frame, or values by name"),
    (lambda frame, fit: fit.predict(n=1, d=1, interval="wide"), "interval='wide': True, "),
    (lambda frame, fit: fit.predict(n=[1, 2, 3], d=[1, 2]), r"not of n \(3,\), d \(2,\)"),
    (lambda frame, fit: fit.predict(n="large", d=1), "n='large': a number or an array"),
    (lambda frame, fit: fit.intervals(90), "level=90: a coverage above 0 and below 1"),
    (lambda frame, fit: fit.predict(n=1, d=1, interval=0.8), "a coverage is given as level=0.9"),
    (lambda frame, fit: fit.predict(n=1, d=1, level=80), "level=80: a coverage above 0 and"),
    (lambda frame, fit: fit.predict(n=[], d=1), "at least one value is expected"),
    (lambda frame, fit: fit.allocate([]), "compute: at least one value is expected"),
    (lambda frame, fit: fit.allocate(1e21, given={"x": 1}), "chinchilla has no variable x"),
    (lambda frame, fit: fit.allocate(1e21, flops_per_token=lambda n: "a"), "raises ValueError"),
    (lambda frame, fit: fit.allocate(1e21, flops_per_token=lambda n: -n), "that increase with N"),
    (lambda frame, fit: fit.allocate(1e21, flops_per_token=lambda n: n[:2]), "the same shape is"),
    (lambda frame, fit: sl.load("no/law.json"), r"`Fit.save\('no/law.json'\)` writes it"),
    (lambda frame, fit: sl.read_ledger("no.jsonl"), "no such file; `seal_forecast` writes it"),
    (lambda frame, fit: fit.save(__file__), "was not written by `save` and is not overwritten"),
    (lambda frame, fit: fit.plot(ax=np.array([1, 2])), "ax: one matplotlib axes .* an array of 2"),
    (lambda frame, fit: sl.allocate(fit, 1e21), "give its law, as in fit.law"),
    (lambda frame, fit: fit.profile("gamma"), "has no parameter gamma"),
    (lambda frame, fit: fit.allocate(), "compute in FLOPs or a target loss"),
    (lambda frame, fit: fit.allocate(-1), "compute -1: a positive number of FLOPs"),
    (lambda frame, fit: fit.allocate(1e21, unique_tokens=1e9), "does not model repeated data"),
    (lambda frame, fit: sl.compare([fit]), "at least two fits"),
    (lambda frame, fit: sl.compare({"a": fit}), "at least two fits"),
    (lambda frame, fit: fit.predict(), r"needs N \(parameters\) and D"),
    (lambda frame, fit: sl.fit(fit.runs, "q+"), "formula 'q\\+'"),
    (lambda frame, fit: sl.compare([fit, without_resamples(fit.runs.take(np.arange(15)))]),
     "other runs than chinchilla"),
    (lambda frame, fit: without_resamples(fit.runs).intervals(), NO_RESAMPLES),
    (lambda frame, fit: without_resamples(fit.runs).predict(n=1, d=1, interval=True),
     NO_RESAMPLES),
])
def test_a_mistake_is_told_in_the_terms_of_python(frame, fit, wrong, words):
    with pytest.raises(sl.UserError) as caught:
        wrong(frame, fit)
    message = str(caught.value)
    assert re.search(words, message), message
    assert "--" not in message
