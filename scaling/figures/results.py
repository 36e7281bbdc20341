"""Reading a results folder and drawing its figures."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.figures.files import FORMATS, write
from scaling.figures.tokens import loss_against_tokens
from scaling.laws import FormChoice, Law, RunsTable, read
from scaling.laws.forms.variables import N_COLUMNS, VARIABLES
from scaling.laws.frames import read_frame
from scaling.laws.health import with_curve_columns
from scaling.laws.io import load_with_choice
from scaling.laws.plots.kaplan import three_panels
from scaling.laws.plots.prediction import predicted_against_measured
from scaling.laws.plots.style import Drawing, Size, retitle
from scaling.laws.plots.surface import loss_surface

FIGURES = {
    "loss_against_tokens": "Learning curves, final held-out losses, and the fitted law; beside it "
                           "Chinchilla's, if that is another one.",
    "kaplan": "Loss against compute, data and parameters, each with its power law and the runs "
              "that it was fitted to.",
    "surface": "The fitted loss over compute and parameters, and the efficient frontier; beside it "
               "that of Chinchilla's law, if that is another one.",
    "prediction": "Predicted and measured losses of fitted and held-out runs; residuals are "
                  "measured / predicted - 1, with the opposite sign of the errors in tables.",
}
"""Names of the files in RESULTS/figures, and their captions."""


CHINCHILLA = "chinchilla"
_MAX_LOSS = 1e4  # nats per token, far above any plausible loss


@dataclass(frozen=True)
class ResultsFolder:
    """The contents of a results folder. `tables` has the runs by what N counts, and `choice` is
    how the form was chosen; `others` has the laws of the file that are not of the loss of these
    runs, each with the reason; `stale` has the names of the laws that were fitted to other data
    than the folder's runs."""

    folder: Path
    tables: dict[str, RunsTable]
    curves: pd.DataFrame | None
    laws: dict[str, Law]
    choice: FormChoice | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def main_law(self) -> str:
        """Name of the law that predicts larger runs best, of `chinchilla` if the laws were named,
        and of the first if that is not among them."""
        if self.choice is not None and self.choice.best in self.laws:
            return self.choice.best
        return CHINCHILLA if CHINCHILLA in self.laws else next(iter(self.laws), CHINCHILLA)

    def table(self, law: Law | None) -> RunsTable:
        """The runs with N counted as a law counts it."""
        counting = str(law.convention["n"]) if law else "total"
        if counting in self.tables:
            return self.tables[counting]
        raise UserError(f"{self.folder}: laws.json counts N as {counting!r}, but runs.csv only as "
                        f"{', '.join(self.tables)}; fit again with `scaling fit "
                        f"{self.folder} --save {self.folder / 'laws.json'}`")

    @property
    def stale(self) -> list[str]:
        """Names of the laws that were fitted to other data than the runs table now has."""
        return [law.name for law in self.laws.values() if law.data_sha256 !=
                (table := self.table(law)).take(law.form.fitted_rows(table)).sha256]


def open_results(folder: Path) -> ResultsFolder:
    """Read `runs.csv`, and `curves.csv` and `laws.json` if present.

    Raises:
        UserError: the folder or its runs table is missing, or a file cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a results folder with runs.csv is expected")
    runs = folder / "runs.csv"
    if not runs.is_file():
        raise UserError(f"{runs}: no such file; `scaling sweep export` writes it")
    columns = read_frame(runs).columns
    tables: dict[str, RunsTable] = {
        counting: read(runs, counting=counting)
        for counting, column in N_COLUMNS.items() if column in columns
    }
    if not tables:
        read(runs)  # raises the error about the missing column
    path = folder / "laws.json"
    laws, choice = load_with_choice(path) if path.is_file() else ([], None)
    found = {law.name: law for law in (
        _of_the_loss(law) for law in laws if isinstance(law, Law))}
    others = {name: reason for name, law in found.items() if (reason := _why_not_of_the_loss(law))}
    return ResultsFolder(folder, tables, _curves(folder / "curves.csv"), {
        name: law for name, law in found.items() if name not in others}, choice, others)


def _of_the_loss(law: Law) -> Law:
    """The law without the name of its outcome's column, if that is `loss`."""
    if law.convention.get("outcome") != "loss":
        return law
    return replace(law, convention={k: v for k, v in law.convention.items() if k != "outcome"})


def _why_not_of_the_loss(law: Law) -> str:
    """Why a law does not predict the loss of a folder's runs from N, D and C; empty if it does."""
    further = [VARIABLES[v].symbol for v in law.form.variables if v not in ("n", "d", "c")]
    if not law.form.outcome.startswith("loss"):
        return f"it predicts {law.form.outcome}"
    if law.convention.get("outcome", "loss") != "loss":
        return f"it is of the outcome in column {law.convention['outcome']}"
    if further:
        return f"it is a function of {', '.join(further)}, too"
    return ""


def draw(
    results: ResultsFolder, names: Collection[str] = tuple(FIGURES), size: Size | None = None
) -> Iterator[tuple[str, Drawing | str]]:
    """Pairs of a figure's name and its drawing, or the reason why it cannot be drawn.

    Args:
        results: the folder.
        names: the figures to draw, of `FIGURES`.
        size: width and height in inches; by default what suits each figure.
    """
    options: dict[str, Any] = {} if size is None else {"inches": size}
    for name in FIGURES:
        if name in names:
            yield name, _drawing(name, results, options)


def _drawing(name: str, results: ResultsFolder, options: dict[str, Any]) -> Drawing | str:
    # Laws that did not converge, or do not apply to these runs, are not drawn.
    laws = {name: law for name, law in results.laws.items()
            if law.converged and _is_drawable(law, results.table(law))}
    joint = laws.get(results.main_law)
    if joint is None or not {"n", "d"} <= {*joint.form.variables}:
        joint = laws.get(CHINCHILLA)
    beside = laws.get(CHINCHILLA)
    if joint is None or beside is None or beside is joint or (
            beside.convention["n"] != joint.convention["n"]):
        beside = None  # there is none, or its sizes are others
    kaplan: dict[str, Law] = {
        name: laws[name] for name in ("kaplan-c", "kaplan-d", "kaplan-n") if name in laws
    }
    missing = ("laws.json has no {} that converged and has a finite loss for these runs; fit it "
               "with `scaling fit`")

    if name == "loss_against_tokens":
        return loss_against_tokens(results.table(joint), results.curves, joint, beside, **options)
    if name == "kaplan":
        if not kaplan:
            return missing.format("kaplan-n, kaplan-d or kaplan-c")
        return three_panels(results.table(next(iter(kaplan.values()))), kaplan, **options)
    if joint is None:
        return missing.format(CHINCHILLA)
    if name == "prediction":
        return predicted_against_measured(results.table(joint), joint, beside, **options)
    if joint.form.allocation_exponent(joint.point) is None:  # no optimum in closed form
        if CHINCHILLA not in laws:
            return missing.format(CHINCHILLA)
        joint, beside = laws[CHINCHILLA], None
    if joint.exponents.get("a") is None:
        return "the runs do not determine how the loss depends on N at fixed compute"
    return loss_surface(results.table(joint), joint, beside, **options)


def _is_drawable(law: Law, table: RunsTable) -> bool:
    """Whether the predicted losses of all runs, held-out ones included, fit on an axis."""
    if not {*law.form.variables} <= {*table.values}:
        return False
    losses = [law.loss(values) for values in (table.values, *(r.values for r in table.heldout))]
    intervals = [law.prediction_interval(run.values) or () for run in table.heldout]
    values = np.concatenate([*losses, *map(np.array, intervals)])
    return bool(((values > 0) & (values < _MAX_LOSS)).all())


def plot(
    results: ResultsFolder, names: Collection[str] = tuple(FIGURES),
    formats: Sequence[str] = FORMATS, *, size: Size | None = None, title: str | None = None,
    out: Path | None = None,
) -> tuple[list[Path], dict[str, str]]:
    """Write the figures to RESULTS/figures.

    Args:
        results: the folder.
        names: the figures to draw, of `FIGURES`.
        formats: formats of the figures; the CSV of their data is written in any case.
        size: width and height in inches; by default what suits each figure.
        title: of the figures, instead of their own.
        out: another folder to write to.

    Returns:
        The paths of the files, and the reasons of the figures that are not drawn, by name.

    Raises:
        UserError: the folder has no finished run to draw.
    """
    table = next(iter(results.tables.values()))
    if not table.loss.size:
        raise UserError(f"{results.folder / 'runs.csv'}: no finished grid run, so nothing to draw")
    written, not_drawn = [], {}
    folder = out or results.folder / "figures"
    inputs = [results.folder / name for name in ("runs.csv", "curves.csv", "laws.json")]
    for name, drawing in draw(results, names, size):
        if isinstance(drawing, str):
            not_drawn[name] = drawing
            continue
        if title is not None:
            retitle(drawing, title)
        written += write(drawing, folder / name, formats, inputs)
    return written, not_drawn


_MAX_TOKENS, _MIN_LOSS = 1e20, 1e-9  # of a point that can be drawn


def _curves(path: Path) -> pd.DataFrame | None:
    if not os.path.lexists(path):
        return None
    frame = with_curve_columns(read_frame(path), str(path))
    for name in ("tokens", "loss"):
        if len(frame) and frame[name].dtype.kind not in "iuf":
            raise UserError(f"{path}: column {name} has type {frame[name].dtype}, but numbers are "
                            "expected")
    tokens, loss = (frame[name].to_numpy(float) for name in ("tokens", "loss"))
    if not np.isfinite(tokens).all() or np.isinf(loss).any() or (tokens < 0).any():
        raise UserError(f"{path}: a point has an infinite loss, or tokens that are negative or not "
                        "finite; remove the file and write it again with `scaling sweep export`")
    # The loss of a diverged run is NaN from some point on, where its curve ends.
    return frame[(frame["tokens"] > 0) & (frame["tokens"] <= _MAX_TOKENS)
                 & (frame["loss"] > _MIN_LOSS)]
