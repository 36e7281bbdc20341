"""Sizes and tokens of planned runs: grids, IsoFLOP budgets, or those of an existing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.columns import label_column, numeric_column, require_column
from scaling.laws.forms.variables import (
    FLOPS_PER_PARAMETER_TOKEN,
    N_COLUMNS,
    VARIABLES,
    check_amount,
)
from scaling.laws.law import Law
from scaling.laws.read import ROLES

Array = NDArray[np.float64]
Values = Sequence[float] | Array

MAX_RUNS = 1_000_000
"""Largest number of runs of a simulated sweep: the largest number of rows of a table."""

ISOFLOP_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Default sizes of each budget, as multiples of its N*."""


@dataclass(frozen=True)
class Design:
    """Sizes and tokens of planned runs: `n` and `d` [R], and `extra_variables` [R] that a law may
    need, by the names of `VARIABLES`. Rows with `heldout` true are not fitted."""

    n: Array
    d: Array
    extra_variables: Mapping[str, Array] = field(default_factory=dict)
    heldout: NDArray[np.bool_] | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)
    """Columns that are copied to the simulated table."""

    def __post_init__(self) -> None:
        if not len(self.n):
            raise UserError("the design has no runs; at least one is expected")
        for name, values, example in (("n", self.n, "1e8"), ("d", self.d, "2e9")):
            for value in (values.min(), values.max()):  # NaN if any value is NaN
                check_amount(f"the design's {name.upper()}", float(value), name, example)
        self.check_runs(1)

    def check_runs(self, seeds: int) -> None:
        """Check the number of runs, with several seeds each.

        Raises:
            UserError: there are more than `MAX_RUNS` runs, or no seeds.
        """
        if seeds < 1:
            raise UserError(f"seeds {seeds}: at least one seed is expected")
        _check_count(len(self.n) * seeds)

    @property
    def c(self) -> Array:
        """C = 6 N D, [R]."""
        return FLOPS_PER_PARAMETER_TOKEN * self.n * self.d

    @property
    def values(self) -> dict[str, Array]:
        """Values of every variable, by name."""
        return {"n": self.n, "d": self.d, "c": self.c, **self.extra_variables}

    @property
    def flops(self) -> float:
        """Total C of all runs, held-out ones included."""
        return float(self.c.sum())

    def fitted(self) -> Design:
        """The runs that are fitted, without the held-out ones."""
        if self.heldout is None:
            return self
        keep = ~self.heldout
        return Design(self.n[keep], self.d[keep],
                      {v: x[keep] for v, x in self.extra_variables.items()})

    def with_seeds(self, seeds: int) -> Design:
        """The design repeated once for each seed."""
        return Design(np.tile(self.n, seeds), np.tile(self.d, seeds),
                      {v: np.tile(x, seeds) for v, x in self.extra_variables.items()},
                      None if self.heldout is None else np.tile(self.heldout, seeds),
                      {name: np.tile(x, seeds) for name, x in self.columns.items()})


def rectangle(sizes: Values, tokens: Values) -> Design:
    """Every size with every token count."""
    return Design(*_pairs(sizes, tokens))


def by_ratio(sizes: Values, ratios: Values) -> Design:
    """Every size with every number of tokens per parameter."""
    n, ratio = _pairs(sizes, ratios)
    return Design(n, n * ratio)


def isoflop(
    budgets: Values, sizes: Values | None = None, law: Law | None = None
) -> Design:
    """Every size at every budget, D = C / (6 N).

    Args:
        budgets: training FLOPs.
        sizes: parameters; by default N* of each budget under the law, times `ISOFLOP_FACTORS`.
        law: needed if sizes are not given.

    Raises:
        UserError: neither sizes nor a law with an optimum are given.
    """
    for budget in (min(budgets), max(budgets)):
        check_amount("a budget of the design", budget, "c", "1e21")
    if sizes is not None:
        c, n = _pairs(budgets, sizes)
    else:
        c = np.array(budgets, dtype=float)
        optimum = None if law is None else law.form.optimum(law.point, c)
        if optimum is None:
            name = "" if law is None else f"{law.name}: "
            raise UserError(f"{name}budgets without sizes need a law that determines how to divide "
                            "compute between N and D; give the sizes too")
        c, factors = _pairs(c, ISOFLOP_FACTORS)
        n = np.repeat(optimum, len(ISOFLOP_FACTORS)) * factors
    return Design(n, c / (FLOPS_PER_PARAMETER_TOKEN * n))


def _pairs(first: Values, second: Values) -> tuple[Array, Array]:
    """All pairs of a number of one list and a number of the other, as two arrays."""
    _check_count(len(first) * len(second))
    x, y = np.meshgrid(np.array(first, dtype=float), np.array(second, dtype=float), indexing="ij")
    return x.ravel(), y.ravel()


def _check_count(runs: int) -> None:
    if runs > MAX_RUNS:
        raise UserError(f"a design of {runs:,} runs: at most {MAX_RUNS:,} are expected; give "
                        "fewer sizes, tokens or seeds")


def from_table(frame: pd.DataFrame, source: str, law: Law) -> Design:
    """The sizes and tokens of a runs table in the package's columns, whatever the status of its
    runs, without those that its sweep no longer includes (role `former`). The law's convention
    selects the column of N.

    Raises:
        UserError: a column is missing, or holds a value that is not a positive number.
    """
    n_column = N_COLUMNS.get(law.convention.get("n", "total"), N_COLUMNS["total"])
    columns = {"n": n_column, "d": "tokens"}
    columns |= {v: VARIABLES[v].column or v for v in law.form.variables if v not in ("n", "d", "c")}
    roles = label_column(frame, source, "role", ROLES, None, {})
    rows = np.flatnonzero(roles != "former")

    def read(column: str) -> Array:
        name = require_column(frame, source, column, "another name")
        return numeric_column(frame, source, name, rows, None)

    values = {v: read(column) for v, column in columns.items()}
    heldout = roles[rows] == "heldout"
    copied = {name: read(name) for name in N_COLUMNS.values() if name in frame}
    return Design(values.pop("n"), values.pop("d"), values, heldout, copied)
