"""`speedup`: how much more compute, or how many more tokens, one recipe needs than another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError
from scaling.laws.allocation.budgets import AllocationBudget, divides_compute
from scaling.laws.allocation.optimise import solve
from scaling.laws.arguments import checked
from scaling.laws.fitted import Fit
from scaling.laws.fitting.fit_law import RESAMPLES, fit_law, form_named
from scaling.laws.forms.constrained import Constrained, constrain
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import check_amount, six_nd
from scaling.laws.forms.wrapped import unwrapped
from scaling.laws.law import LEVEL, Interval, Law, paired_samples
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

_FARTHEST = np.log(1e6)  # largest speedup or slowdown that is looked for
_COARSE, _FINE = 41, 121  # amounts at which a loss is computed, in two passes
_SAME_FLOOR = 1e-9        # relative
_MIN_SOLVED = 0.95        # share of the resamples that have a speedup, for an interval


@dataclass(frozen=True)
class Speedup:
    """How many times as much the baseline needs for the loss of the improved recipe.

    Attributes:
        of: what is compared: training FLOPs or tokens.
        amount: what the improved recipe uses.
        loss: its predicted loss there, in nats per token.
        needed: what the baseline needs for the same loss.
        factor: needed / amount.
        interval: the 90% interval of the factor, given the irreducible loss; None without
            resamples, or if the runs do not determine it.
        floor: the irreducible loss that both laws share; None for laws without one.
        paired: whether resamples draw the same seeds of both recipes.
        baseline: the law of the baseline.
        improved: the law of the improved recipe.
        warnings: what limits the result.
    """

    of: Literal["compute", "tokens"]
    amount: float
    loss: float
    needed: float
    factor: float
    interval: Interval | None
    floor: float | None
    paired: bool
    baseline: Law
    improved: Law
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        unit = "training FLOPs" if self.of == "compute" else "tokens"
        ends = ("" if self.interval is None
                else f" ({LEVEL:.0%} interval {self.interval[0]:.3g} to {self.interval[1]:.3g})")
        line = (f"{self.factor:.3g} times{ends} the {unit} for a loss of {self.loss:.4g}: "
                f"{self.needed:.4g} instead of {self.amount:.4g}")
        return "\n".join([line, *(f"warning: {warning}" for warning in self.warnings)])


@checked
def speedup(
    baseline: Fit | Law | RunsTable,
    improved: Fit | Law | RunsTable,
    *,
    compute: float | None = None,
    tokens: float | None = None,
    n: float | None = None,
    law: str | Form = "chinchilla",
    floor: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Speedup:
    """The factor by which the baseline needs more compute or tokens for the same loss.

    `sl.speedup(adam, muon, compute=1e20)`, or with `tokens=1e11, n=1e9` for models of one size.

    Two recipes are compared at an irreducible loss that both share: with one of its own for each, a
    small difference between the two decides the factor at large budgets. Two tables of runs are
    fitted here, with the irreducible loss fixed. If both have a variable `seed`, as from
    `read(..., extra={"seed": None})`, and runs of the same N, D and seeds, resamples draw the same
    runs of both; noise that a seed has under both recipes then cancels. The interval is given the
    irreducible loss.

    Args:
        baseline: runs, or a law fitted with the same fixed irreducible loss as the other.
        improved: as `baseline`.
        compute: training FLOPs of the improved recipe. Under laws of N and D, both recipes divide
            their compute optimally.
        tokens: training tokens of the improved recipe, instead of `compute`.
        n: number of parameters, with `tokens` under laws of N and D.
        law: the law that tables are fitted to.
        floor: irreducible loss for tables; by default that of the baseline's own fit.
        resamples: bootstrap resamples for tables.
        seed: seed of the resamples.

    Raises:
        UserError: the laws have different irreducible losses or forms that do not support the
            comparison, or a number is impossible.
        DataError: there are too few runs, or no amount gives the baseline the same loss.
    """
    of: Literal["compute", "tokens"] = "compute" if tokens is None else "tokens"
    amount = _amount(compute, tokens, n)
    paired = False
    if isinstance(baseline, RunsTable) and isinstance(improved, RunsTable):
        baseline, improved, paired = _fitted(baseline, improved, law, floor, resamples, seed)
    if isinstance(baseline, RunsTable) or isinstance(improved, RunsTable):
        raise UserError("speedup: two tables of runs, or two laws, are expected; fit the table, "
                        "with the irreducible loss of the law")
    old, new = (each.law if isinstance(each, Fit) else each for each in (baseline, improved))
    shared = _shared_floor(old, new)
    curves = [_loss_of(each, of, n) for each in (old, new)]
    with np.errstate(all="ignore"):
        loss = curves[1](new.point, np.array([amount]))[:, 0]
        needed = _amount_for(curves[0], old.point, loss, amount)[0]
        if not np.isfinite(needed):
            raise DataError(f"speedup: at no {of} within a factor of {np.exp(_FARTHEST):g} does "
                            f"{old.name} of the baseline predict a loss of {loss[0]:.4g}, which "
                            "the improved recipe is predicted to have")
        factor = float(needed / amount)
        interval, warnings = _interval(old, new, curves, amount, factor, paired)
    return Speedup(of, amount, float(loss[0]), float(needed), factor, interval, shared, paired, old,
                   new, (*_unconverged(old, new), *warnings))


def _amount(compute: float | None, tokens: float | None, n: float | None) -> float:
    if (compute is None) == (tokens is None):
        raise UserError("speedup: compute= or tokens= is expected, and not both, such as "
                        "compute=1e20")
    if compute is not None:
        if n is not None:
            raise UserError("speedup: n= goes with tokens=; with compute= both recipes train "
                            "models of their optimal sizes")
        check_amount("compute", compute, "c", "1e20")
        return float(compute)
    assert tokens is not None
    check_amount("tokens", tokens, "d", "1e11")
    if n is not None:
        check_amount("n", n, "n", "1e9")
    return float(tokens)


def _floor_name(form: Form) -> str | None:
    """The parameter that is the form's irreducible loss; None if it has none."""
    constants = unwrapped(form).constants
    return constants[0] if constants else None


def _shared_floor(old: Law, new: Law) -> float | None:
    """The irreducible loss of both laws.

    Raises:
        UserError: it differs.
    """
    floors = [None if (name := _floor_name(each.form)) is None else each.params[name]
              for each in (old, new)]
    if None in floors and floors != [None, None]:
        raise UserError(f"speedup: only one of the laws {old.name} and {new.name} has an "
                        "irreducible loss, where laws of one form are expected")
    one, other = floors
    if one is not None and other is not None and abs(one - other) > _SAME_FLOOR * abs(one):
        name = _floor_name(old.form)
        raise UserError(f"speedup: the irreducible losses are {one:.4g} and {other:.4g}, where one "
                        f"is expected for both; fit both with fix={{{name!r}: {one:.4g}}}, or pass "
                        "the tables of runs")
    return one


def _fitted(
    old: RunsTable, new: RunsTable, law: str | Form, floor: float | None, resamples: int, seed: int,
) -> tuple[Law, Law, bool]:
    """Both tables fitted with one irreducible loss, and whether resamples are of the same seeds."""
    form = form_named(law) if isinstance(law, str) else law
    name = _floor_name(form)
    if floor is not None and name is None:
        raise UserError(f"speedup: {form.name} has no irreducible loss to fix at floor={floor:g}")
    if name is not None and not isinstance(form, Constrained):
        if floor is None:
            floor = fit_law(old, form, resamples=0).params[name]
        form = constrain(form, {name: floor})
    order = _same_seeds(old, new)
    if order is not None:
        old, new = (table.take(rows) for table, rows in zip((old, new), order, strict=True))
    first = fit_law(old, form, resamples=resamples, seed=seed)
    # The same seed draws the same runs, and another one draws independently.
    second = fit_law(new, form, resamples=resamples, seed=seed if order is not None else seed + 1)
    return first, second, order is not None


def _same_seeds(
    old: RunsTable, new: RunsTable
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """The orders in which both tables have runs of the same N, D and seeds; None if they do not."""
    if "seed" not in old.extra or "seed" not in new.extra or old.loss.size != new.loss.size:
        return None
    orders, keys = [], []
    for table in (old, new):
        columns = [table.extra["seed"], *(np.nan_to_num(table.values[v]) for v in ("c", "d", "n"))]
        orders.append(np.lexsort(columns))
        keys.append(np.stack(columns)[:, orders[-1]])
    if not np.array_equal(keys[0], keys[1]) or (np.diff(keys[0], axis=1) == 0).all(axis=0).any():
        return None
    return orders[0], orders[1]


def _loss_of(
    law: Law, of: Literal["compute", "tokens"], n: float | None
) -> Callable[[Array, Array], Array]:
    """The loss, [B, R], of parameters [B, P] at amounts [R]."""
    form, variables = law.form, {*law.form.variables}
    if not form.outcome.startswith("loss"):
        raise UserError(f"speedup: {law.name} predicts {form.outcome}, where a law of the loss is "
                        "expected, such as chinchilla")
    if of == "compute" and variables == {"c"}:
        return lambda params, c: form.loss(params, {"c": c})
    if of == "compute" and divides_compute(form) and variables <= {"n", "d", "c"}:
        def optimal(params: Array, c: Array) -> Array:
            return np.stack([solve(form, params, AllocationBudget(c=float(each))).loss
                             for each in c], axis=-1)
        return optimal
    if of == "tokens" and variables == {"d"}:
        return lambda params, d: form.loss(params, {"d": d})
    if of == "tokens" and "d" in variables and variables <= {"n", "d", "c"}:
        if n is None:
            raise UserError(f"speedup: {law.name} needs N for a number of tokens; give n=, such as "
                            "n=1e9")
        size = float(n)

        def of_size(params: Array, d: Array) -> Array:
            n_R = np.full(d.shape, size)
            return form.loss(params, {"n": n_R, "d": d, "c": six_nd(n_R, d)})
        return of_size
    raise UserError(f"speedup: {law.name} is a law of {', '.join(form.variables)}, which does not "
                    f"give the loss at a number of {'FLOPs' if of == 'compute' else 'tokens'} "
                    "alone; use a law of N and D, such as chinchilla")


def _amount_for(
    curve: Callable[[Array, Array], Array], params: Array, loss_B: Array, near: float
) -> Array:
    """The smallest amount with the loss of each row, [B]; NaN if there is none."""
    log_x = np.log(near) + np.linspace(-_FARTHEST, _FARTHEST, _COARSE)
    found = _crossing(log_x, curve(params, np.exp(log_x)), loss_B)
    if np.isfinite(found).any():
        step = log_x[1] - log_x[0]
        log_x = np.linspace(np.nanmin(found) - step / 2, np.nanmax(found) + step / 2, _FINE)
        found = _crossing(log_x, curve(params, np.exp(log_x)), loss_B)
    return np.exp(found)


def _crossing(log_x_R: Array, loss_BR: Array, loss_B: Array) -> Array:
    """log x at which each row first falls to its loss, interpolated linearly, [B]."""
    rows = np.arange(len(loss_B))
    below = loss_BR <= loss_B[:, None]
    first = below.argmax(axis=1)
    inside = below.any(axis=1) & (first > 0)
    before = np.maximum(first - 1, 0)
    high, low = loss_BR[rows, before], loss_BR[rows, np.maximum(first, 1)]
    share = (high - loss_B) / (high - low)
    return np.where(inside, log_x_R[before] + share * (log_x_R[1] - log_x_R[0]), np.nan)


def _interval(
    old: Law, new: Law, curves: list[Callable[[Array, Array], Array]], amount: float,
    factor: float, paired: bool,
) -> tuple[Interval | None, tuple[str, ...]]:
    """The 90% percentile interval of the factor, and warnings about it."""
    of_old, of_new = paired_samples(old, new)
    if not len(of_old):
        return None, ("there is no interval, since a law has no resamples",)
    if not paired:  # rows of one number may be equal draws of the same design
        of_new = np.random.default_rng(0).permutation(of_new)
    losses = curves[1](of_new, np.array([amount]))[:, 0]
    logs = np.log(_amount_for(curves[0], of_old, losses, amount) / amount)
    solved = np.isfinite(logs)
    if solved.mean() < _MIN_SOLVED:
        return None, (f"there is no interval, since {1 - solved.mean():.0%} of the resamples have "
                      "no speedup",)
    assert old.bootstrap is not None
    assert new.bootstrap is not None
    widening = max(old.bootstrap.widening, new.bootstrap.widening)
    logs = np.log(factor) + widening * (logs[solved] - np.log(factor))
    low, high = np.exp(np.quantile(logs, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return (float(low), float(high)), ()


def _unconverged(*laws: Law) -> tuple[str, ...]:
    return tuple(f"the fit of {law.name} did not converge" for law in laws if not law.converged)
