"""Hoffmann's approaches 1 and 2 in `scaling fit`; they fit optima, not a law of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaling.cli.fit_options import SIZES
from scaling.cli.fitted import BootstrapOptions, RunsSource
from scaling.console import out, print_table, progress
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Curves, Fit, Frontier


@dataclass(frozen=True)
class Grouping:
    """How approach 2 groups runs by budget: options of `fit_approach`."""

    budgets: list[float] | None
    tolerance: float


def split(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The names of approaches, and those of laws."""
    from scaling.laws.approaches.frontier import APPROACHES

    given = list(names or ())
    return [n for n in given if n in APPROACHES], [n for n in given if n not in APPROACHES]


def check_noise(noise: float | None) -> None:
    """Check that `--noise` is a standard deviation of the log-loss."""
    if noise is not None and not 0 < noise < 1:
        raise UserError(f"--noise {noise:g}: a standard deviation of the log-loss is expected, "
                        "such as 0.003")


def grouping(
    approaches: Sequence[str], budgets: str | None, tolerance: float | None
) -> Grouping:
    """The values of `--budgets` and `--tolerance`.

    Raises:
        UserError: one is given without approach 2, or is not what it should be.
    """
    from scaling.cli.simulate import numbers
    from scaling.laws.approaches.isoflop import TOLERANCE

    for name, value in (("--budgets", budgets), ("--tolerance", tolerance)):
        if value is not None and not any(each.startswith("approach-2") for each in approaches):
            raise UserError(f"{name} {value}: an option of approach 2, which groups runs by their "
                            "compute; add --law approach-2, or leave it out")
    return Grouping(None if budgets is None else numbers(budgets, "--budgets"),
                    TOLERANCE if tolerance is None else tolerance)


def fit_one(
    name: str, source: RunsSource, resampling: BootstrapOptions, noise: float | None,
    grouped: Grouping, laws: Sequence[Fit],
) -> Frontier:
    """Fit an approach to runs, or approach 1 to whole training curves.

    Args:
        name: name of the approach.
        source: the runs.
        resampling: resamples and their seed.
        noise: standard deviation of the log-loss between runs, or None.
        grouped: how runs are grouped by budget.
        laws: laws of the same command; a disagreement with one becomes a warning.

    Raises:
        DataError, UserError: as `fit_approach`, and the reader of the table.
    """
    from scaling.laws import RunsTable, disagreement, fit_approach

    table: Any = curves_of(source) if name == "approach-1" else source.table(
        None if source.columns["n"] else "total", SIZES)
    with progress(f"{name}: resamples", resampling.resamples) as bar:
        frontier = fit_approach(
            table, name, noise=noise, budgets=grouped.budgets, tolerance=grouped.tolerance,
            resamples=max(resampling.resamples, 1), seed=resampling.seed, watch=bar.update)
    if not isinstance(table, RunsTable):
        return frontier
    apart = [line for fitted in laws if (line := disagreement(fitted.law, frontier, table))]
    return replace(frontier, warnings=(*frontier.warnings, *apart))


def curves_of(source: RunsSource) -> Curves:
    """Training curves of a results folder, or of a table with a row for each point of each run.

    Raises:
        UserError: the table is not one of points of curves.
    """
    from scaling.laws import curves_from_frame
    from scaling.laws.columns import require_column
    from scaling.laws.forms.variables import N_COLUMNS
    from scaling.laws.frames import read_frame

    size, columns, frame, path = N_COLUMNS["total"], source.columns, source.frame, source.path
    curves = path.parent / "curves.csv"
    if columns["n"] is None and size in frame and "role" in frame and curves.is_file():
        names = [require_column(frame, str(path), name, "another name")
                 for name in ("role", "run_id", size)]
        points = read_frame(curves)
        require_column(points, str(curves), "run_id", "another name")
        sizes = frame.loc[frame["role"] == "grid", names[1:]]
        if source.strict:
            sizes = sizes[sizes["run_id"].astype(str).isin(source.table("total", SIZES).run_id)]
        frame, path = points.merge(sizes, on="run_id"), curves
    return curves_from_frame(frame, str(path), n=columns["n"] or size, d=columns["d"] or "tokens",
                             loss=columns["loss"] or "loss")


def print_approach(frontier: Frontier) -> None:
    """Print the power laws, optima and warnings of a fitted approach."""
    from scaling.laws import show
    from scaling.laws.approaches.frontier import APPROACHES

    out.print(f"{frontier.name}: N* = G C^a, D* = H C^b  ({APPROACHES[frontier.name]})",
              style="bold", markup=False)
    optima = frontier.optima
    used = int(optima.used.sum())
    out.print(f"{frontier.n_runs} runs; {used} of {len(optima.c)} optima used; N "
              f"{frontier.convention['n']}, D {frontier.convention['d']}, C "
              f"{frontier.convention['c']}", markup=False)
    print_table("", ("parameter", "value", "90% interval"), [
        (name, show.number(value), show.span(frontier.intervals[name]))
        for name, value in frontier.params.items()
    ])
    if used <= _MAX_OPTIMA:
        print_table("", ("C", "N*", "D*", "loss", "used"), [
            (show.number(c, 3), show.short(n), show.short(d), show.number(loss),
             "yes" if kept else f"no: {reason}")
            for c, n, d, loss, kept, reason in zip(
                *map(_plain, (optima.c, optima.n, optima.d, optima.loss)),
                optima.used, optima.reason, strict=True)
        ])
    for warning in frontier.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print()


_MAX_OPTIMA = 40  # printed optima; an envelope has hundreds


def _plain(values: Any) -> list[float | None]:
    return [float(v) if v == v else None for v in values]
