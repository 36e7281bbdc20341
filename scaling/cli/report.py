"""`scaling report`: the page of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.console import out


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
