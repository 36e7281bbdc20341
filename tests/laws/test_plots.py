"""Figures of laws: what is drawn are the numbers of the law, whoever owns the axes."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import scaling.laws as sl
from scaling.laws.fitted import Fit
from scaling.laws.law import Bootstrap, Law
from scaling.laws.published import published
from scaling.laws.table import RunsTable

matplotlib.use("Agg")

P = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
BUDGETS = (1e18, 1e19, 1e20)
COLUMN = "$size \\frac{$\x1b\n"


def loss_of(n, d):
    return P["E"] + P["A"] / np.asarray(n) ** P["alpha"] + P["B"] / np.asarray(d) ** P["beta"]


@pytest.fixture(autouse=True)
def _style_and_figures():
    """No figure is left open, and no setting of matplotlib is changed by any test here."""
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture(scope="module")
def fit() -> Fit:
    """IsoFLOP runs of seven sizes at three budgets, with noise of 0.2%, under a column's name that
    is a broken formula to matplotlib; and a held-out run."""
    c = np.repeat(BUDGETS, 7)
    n = np.sqrt(c / 6 / np.tile(np.geomspace(3, 200, 7), 3))
    d = c / 6 / n
    noise = np.random.default_rng(0).normal(0, 0.002, n.size)
    frame = pd.DataFrame({COLUMN: n, "seen": d, "nll": loss_of(n, d) * np.exp(noise),
                          "role": "grid"})
    frame.loc[len(frame)] = [3e9, 6e10, float(loss_of(3e9, 6e10)), "heldout"]
    return sl.fit(frame, "chinchilla", n=COLUMN, d="seen", loss="nll", resamples=40)


def points(axes):
    """Every line of the panel as (x, y) arrays."""
    return [np.asarray(line.get_xydata()) for line in axes.lines]


def drawn(axes, x, y, **tolerance) -> bool:
    """Whether a line or a cloud of points of the panel has these coordinates, in any order."""
    wanted = np.column_stack([x, y])
    wanted = wanted[np.lexsort(wanted.T)]
    found = points(axes) + [np.asarray(each.get_offsets()) for each in axes.collections]
    return any(each.shape == wanted.shape
               and np.allclose(each[np.lexsort(each.T)], wanted, **tolerance) for each in found)


def test_runs_lines_and_bands_of_a_law_of_n_and_d(fit):
    p = fit.params
    axes = fit.plot()
    runs = fit.runs
    assert drawn(axes, runs.d, runs.loss)
    assert drawn(axes, [6e10], [loss_of(3e9, 6e10)])
    lines = [line for line in axes.lines if len(line.get_xdata()) > 10]
    assert len(lines) == len(axes.get_legend().get_lines()) - 3  # the law, a run, a held-out run
    sizes = set()
    for line in lines:
        d, loss = line.get_data()
        n = (p["A"] / (loss - p["E"] - p["B"] / d ** p["beta"])) ** (1 / p["alpha"])
        assert np.ptp(n) < 1e-6 * n[0]  # one size along a line, and one that was trained
        sizes.add(runs.n[np.argmin(abs(runs.n / n[0] - 1))])
        np.testing.assert_allclose(n[0], min(runs.n, key=lambda each: abs(each - n[0])))
        low, high = fit.law.loss_band({"n": n, "d": d})
        band = next(each for each in axes.collections if each.get_alpha() == 0.18 and np.allclose(
            each.get_facecolor()[0, :3], to_rgba(line.get_color())[:3]))
        vertices = band.get_paths()[0].vertices
        for end in (low, high):
            gap = np.abs(vertices[:, None] - np.column_stack([d, end])[None])
            assert (gap < 1e-6 * np.abs(vertices).max(axis=0)).all(axis=2).any(axis=0).all()
    assert len(sizes) == len(lines)
    named = axes.get_legend().get_title().get_text()
    assert "size" in named
    assert named.isprintable()

    axes.figure.draw_without_rendering()
    by_compute = fit.plot(x="c")
    assert drawn(by_compute, 6 * runs.n * runs.d, runs.loss)
    for line, same in zip(points(by_compute)[1:6], points(axes)[1:6], strict=True):
        np.testing.assert_allclose(line[:, 1], same[:, 1])  # the same losses, at 6 N D
    by_size = fit.plot(x="n")
    assert drawn(by_size, runs.n, runs.loss)
    with pytest.raises(sl.UserError, match="one of n, d, c is expected"):
        fit.plot(x="tokens")


def test_valleys_have_the_minima_of_allocate(fit):
    axes = fit.plot_isoflop()
    runs, best = fit.runs, fit.allocate([*BUDGETS])
    assert drawn(axes, best["n"], best["loss"])
    for c, n in zip(BUDGETS, best["n"], strict=True):
        at = np.isclose(runs.c, c)
        assert drawn(axes, runs.n[at], runs.loss[at])
        curve = next(each for each in points(axes) if len(each) > 20 and np.allclose(
            each[:, 1], fit.predict(n=each[:, 0], d=c / 6 / each[:, 0])))
        lowest = curve[curve[:, 1].argmin(), 0]
        step = curve[1, 0] / curve[0, 0]
        assert n / step <= lowest <= n * step  # the curve itself turns there
    other = fit.plot_isoflop([1e22])
    (n,) = fit.allocate([1e22])["n"]
    assert drawn(other, [n], fit.allocate([1e22])["loss"])
    assert "no runs" in other.title.get_text()


def test_a_grid_has_valleys_without_common_budgets():
    n, d = map(np.ravel, np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 2e10, 4)))
    grid = sl.fit(pd.DataFrame({"params_total": n, "tokens": d, "loss": loss_of(n, d)}),
                  resamples=0)
    axes = grid.plot_isoflop()
    minima = next(each for each in points(axes) if len(each) == 5)
    for size, loss in minima:
        tokens = ((loss - P["E"] - P["A"] / size ** P["alpha"]) / P["B"]) ** (-1 / P["beta"])
        assert 5 <= np.log10(6 * size * tokens) <= 22
        near = loss_of(size * np.array([0.9, 1, 1.1]), tokens / np.array([0.9, 1, 1.1]))
        assert near.argmin() == 1


def test_allocations_beside_published_ones(fit):
    left, right = fit.plot_allocation([1e18, 1e24])
    for axes, name in ((left, "n"), (right, "d")):
        c = axes.get_lines()[0].get_xdata()
        own = fit.allocate(c)
        assert drawn(axes, c, own[name])
        (band,) = [each for each in axes.collections if each.get_alpha() == 0.18]
        box = band.get_paths()[0].vertices
        assert box[:, 1].min() == pytest.approx(own[f"{name}_low"].min())
        assert box[:, 1].max() == pytest.approx(own[f"{name}_high"].max())
        kaplan = 1.3e9 * (c / 8.64e19) ** 0.73 if name == "n" else None
        if kaplan is not None:  # as printed: N = 1.3e9 C^0.73, C in PF-days
            assert drawn(axes, c, kaplan, rtol=0.02)
    shown = [text.get_text() for text in right.get_legend().get_texts()]
    for title, counts in (("Kaplan 2020", "non-embedding"), ("Besiroglu 2024", "total"),
                          ("Hoffmann 2022, approach 1", "total")):
        assert any(text.startswith(f"{title} (N {counts}") for text in shown)
    law = published()["besiroglu2024"].law
    assert len(Fit(law, law.residual_loss).plot_allocation([1e18, 1e22])) == 2  # without runs
    with pytest.raises(sl.UserError, match="two budgets or more"):
        fit.plot_allocation(1e20)


def test_residuals_are_those_of_the_table(fit):
    panels = fit.plot_residuals()
    rows = fit.residuals().rows
    percent = [100 * np.expm1(row.residual) for row in rows]
    assert any(value > 0 for value in percent)
    assert [axes.get_xlabel().split(" (")[0] for axes in panels] == [
        "parameters N", "training tokens D", "compute C = 6 N D"]
    for axes, x in zip(panels, ([row.n for row in rows], [row.d for row in rows],
                                [6 * row.n * row.d for row in rows]), strict=True):
        assert drawn(axes, x, percent)
    assert panels[0].get_ylabel() == "measured / predicted - 1 (%)"
    (last,) = some_fit(OWN["one"]).plot_residuals()[3:]
    assert last.get_xlabel() == "width (column width)"


def test_the_profile_and_the_pairs(fit):
    found = fit.profile("alpha")
    axes = fit.plot_profile("alpha")
    assert drawn(axes, found.values, found.objectives)
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert any(np.allclose([box.x0, box.x1], found.interval) for box in spans)
    panels = fit.plot_pairs()
    assert panels.shape == (5, 5)
    names = fit.law.form.parameters
    for row in range(5):
        for column in range(row):
            x, y = fit.law.samples[:, [column, row]].T
            assert drawn(panels[row, column], x, y)
            assert drawn(panels[row, column], [fit.params[names[column]]],
                         [fit.params[names[row]]])
    fixed = sl.fit(fit.runs, "chinchilla", fix={"E": 1.7, "A": 400}, resamples=20)
    assert fixed.plot_pairs().shape == (3, 3)
    with pytest.raises(sl.UserError, match="resamples"):
        Fit(replace(fit.law, bootstrap=None), fit.objective, fit.table).plot_pairs()


def test_the_envelope_is_the_lowest_curve():
    rows = [(f"r{n:g}", n, d, loss_of(n, d)) for n in np.geomspace(1e7, 1e9, 5)
            for d in np.geomspace(1e8, 1e11, 60)]
    curves = sl.curves_from_frame(pd.DataFrame(rows, columns=["run_id", "n", "d", "loss"]), "c")
    axes = sl.plot_envelope(curves)
    lowest = points(axes)[-1]
    assert len(lowest) > 100
    sizes = np.unique(curves.n)
    every = np.array([loss_of(n, lowest[:, 0] / 6 / n) for n in sizes])
    np.testing.assert_allclose(lowest[:, 1], every.min(axis=0), rtol=2e-3)
    for run in range(5):
        rows = curves.rows(run)
        assert drawn(axes, 6 * curves.n[rows] * curves.d[rows], curves.loss[rows])


def some_fit(form) -> Fit:
    """A law of a form, with parameters from its own starting points, and runs near it."""
    rng = np.random.default_rng(0)
    values = {"n": rng.choice([1e7, 1e8, 1e9], 24), "d": rng.choice([1e9, 1e10, 1e11], 24)}
    values["c"] = 6 * values["n"] * values["d"]
    ranges = {"l": (2, 4), "experts": (2, 64), "granularity": (1, 16), "sparsity": (0, 0.9),
              "bits": (4, 16), "drop_area": (0, 9), **dict.fromkeys(
                  ("share1", "share2", "share3"), (0, 0.3))}
    for name in form.variables:
        if name not in values:
            values[name] = rng.uniform(*ranges.get(name, (1e3, 1e6)), 24)
    x = form.coordinates(values)
    outcome = 0.4 + 0.4 * np.exp(-0.3 * (x[:, 0] - x[:, 0].min()))
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    params = next(each for each in form.to_params(form.starts(x - centre, outcome), centre)
                  if np.isfinite(form.loss(each[None], values)).all())
    samples = params * (1 + 0.01 * rng.standard_normal((20, len(params))))
    law = Law(form=form, params=dict(zip(form.parameters, map(float, params), strict=True)),
              convention={"n": "total", "d": "tokens", "c": "6 N D", "range": {"c": (1e17, 1e21)}},
              bootstrap=Bootstrap(20, 20, 0, samples, np.zeros(3), method="percentile"))
    loss = law.loss(values) * np.exp(0.01 * rng.standard_normal(24))
    three = {name: values.pop(name) for name in ("n", "d", "c")}
    table = RunsTable(**three, loss=loss, run_id=tuple(map(str, range(24))), heldout=(),
                      excluded={}, convention={"n": "total", "d": "tokens", "c": "6 N D"},
                      notes=(), extra=values)
    return Fit(law, form.robust, table)


OWN = {"one": sl.law("E + A*width**-alpha", variables=["width"], exponents=["alpha"]),
       "three": sl.law("E + A*n**-alpha + B*depth**-beta + k/heads", floor="E",
                       variables=["depth", "n", "heads"], exponents=["alpha", "beta"])}


@pytest.mark.parametrize("name", [*sl.FORMS, *OWN])
def test_every_law_can_be_drawn(name):
    form = (sl.FORMS | OWN)[name]
    fit = some_fit(form)
    figure = Figure(layout="constrained")
    axes = fit.plot(ax=figure.subplots())
    figure.draw_without_rendering()
    assert axes.figure is figure
    rows = form.fitted_rows(fit.runs)
    runs = fit.runs.take(rows)
    names = {v for v in form.variables if drawn(axes, runs.values[v], runs.loss)}
    assert names
    along = names.pop()
    line = next(each for each in points(axes) if len(each) > 20)
    if len(form.variables) == 1:
        np.testing.assert_allclose(line[:, 1], fit.predict(**{along: line[:, 0]}))
    said = axes.title.get_text()
    held = len({*form.variables} - {"c"} | ({"c"} if form.variables == ("c",) else set())) - 2
    assert said.count(" = ") >= max(held, 0)  # each further variable, with its value
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_axes_of_the_caller_need_no_pyplot(fit, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "subplots", None)
    monkeypatch.setattr(plt, "figure", None)
    panels = Figure().subplots(1, 3)
    assert fit.plot(ax=panels[0]) is panels[0]
    assert fit.plot_isoflop(ax=panels[1]) is panels[1]
    assert fit.plot_profile("beta", ax=panels[2]) is panels[2]
    panels[0].figure.draw_without_rendering()


@pytest.mark.parametrize(("draw", "says"), [
    (lambda fit: sl.fit(fit.runs, "kaplan-n", resamples=0).plot_isoflop(), "does not determine"),
    (lambda fit: fit.plot_isoflop([1e18, -1]), "-1: a positive number of FLOPs"),
    (lambda fit: fit.plot_isoflop(given={"color": 3}), "color"),
    (lambda fit: fit.plot_profile("gamma"), "no parameter gamma"),
    (lambda fit: Fit(fit.law, fit.objective).plot(), "loaded without its runs"),
    (lambda fit: Fit(replace(fit.law, convergence={"converged": False}), fit.objective,
                     fit.table).plot(), "did not converge"),
])
def test_what_cannot_be_drawn_is_said_in_one_sentence(fit, draw, says):
    with pytest.raises(sl.UserError, match=says) as raised:
        draw(fit)
    assert "\n" not in str(raised.value)
