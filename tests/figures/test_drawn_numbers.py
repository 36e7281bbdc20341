"""Numbers of the figures and of the report, from runs and laws that are written here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure

from scaling.errors import UserError
from scaling.figures.grid import planned_grid
from scaling.figures.results import _curves, _is_drawable
from scaling.figures.tokens import _thinned, loss_against_tokens
from scaling.laws import FORMS, Bootstrap, Law, RunsTable, allocate, from_frame
from scaling.laws.plots.kaplan import three_panels
from scaling.laws.plots.prediction import predicted_against_measured
from scaling.laws.plots.style import (
    count_axis,
    labelled_sizes,
    loss_axis,
    nice_ticks,
    scientific,
    size_colours,
    spread_labels,
)
from scaling.laws.plots.surface import loss_surface
from scaling.laws.show import short
from scaling.report import sections
from scaling.report.page import card, table, warnings

SIZES, TOKENS = np.array([1e5, 4e5, 1.6e6]), np.array([1e7, 4e7, 1.6e8])
PARAMS = {"E": 1.5, "A": 30.0, "B": 60.0, "alpha": 0.3, "beta": 0.25}


def _loss(n: Any, d: Any) -> Any:
    return 1.5 + 30 / n**0.3 + 60 / d**0.25


@pytest.fixture
def runs() -> RunsTable:
    """Nine runs off a law by one percent, a measured held-out run, and one that is not measured."""
    n, d = (x.ravel() for x in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    off = 1 + 0.01 * np.array([1, -1, 0, 2, -2, 1, 0, -1, 1])
    frame = pd.DataFrame({"run_id": [f"r{i}" for i in range(9)], "role": "grid", "status": "done",
                          "params_total": n, "tokens": d, "loss": _loss(n, d) * off})
    held = pd.DataFrame({"run_id": ["big", "later"], "role": "heldout",
                         "status": ["done", "planned"], "params_total": [6e6, 2e7],
                         "tokens": [3e8, 1e9], "loss": [2.0, np.nan]})
    return from_frame(pd.concat([frame, held]), "runs")


@pytest.fixture
def law() -> Law:
    samples = np.array([[*PARAMS.values()]]) * (1 + 0.02 * np.linspace(-1, 1, 21)[:, None])
    residuals = 0.01 * np.linspace(-1, 1, 11)
    return Law(form=FORMS["chinchilla"], convention={
        "n": "total", "d": "tokens", "c": "6 N D", "loss": "nats per token",
        "range": {"c": (6e12, 1.536e15)}}, params=PARAMS,
        n_runs=9, exponents={"a": 0.25 / 0.55, "b": 0.3 / 0.55},
        intervals={"a": (0.4, 0.5), "E": (1.4, 1.6)}, convergence={"converged": True},
        bootstrap=Bootstrap(21, 21, 3, samples, residuals, method="percentile"))


def _interval(law: Law, n: float, d: float) -> tuple[float, float]:
    e, a, b, alpha, beta = law.samples.T
    each = np.outer(e + a / n**alpha + b / d**beta, np.exp(law.bootstrap.residuals))
    low, high = np.quantile(each, [0.05, 0.95])
    return float(low), float(high)


def test_predicted_and_measured_losses(runs: RunsTable, law: Law) -> None:
    drawing = predicted_against_measured(runs, law)
    fitted = drawing.data[drawing.data["series"] == "fitted"]
    assert fitted["run_id"].tolist() == list(runs.run_id)
    np.testing.assert_allclose(fitted["predicted"], _loss(runs.n, runs.d))
    np.testing.assert_allclose(fitted["measured"], runs.loss)
    np.testing.assert_allclose(fitted["residual_percent"],
                               100 * (runs.loss / _loss(runs.n, runs.d) - 1), atol=1e-12)
    np.testing.assert_allclose(fitted["c"], 6 * runs.n * runs.d)
    held = drawing.data[drawing.data["series"] == "heldout"].set_index("run_id")
    left, right = drawing.figure.axes
    for run, n, d, measured in (("big", 6e6, 3e8, 2.0), ("later", 2e7, 1e9, np.nan)):
        row, expected = held.loc[run], _loss(n, d)
        low, high = _interval(law, n, d)
        assert row["predicted"] == pytest.approx(expected)
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["measured"] == pytest.approx(measured, nan_ok=True)
        assert row["residual_percent"] == pytest.approx(100 * (measured / expected - 1),
                                                        nan_ok=True)
        ends = [line.get_xydata() for line in left.lines if len(line.get_xdata()) == 2]
        assert any(np.allclose(line, [[expected, low], [expected, high]]) for line in ends)
        ends = [line.get_xydata() for line in right.lines if len(line.get_xdata()) == 2]
        c = 6 * n * d
        assert any(np.allclose(line, [[c, 100 * (low / expected - 1)],
                                      [c, 100 * (high / expected - 1)]]) for line in ends)
    assert left.get_xlim() == left.get_ylim()
    assert left.get_xlim()[0] < held["low"].min() < fitted["measured"].max() < left.get_xlim()[1]
    assert right.get_ylim()[0] == -right.get_ylim()[1]


def _kaplan(name: str, scale: float, alpha: float) -> Law:
    samples = np.stack([np.full(21, scale), alpha * np.linspace(0.98, 1.02, 21)], axis=1)
    form = FORMS[f"kaplan-{name}"]
    return Law(form=form, convention={"n": "total"}, params=dict(
        zip(form.parameters, (scale, alpha), strict=True)),
        intervals={form.parameters[1]: (0.1, 0.2)},
        bootstrap=Bootstrap(21, 21, 0, samples, np.zeros(3), method="percentile"))


def test_kaplans_panels(runs: RunsTable) -> None:
    constants = {"c": (1e22, 0.05), "d": (3e13, 0.09), "n": (5e12, 0.08)}
    laws = {f"kaplan-{v}": _kaplan(v, *pair) for v, pair in constants.items()}
    drawing = three_panels(runs, laws)
    by = dict([*drawing.data.groupby(["panel", "series"])])
    held = {"c": 6 * 6e6 * 3e8, "d": 3e8, "n": 6e6}
    for panel, (v, (scale, alpha)) in zip(drawing.figure.axes, constants.items(), strict=True):
        rows = by[v, "run"]
        np.testing.assert_allclose(rows["x"], runs.values[v])
        np.testing.assert_allclose(rows["loss"], runs.loss)
        assert by[v, "heldout"][["run_id", "x", "loss"]].to_numpy().tolist() == [
            ["big", held[v], 2.0]]
        line = by[v, "law"]
        assert (line["x"].min(), line["x"].max()) == pytest.approx(
            (runs.values[v].min(), held[v]))
        np.testing.assert_allclose(line["loss"], (scale / line["x"]) ** alpha)
        for column, factor in (("low", 0.982), ("high", 1.018)):
            np.testing.assert_allclose(line[column], (scale / line["x"]) ** (alpha * factor))
        (shown,) = [text.get_text() for text in panel.texts]
        assert f"{{{alpha:.3f}}}" in shown
        assert f"${v.upper()}_c = {scientific(scale)}$" in shown
        assert "0.100 to 0.200" in shown
    assert [row.removeprefix("r") for row in by["n", "envelope"]["run_id"]] == ["2", "5", "8"]
    assert by["d", "envelope"]["x"].tolist() == TOKENS.tolist()
    # What is above each panel: how many runs, and the other variable of these.
    of_c = runs.n[np.isin(runs.run_id, by["c", "envelope"]["run_id"])]
    assert [panel.title.get_text() for panel in drawing.figure.axes] == [
        f"{len(of_c)} of 9 runs: lowest loss up to each C, N {short(of_c.min())} to "
        f"{short(of_c.max())}",
        "3 of 9 runs: lowest loss up to each D, N = 1.6M", "3 of 9 runs: every N, at D = 160M"]
    low, high = drawing.figure.axes[0].get_ylim()
    losses = np.concatenate([runs.loss, [2.0], *(by[v, "law"]["loss"] for v in "cdn")])
    assert (low, high) == pytest.approx((losses.min() * 0.975, losses.max() * 1.18))
    bare = three_panels(runs, {})
    assert set(bare.data["series"]) == {"run", "heldout"}


def test_the_surface_and_its_frontier(runs: RunsTable, law: Law) -> None:
    drawing = loss_surface(runs, law)
    by = dict([*drawing.data.groupby("series")])
    np.testing.assert_allclose(by["run"][["c", "n", "loss"]], np.stack(
        [6 * runs.n * runs.d, runs.n, runs.loss], axis=1))
    assert by["heldout"][["run_id", "n", "loss"]].to_numpy().tolist() == [["big", 6e6, 2.0]]
    line = by["frontier"]
    c = line["c"].to_numpy()
    g = (0.3 * 30 / (0.25 * 60)) ** (1 / 0.55)
    np.testing.assert_allclose(line["n"], g * (c / 6) ** (0.25 / 0.55))
    np.testing.assert_allclose(line["loss"], _loss(line["n"], c / 6 / line["n"]))
    _, a, b, alpha, beta = law.samples.T
    sizes = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (c[:, None] / 6) ** (
        beta / (alpha + beta))
    np.testing.assert_allclose(line[["n_low", "n_high"]], np.quantile(
        sizes, [0.05, 0.95], axis=1).T)
    axes = drawing.figure.axes[0]
    # The unmeasured held-out run is inside as well.
    assert axes.get_xlim() == pytest.approx((6e12 / 2, 6 * 2e7 * 1e9 * 2))
    assert axes.get_ylim() == pytest.approx((1e5 / 1.8, 2e7 * 1.8))
    low, high = 2.0 * 0.97, runs.loss.max() * 1.04
    for points in axes.collections[1:3]:
        assert points.norm.vmin == pytest.approx(low)
        assert points.norm.vmax == pytest.approx(high)
    assert all(low <= level <= high for level in axes.collections[0].levels)


def test_losses_against_tokens(runs: RunsTable, law: Law) -> None:
    curves = pd.DataFrame({"run_id": ["r0", "r0", "unknown", "big"], "tokens": [9e6, 1e6, 1e6, 1e6],
                           "loss": [3.0, 5.0, 4.0, 4.0]})
    drawing = loss_against_tokens(runs, curves, law)
    by = dict([*drawing.data.groupby("series")])
    assert by["curve"][["run_id", "n", "tokens", "loss"]].to_numpy().tolist() == [
        ["r0", 1e5, 1e6, 5.0], ["r0", 1e5, 9e6, 3.0]]
    assert by["final"]["run_id"].tolist() == list(runs.run_id)
    np.testing.assert_allclose(by["final"][["n", "tokens", "loss"]],
                               np.stack([runs.n, runs.d, runs.loss], axis=1))
    assert by["heldout"][["run_id", "n", "tokens", "loss"]].to_numpy().tolist() == [
        ["big", 6e6, 3e8, 2.0]]
    line = by["law"]
    assert sorted(line["n"].unique()) == [*SIZES, 6e6, 2e7]
    assert (line["tokens"].min(), line["tokens"].max()) == pytest.approx((1e7, 1e9))
    np.testing.assert_allclose(line["loss"], _loss(line["n"], line["tokens"]))
    axes = drawing.figure.axes[0]
    assert axes.get_xlim() == pytest.approx((0.7e7, 1.12e9))
    losses = [*runs.loss, 2.0]
    assert axes.get_ylim() == pytest.approx((min(losses) * 0.975, max(losses) * 1.12))
    labels = [text for text in axes.texts if text.get_text() != "N"]
    assert [text.get_text() for text in labels] == ["20M", "6M", "1.6M", "400k", "100k"]
    heights = [text.get_position()[1] for text in labels]
    assert (np.diff(heights) >= 0.055 - 1e-5).all()
    # Without a law the labels are at the lowest loss of each size.
    bare = loss_against_tokens(runs)
    assert set(bare.data["series"]) == {"final", "heldout"}
    assert [text.get_text() for text in bare.figure.axes[0].texts[:-1]] == ["1.6M", "400k", "100k"]


def test_labels_are_at_the_end_of_the_law_or_at_the_lowest_loss(
    runs: RunsTable, law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[dict[str, float]] = []
    monkeypatch.setattr("scaling.figures.tokens.spread_labels", lambda axes, x, found:
                        labels.append({text: y for y, text, _ in found}))
    loss_against_tokens(runs, None, law)
    loss_against_tokens(runs)
    # The tokens go up to those of the held-out run that is not measured.
    assert labels[0] == pytest.approx({name: _loss(n, 1e9) for name, n in (
        ("100k", 1e5), ("400k", 4e5), ("1.6M", 1.6e6), ("6M", 6e6), ("20M", 2e7))})
    assert labels[1] == pytest.approx({name: runs.loss[runs.n == n].min() for name, n in (
        ("100k", 1e5), ("400k", 4e5), ("1.6M", 1.6e6))})


def test_long_curves_are_thinned_evenly_in_the_logarithm() -> None:
    curve = pd.DataFrame({"tokens": np.geomspace(1e3, 1e9, 1000), "loss": 3.0})
    some = _thinned(curve)
    assert len(some) == 120
    assert some["tokens"].iloc[[0, -1]].tolist() == pytest.approx([1e3, 1e9])
    steps = np.diff(np.log(some["tokens"]))
    assert steps.max() < 1.2 * steps.min()
    assert len(_thinned(curve.iloc[:120])) == 120


def test_points_of_a_curve_that_can_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    frame = pd.DataFrame({"run_id": list("abcdef"), "tokens": [0, 1, 2, 3, 2e20, 5],
                          "loss": [3.0, 3.0, np.nan, 0.0, 3.0, 2.0]})
    frame.to_csv(path, index=False)
    kept = _curves(path)
    assert kept is not None
    assert kept["run_id"].tolist() == ["b", "f"]
    for change in ({"tokens": -1.0}, {"tokens": np.inf}, {"loss": np.inf}, {"tokens": np.nan}):
        frame.assign(**change).to_csv(path, index=False)
        with pytest.raises(UserError, match="infinite loss, or tokens"):
            _curves(path)
    assert _curves(tmp_path / "none.csv") is None


def test_laws_that_can_be_drawn(runs: RunsTable, law: Law) -> None:
    assert _is_drawable(law, runs)
    assert not _is_drawable(replace(law, params=PARAMS | {"E": 1.01e4}), runs)
    assert _is_drawable(replace(law, params=PARAMS | {"E": 0.99e4}), runs)
    assert not _is_drawable(replace(law, form=FORMS["clark"]), runs)
    wide = replace(law, bootstrap=replace(law.bootstrap, residuals=np.array([0.0, 9.0])))
    assert not _is_drawable(wide, runs)  # the interval of a held-out run


def test_parts_of_the_style() -> None:
    colours = size_colours([3.0, 1.0, 2.0, 3.0])
    assert [*colours] == [1.0, 2.0, 3.0]
    assert colours[1.0] == colormaps["viridis"](0.05)
    assert colours[2.0] == colormaps["viridis"](0.435)
    assert colours[3.0] == colormaps["viridis"](0.82)
    assert size_colours([5.0]) == {5.0: colormaps["viridis"](0.3)}
    assert labelled_sizes(range(8)) == list(range(8))
    assert labelled_sizes([*range(15), 3]) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert labelled_sizes(range(15), 3) == [0, 7, 14]
    values = (0, 0.01, 0.00999, 999, 1e4, 3.14e8, -2.5e-7, float("inf"))
    assert [scientific(value) for value in values] == [
        "0", "0.01", r"1.0\times10^{-2}", "999", r"1.0\times10^{4}", r"3.1\times10^{8}",
        r"-2.5\times10^{-7}", r"\infty"]
    assert [scientific(value) for value in (1234, 9999, -4567.8, 0.012345)] == [
        "1230", "10000", "-4570", "0.0123"]
    assert scientific(314159, 3) == r"3.14\times10^{5}"
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(2.01, 3.4) == [2.25, 2.5, 2.75, 3.0, 3.25]
    assert nice_ticks(0.1, 10, 8) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    figure = Figure()
    axes = figure.subplots()
    loss_axis(axes, [2.0, 4.0, 3.0], headroom=1.5)
    assert axes.get_ylim() == pytest.approx((1.95, 6.0))
    assert axes.yaxis.get_major_locator().locs.tolist() == [2, 3, 4, 5, 6]
    axes.set_xscale("log")
    for high, ticks in ((10**2.1, [1, 2, 5, 10, 20, 50, 100]), (10**2.3, [1, 10, 100])):
        axes.set_xlim(1, high)
        count_axis(axes.xaxis, 1, high)
        inside = [tick for tick in axes.xaxis.get_major_locator()() if 0.99 < tick <= high]
        assert inside == pytest.approx(ticks)
    assert axes.xaxis.get_major_formatter()(2000, None) == "2k"


def test_labels_are_spread_without_overlap() -> None:
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    spread_labels(axes, 1.0, [(0.51, "b", "k"), (0.5, "a", "k"), (0.9, "c", "k")], gap=0.1)
    found = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert found == pytest.approx({"a": 0.455, "b": 0.555, "c": 0.9}, abs=1e-5)


def test_a_planned_point_has_the_least_advanced_of_its_states() -> None:
    """The order is done, running, partial, new, changed, failed, diverged, over budget."""
    states = [("done", "running"), ("new", "running"), ("partial", "running"), ("done", "done"),
              ("changed", "new"), ("changed", "failed"), ("diverged", "failed"),
              ("over budget", "diverged")]
    n = np.repeat(np.geomspace(1e5, 1e7, 8), 2)
    frame = pd.DataFrame({
        "run_id": [str(i) for i in range(16)], "params_non_embedding": n, "params_total": 2 * n,
        "tokens": 1e8, "flops_counted": 12 * n * 1e8, "role": "grid",
        "state": [state for pair in states for state in pair]})
    drawing = planned_grid(frame, [6e13, 6e14, 6e13], "demo")
    points = drawing.data[drawing.data["series"] == "run"]
    assert points["state"].tolist() == ["running", "new", "partial", "done", "changed", "failed",
                                        "diverged", "over budget"]
    assert (points["runs"] == 2).all()
    lines = drawing.data[drawing.data["series"] == "compute"]
    assert lines["flops"].unique().tolist() == [6e13, 6e14]
    # Between and beyond the sizes a token costs 12 N.
    np.testing.assert_allclose(lines["tokens"], lines["flops"] / (12 * lines["n"]))
    axes = drawing.figure.axes[0]
    margin = np.exp(0.35)
    assert axes.get_xlim() == pytest.approx((1e5 / margin, 1e7 * margin))
    assert axes.get_ylim() == pytest.approx((1e8 / margin, 1e8 * margin))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:3] == ["done (3)", "running (3)", "partial (1)"]
    assert axes.get_title(loc="left") == "demo: 16 runs"
    budgets = planned_grid(frame, [], "demo").data["flops"].dropna().unique()
    assert budgets.tolist() == [1e14, 6e14, 3e15, 1e16]


# The report


def test_cells_of_the_runs_table() -> None:
    cells = (1234567, 1e9, 3.14159265, 2.0, np.nan, "x", True)
    assert [sections._cell(value) for value in cells] == [
        "1,234,567", "1e+09", "3.1416", "2", "", "x", "1"]
    frame = pd.DataFrame({"loss": [3.5], "run_id": ["a"], "lr": [1e-3], "unknown": [1]})
    html = sections.runs(frame)
    assert html.index(">run_id<") < html.index(">lr<") < html.index(">loss<")
    assert "unknown" not in html


def test_cards_of_the_headline(law: Law) -> None:
    row = {"n": 1e6, "d": 1e8, "predicted": 2.5, "interval": (2.4, 2.6), "measured": 2.6,
           "relative_error": 2.5 / 2.6 - 1}
    held = {"in": row, "out": row | {"measured": 2.601}, "later": row | {
        "measured": None, "relative_error": None}, "bare": row | {"interval": None}}
    html = sections.headline(None, replace(law, heldout=held))  # type: ignore[arg-type]
    assert "L(N, D) = 1.5 + 30/N^0.3 + 60/D^0.25" in html
    assert "90%: E 1.4 to 1.6" in html
    assert ">0.455<" in html
    assert "90%: 0.4 to 0.5" in html
    assert "predicted 2.5 (90%: 2.4 to 2.6)" in html
    assert "-3.85% error" in html
    for said, times in (("measured 2.6, inside", 1), ("measured 2.601, OUTSIDE", 1),
                        ("measured 2.6, without", 1), ("not measured yet", 1)):
        assert html.count(said) == times
    unknown = replace(law, exponents={"a": None, "b": None}, intervals={})
    html = sections.headline(None, unknown)  # type: ignore[arg-type]
    assert "not determined" in html
    assert "no intervals" in html


def test_allocations_of_ten_times_the_largest_compute(law: Law) -> None:
    other = replace(law, convention={**law.convention, "range": {"c": (1e12, 2e15)}})
    html = sections.allocations([law, other, _kaplan("n", 5e12, 0.08)])
    assert "Optimal allocations of 2e+16 FLOP, 10 times the largest fitted compute" in html
    best = allocate(law, 2e16)
    assert f"<td>{best.n:,.0f}</td>" in html
    assert f"<td>{best.d:,.0f}</td>" in html
    assert f"<td>{best.d / best.n:.3g}</td>" in html
    assert html.count("<td>chinchilla</td>") == 2
    assert "<td>Kaplan 2020</td>" in html
    assert sections.allocations([_kaplan("n", 5e12, 0.08)]) == ""


def test_how_to_reproduce_a_report(law: Law) -> None:
    html = sections.reproduce(Path("/some/where/my results"), [
        replace(law, bootstrap=None), replace(law, data_sha256="abc")])
    assert "scaling fit &#x27;my results&#x27; --bootstrap 21 --seed 3 --save" in html
    assert "/some/where" not in html
    assert "<td>abc</td>" in html
    bare = sections.reproduce(Path("results"), [replace(law, bootstrap=None)])
    assert "scaling fit results --save results/laws.json" in bare


def test_building_blocks_escape_every_text() -> None:
    assert "<td>&lt;b&gt;</td>" in table(("x",), [("<b>",)])
    assert "<caption>&lt;c&gt;</caption>" in table(("x",), [], "<c>")
    assert "<th>&lt;x&gt;</th>" in table(("<x>",), [])
    shown = card("<n>", "<v>", ["<o>"])
    assert all(f"&lt;{name}&gt;" in shown for name in "nvo")
    assert warnings("t", []) == ""
    assert "<li>&lt;w&gt;</li>" in warnings("t", ["<w>"])
