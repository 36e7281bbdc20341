"""Sensitivity of a fit to the objective's delta, to a few runs, and to any one size.

All refits of one analysis are one batch: runs are left out by a weight of zero. For a law that is
fitted to an envelope, the runs are those on the envelope of the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.refit import PreparedFit, form_label, group_sizes, prepare
from scaling.laws.fitting.minimise import Minimum
from scaling.laws.fitting.preflight import levels, levels_needed
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.show import PrintableResult, TextTable, text_table
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DROPS = (0, 5, 10, 20, 35)


@dataclass(frozen=True)
class Refit(PrintableResult):
    """A fit under another choice. `a` is d log N* / d log C, or None if there is no optimum;
    `left_out` has the ids of the runs that were left out."""

    choice: str
    n_runs: int
    params: dict[str, float]
    a: float | None
    objective: float
    converged: bool
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Sensitivity(PrintableResult):
    """Fits of the same form under different choices of one setting, `of`; `base` is the fit that
    they are compared with."""

    form: str
    of: str
    base: Refit
    refits: tuple[Refit, ...]

    def spread(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a parameter, or of a, among fits that converged.

        Raises:
            UserError: the law has no such parameter.
        """
        params = {**self.base.params, "a": self.base.a}
        if params.get(name) is None:
            raise UserError(f"{self.form}: has no {name}; expected is one of "
                            f"{', '.join(self.base.params)}")
        fits = [self.base, *(refit for refit in self.refits if refit.converged)]
        values = [value for refit in fits
                  if (value := refit.params.get(name, refit.a)) is not None]
        return min(values), max(values)

    def parts(self) -> list[str | TextTable]:
        """A table of the choices and their laws."""
        exponent = ("a",) if self.base.a is not None else ()
        head = (self.of, "runs", *self.base.params, *exponent, "objective", "converged")
        rows = [(refit.choice, refit.n_runs, *refit.params.values(),
                 *((refit.a,) if exponent else ()), refit.objective, refit.converged)
                for refit in (self.base, *self.refits)]
        return [text_table(head, rows)]


def objective_sensitivity(
    table: RunsTable, form: Form | str, deltas: Sequence[float] = DELTAS,
    *, robust: ResidualLoss | None = None,
) -> Sensitivity:
    """The fit under Huber's loss at several deltas, and under its two limits, l1 and squared.

    Args:
        table: the runs.
        form: a form or its name.
        deltas: deltas of Huber's loss, in log-loss.
        robust: loss of the base fit; the form's own by default.

    Raises:
        UserError: a delta is not positive, or the runs cannot be fitted.
    """
    if not deltas or not all(np.isfinite(delta) and delta > 0 for delta in deltas):
        raise UserError("deltas: positive numbers are expected, such as 1e-3")
    prepared = prepare(table, form, robust)
    losses = [
        ("l1", ResidualLoss("l1")),
        *((f"huber {delta:g}", ResidualLoss("huber", delta)) for delta in sorted(deltas)),
        ("squared", ResidualLoss("squared")),
    ]
    every = np.ones((1, len(prepared.y)))
    refits = tuple(_refits(prepared, [name], every, prepared.refit(every, loss))[0]
                   for name, loss in losses)
    return Sensitivity(form_label(prepared.form), "objective", _base(prepared), refits)


def outlier_sensitivity(
    table: RunsTable, form: Form | str, drops: Sequence[int] = DROPS,
    by: Literal["loss", "residual"] = "loss", *, robust: ResidualLoss | None = None,
) -> Sensitivity:
    """The fit without the k runs of largest loss, or of largest residual in the fit of all runs.

    Papers often drop runs by their loss and rarely report it; dropping them by their residual
    improves the fit of any law. Both show how much the fit depends on a few runs. Among runs of
    equal loss the smaller models are dropped first, and the name of the choice reports the tie.

    Args:
        table: the runs.
        form: a form or its name.
        drops: numbers of runs to drop, one refit each.
        by: the quantity by which runs are dropped.
        robust: loss of the residuals; the form's own by default.

    Raises:
        UserError: more runs are dropped than the form can spare, or the runs cannot be fitted.
    """
    prepared = prepare(table, form, robust)
    n_runs = len(prepared.y)
    max_drop = n_runs - len(prepared.theta)
    if not drops or min(drops) < 0 or max(drops) > max_drop:
        raise UserError(f"{prepared.form.name}: drops of 0 to {max_drop} runs are possible, "
                        f"because {n_runs} runs determine {len(prepared.theta)} parameters; got "
                        f"{', '.join(map(str, drops)) or 'none'}")
    values = prepared.runs.loss if by == "loss" else np.abs(prepared.residuals)
    order = np.argsort(-values, kind="stable")
    w = np.ones((len(drops), n_runs))
    for row, drop in zip(w, drops, strict=True):
        row[order[:drop]] = 0
    choices = [f"{drop} largest {by}{_tie_note(values, drop)}" for drop in drops]
    refits = _refits(prepared, choices, w, prepared.refit(w))
    return Sensitivity(form_label(prepared.form), f"without runs of largest {by}",
                       _base(prepared), refits)


def leave_one_size_out(
    table: RunsTable, form: Form | str, *, robust: ResidualLoss | None = None
) -> Sensitivity:
    """The fit without all runs of one size N, for each size.

    Sizes N that differ by less than `refit.SAME_SIZE` are one size. If the other sizes do not
    determine the law without one, its refit has not converged.

    Raises:
        UserError: the runs cannot be fitted, lack N, or have too few sizes.
    """
    prepared = prepare(table, form, robust)
    sizes, w = leave_one_size_out_weights(prepared)
    refits = _refits(prepared, [f"N = {size:.4g}" for size in sizes], w, prepared.refit(w))
    return Sensitivity(form_label(prepared.form), "left out", _base(prepared), refits)


def leave_one_size_out_weights(prepared: PreparedFit) -> tuple[list[float], Array]:
    """The sizes, as the median N of each, and weights that leave each of them out: [S, R].

    Raises:
        UserError: N is unknown, or there are fewer than three sizes.
    """
    n = prepared.runs.n
    if np.isnan(n).any():
        raise UserError(f"{prepared.form.name}: sizes can be left out only if N is known; name "
                        "its column")
    size_index = group_sizes(n)
    n_sizes = size_index.max() + 1
    if n_sizes < 3:
        raise UserError(f"{prepared.form.name}: the runs have {n_sizes} sizes N; at least 3 are "
                        "needed to leave one out")
    w = np.array([size_index != size for size in range(n_sizes)], dtype=float)
    return [float(np.median(n[row == 0])) for row in w], w


def has_enough_runs(prepared: PreparedFit, w_BR: Array) -> NDArray[np.bool_]:
    """Whether the runs with positive weight have as many rows and distinct values as the form
    needs: [B]."""
    enough = (w_BR > 0).sum(axis=1) >= len(prepared.theta)
    for variable in prepared.form.variables:
        if variable in ("n", "d", "c"):
            values = prepared.runs.values[variable]
            needed = levels_needed(prepared.form, variable)
            enough &= [(row > 0).any() and levels(values[row > 0]) >= needed for row in w_BR]
    return np.asarray(enough)


def _tie_note(values: Array, drop: int) -> str:
    """A note if only some of the runs equal to the last dropped one are dropped, else empty."""
    if not drop:
        return ""
    descending = np.sort(values)[::-1]
    last = descending[drop - 1]
    n_tied, n_dropped = (values == last).sum(), (descending[:drop] == last).sum()
    return f", {n_dropped} of {n_tied} alike" if n_dropped < n_tied else ""


def _base(prepared: PreparedFit) -> Refit:
    robust, law = prepared.robust, prepared.law
    return Refit(f"all runs, {robust.label}", len(prepared.y), dict(law.params),
                 _exponent(prepared, law.point),
                 float(prepared.objective(prepared.theta[None])[0]), law.converged)


def _refits(
    prepared: PreparedFit, choices: Sequence[str], w_BR: Array, minimum: Minimum
) -> tuple[Refit, ...]:
    params = prepared.params(minimum.theta)
    usable = minimum.converged & has_enough_runs(prepared, w_BR)
    return tuple(
        Refit(
            choice=choice, n_runs=int((w_R > 0).sum()),
            params=dict(zip(prepared.form.parameters, map(float, row), strict=True)),
            a=_exponent(prepared, row[None]), objective=float(value), converged=bool(converged),
            left_out=tuple(name for name, kept in zip(prepared.runs.run_id, w_R > 0, strict=True)
                           if not kept),
        )
        for choice, w_R, row, value, converged
        in zip(choices, w_BR, params, minimum.value, usable, strict=True)
    )


def _exponent(prepared: PreparedFit, params_BP: Array) -> float | None:
    a = prepared.form.allocation_exponent(params_BP)
    return None if a is None else float(a[0])
