"""What a law owes to choices: the objective's delta, a few runs, one size.

All refits of one question are one batch: to leave runs out is to give them no weight. For a law of
an envelope the runs are those on the envelope of the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.problem import Problem, label, prepare, sizes_of
from scaling.laws.evidence.rows import Plain, aligned
from scaling.laws.fitting.minimise import Minimum
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DROPS = (0, 5, 10, 20, 35)


@dataclass(frozen=True)
class Refit(Plain):
    """A fit under another choice. `a` is d log N* / d log C, or None where there is no optimum;
    `left_out` names the runs that it did not see."""

    choice: str
    n_runs: int
    params: dict[str, float]
    a: float | None
    objective: float
    converged: bool
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivity(Plain):
    """Fits of the same form under different choices of one thing, `of`; `base` is the fit that
    they are compared with."""

    form: str
    of: str
    base: Refit
    refits: tuple[Refit, ...]

    def spread(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a parameter, or of a, among fits that converged.

        Raises:
            UserError: there is no such number.
        """
        known = {**self.base.params, "a": self.base.a}
        if known.get(name) is None:
            raise UserError(f"{self.form}: has no {name}; it has {', '.join(self.base.params)}")
        fits = [self.base, *(refit for refit in self.refits if refit.converged)]
        values = [refit.params.get(name, refit.a) for refit in fits]
        there = [value for value in values if value is not None]
        return min(there), max(there)

    def text(self) -> str:
        """For the terminal."""
        exponent = ("a",) if self.base.a is not None else ()
        head = (self.of, "runs", *self.base.params, *exponent, "objective", "converged")
        rows = [(refit.choice, refit.n_runs, *refit.params.values(),
                 *((refit.a,) if exponent else ()), refit.objective, refit.converged)
                for refit in (self.base, *self.refits)]
        return aligned(head, rows)


def to_objective(
    table: RunsTable, form: Form | str, deltas: Sequence[float] = DELTAS,
    *, robust: Robust | None = None,
) -> Sensitivity:
    """The fit under Huber's loss at a ladder of deltas, and under its two limits, l1 and squared.

    Args:
        table: the runs.
        form: a form or its name.
        deltas: in log-loss.
        robust: what the base fit minimises; the form's own by default.

    Raises:
        UserError: a delta is not positive, or the runs cannot be fitted.
    """
    if not deltas or not all(np.isfinite(delta) and delta > 0 for delta in deltas):
        raise UserError("deltas: positive numbers are expected, such as 1e-3")
    problem = prepare(table, form, robust)
    losses = [("l1", Robust("l1")), *((f"huber {delta:g}", Robust("huber", delta))
                                      for delta in sorted(deltas)), ("squared", Robust("squared"))]
    every = np.ones((1, len(problem.y)))
    refits = tuple(_refits(problem, [label], every, problem.refit(every, loss))[0]
                   for label, loss in losses)
    return Sensitivity(label(problem.form), "objective", _base(problem), refits)


def to_outliers(
    table: RunsTable, form: Form | str, drops: Sequence[int] = DROPS,
    by: Literal["loss", "residual"] = "loss", *, robust: Robust | None = None,
) -> Sensitivity:
    """The fit without the k runs of largest loss, or of largest residual in the fit of all runs.

    A rule that drops runs by their loss is a choice that papers make and rarely report; one that
    drops them by their residual makes any law look good. Either shows how much hangs on a few. Of
    runs with the same loss the smaller are dropped first, and the choice says that there are such.

    Args:
        table: the runs.
        form: a form or its name.
        drops: how many runs to drop, each.
        by: what is large about them.
        robust: what residuals cost; the form's own by default.

    Raises:
        UserError: more runs are dropped than the form can spare, or the runs cannot be fitted.
    """
    problem = prepare(table, form, robust)
    runs = len(problem.y)
    spare = runs - len(problem.theta)
    if not drops or min(drops) < 0 or max(drops) > spare:
        raise UserError(f"{problem.form.name}: drops of 0 to {spare} runs are possible, where "
                        f"{runs} runs determine {len(problem.theta)} parameters; got "
                        f"{', '.join(map(str, drops)) or 'none'}")
    large = problem.runs.loss if by == "loss" else np.abs(problem.residuals)
    order = np.argsort(-large, kind="stable")
    w = np.ones((len(drops), runs))
    for row, drop in zip(w, drops, strict=True):
        row[order[:drop]] = 0
    labels = [f"{drop} largest {by}{_tie(large, drop)}" for drop in drops]
    refits = _refits(problem, labels, w, problem.refit(w))
    return Sensitivity(label(problem.form), f"without runs of largest {by}", _base(problem), refits)


def leave_one_size_out(
    table: RunsTable, form: Form | str, *, robust: Robust | None = None
) -> Sensitivity:
    """The fit without all runs of one size N, for each size.

    N that differ by less than `problem.SAME_SIZE` are one size. A size without which the others
    cannot determine the law gives a refit that has not converged.

    Raises:
        UserError: the runs cannot be fitted, do not know N, or have too few sizes.
    """
    problem = prepare(table, form, robust)
    sizes, w = without_each_size(problem)
    refits = _refits(problem, [f"N = {size:.4g}" for size in sizes], w, problem.refit(w))
    return Sensitivity(label(problem.form), "left out", _base(problem), refits)


def without_each_size(problem: Problem) -> tuple[list[float], Array]:
    """The sizes, as the median N of each, and weights that leave each of them out: [S, R].

    Raises:
        UserError: N is not known, or there are fewer than three sizes.
    """
    n = problem.runs.n
    if np.isnan(n).any():
        raise UserError(f"{problem.form.name}: sizes can be left out only where N is known; name "
                        "its column")
    places = sizes_of(n)
    if places.max() < 2:
        raise UserError(f"{problem.form.name}: {places.max() + 1} sizes N among the runs, where at "
                        "least 3 are needed to leave one out")
    w = np.array([places != place for place in range(places.max() + 1)], dtype=float)
    return [float(np.median(n[row == 0])) for row in w], w


def enough(problem: Problem, w_BR: Array) -> NDArray[np.bool_]:
    """Whether the runs that keep a weight are as many, and their values as distinct, as the form
    asks: [B]."""
    fine = (w_BR > 0).sum(axis=1) >= len(problem.theta)
    for variable in problem.form.variables:
        if variable in ("n", "d", "c"):
            values = problem.runs.values[variable]
            fine &= [len(np.unique(values[row > 0])) >= problem.form.distinct for row in w_BR]
    return np.asarray(fine)


def _tie(large: Array, drop: int) -> str:
    """Runs that are as large as the last one dropped, and stay: others might as well have."""
    if not drop:
        return ""
    values = np.sort(large)[::-1]
    alike, out = (large == values[drop - 1]).sum(), (values[:drop] == values[drop - 1]).sum()
    return f", {out} of {alike} alike" if out < alike else ""


def _base(problem: Problem) -> Refit:
    every = np.ones((1, len(problem.y)))
    robust = problem.robust
    label = f"huber {robust.delta:g}" if robust.kind == "huber" else robust.kind
    law = problem.law
    return Refit(f"all runs, {label}", every.size, dict(law.params), _exponent(problem, law.point),
                 float(problem.objective(problem.theta[None])[0]), law.converged)


def _refits(
    problem: Problem, labels: Sequence[str], w_BR: Array, found: Minimum
) -> tuple[Refit, ...]:
    params = problem.params(found.theta)
    fine = found.converged & enough(problem, w_BR)
    return tuple(
        Refit(
            choice=label, n_runs=int((w_R > 0).sum()),
            params=dict(zip(problem.form.parameters, map(float, row), strict=True)),
            a=_exponent(problem, row[None]), objective=float(value), converged=bool(converged),
            left_out=tuple(name for name, kept in zip(problem.runs.run_id, w_R > 0, strict=True)
                           if not kept),
        )
        for label, w_R, row, value, converged
        in zip(labels, w_BR, params, found.value, fine, strict=True)
    )


def _exponent(problem: Problem, params_BP: Array) -> float | None:
    a = problem.form.allocation_exponent(params_BP)
    return None if a is None else float(a[0])
