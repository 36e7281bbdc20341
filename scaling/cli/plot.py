"""`scaling plot`: figures of a law and a table of runs, or of a results folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.approaches import curves_of, split
from scaling.cli.fit_options import (
    LAWS,
    RESAMPLES,
    CColumn,
    ClusterColumn,
    DColumn,
    FinalRows,
    FixOption,
    LossColumn,
    NColumn,
    NConvention,
    OtherColumns,
    ProfileNames,
    Resamples,
    SmoothRows,
    TieOption,
    WhereOption,
    columns,
    forms,
)
from scaling.cli.fitted import BootstrapOptions, RunsSource, fit_form
from scaling.console import err, out
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Fit
    from scaling.laws.plots.style import Drawing, Size

_FIGURES = "Figures"
_SIZES = (1.0, 40.0)  # inches


class FigureFormat(StrEnum):
    """Formats of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


@dataclass(frozen=True)
class FigureOptions:
    """What is drawn, and how; None for what was not given."""

    names: Sequence[str]
    formats: Sequence[str]
    size: Size | None
    title: str | None
    out: Path | None


def plot(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    law: Annotated[str | None, typer.Option(
        help="Law to fit and draw, or approach-1 for training curves and their envelope; by "
             "default chinchilla.", rich_help_panel=LAWS, show_default=False)] = None,
    fix: FixOption = None,
    tie: TieOption = None,
    n: NColumn = None,
    d: DColumn = None,
    c: CColumn = None,
    loss: LossColumn = None,
    column: OtherColumns = None,
    where: WhereOption = None,
    cluster: ClusterColumn = None,
    final: FinalRows = False,
    smooth: SmoothRows = 1,
    n_convention: NConvention = None,
    bootstrap: Resamples = RESAMPLES,
    profile: ProfileNames = None,
    figure: Annotated[list[str] | None, typer.Option(
        metavar="NAME", rich_help_panel=_FIGURES, show_default=False,
        help="Figure to draw; may be repeated. By default all, or with --profile none but the "
             "profiles. Of a table: law, "
             "isoflop, allocation, residuals, pairs, surface, prediction. Of a results folder: "
             "loss_against_tokens, kaplan, surface, prediction.")] = None,
    format_: Annotated[list[FigureFormat] | None, typer.Option(
        "--format", rich_help_panel=_FIGURES, show_default=False,
        help="Format of the figures; may be repeated. By default png and svg.")] = None,
    size: Annotated[str | None, typer.Option(
        metavar="WxH", rich_help_panel=_FIGURES, show_default=False,
        help="Width and height of a figure in inches, such as 7x4.5.")] = None,
    title: Annotated[str | None, typer.Option(
        rich_help_panel=_FIGURES, show_default=False, help="Title of the figures.")] = None,
    out_: Annotated[Path | None, typer.Option(
        "--out", metavar="DIR", rich_help_panel=_FIGURES, show_default=False,
        help="Folder of the figures; by default the folder figures beside the table.")] = None,
) -> None:
    """Fit a law to a table of runs and draw it, or draw the figures of a results folder.

    Example: `scaling plot results/quickstart`

    Example: `scaling plot published.csv --n "Model Size" --c "Training FLOP" --law chinchilla
    --figure isoflop --figure allocation --format pdf --size 7x4.5 --out figures`

    Example: `scaling plot runs.csv --law chinchilla --profile alpha --figure residuals`

    Each figure is written in every format, and the numbers that it shows as CSV. Columns, rows and
    the law are given as for `scaling fit`. The figures of a results folder show the laws of its
    laws.json, which `scaling fit RESULTS --save RESULTS/laws.json` writes; with any option of a
    law or a column, its runs.csv is drawn like every other table.
    """
    options = FigureOptions(
        tuple(dict.fromkeys(figure or ())),
        tuple(dict.fromkeys(map(str, format_ or (FigureFormat.PNG, FigureFormat.SVG)))),
        _inches(size), title, out_)
    given = (law, fix, tie, n, d, c, loss, column, where, cluster, final, smooth != 1,
             n_convention, profile, bootstrap != RESAMPLES)
    if runs.is_dir() and not any(given):
        _plot_results(runs, options)
        return
    from scaling.laws.fitting.bootstrap import check_resamples
    from scaling.laws.frames import read_frame, table_path
    from scaling.laws.plots.figures import FIGURES as LAW_FIGURES

    check_resamples(bootstrap, 0)
    approaches, named = split([law or "chinchilla"])
    form = None if approaches else forms(named, fix, tie)[0]
    _check_names(options.names, LAW_FIGURES if form else ("envelope",), law or "chinchilla")
    other_columns = columns(column, () if form is None else form.variables)
    path = table_path(runs)
    source = RunsSource(path, read_frame(path), {"n": n, "d": d, "c": c, "loss": loss}, where,
                        n_convention, cluster, final, smooth)
    if form is None:
        _plot_curves(approaches[0], source, options, [*(fix or ()), *(tie or ()),
                                                      *(profile or ())])
        return
    fitted = fit_form(form, source, BootstrapOptions(bootstrap, 0, "case", "bca"), other_columns,
                      all_sizes=False, robust=form.robust)
    for note in fitted.runs.notes:
        err.print(f"{path}: {note}", markup=False)
    for warning in dict.fromkeys((*fitted.runs.warnings, *fitted.warnings)):
        err.print(f"warning: {warning}", markup=False)
    _plot_fit(fitted, source, options, profile or ())


def _plot_results(folder: Path, options: FigureOptions) -> None:
    from scaling.figures import FIGURES, open_results
    from scaling.figures import plot as plot_results

    _check_names(options.names, FIGURES, f"{folder} with its laws.json (--law NAME draws its runs "
                                         "with one law)")
    opened = open_results(folder)
    for name, reason in opened.others.items():
        err.print(f"{name}: not drawn, {reason}", markup=False)
    for name in opened.stale:
        err.print(f"warning: {name} was fitted to other numbers than runs.csv now has; fit again",
                  markup=False)
    written, skipped = plot_results(
        opened, options.names or tuple(FIGURES), options.formats, size=options.size,
        title=options.title, out=options.out)
    for path in written:
        out.print(str(path), markup=False)
    for name, reason in skipped.items():
        err.print(f"{name}: not drawn, {reason}", markup=False)


def _plot_fit(
    fitted: Fit, source: RunsSource, options: FigureOptions, profiles: Iterable[str]
) -> None:
    """Draw the figures of a law, and those of its profiles.

    Raises:
        UserError: none can be drawn.
    """
    from scaling.laws.plots.figures import FIGURES, law_figure

    names = options.names or (() if profiles else tuple(FIGURES))
    skipped: dict[str, UserError] = {}
    written = []
    for name, parameter in (*((name, None) for name in names),
                            *(("profile", each) for each in profiles)):
        title = name if parameter is None else f"{name}_{parameter}"
        try:
            more = {} if parameter is None else {"profile": fitted.profile(parameter)}
            drawing = law_figure(name, fitted.law, fitted.runs, size=options.size,
                                 title=options.title, **more)
        except UserError as error:
            skipped[title] = error
            continue
        written += _write(drawing, f"{fitted.law.name}_{title}", source, options)
    if not written:
        raise next(iter(skipped.values()))
    for title, reason in skipped.items():
        err.print(f"{title}: not drawn, {reason}", markup=False)


def _plot_curves(
    approach: str, source: RunsSource, options: FigureOptions, of_a_law: Sequence[str]
) -> None:
    """Draw training curves and their envelope, for approach 1.

    Raises:
        UserError: the approach fits runs, or options of a law are given.
    """
    if approach != "approach-1":
        raise UserError(f"--law {approach}: finds the optima of budgets without a law of the loss; "
                        "draw the valleys of a law, such as --law chinchilla --figure isoflop")
    if of_a_law:
        raise UserError(f"{of_a_law[0]}: approach-1 has no parameters to fix, tie or profile; give "
                        "a law, such as --law chinchilla")
    from scaling.laws.plots.envelope import draw_envelope
    from scaling.laws.plots.figures import ONE_PANEL, drawing_of
    from scaling.laws.plots.style import retitle

    curves = curves_of(source)
    drawing = drawing_of(lambda panels: draw_envelope(panels[0], curves),
                         size=options.size or ONE_PANEL)
    if options.title is not None:
        retitle(drawing, options.title)
    _write(drawing, f"{approach}_envelope", source, options)


def _write(
    drawing: Drawing, name: str, source: RunsSource, options: FigureOptions
) -> list[Path]:
    from scaling.figures.files import write

    folder = options.out or source.path.parent / "figures"
    written = write(drawing, folder / name, options.formats, [source.path])
    for path in written:
        out.print(str(path), markup=False)
    return written


def _check_names(names: Iterable[str], figures: Iterable[str], of: str) -> None:
    """Check that every name is one of the figures of something."""
    known = tuple(figures)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}" if near else ""
            raise UserError(f"--figure {name}: one of {', '.join(known)} is expected, the figures "
                            f"of {of}{hint}{'?' if near else ''}")


def _inches(size: str | None) -> Size | None:
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)x(\d{1,3}(?:\.\d+)?)", size.strip())
    width, height = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not (_SIZES[0] <= width <= _SIZES[1] and _SIZES[0] <= height <= _SIZES[1]):
        raise UserError(f"--size {size}: width x height in inches is expected, each from "
                        f"{_SIZES[0]:g} to {_SIZES[1]:g}, such as 7x4.5")
    return width, height
