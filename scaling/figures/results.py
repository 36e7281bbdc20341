"""A results folder in, its figures out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scaling.errors import UserError
from scaling.figures.kaplan import three_panels
from scaling.figures.prediction import predicted_against_measured
from scaling.figures.style import Drawing, write
from scaling.figures.surface import loss_surface
from scaling.figures.tokens import loss_against_tokens
from scaling.laws import Law, RunsTable, laws_of_loss, read
from scaling.laws.runs.table import N_COLUMNS, read_frame

FIGURES = {
    "loss_against_tokens": "Learning curves, final held-out losses, and the fitted law.",
    "kaplan": "Loss against compute, data and parameters, each with its power law.",
    "surface": "The fitted loss over compute and parameters, and the efficient frontier.",
    "prediction": "Predicted and measured losses: fitted runs, and those held out.",
}
"""Names of the files in RESULTS/figures, and what each shows."""


@dataclass(frozen=True)
class Results:
    """A results folder. `tables` has the runs by what N counts; `stale` names the laws that were
    fitted to other numbers than the folder's runs."""

    folder: Path
    tables: dict[str, RunsTable]
    curves: pd.DataFrame | None
    laws: dict[str, Law]

    def table(self, law: Law | None) -> RunsTable:
        """The runs with N counted as a law counts it."""
        counting = str(law.convention["n"]) if law else "total"
        if counting in self.tables:
            return self.tables[counting]
        raise UserError(f"{self.folder}: laws.json counts N by {counting!r}, which runs.csv does "
                        f"not; it has {', '.join(self.tables)}. Fit again with `scaling fit "
                        f"{self.folder} --json {self.folder / 'laws.json'}`")

    @property
    def stale(self) -> list[str]:
        """Laws whose data are no longer those of the runs table."""
        return [law.name for law in self.laws.values() if law.data_sha256 !=
                (table := self.table(law)).take(law.form.rows(table)).sha256]


def open_results(folder: Path) -> Results:
    """Read `runs.csv`, and `curves.csv` and `laws.json` where they are.

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
        read(runs)  # says which column is missing
    path = folder / "laws.json"
    laws = {law.name: law for law in laws_of_loss(path)} if path.is_file() else {}
    return Results(folder, tables, _curves(folder / "curves.csv"), laws)


def draw(results: Results) -> Iterator[tuple[str, Drawing | str]]:
    """Every figure that the folder has the makings of, and for the others what is missing."""
    # What did not converge is not drawn as if it were a law.
    laws = {name: law for name, law in results.laws.items() if law.converged}
    joint = laws.get("chinchilla")
    kaplan: dict[str, Law] = {
        name: laws[name] for name in ("kaplan-c", "kaplan-d", "kaplan-n") if name in laws
    }
    missing = "laws.json has no {} that converged; `scaling fit` writes it"

    yield "loss_against_tokens", loss_against_tokens(results.table(joint), results.curves, joint)
    if kaplan:
        yield "kaplan", three_panels(results.table(next(iter(kaplan.values()))), kaplan)
    else:
        yield "kaplan", missing.format("kaplan-n, kaplan-d or kaplan-c")
    if joint is None:
        yield "surface", missing.format("chinchilla")
        yield "prediction", missing.format("chinchilla")
        return
    if joint.exponents.get("a") is None:
        yield "surface", "the runs do not determine how loss depends on N at given compute"
    else:
        yield "surface", loss_surface(results.table(joint), joint)
    yield "prediction", predicted_against_measured(results.table(joint), joint)


def plot(results: Results) -> tuple[list[Path], dict[str, str]]:
    """Write the figures to RESULTS/figures: the files, and for each figure left out, why.

    Raises:
        UserError: the folder has no finished run to draw.
    """
    table = next(iter(results.tables.values()))
    if not table.loss.size:
        raise UserError(f"{results.folder / 'runs.csv'}: no finished grid run, so nothing to draw")
    written, left_out = [], {}
    for name, drawing in draw(results):
        if isinstance(drawing, str):
            left_out[name] = drawing
        else:
            written += write(drawing, results.folder / "figures" / name)
    return written, left_out


def _curves(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    frame = read_frame(path)
    missing = [name for name in ("run_id", "tokens", "loss") if name not in frame]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; expected are run_id, tokens, loss")
    # A diverged run leaves NaN behind it: the curve ends there.
    return frame[(frame["tokens"] > 0) & (frame["loss"] > 0)]
