"""`scaling plot` and `scaling report`: figures and a report of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.console import err, out


def plot(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json and optionally curves.csv."
    )],
) -> None:
    """Draw the figures of a results folder into RESULTS/figures.

    Example: `scaling plot results/quickstart`

    Each figure is written as PNG, SVG, and a CSV of its numbers. Run
    `scaling fit RESULTS --save RESULTS/laws.json` first.
    """
    from scaling.figures import open_results
    from scaling.figures import plot as plot_results

    opened = open_results(results)
    for name in opened.stale:
        err.print(f"warning: {name} was fitted to other numbers than runs.csv now has; fit again",
                  markup=False)
    written, skipped = plot_results(opened)
    for path in written:
        out.print(str(path), markup=False)
    for name, reason in skipped.items():
        err.print(f"{name}: not drawn, {reason}", markup=False)


def report(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json and optionally curves.csv."
    )],
) -> None:
    """Write RESULTS/report.html: a single offline page with the figures.

    Example: `scaling report results/quickstart`
    """
    from scaling.report import write_report

    out.print(str(write_report(results)), markup=False)
