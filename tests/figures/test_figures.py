"""Figures: present, small, reproducible, and with a CSV of their data."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.figures import FIGURES, loss_against_tokens, open_results, plot, write
from scaling.figures.results import draw
from scaling.laws import Law, fit_law, read, save
from scaling.laws.io import load
from scaling.laws.plots.prediction import predicted_against_measured
from scaling.laws.plots.style import Drawing, canvas, nice_ticks
from scaling.laws.show import short
from scaling.report import write_report
from tests.conftest import ROOT


def test_every_figure_is_a_png_an_svg_and_a_csv(reported: Path) -> None:
    for name in FIGURES:
        png, svg, csv = (reported / "figures" / f"{name}.{kind}" for kind in ("png", "svg", "csv"))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < png.stat().st_size < 200_000
        assert b"</svg>" in svg.read_bytes()
        assert svg.stat().st_size < 500_000
        assert len(pd.read_csv(csv)) > 10


def test_figures_are_the_same_bytes_every_time(
    fitted: Path, reported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(fitted, folder)
    style = dict(matplotlib.rcParams)
    written, left_out = plot(open_results(folder))
    assert left_out == {}
    assert len(written) == 3 * len(FIGURES)
    for path in written:
        assert path.read_bytes() == (reported / "figures" / path.name).read_bytes(), path.name
    assert dict(matplotlib.rcParams) == style  # the global style is unchanged


@pytest.mark.parametrize("name", FIGURES)
def test_the_committed_figures_are_those_of_the_committed_laws(name: str) -> None:
    results = ROOT / "results/quickstart"
    ((_, drawing),) = draw(open_results(results), [name])
    assert isinstance(drawing, Drawing)
    committed = pd.read_csv(results / "figures" / f"{name}.csv", dtype={"run_id": str},
                            keep_default_na=False, na_values={"loss": [""]})
    again = drawing.data.reset_index(drop=True)
    assert list(committed) == list(again)
    for column in again.select_dtypes("number"):
        np.testing.assert_allclose(pd.to_numeric(committed[column]), again[column], rtol=1e-6)
    assert committed["series"].tolist() == again["series"].tolist()


def test_csv_of_a_figure_escapes_spreadsheet_formulas(tmp_path: Path) -> None:
    figure, _ = canvas(2, 2)
    write(Drawing(figure, pd.DataFrame({"run_id": ["=1+1", "@x"], "loss": [-1.5, 2]})),
          tmp_path / "drawn")
    assert (tmp_path / "drawn.csv").read_text() == "run_id,loss\n'=1+1,-1.5\n'@x,2\n"


def test_svgs_load_nothing(reported: Path) -> None:
    for name in FIGURES:
        svg = (reported / "figures" / f"{name}.svg").read_text()
        targets = re.findall(r'(?:href|src)="([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
        assert targets
        assert all(target.startswith(("#", "data:image/png")) for target in targets)
        assert "<script" not in svg


def _chinchilla(folder: Path) -> Law:
    return next(law for law in load(folder / "laws.json") if law.name == "chinchilla")


def test_numbers_beside_the_tokens_figure(reported: Path) -> None:
    data = pd.read_csv(reported / "figures" / "loss_against_tokens.csv")
    runs = pd.read_csv(reported / "runs.csv")
    done = runs[(runs["status"] == "done") & (runs["role"] == "grid")]
    final = data[data["series"] == "final"].set_index("run_id")["loss"]
    np.testing.assert_allclose(final[done["run_id"]], done["loss"], rtol=1e-7)
    assert (data["series"] == "heldout").sum() == 1
    # 300 points of each curve are thinned, and the last finite one is kept.
    curve = data[(data["series"] == "curve") & (data["run_id"] == "run00")]
    assert 50 < len(curve) <= 121
    assert curve["tokens"].max() == 250_000
    law = _chinchilla(reported)
    line = data[data["series"] == "law"]
    np.testing.assert_allclose(
        line["loss"], law.loss({"n": line["n"].to_numpy(), "d": line["tokens"].to_numpy()}),
        rtol=1e-6)


def test_numbers_beside_the_other_figures(reported: Path) -> None:
    surface = pd.read_csv(reported / "figures" / "surface.csv")
    frontier = surface[surface["series"] == "frontier"]
    assert (frontier["n_low"] < frontier["n"]).all()
    assert (frontier["n"] < frontier["n_high"]).all()
    law = _chinchilla(reported)
    slope = np.polyfit(np.log(frontier["c"]), np.log(frontier["n"]), 1)[0]
    assert slope == pytest.approx(law.exponents["a"], rel=1e-5)

    prediction = pd.read_csv(reported / "figures" / "prediction.csv")
    held = prediction[prediction["series"] == "heldout"].iloc[0]
    assert held["low"] < held["predicted"] < held["high"]
    assert held["residual_percent"] == pytest.approx(
        100 * (held["measured"] / held["predicted"] - 1), rel=1e-4)

    kaplan = pd.read_csv(reported / "figures" / "kaplan.csv")
    best = kaplan[(kaplan["panel"] == "n") & (kaplan["series"] == "envelope")]
    assert len(best) == 5
    line = kaplan[(kaplan["panel"] == "n") & (kaplan["series"] == "law")]
    slope = np.polyfit(np.log(line["x"]), np.log(line["loss"]), 1)[0]
    assert slope == pytest.approx(-load(reported / "laws.json")[0].params["alpha_N"], rel=1e-5)


def test_an_unmeasured_held_out_run_shows_its_interval(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    frame = pd.read_csv(tmp_path / "runs.csv")
    frame.loc[frame["role"] == "heldout", ["status", "loss"]] = ["planned", np.nan]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    results = open_results(tmp_path)
    law = results.laws["chinchilla"]
    row = predicted_against_measured(results.table(law), law).data.iloc[-1]
    assert row["series"] == "heldout"
    assert row["low"] < row["predicted"] < row["high"]
    assert np.isnan(row["measured"])


def test_without_laws_the_runs_alone_are_drawn(fitted: Path, tmp_path: Path) -> None:
    shutil.copy(fitted / "runs.csv", tmp_path)
    written, left_out = plot(open_results(tmp_path))
    assert {path.stem for path in written} == {"loss_against_tokens"}
    assert set(left_out) == {"kaplan", "surface", "prediction"}
    assert "scaling fit" in left_out["surface"]


def test_a_law_that_the_runs_do_not_determine_has_no_frontier(tmp_path: Path) -> None:
    n = np.geomspace(1e4, 1e6, 20).round()
    scatter = np.exp(0.01 * np.random.default_rng(0).standard_normal(20))
    pd.DataFrame({"params_total": n, "tokens": 20 * n, "loss": (1.3 + 24 / n**0.34) * scatter}
                 ).to_csv(tmp_path / "runs.csv", index=False)
    save([fit_law(read(tmp_path), "chinchilla", resamples=0)], tmp_path / "laws.json")
    reasons = {name: reason for name, reason in draw(open_results(tmp_path))
               if isinstance(reason, str)}
    assert "do not determine" in reasons["surface"]


def test_a_law_that_did_not_converge_is_not_drawn(fitted: Path) -> None:
    results = open_results(fitted)
    unsure = {name: replace(law, convergence={**law.convergence, "converged": False})
              for name, law in results.laws.items()}
    drawn = dict(draw(replace(results, laws=unsure)))
    for name in ("kaplan", "surface", "prediction"):
        assert "that converged" in str(drawn[name])
    tokens = drawn["loss_against_tokens"]
    assert isinstance(tokens, Drawing)
    assert "law" not in set(tokens.data["series"])


@pytest.mark.parametrize("change", [{"A": 1e300}, {"beta": -300.0}, {"E": None}])
def test_a_law_without_finite_losses_is_not_drawn(
    fitted: Path, tmp_path: Path, change: dict[str, float | None]
) -> None:
    shutil.copy(fitted / "runs.csv", tmp_path)
    content = json.loads((fitted / "laws.json").read_text())
    next(law for law in content["laws"] if law["law"] == "chinchilla")["params"] |= change
    (tmp_path / "laws.json").write_text(json.dumps(content))
    drawn = dict(draw(open_results(tmp_path)))
    assert "has a finite loss for these runs" in str(drawn["prediction"])
    assert "has a finite loss for these runs" in str(drawn["surface"])
    assert not isinstance(drawn["kaplan"], str)


def test_many_sizes_stay_readable(tmp_path: Path) -> None:
    """Hundreds of sizes get eight labels and eight lines, not hundreds."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(10, 16, 200)), np.exp(rng.uniform(13, 18, 200))
    frame = pd.DataFrame({"params_total": n, "tokens": d, "loss": 1.3 + 24 / n**0.3 + 45 / d**0.3})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    table = read(tmp_path)
    drawing = loss_against_tokens(table, None, fit_law(table, "chinchilla", resamples=0))
    assert drawing.data[drawing.data["series"] == "law"]["n"].nunique() == 8
    assert len(drawing.figure.axes[0].texts) <= 9


def test_stale_laws_are_detected(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    assert open_results(tmp_path).stale == []
    frame = pd.read_csv(tmp_path / "runs.csv")
    frame.loc[24, "loss"] += 1e-6  # the largest model on the most tokens: on every envelope
    frame.to_csv(tmp_path / "runs.csv", index=False)
    assert set(open_results(tmp_path).stale) == {law.name for law in load(fitted / "laws.json")}


def test_invalid_results_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_results(tmp_path / "none")
    with pytest.raises(UserError, match=r"runs\.csv: no such file"):
        open_results(tmp_path)
    (tmp_path / "runs.csv").write_text("params_total,tokens,loss,status\n1000,1000,,failed\n")
    with pytest.raises(UserError, match="no finished grid run"):
        plot(open_results(tmp_path))
    (tmp_path / "curves.csv").write_text("run,tokens,loss\n")
    with pytest.raises(UserError, match="no column run_id"):
        open_results(tmp_path)


@pytest.mark.parametrize(("value", "shown"), [
    (0, "0"), (950, "950"), (999.9, "1k"), (12_288, "12.3k"), (1e6, "1M"), (999_999, "1M"),
    (3.2e9, "3.2B"), (1.4e12, "1.4T"), (2e16, "2e+16"), (None, "-"),
])
def test_short_counts(value: float | None, shown: str) -> None:
    assert short(value) == shown


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((2.01, 3.4), (0.5, 9.0), (2.30, 2.34), (1e-3, 4e-3)):
        ticks = nice_ticks(low, high)
        assert 3 <= len(ticks) <= 11
        assert low <= ticks[0]
        assert ticks[-1] <= high


def test_only_laws_of_the_loss_of_the_runs_are_drawn(fitted: Path, tmp_path: Path) -> None:
    """A law of learning rates, or of another outcome, is named with the reason; one of several
    outcomes that is of `loss` is drawn as if it were alone."""
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    laws = load(tmp_path / "laws.json")
    named = [law for law in laws if law.name == "chinchilla"]
    chinchilla = named[0]
    assert isinstance(chinchilla, Law)

    def of(outcome: str) -> Law:
        return replace(chinchilla, convention={**chinchilla.convention, "outcome": outcome})

    n, d = chinchilla.convention["range"]["n"], chinchilla.convention["range"]["d"]
    grid = pd.DataFrame({"N": [n[0], n[0], n[1], n[1]], "D": [d[0], d[1]] * 2,
                         "rate": [4e-3, 3e-3, 2e-3, 1e-3]})
    rates = fit_law(read(grid, n="N", d="D", loss="rate"), "step-lr", resamples=0)
    save([of("loss"), of("code"), rates], tmp_path / "laws.json")
    opened = open_results(tmp_path)
    assert [*opened.laws] == ["chinchilla"]
    assert opened.stale == []
    assert opened.others == {"chinchilla of code": "it is of the outcome in column code",
                             "step-lr": "it predicts learning rate"}
    _, skipped = plot(opened)
    assert "prediction" not in skipped
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "step-lr: not shown, it predicts learning rate" in page
    save([rates], tmp_path / "laws.json")
    with pytest.raises(UserError, match=r"no law of the loss of these runs \(step-lr: it predicts"):
        write_report(tmp_path)
