"""Input and results of `scaling fit`: a law that cannot be fitted does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaling.cli.fit_options import SIZES
from scaling.console import err, out, progress
from scaling.errors import DataError, UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Fit, Form, Frontier, ResidualLoss, RunsTable
    from scaling.laws.compute_frontier import FrontierKind
    from scaling.laws.fitting.bootstrap import ResampleUnit
    from scaling.laws.forms.variables import Counting
    from scaling.laws.law import Method


@dataclass(frozen=True)
class BootstrapOptions:
    """Options of the bootstrap."""

    resamples: int
    seed: int
    by: ResampleUnit
    method: Method


@dataclass(frozen=True)
class RunsSource:
    """The file of the runs and the columns to read. Laws that read the same columns share a table.
    """

    path: Path
    frame: pd.DataFrame
    columns: Mapping[str, str | None]
    """Column names of n, d, c and loss; None for one that was not given."""
    where: str | None
    """Condition on the rows."""
    counting: Counting | None
    """Which parameters N counts; None for each law's own convention."""
    cluster: str | None = None
    """Column that tells which rows are of one run."""
    final: bool = False
    """Whether only the last row of each run is read."""
    smooth: int = 1
    """Number of last rows of each run whose loss is averaged."""
    curves: pd.DataFrame | None = None
    """Training curves, by which the health of the runs is checked."""
    strict: bool = False
    """Whether unhealthy runs are left out."""
    frontier: FrontierKind | None = None
    """Whether, and how, only the runs of the lowest loss for their compute are kept."""
    bins: int | None = None
    """Number of bins of a binned frontier; None for the default."""
    _tables: dict[tuple[object, ...], RunsTable] = field(default_factory=dict)

    def table(
        self, counting: Counting | None, needs: Sequence[str],
        other_columns: Mapping[str, str | None] | None = None,
        labels: Mapping[str, tuple[str, ...]] | None = None,
    ) -> RunsTable:
        """The runs table for a law.

        Args:
            counting: the law's own count of N, used unless the user chose one.
            needs: which of n, d and c have to be read.
            other_columns: columns of other variables.
            labels: the values of variables that are text.

        Raises:
            UserError: a column is missing, or a value is impossible for its quantity.
        """
        from scaling.laws import from_frame

        counting, other_columns = self.counting or counting, other_columns or {}
        key = (counting, *needs, None, *other_columns.items(), None, *(labels or {}).items())
        if key not in self._tables:
            self._tables[key] = from_frame(
                self.frame, str(self.path), **self.columns, where=self.where, counting=counting,
                extra=other_columns, labels=labels, needs=needs, cluster=self.cluster,
                final=self.final, smooth=self.smooth, curves=self.curves, strict=self.strict,
                frontier=self.frontier, bins=self.bins)
        return self._tables[key]


@dataclass
class FitResults:
    """Fitted laws and approaches, the reasons why others failed, and the notes and warnings about
    the tables that were already printed."""

    laws: list[Fit] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    failed: dict[str, UserError] = field(default_factory=dict)
    printed: dict[str, None] = field(default_factory=dict)

    @contextmanager
    def failures(self, name: str) -> Iterator[None]:
        """Record why a law cannot be fitted, and continue."""
        try:
            yield
        except UserError as reason:
            self.failed[name] = reason

    def print_input(self, path: Path, table: RunsTable) -> None:
        """Print the notes and warnings about a table, each once."""
        for note in table.notes:
            if note not in self.printed:
                err.print(f"{path}: {note}", markup=False)
        for warning in table.warnings:
            if warning not in self.printed:
                out.print(f"warning: {path}: {warning}", style="yellow", markup=False)
        self.printed |= dict.fromkeys((*table.notes, *table.warnings))

    def check(self) -> None:
        """Print the laws that were not fitted, one a line.

        Raises:
            UserError: no law was fitted, all for the same reason.
            typer.Exit: no law was fitted, for several reasons.
        """
        reasons = {str(reason): reason for reason in self.failed.values()}
        none = not self.laws and not self.frontiers
        if none and len(reasons) == 1:
            raise next(iter(reasons.values()))
        for name, reason in self.failed.items():
            err.print(f"not fitted: {name}: {str(reason).removeprefix(f'{name}: ')}", markup=False)
        if none:
            data_errors = all(isinstance(reason, DataError) for reason in reasons.values())
            raise typer.Exit(1 if data_errors else 2)


def outcomes_of(columns: Sequence[str] | None) -> list[str | None]:
    """The columns of the outcomes that laws are fitted to; None for the default one.

    Raises:
        UserError: a column is given twice.
    """
    if not columns:
        return [None]
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(f"--loss {name}: given {columns.count(name)} times, where once is "
                            "expected")
    return [*columns]


def with_outcome(fitted: Fit, column: str | None) -> Fit:
    """The fit, whose convention names the column of the outcome, which tells it from the others."""
    law = fitted.law
    return replace(fitted, law=replace(law, convention={**law.convention, "outcome": column}))


def fit_form(
    form: Form, source: RunsSource, resampling: BootstrapOptions,
    other_columns: Mapping[str, str], *, all_sizes: bool, robust: ResidualLoss,
) -> Fit:
    """Fit one law to the columns that it reads.

    Args:
        form: the form of the law.
        source: the runs.
        resampling: of the bootstrap.
        other_columns: columns of variables other than N, D and C.
        all_sizes: require N, D and C, as for the default laws.
        robust: the objective.

    Raises:
        DataError, UserError: as `scaling.laws.fit`, and the reader of the table.
    """
    from scaling.laws import fit as fit_table
    from scaling.laws.fit_runs import columns_read

    table = source.table(
        None if source.columns["n"] else form.counting,
        SIZES if all_sizes else columns_read(form, source.frame),
        {v: other_columns.get(v) for v in form.variables if v not in SIZES}, form.labels)
    with progress(f"{form.name}: resamples", resampling.resamples) as bar:
        return fit_table(
            table, form, objective=robust, resamples=resampling.resamples, seed=resampling.seed,
            resample=resampling.by, interval=resampling.method, watch=bar.update)
