"""Candidates of a suggestion, with their costs: a grid of sizes and tokens, or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.columns import label_column, numeric_column, require_column, run_ids
from scaling.laws.design.grid import Design
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, VARIABLES, check_amount
from scaling.laws.law import Interval
from scaling.laws.read import ROLES, fill_n_d_c, has_statuses, statuses_of
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

RATIO_MARGIN = 4.0
"""Factor by which the tokens per parameter of a new run may exceed those of the runs so far."""

_STEPS_PER_OCTAVE = 2        # of the grid of candidates, in N and in D/N
_RATIOS = (1e-6, 1e9)        # tokens per parameter that are accepted
_MAX_CANDIDATES = 20_000
_SIGNIFICANT_DIGITS = 3      # of a candidate's N and D


@dataclass(frozen=True)
class Candidates:
    """Runs to choose from: `values` [K] of the variables by name, n, d and c among them, and `cost`
    [K] in the unit of the budget."""

    values: Mapping[str, Array]
    cost: Array
    names: tuple[str, ...] = ()
    """The run_id of each, if the runs have names."""

    def affordable(self, max_flops: float, budget: float) -> Candidates:
        """The candidates of at most these FLOPs and this cost.

        Raises:
            UserError: there are none.
        """
        keep = np.flatnonzero((self.values["c"] <= max_flops) & (self.cost <= budget))
        if not keep.size:
            raise UserError(
                f"none of the {len(self.cost)} candidates satisfies the limits: the cheapest costs "
                f"{self.cost.min():.3g} of the budget of {budget:.3g}, and the smallest takes "
                f"{self.values['c'].min():.3g} FLOP, where one run may take {max_flops:.3g}; raise "
                "a limit, or add smaller candidates")
        return Candidates({v: x[keep] for v, x in self.values.items()}, self.cost[keep],
                          tuple(self.names[k] for k in keep) if self.names else ())


def candidates_of_design(design: Design) -> Candidates:
    """The runs of a design, each at the cost of its C = 6 N D."""
    return Candidates(design.values, design.c)


def candidates_from_frame(
    frame: pd.DataFrame, source: str, table: RunsTable, variables: Sequence[str] = (),
    cost: str | None = None,
) -> Candidates:
    """The candidate runs of a table: those whose status is planned and whose role is grid, if it
    has such columns, or else every row.

    Args:
        frame: the table, with the columns of the runs so far.
        source: its name in messages.
        table: the runs so far, which give the columns of N, D and C.
        variables: further variables that the law needs.
        cost: column of the cost of a run, in the unit of the budget; C by default.

    Raises:
        UserError: a column is missing, a cell is not a positive number, or no run is planned.
    """
    if frame.empty:
        raise UserError(f"{source}: has no rows; candidate runs are expected")
    names = run_ids(frame, source)
    keep = label_column(frame, source, "role", ROLES, names, {}) == "grid"
    if has_statuses(frame):
        keep &= statuses_of(frame, source, names) == "planned"
    rows = np.flatnonzero(keep)
    if not rows.size:
        raise UserError(f"{source}: none of its {len(frame)} runs has the status planned and the "
                        "role grid, so there is nothing to choose from; add runs, or drop these "
                        "columns")
    if rows.size > _MAX_CANDIDATES:
        raise UserError(f"{source}: {rows.size} candidates, where at most {_MAX_CANDIDATES} are "
                        "expected; drop some of them")

    def read(column: str, choose: str) -> Array:
        return numeric_column(frame, source, require_column(frame, source, column, choose), rows,
                              names)

    values = fill_n_d_c({v: read(table.columns[v], option(f"{v}=", f"--{v}"))
                         for v in ("n", "d", "c") if v in table.columns}, rows.size)
    values |= {v: read(table.columns.get(v) or VARIABLES[v].column or v, "another name")
               for v in variables if v not in values}
    for variable, example in (("n", "1e8"), ("d", "2e9"), ("c", "1e18")):
        for value in (values[variable].min(), values[variable].max()):
            check_amount(f"{source}: {variable.upper()} of a candidate", float(value), variable,
                         example)
    price = values["c"] if cost is None else read(cost, option("cost=", "--cost"))
    return Candidates(values, price, () if names is None else tuple(names[k] for k in rows))


def max_run_flops(
    table: RunsTable, budget: float | None, at: float | None = None,
    max_flops_per_run: float | None = None,
) -> float:
    """Largest FLOPs of one run: the minimum of the budget and `max_flops_per_run`, and below both
    the target's compute `at` and the first held-out run beyond the grid, which would otherwise no
    longer test an extrapolation. The budget is None if it is not in FLOPs.

    Raises:
        UserError: an amount is not positive.
    """
    for name, amount in (("budget", budget), ("most FLOPs of a run", max_flops_per_run),
                         ("the target's compute", at)):
        if amount is not None:
            check_amount(name, amount, "c", "1e20")
    below = [run.c for run in table.heldout if run.c > table.c.max(initial=0)]
    below += [] if at is None else [at]
    upper = min((float(np.nextafter(c, 0)) for c in below), default=np.inf)
    limits = [limit for limit in (budget, max_flops_per_run) if limit is not None]
    return min([upper, *limits])


def candidate_runs(
    table: RunsTable,
    max_flops_per_run: float,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
) -> Design:
    """Runs that could be trained: a grid of N and D/N in factors of about sqrt(2), rounded to three
    digits.

    No candidate has fewer parameters, tokens or FLOPs than the smallest run so far, where it is
    unknown whether the law holds, or costs more than `max_flops_per_run`.

    Raises:
        UserError: a limit is invalid, or there are no candidates or too many.
    """
    ratio = table.d / table.n
    low, high = ratios or (ratio.min() / RATIO_MARGIN, ratio.max() * RATIO_MARGIN)
    if not _RATIOS[0] <= low <= high <= _RATIOS[1]:
        raise UserError(f"tokens per parameter {low:g}:{high:g}: two positive numbers are "
                        f"expected, the lower one first, from {_RATIOS[0]:g} to {_RATIOS[1]:g}")
    for size in sizes or ():
        check_amount("sizes", size, "n", "1e8")
    if max_tokens is not None:
        check_amount("most tokens of a run", max_tokens, "d", "1e11")
    top = float(np.sqrt(max_flops_per_run / (FLOPS_PER_PARAMETER_TOKEN * low)))
    n = (np.array(sorted(set(sizes)), dtype=float) if sizes is not None
         else _geometric_grid(float(table.n.min()), top))
    n_NR, ratio_NR = np.meshgrid(n, _geometric_grid(low, high), indexing="ij")
    d = _round((n_NR * ratio_NR).ravel())
    n = n_NR.ravel()
    c = FLOPS_PER_PARAMETER_TOKEN * n * d
    min_c, min_d = table.c.min() * (1 - 1e-9), table.d.min() * (1 - 1e-9)
    allowed = (c <= max_flops_per_run) & (c >= min_c) & (d >= min_d)
    if max_tokens is not None:
        allowed &= d <= max_tokens
    if not allowed.any():
        raise UserError(f"no run of {low:.3g} to {high:.3g} tokens per parameter satisfies the "
                        f"limits: one costs at least {table.c.min():.3g} FLOP, as the smallest so "
                        f"far, and at most {max_flops_per_run:.3g}; raise a limit, or widen the "
                        "sizes or the tokens")
    if allowed.sum() > _MAX_CANDIDATES:
        raise UserError(f"{allowed.sum()} candidates, where at most {_MAX_CANDIDATES} are "
                        "expected; narrow the sizes or the tokens per parameter")
    return Design(n[allowed], d[allowed])


def _geometric_grid(low: float, high: float) -> Array:
    """Numbers from low to high, a factor of about sqrt(2) apart, both ends included."""
    if high <= low:
        return np.array([low])
    steps = int(np.ceil(_STEPS_PER_OCTAVE * np.log2(high / low))) + 1
    inner = _round(np.geomspace(low, high, max(steps, 2))[1:-1])
    return np.concatenate([[low], inner, [high]])


def _round(values: Array) -> Array:
    return np.array([float(f"{value:.{_SIGNIFICANT_DIGITS}g}") for value in values])
