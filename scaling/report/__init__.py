"""The results of a sweep as one self-contained HTML page that works offline and on phones.

    sections.py  the sections of the page
    page.py      HTML building blocks
"""

from __future__ import annotations

from pathlib import Path

from scaling.errors import UserError
from scaling.figures import open_results, plot
from scaling.laws import with_heldout
from scaling.laws.frames import read_frame
from scaling.outputs import Output
from scaling.report import sections
from scaling.report.page import GENERATOR, page, text

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Redraw the figures of a results folder and write its `report.html`.

    Returns:
        The path of the report.

    Raises:
        UserError: the folder has no runs, or no fitted laws.
    """
    results = open_results(folder)
    if results.others and not results.laws:
        name, reason = next(iter(results.others.items()))
        raise UserError(f"{folder / 'laws.json'}: no law of the loss of these runs ({name}: "
                        f"{reason}); write one with `scaling fit {folder} --save "
                        f"{folder / 'laws.json'}`")
    if not results.laws:
        raise UserError(f"{folder / 'laws.json'}: no such file; write it with `scaling fit "
                        f"{folder} --save {folder / 'laws.json'}`")
    path = folder / "report.html"
    output = Output(path, "scaling report", lambda found: GENERATOR.encode() in found)
    output.check()
    _, not_drawn = plot(results)
    laws = [with_heldout(law, results.table(law)) for law in results.laws.values()]
    first = next(law for law in laws if law.name == results.main_law)
    name = folder.resolve().name
    body = (
        f"<h1>{text(name)}</h1>",
        '<p class="muted">Scaling laws fitted to a sweep of Transformers.</p>',
        sections.headline(results.choice, first, laws),
        sections.all_warnings(results, laws, not_drawn),
        sections.figures(folder, not_drawn),
        sections.choice(results),
        sections.law_tables(laws),
        sections.allocations(laws, results.main_law),
        sections.runs(read_frame(folder / "runs.csv")),
        sections.reproduce(folder, laws),
    )
    output.write(page(f"{name}: scaling laws", body))
    return path
