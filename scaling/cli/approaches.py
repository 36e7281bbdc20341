"""What `scaling fit` does with Hoffmann's approaches 1 and 2, which fit no law of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.terminal import out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Curves, Frontier


def split(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of approaches, and names of laws."""
    from scaling.laws.approaches.frontier import APPROACHES

    there = list(names or ())
    return [n for n in there if n in APPROACHES], [n for n in there if n not in APPROACHES]


def fit_all(
    names: Sequence[str], path: Path, frame: pd.DataFrame, *, columns: dict[str, str | None],
    counting: Any, where: str | None, noise: float | None, resamples: int, seed: int,
) -> list[Frontier]:
    """Fit each approach to the table that it wants: runs, or whole training curves.

    `columns` names those of n, d, c and loss.
    """
    from scaling.laws import fit_approach, from_frame

    if noise is not None and not 0 < noise < 1:
        raise UserError(f"--noise {noise:g}: a standard deviation of the log-loss is expected, "
                        "such as 0.003")
    found = []
    for name in names:
        if name == "approach-1":
            table: Any = _curves(path, frame, columns)
        else:
            table = from_frame(frame, str(path), counting=counting, where=where, n=columns["n"],
                               d=columns["d"], c=columns["c"], loss=columns["loss"])
        found.append(fit_approach(table, name, noise=noise, resamples=max(resamples, 1),
                                  seed=seed))
    return found


def _curves(path: Path, frame: pd.DataFrame, columns: dict[str, str | None]) -> Curves:
    """Training curves: a results folder's, or a table with a row for every point of every run."""
    from scaling.laws import curves_from_frame
    from scaling.laws.runs.table import N_COLUMNS, read_frame

    size = N_COLUMNS["total"]
    beside = path.parent / "curves.csv"
    if columns["n"] is None and size in frame and "role" in frame and beside.is_file():
        sizes = frame.loc[frame["role"] == "grid", ["run_id", size]]
        frame, path = read_frame(beside).merge(sizes, on="run_id"), beside
    return curves_from_frame(frame, str(path), n=columns["n"] or size, d=columns["d"] or "tokens",
                             loss=columns["loss"] or "loss")


def show_all(frontiers: Sequence[Frontier]) -> None:
    """Print each approach: its power laws, its optima, its warnings."""
    from scaling.laws import show
    from scaling.laws.approaches.frontier import APPROACHES

    for found in frontiers:
        out.print(f"{found.name}: N* = G C^a, D* = H C^b  ({APPROACHES[found.name]})",
                  style="bold", markup=False)
        used = int(found.optima.used.sum())
        out.print(f"{found.n_runs} runs; {used} of {len(found.optima.c)} optima used; N "
                  f"{found.convention['n']}, D {found.convention['d']}, C "
                  f"{found.convention['c']}", markup=False)
        print_table("", ("parameter", "value", "90% interval"), [
            (name, show.number(value), show.span(found.intervals[name]))
            for name, value in found.params.items()
        ])
        if used <= _SHOWN:
            print_table("", ("C", "N*", "D*", "loss", "used"), [
                (show.number(c, 3), show.short(n), show.short(d), show.number(loss),
                 "yes" if kept else f"no: {reason}")
                for c, n, d, loss, kept, reason in zip(
                    *map(_plain, (found.optima.c, found.optima.n, found.optima.d,
                                  found.optima.loss)),
                    found.optima.used, found.optima.reason, strict=True)
            ])
        for warning in found.warnings:
            out.print(f"warning: {warning}", style="yellow", markup=False)
        out.print()


_SHOWN = 40  # optima; an envelope has hundreds


def _plain(values: Any) -> list[float | None]:
    return [float(v) if v == v else None for v in values]
