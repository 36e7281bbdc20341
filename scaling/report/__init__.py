"""One page that says what a sweep found: self-contained, offline, readable on a phone."""

from __future__ import annotations

from pathlib import Path

from scaling.errors import UserError
from scaling.figures import open_results, plot
from scaling.files import write_atomically
from scaling.laws import with_heldout
from scaling.laws.runs.table import read_frame
from scaling.report import sections
from scaling.report.page import page, text

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Draw the figures of a results folder anew and write its `report.html`.

    Raises:
        UserError: the folder has no runs, or no laws fitted to them.
    """
    results = open_results(folder)
    if not results.laws:
        raise UserError(f"{folder / 'laws.json'}: no such file; `scaling fit {folder} --json "
                        f"{folder / 'laws.json'}` writes it")
    _, left_out = plot(results)
    laws = [with_heldout(law, results.table(law)) for law in results.laws.values()]
    first = next((law for law in laws if law.name == "chinchilla"), laws[0])
    name = folder.resolve().name
    body = (
        f"<h1>{text(name)}</h1>",
        '<p class="muted">Scaling laws fitted to a sweep of Transformers.</p>',
        sections.headline(results, first),
        sections.all_warnings(results, laws, left_out),
        sections.figures(folder, left_out),
        sections.law_tables(laws),
        sections.allocations(laws),
        sections.runs(read_frame(folder / "runs.csv")),
        sections.reproduce(folder, laws),
    )
    path = folder / "report.html"
    write_atomically(path, page(f"{name}: scaling laws", body))
    return path
