"""`scaling plot` and `scaling report`: what a results folder looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.terminal import err, out


def plot(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json, and curves.csv if there is one."
    )],
) -> None:
    """Draw the figures of a results folder into RESULTS/figures.

    Example: `scaling plot results/quickstart`

    Each figure is a PNG, an SVG, and a CSV of the numbers in it. Run `scaling fit` first.
    """
    from scaling.figures import open_results
    from scaling.figures import plot as plot_results

    opened = open_results(results)
    for name in opened.stale:
        err.print(f"warning: {name} was fitted to other numbers than runs.csv now holds; fit again",
                  markup=False)
    written, left_out = plot_results(opened)
    for path in written:
        out.print(str(path), markup=False)
    for name, why in left_out.items():
        err.print(f"{name}: not drawn, {why}", markup=False)


def report(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json, and curves.csv if there is one."
    )],
) -> None:
    """Write RESULTS/report.html: one page, offline, with the figures in it.

    Example: `scaling report results/quickstart`
    """
    from scaling.report import write_report

    out.print(str(write_report(results)), markup=False)
