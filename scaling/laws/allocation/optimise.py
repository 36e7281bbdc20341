"""Numerical optimum of N and D under any law, for all resamples at once.

Any law of N and D is supported (search.py); a form's closed-form optimum is used if it has one.
Where the loss stops falling within a budget, as with repeated data, or rises again, the optimum
spends less than all of it.

Letters: B parameter vectors (resamples), R points, T budgets. x is log N, z is log D, t the
logarithm of the total FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.allocation.search import (
    EQUAL,
    FIRST,
    ITERATIONS,
    STENCIL,
    STEP,
    TOLERANCE,
    LossesOf,
    finest,
    loss_at,
    losses_at,
    losses_of_scan,
    losses_on_budget,
    max_log_n,
    optimal_log_n,
    refine,
    scan_sizes,
    valley,
)
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]

_MAX_STEP_FLOPS = 10.0   # largest Newton step in log FLOPs
MAX_LOG_FLOPS = float(np.log(1e60))
"""A loss that takes more FLOPs counts as out of reach."""
_START = float(np.log(1e21))
_EXPONENT_STEP = 0.05    # in log C, of the difference quotient of a local exponent
_LESS = 0.1              # in log C: a budget that has to be worse, or the loss has stopped falling
_BUDGET_STEP = 0.5       # in log C, between the budgets among which the best one is sought
_BUDGET_SIZES = 120      # sizes of the scan at each of them
_AT_ONCE = 500_000       # losses computed by one call
_RISE = 1e-9             # relative rise of the loss beyond its minimum that is not a plateau
_FIXED_STEP = 0.25       # in log D or log N, of the scan with the other one fixed
_WIDTHS = (0.25, 1e-7)   # first and last width of a pattern search, in log N and log C


@dataclass(frozen=True)
class Solution:
    """The optimum under each of B parameter vectors; NaN where there is none.

    Sizes `n`, training tokens `d`, `loss` and `total` FLOPs, [B] each; `total` is less than the
    budget where more FLOPs do not lower the loss. `a` is d log N* / d log C along the frontier. If
    N or D is fixed, `a` is None, `excess` is the loss above the optimum within the same FLOPs, and
    `waste` the share of the FLOPs that the optimum would save at the same loss.
    """

    n: Array
    d: Array
    loss: Array
    total: Array
    a: Array | None = None
    excess: Array | None = None
    waste: Array | None = None


def solve(
    form: Form, params_BP: Array, budget: AllocationBudget, start: float | None = None
) -> Solution:
    """The optimal allocation of a compute budget, the cheapest one that reaches a loss, or the
    loss of fixed N and D.

    Args:
        form: any form for which `divides_compute` is true.
        params_BP: printed parameters, a law's point or its resamples.
        budget: the budget, already checked by `AllocationBudget.check_form`.
        start: initial guess of the FLOPs that the target loss takes, or None.
    """
    t = start if start is None else float(np.log(start))
    with np.errstate(all="ignore"):  # a law with a negative exponent has no optimum: NaN
        if budget.n is None and budget.d is None:
            return _solve_free(form, params_BP, budget, t)
        return _solve_fixed(form, params_BP, budget, t)


def lowest_loss(form: Form, params_BP: Array, budget: AllocationBudget) -> Array:
    """The lowest loss at any compute, [B], with N or D fixed as in the budget; NaN if unknown."""
    with np.errstate(all="ignore"):
        if budget.n is None and budget.d is None:
            x, t = best_within(form, params_BP, budget, MAX_LOG_FLOPS)
        else:
            x, z = _best_of_free(form, params_BP, budget, MAX_LOG_FLOPS)
            return loss_at(form, params_BP, budget, x, z)
        return losses_on_budget(form, params_BP, budget, x[:, None], t[:, None])[:, 0]


def best_within(
    form: Form, params: Array, budget: AllocationBudget, t: float
) -> tuple[Array, Array]:
    """log N of the lowest loss for at most exp(t) FLOPs, and the log FLOPs that it takes, [B]
    each: t itself, or less where the loss stops falling before, or rises again."""
    x = optimal_log_n(form, params, budget, t)
    t_B = np.full(len(params), t)
    f = losses_on_budget(form, params, budget, np.repeat(x[:, None], 2, axis=1),
                         t - np.array([[0, _LESS]]).repeat(len(x), axis=0))
    idle = np.flatnonzero(f[:, 1] <= f[:, 0] + EQUAL * np.abs(f[:, 0]))
    if idle.size:
        x[idle], t_B[idle] = _where_it_stops(form, params[idle], budget, t)
    return x, t_B


def _best_of_budgets(
    form: Form, params: Array, budget: AllocationBudget, t_T: Array
) -> tuple[Array, Array]:
    """log N and loss of the best size of a scan at each budget, [B, T]; NaN and infinite where it
    has none."""
    x_BT = np.full((len(params), len(t_T)), np.nan)
    loss_BT = np.full_like(x_BT, np.inf)
    x_TR = [scan_sizes(budget, float(t), _BUDGET_SIZES) for t in t_T]
    at_once = max(1, _AT_ONCE // (len(params) * max(len(x_R) for x_R in x_TR)))
    for first in range(0, len(t_T), at_once):
        group = range(first, min(first + at_once, len(t_T)))
        lengths = [len(x_TR[k]) for k in group]
        x_R, t_R = np.concatenate([x_TR[k] for k in group]), np.repeat(t_T[group], lengths)
        loss_BR = losses_of_scan(form, params, budget, x_R, t_R)
        for k, part in zip(group, np.split(loss_BR, np.cumsum(lengths)[:-1], axis=1), strict=True):
            if part.size:
                lowest, loss_BT[:, k] = valley(part)
                x_BT[:, k] = np.where(np.isfinite(loss_BT[:, k]), x_TR[k][lowest], np.nan)
    return x_BT, loss_BT


def _where_it_stops(
    form: Form, params: Array, budget: AllocationBudget, t: float
) -> tuple[Array, Array]:
    """As `best_within`, of laws whose loss stops falling, or rises, before exp(t) FLOPs."""
    # Multiples of the step, so that the answer does not depend on the budget.
    t_T = np.append(_BUDGET_STEP * np.arange(1, np.ceil(t / _BUDGET_STEP)), t)
    x_BT, loss_BT = _best_of_budgets(form, params, budget, t_T)
    least = loss_BT.min(axis=1)
    first = (loss_BT <= (least + EQUAL * np.abs(least))[:, None]).argmax(axis=1)
    rows = np.arange(len(params))
    x, t_B = x_BT[rows, first], t_T[first]
    rises = loss_BT[:, -1] > least + _RISE * np.abs(least)
    for k in np.unique(first[~rises]):
        level = np.flatnonzero(~rises & (first == k))
        x[level] = optimal_log_n(form, params[level], budget, float(t_T[k]))
    up = np.flatnonzero(rises)
    if up.size:
        x[up], t_B[up] = _lowest_nearby(form, params[up], budget, x[up], t_B[up], t)
    return x, t_B


def _lowest_nearby(
    form: Form, params: Array, budget: AllocationBudget, x_B: Array, t_B: Array, most: float
) -> tuple[Array, Array]:
    """log N and log FLOPs, at most `most`, of the local minimum of both, by a pattern search."""
    x, t = np.array(x_B), np.array(t_B)
    width = np.where(np.isnan(x), 0.0, _WIDTHS[0])
    across, up = (each.ravel() for each in np.meshgrid([0, -1, 1], [0, -1, 1]))
    while (rows := np.flatnonzero(width > _WIDTHS[1])).size:
        x_BR = x[rows, None] + width[rows, None] * across
        t_BR = np.minimum(t[rows, None] + width[rows, None] * up, most)
        f = losses_on_budget(form, params[rows], budget, x_BR, t_BR)
        best = np.where(np.isfinite(f), f, np.inf).argmin(axis=1)  # the middle if it is as good
        each = np.arange(len(rows))
        x[rows], t[rows] = x_BR[each, best], t_BR[each, best]
        width[rows[best == 0]] /= 2
    return x, t


def _solve_free(
    form: Form, params: Array, budget: AllocationBudget, start: float | None
) -> Solution:
    """The solution with N and D both free."""
    if budget.c is not None:
        most = float(np.log(budget.c))
        x, t = best_within(form, params, budget, most)
        total = np.where(t < most, np.exp(t), budget.c)
        stopped = t < most
    else:
        assert budget.loss is not None
        x, t = _cheapest(form, params, budget, np.full(len(params), budget.loss), start)
        total, stopped = np.exp(t), np.zeros(len(t), dtype=bool)
    closed = form.allocation_exponent(params) if budget.is_six_nd else None
    if closed is not None and budget.unique_tokens is None:
        a = closed
    else:
        above, below = (_optima_near(form, params, budget, t + step, x, stopped)
                        for step in (_EXPONENT_STEP, -_EXPONENT_STEP))
        a = (above - below) / (2 * _EXPONENT_STEP)
    n = np.exp(x)
    d = budget.training_tokens(n, total)
    loss = loss_at(form, params, budget, x, np.log(d)) if budget.loss is None else np.where(
        np.isnan(x), np.nan, budget.loss)
    return Solution(n, d, loss, total, np.where(stopped, np.nan, a))


def _optima_near(
    form: Form, params: Array, budget: AllocationBudget, t_B: Array, x_B: Array,
    left_out: NDArray[np.bool_],
) -> Array:
    """log N* at budgets near those of which x is the optimum, [B]."""
    x = refine(form, params, budget, t_B, np.where(left_out, np.nan, x_B))
    flat = np.isnan(x) & np.isfinite(x_B) & np.isfinite(t_B) & ~left_out
    for t in np.unique(t_B[flat]):  # one budget, or a few target losses next to the lowest
        rows = np.flatnonzero(flat & (t_B == t))
        x[rows] = optimal_log_n(form, params[rows], budget, float(t))
    return x


def _solve_fixed(
    form: Form, params: Array, budget: AllocationBudget, start: float | None
) -> Solution:
    """The solution with N or D fixed, or both, and its distance from the optimum."""
    if budget.loss is not None:
        return _reach_fixed(form, params, budget, start)
    if budget.n is not None and budget.d is not None:
        shape = np.ones(len(params))
        x, z = np.log(budget.n * shape), np.log(budget.d * shape)
        most = float(np.log(budget.total_flops(budget.n, budget.d)))
    else:
        assert budget.c is not None
        most = float(np.log(budget.c))
        x, z = _best_of_free(form, params, budget, most)
    loss = loss_at(form, params, budget, x, z)
    n = np.exp(x) if budget.n is None else np.full(len(params), budget.n)
    d = np.exp(z) if budget.d is None else np.full(len(params), budget.d)
    total = budget.total_flops(n, d)
    if budget.c is not None:  # exactly, where all of it is spent
        total = np.where(np.abs(total / budget.c - 1) < 1e-9, budget.c, total)
    t = np.log(total)
    x_best, t_best = best_within(form, params, _free(budget), most)
    best = losses_on_budget(form, params, budget, x_best[:, None], t_best[:, None])[:, 0]
    _, t_cheapest = _cheapest(form, params, _free(budget), loss, start or most)
    return Solution(n, d, loss, total, excess=loss - best, waste=-np.expm1(t_cheapest - t))


def _reach_fixed(
    form: Form, params: Array, budget: AllocationBudget, start: float | None
) -> Solution:
    """The cheapest way to a loss with N or D fixed, and its distance from the optimum."""
    assert budget.loss is not None
    loss = np.full(len(params), budget.loss)
    free = np.exp(_solve_for_loss(_losses_of_free(form, params, budget), loss,
                                  np.full(len(params), _START / 2)))
    n = free if budget.n is None else np.full(len(params), budget.n)
    d = free if budget.d is None else np.full(len(params), budget.d)
    t = np.log(budget.total_flops(n, d))
    finite = t[np.isfinite(t)]
    if start is None and finite.size:
        start = float(np.median(finite))
    x_cheapest, t_cheapest = _cheapest(form, params, _free(budget), loss, start)
    x = refine(form, params, budget, t, x_cheapest + (t - t_cheapest) / 2)
    best = losses_on_budget(form, params, budget, x[:, None], t[:, None])[:, 0]
    return Solution(n, d, loss, np.exp(t), excess=loss - best, waste=-np.expm1(t_cheapest - t))


def _free(budget: AllocationBudget) -> AllocationBudget:
    """The budget without a fixed N or D."""
    if budget.n is not None and budget.d is not None:
        return replace(budget, n=None, d=None, c=float(budget.total_flops(budget.n, budget.d)))
    return replace(budget, n=None, d=None)


def _losses_of_free(form: Form, params: Array, budget: AllocationBudget) -> LossesOf:
    """The losses as a function of the logarithm of D if N is fixed, and of N if D is."""
    log_fixed = np.log(budget.n if budget.n is not None else budget.d or np.nan)

    def losses_of(rows: NDArray[np.intp], y_BR: Array) -> Array:
        fixed = np.full_like(y_BR, log_fixed)
        x, z = (fixed, y_BR) if budget.n is not None else (y_BR, fixed)
        return losses_at(form, params[rows], budget, x, z)

    return losses_of


def _best_of_free(
    form: Form, params: Array, budget: AllocationBudget, t: float
) -> tuple[Array, Array]:
    """log N and log D of the lowest loss for at most exp(t) FLOPs with N or D fixed, [B] each: all
    that the budget pays for, or less where the loss stops falling before, or rises again."""
    if budget.n is not None:
        tokens = float(budget.training_tokens(budget.n, np.exp(t)))
        most = float(np.log(tokens)) if tokens > 0 else np.nan
    else:
        most = float(max_log_n(budget, np.array([t]), np.array([budget.d]))[0])
    y_B = np.full(len(params), most)
    if most > 0:
        y_R = np.append(_FIXED_STEP * np.arange(np.ceil(most / _FIXED_STEP)), most)
        fixed = np.full_like(y_R, budget.n if budget.n is not None else budget.d)
        n_R, d_R = (fixed, np.exp(y_R)) if budget.n is not None else (np.exp(y_R), fixed)
        loss_BR = form.loss(params, budget.values(n_R, d_R))
        loss_BR = np.where(np.isfinite(loss_BR), loss_BR, np.inf)
        least = loss_BR.min(axis=1)
        first = (loss_BR <= (least + EQUAL * np.abs(least))[:, None]).argmax(axis=1)
        inside = (first > 0) & (first < len(y_R) - 1) & np.isfinite(least)
        y_B = np.where(inside, y_R[first], y_B)
        up = np.flatnonzero(inside & (loss_BR[:, -1] > least + _RISE * np.abs(least)))
        if up.size:
            y_B[up] = finest(_losses_of_free(form, params[up], budget), y_R[first[up] - 1],
                             y_R[first[up] + 1])
    other = np.full(len(params), np.log(budget.n if budget.n is not None else budget.d or np.nan))
    return (other, y_B) if budget.n is not None else (y_B, other)


def _cheapest(
    form: Form, params: Array, budget: AllocationBudget, target_B: Array, start: float | None
) -> tuple[Array, Array]:
    """log N and log FLOPs of the cheapest allocation that reaches a loss, [B] each.

    The cheapest allocation for a loss is the optimum at its own cost, so this solves for the
    budget whose optimal loss is the target. By the envelope theorem the derivative of the optimal
    loss by log FLOPs is that at fixed N.
    """
    begin = start
    if begin is None:  # enough for a medium-sized model after paying for inference
        medium = budget.total_flops(np.array(1e9), np.array(2e10))
        begin = max(_START, float(np.log(medium)))
    x_B, t_B = best_within(form, params, budget, begin)
    x, t = _newton_for_loss(form, params, budget, target_B, x_B, t_B)
    at_start = losses_on_budget(form, params, budget, x_B[:, None], t_B[:, None])[:, 0]
    is_start = np.isnan(t) & (np.abs(at_start - target_B) <= _RISE * np.abs(target_B))
    x, t = np.where(is_start, x_B, x), np.where(is_start, t_B, t)
    lost = np.flatnonzero(np.isnan(t) & np.isfinite(target_B))
    if lost.size and not (budget.is_six_nd and budget.unique_tokens is None
                          and form.optimum(params[:1], np.exp(begin)) is not None):
        # Newton's steps were too long for a law with a plateau: begin again just above the target.
        t_T = _BUDGET_STEP * np.arange(1, MAX_LOG_FLOPS / _BUDGET_STEP)
        x_BT, loss_BT = _best_of_budgets(form, params[lost], budget, t_T)
        reaches = loss_BT <= target_B[lost, None]
        first = reaches.argmax(axis=1)
        found = np.flatnonzero(reaches.any(axis=1) & (first > 0))
        rows, before = lost[found], first[found] - 1
        x[rows], t[rows] = _newton_for_loss(
            form, params[rows], budget, target_B[rows], x_BT[found, before], t_T[before])
    return x, t


def _newton_for_loss(
    form: Form, params: Array, budget: AllocationBudget, target_B: Array, x_B: Array, t_B: Array
) -> tuple[Array, Array]:
    """log N and log FLOPs at which the optimal loss is the target, from an optimum x at t."""
    x_B, t_B = np.array(x_B), np.array(t_B)

    def optimal_losses(rows: NDArray[np.intp], t_BR: Array) -> Array:
        t = t_BR.mean(axis=1)
        guess = x_B[rows] + (t - t_B[rows]) / 2
        x_B[rows] = refine(form, params[rows], budget, t, guess)
        t_B[rows] = t
        x_BR = np.repeat(x_B[rows, None], t_BR.shape[1], axis=1)
        return losses_on_budget(form, params[rows], budget, x_BR, t_BR)

    t = _solve_for_loss(optimal_losses, target_B, t_B.copy())
    x = refine(form, params, budget, t, x_B + (t - t_B) / 2)
    return x, np.where(np.isnan(x), np.nan, t)


def _solve_for_loss(losses_of: LossesOf, target_B: Array, y_B: Array) -> Array:
    """y at which a decreasing convex function equals its target, by Newton's method.

    `losses_of` takes points [b, R] around one y for each. From a point above the target every step
    stays above it, so no bracket is needed.
    """
    y = np.array(y_B, dtype=float)
    done = np.zeros(len(y), dtype=bool)
    for _ in range(ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        f = losses_of(rows, y[rows, None] + STEP * STENCIL)
        slope = f @ FIRST / STEP
        step = (target_B[rows] - f[:, 2]) / slope
        # Where the loss does not decrease, the target is to the left, if it is reached at all.
        step = np.where(slope < 0, step, -_MAX_STEP_FLOPS)
        step = np.clip(step, -_MAX_STEP_FLOPS, _MAX_STEP_FLOPS)
        y[rows] += step
        failed = ~np.isfinite(f).all(axis=1) | (y[rows] > MAX_LOG_FLOPS)
        y[rows[failed]] = np.nan
        done[rows] = (np.abs(step) < TOLERANCE) | failed
    return np.where(done, y, np.nan)
