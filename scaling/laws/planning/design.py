"""Sizes and tokens of runs that are planned: grids, budgets, or those of another table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.law import Law
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN, N_COLUMNS
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

ISOFLOP_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes about N* of each budget, where none are given."""


@dataclass(frozen=True)
class Design:
    """Sizes and tokens of planned runs: `n` and `d` [R], and the `others` that a law may need, by
    the names of `VARIABLES`. Rows with `heldout` true are not fitted."""

    n: Array
    d: Array
    others: Mapping[str, Array] = field(default_factory=dict)
    heldout: NDArray[np.bool_] | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)
    """Columns that the simulated table takes over as they are."""

    def __post_init__(self) -> None:
        for name, values in (("N", self.n), ("D", self.d)):
            if not len(values) or not (np.isfinite(values) & (values > 0)).all():
                raise UserError(f"the design's {name}: positive numbers are expected, and at least "
                                "one")

    @property
    def c(self) -> Array:
        """C = 6 N D, [R]."""
        return FLOPS_PER_PARAMETER_TOKEN * self.n * self.d

    @property
    def values(self) -> dict[str, Array]:
        """Every variable by name."""
        return {"n": self.n, "d": self.d, "c": self.c, **self.others}

    @property
    def flops(self) -> float:
        """C of all runs together, held-out ones too."""
        return float(self.c.sum())

    def fitted(self) -> Design:
        """The runs that a fit sees."""
        if self.heldout is None:
            return self
        keep = ~self.heldout
        return Design(self.n[keep], self.d[keep], {v: x[keep] for v, x in self.others.items()})

    def times(self, seeds: int) -> Design:
        """Every run with several seeds, one design after another."""
        return Design(np.tile(self.n, seeds), np.tile(self.d, seeds),
                      {v: np.tile(x, seeds) for v, x in self.others.items()},
                      None if self.heldout is None else np.tile(self.heldout, seeds),
                      {name: np.tile(x, seeds) for name, x in self.columns.items()})


def rectangle(sizes: Sequence[float], tokens: Sequence[float]) -> Design:
    """Every size on every count of tokens."""
    n, d = np.meshgrid(np.array(sizes, dtype=float), np.array(tokens, dtype=float), indexing="ij")
    return Design(n.ravel(), d.ravel())


def by_ratio(sizes: Sequence[float], ratios: Sequence[float]) -> Design:
    """Every size on every number of tokens per parameter."""
    n, ratio = np.meshgrid(np.array(sizes, dtype=float), np.array(ratios, dtype=float),
                           indexing="ij")
    return Design(n.ravel(), (n * ratio).ravel())


def isoflop(
    budgets: Sequence[float], sizes: Sequence[float] | None = None, law: Law | None = None
) -> Design:
    """Every size at every budget, D = C / (6 N).

    Args:
        budgets: training FLOPs.
        sizes: by default N* of each budget under the law, times `ISOFLOP_FACTORS`.
        law: needed where sizes are not given.

    Raises:
        UserError: neither sizes are given nor a law that says how to divide compute.
    """
    c = np.array(budgets, dtype=float)
    if sizes is not None:
        c_BS, n_BS = np.meshgrid(c, np.array(sizes, dtype=float), indexing="ij")
    else:
        best = None if law is None else law.form.optimum(law.point, c)
        if best is None:
            name = "" if law is None else f"{law.name}: "
            raise UserError(f"{name}budgets alone are a design only under a law that says how to "
                            "divide compute; give the sizes too")
        n_BS = np.asarray(best)[:, None] * np.array(ISOFLOP_FACTORS)
        c_BS = np.broadcast_to(c[:, None], n_BS.shape)
    return Design(n_BS.ravel(), (c_BS / (FLOPS_PER_PARAMETER_TOKEN * n_BS)).ravel())


def like(frame: pd.DataFrame, source: str, law: Law) -> Design:
    """The sizes and tokens of a runs table in our columns, whatever the status of its runs; the
    N that the law counts decides which column of parameters is its N.

    Raises:
        UserError: a column is missing, or holds something that is no positive number.
    """
    counted = N_COLUMNS.get(law.convention.get("n", "total"), N_COLUMNS["total"])
    wanted = {"n": counted, "d": "tokens"}
    wanted |= {v: VARIABLES[v].column or v for v in law.form.variables if v not in ("n", "d", "c")}
    found: dict[str, Array] = {}
    for variable, column in wanted.items():
        if column not in frame:
            raise UserError(f"{source}: has no column {column}, which the design of a simulated "
                            f"sweep needs; it has {', '.join(map(str, frame.columns))}")
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            row = int(np.argmin(np.isfinite(values) & (values > 0)))
            raise UserError(f"{source}: row {row + 1}, column {column}: "
                            f"{frame[column].iloc[row]!r}, where a positive number is expected")
        found[variable] = values
    heldout = (frame["role"] == "heldout").to_numpy() if "role" in frame else None
    columns = {name: frame[name].to_numpy(dtype=np.float64) for name in N_COLUMNS.values()
               if name in frame}
    return Design(found.pop("n"), found.pop("d"), found, heldout, columns)
