"""Runs tables: the finished runs of a sweep as arrays, which laws are fitted to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scaling.laws.columns import RowIndices, row_label
from scaling.laws.frozen import freeze_fields

Array = NDArray[np.float64]


def excluded_text(excluded: Mapping[str, int]) -> str:
    """The number of rows that are left out by reason, as text; empty if there are none."""
    return ", ".join(f"{count} {reason.replace('_', ' ')}"
                     for reason, count in excluded.items() if count)


@dataclass(frozen=True)
class HeldOutRun:
    """A held-out run, excluded from every fit; `loss` is None until the run is done."""

    run_id: str
    n: float
    d: float
    c: float
    loss: float | None
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze_fields(self)

    @property
    def values(self) -> dict[str, Array]:
        """Every variable by name, as an array of shape [1]."""
        scalars = {"n": self.n, "d": self.d, "c": self.c, **self.extra}
        return {name: np.array([value]) for name, value in scalars.items()}


@dataclass(frozen=True, repr=False)
class RunsTable:
    """The finished grid runs of a table, sorted independently of the order in the file.

    Attributes:
        n: parameters, [R]; NaN if the law does not need it and the table does not have it.
        d: training tokens, [R]; NaN as for `n`.
        c: training FLOPs, [R]; NaN as for `n`.
        loss: nats per token, [R]; another outcome if the table was read for one.
        run_id: the name of each run.
        heldout: runs that are predicted and never fitted.
        excluded: number of rows that are not among the runs, by reason.
        convention: what N, D and C count.
        notes: what was filled in.
        warnings: suspicious values; every law fitted to the table repeats them.
        extra: other variables, [R] each, by their names in `VARIABLES`.
        source: name of the file in messages.
        columns: name of the column of each variable and of the loss.
        rows: row of each run in the file, counted from 0.
        cluster: the run that each row belongs to, [R], if rows are checkpoints or repeated
            measurements of fewer runs; else empty.
        flops: FLOPs as other columns of the table count them, [R] each, by the name of the
            convention. No law is fitted to them; approach 2 looks for budgets in them.
        ideal: whether a row is a point that is known without a run, such as a perfect accuracy at
            a loss of zero, [R]; every resample includes these once.
        schedule: the "warmup" and the "cooldown" as fractions of the run, [R] each, NaN where
            unknown; without those that the table does not tell. The health check reads them.
        selection: how rows were selected or altered on reading, a phrase each.
        loss_se: the standard error of each loss, [R], NaN where unknown; empty without any. It is
            not part of `sha256`.
    """

    n: Array
    d: Array
    c: Array
    loss: Array
    run_id: tuple[str, ...]
    heldout: tuple[HeldOutRun, ...]
    excluded: dict[str, int]
    convention: dict[str, str]
    notes: tuple[str, ...]
    extra: Mapping[str, Array] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: RowIndices = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    cluster: RowIndices = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    flops: Mapping[str, Array] = field(default_factory=dict)
    ideal: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    schedule: Mapping[str, Array] = field(default_factory=dict)
    selection: tuple[str, ...] = ()
    loss_se: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not len(self.ideal):
            object.__setattr__(self, "ideal", np.zeros(self.loss.size, dtype=np.bool_))
        freeze_fields(self)

    def __repr__(self) -> str:
        known = [f"{v.upper()} ({self.convention[v]})" for v in ("n", "d", "c")
                 if v in self.convention and not np.isnan(self.values[v]).any()]
        out = excluded_text(self.excluded)
        lines = [f"{self.prefix}{self.loss.size} runs with {', '.join([*known, *self.extra])}"
                 + (f"; left out: {out}" if out else "")]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes),
                          *(f"warning: {warning}" for warning in self.warnings)])

    @property
    def values(self) -> dict[str, Array]:
        """Every variable by name: n, d, c and the extra ones."""
        return {"n": self.n, "d": self.d, "c": self.c, **self.extra}

    def take(self, rows: NDArray[np.intp]) -> RunsTable:
        """The table with only these runs; the remaining ones are not counted as excluded."""
        return replace(
            self, n=self.n[rows], d=self.d[rows], c=self.c[rows], loss=self.loss[rows],
            run_id=tuple(self.run_id[run] for run in rows),
            extra={name: values[rows] for name, values in self.extra.items()},
            rows=self.rows[rows] if len(self.rows) else self.rows,
            cluster=self.cluster[rows] if len(self.cluster) else self.cluster,
            flops={name: values[rows] for name, values in self.flops.items()},
            ideal=self.ideal[rows],
            schedule={name: values[rows] for name, values in self.schedule.items()},
            loss_se=self.loss_se[rows] if len(self.loss_se) else self.loss_se,
        )

    def variable_named(self, name: str) -> str:
        """The variable of a name, which may be that of its column."""
        if name in self.values:
            return name
        return next((v for v, column in self.columns.items() if column == name and v != "loss"),
                    name)

    @property
    def prefix(self) -> str:
        """The file name and a colon, with which messages begin."""
        return f"{self.source}: " if self.source else ""

    def column_label(self, variable: str) -> str:
        """A variable or the loss in messages: its column, or the formula that it follows from."""
        if variable in self.columns:
            return f"column {self.columns[variable]}"
        if variable == "loss":
            return "the loss"
        return f"{variable.upper()} = {self.convention.get(variable, '')}"

    def run_label(self, run: int) -> str:
        """A run in messages: its row in the file, and its run_id."""
        name = self.run_id[run]
        if not len(self.rows):
            return name
        plain = row_label(int(self.rows[run]), None)
        return plain if name == plain else row_label(int(self.rows[run]), name)

    def first_label(self, mask: NDArray[np.bool_]) -> str:
        """The first selected run in the order of the file, and the number of further ones."""
        runs = np.flatnonzero(mask)
        first = runs[np.argmin(self.rows[runs])]
        more = len(runs) - 1
        return self.run_label(int(first)) + (f" and {more} more" if more else "")

    @property
    def sha256(self) -> str:
        """Hash of all values that a fit reads: N, D, C, loss and extra variables of every run."""
        columns = (self.n, self.d, self.c, self.loss, *self.extra.values())
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
