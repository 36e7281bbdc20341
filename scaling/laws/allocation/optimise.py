"""Numerical optimum of N and D under any law, for all resamples at once.

Any law of N and D is supported: a scan over sizes brackets the minimum of every resample, and
Newton's method in log N refines it. Derivatives are fourth-order central differences, which with
steps of 1e-4 in log N give N* to about nine digits. A form's closed-form optimum is used if it has
one.

Letters: B parameter vectors (resamples), R points, P parameters. x is log N, z is log D, t the
logarithm of the total FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]

_BLOCK = 16         # resamples evaluated per call; only the diagonal of a block is used, so larger
                    # blocks waste work and smaller ones cost more calls
_N_SCAN = 240       # sizes of the scan, from one parameter to one token
# Distances from the upper end, for denser sizes where inference leaves little to train with:
_EDGE_DISTANCES = np.geomspace(1e-6, 2.0, 60)
_STEP = 1e-4        # of the differences, in log N or log FLOPs: short, because the law of repeated
                    # data has a kink where repetition begins, which is where its optimum is
_STENCIL = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
_FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
_SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12
_MAX_STEP_N = 1.0        # largest Newton step in log N
_MAX_STEP_FLOPS = 10.0   # largest Newton step in log FLOPs
_TOLERANCE = 1e-7        # of a step: Newton's next step would be about its square
_ITERATIONS = 80
_MAX_LOG_FLOPS = np.log(1e60)  # a loss that takes more FLOPs counts as out of reach
_START = np.log(1e21)
_EXPONENT_STEP = 0.05    # in log C, of the difference quotient of a local exponent


@dataclass(frozen=True)
class Solution:
    """The optimum under each of B parameter vectors; NaN where there is none.

    Sizes `n`, training tokens `d`, `loss` and `total` FLOPs, [B] each. `a` is d log N* / d log C
    along the frontier. If N or D is fixed, `a` is None, `excess` is the loss above the optimum at
    the same FLOPs, and `waste` the share of the FLOPs that the optimum would save at the same
    loss.
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
    """The optimal allocation of a compute budget, or the cheapest one that reaches a loss.

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


def losses(form: Form, params_BP: Array, values_BR: Mapping[str, Array]) -> Array:
    """Losses of each parameter vector at its own points: [B, R] from variables [B, R]."""
    blocks = []
    n_points = next(iter(values_BR.values())).shape[1]
    for first in range(0, len(params_BP), _BLOCK):
        rows = slice(first, first + _BLOCK)
        params = params_BP[rows]
        flat = {name: np.ravel(values[rows]) for name, values in values_BR.items()}
        square = form.loss(params, flat).reshape(len(params), len(params), n_points)
        blocks.append(np.einsum("bbr->br", square))
    return np.concatenate(blocks)


def _solve_free(
    form: Form, params: Array, budget: AllocationBudget, start: float | None
) -> Solution:
    """The solution with N and D both free."""
    if budget.c is not None:
        t = np.full(len(params), np.log(budget.c))
        x = _optimal_log_n(form, params, budget, float(t[0]))
    else:
        assert budget.loss is not None
        x, t = _cheapest(form, params, budget, np.full(len(params), budget.loss), start)
    closed = form.allocation_exponent(params) if budget.is_six_nd else None
    if closed is not None and budget.unique_tokens is None:
        a = closed
    else:
        above, below = (_refine(form, params, budget, t + step, x)
                        for step in (_EXPONENT_STEP, -_EXPONENT_STEP))
        a = (above - below) / (2 * _EXPONENT_STEP)
    n = np.exp(x)
    total = np.exp(t) if budget.c is None else np.full_like(t, budget.c)
    d = budget.training_tokens(n, total)
    loss = _loss_at(form, params, budget, x, np.log(d)) if budget.loss is None else np.where(
        np.isnan(x), np.nan, budget.loss)
    return Solution(n, d, loss, total, a)


def _solve_fixed(
    form: Form, params: Array, budget: AllocationBudget, start: float | None
) -> Solution:
    """The solution with N or D fixed, and its distance from the optimum."""
    n_params = len(params)
    if budget.c is not None:
        t = np.full(n_params, np.log(budget.c))
        if budget.n is not None:
            n = np.full(n_params, budget.n)
            d = budget.training_tokens(n, np.exp(t))
        else:
            d = np.full(n_params, budget.d)
            n = np.exp(_max_log_n(budget, t, d))
        d = np.where(d > 0, d, np.nan)
        loss = _loss_at(form, params, budget, np.log(n), np.log(d))
    else:
        loss = np.full(n_params, budget.loss)
        log_fixed = np.log(budget.n if budget.n is not None else budget.d or np.nan)

        def losses_of_free(rows: NDArray[np.intp], y_BR: Array) -> Array:
            fixed = np.full_like(y_BR, log_fixed)
            x, z = (fixed, y_BR) if budget.n is not None else (y_BR, fixed)
            return _losses_at(form, params[rows], budget, x, z)

        free = np.exp(_solve_for_loss(losses_of_free, loss, np.full(n_params, _START / 2)))
        n = free if budget.n is None else np.full(n_params, budget.n)
        d = free if budget.d is None else np.full(n_params, budget.d)
        t = np.log(budget.total_flops(n, d))
    finite = t[np.isfinite(t)]
    if start is None and finite.size:
        start = float(np.median(finite))
    x_cheapest, t_cheapest = _cheapest(form, params, budget, loss, start)
    x = _refine(form, params, budget, t, x_cheapest + (t - t_cheapest) / 2)
    d_best = budget.training_tokens(np.exp(x), np.exp(t))
    best = _loss_at(form, params, budget, x, np.log(d_best))
    total = np.exp(t) if budget.c is None else np.full_like(t, budget.c)
    return Solution(n, d, loss, total, excess=loss - best, waste=-np.expm1(t_cheapest - t))


def _optimal_log_n(form: Form, params: Array, budget: AllocationBudget, t: float) -> Array:
    """log N* at one common budget, [B], in closed form or by a scan and Newton's method."""
    if budget.is_six_nd and budget.unique_tokens is None:
        closed = form.optimum(params, np.exp(t))
        if closed is not None:
            return np.asarray(np.log(closed))
    upper = float(_max_log_n(budget, np.array([t]), np.ones(1))[0])
    if not upper > 0:
        return np.full(len(params), np.nan)
    x_R = np.sort(np.concatenate([
        np.linspace(0, upper, _N_SCAN), upper - _EDGE_DISTANCES[upper > _EDGE_DISTANCES]]))
    n_R = np.exp(x_R)
    d_R = np.maximum(budget.training_tokens(n_R, np.exp(t)), 1.0)
    loss_BR = form.loss(params, budget.values(n_R, d_R))
    loss_BR = np.where(np.isfinite(loss_BR), loss_BR, np.inf)
    # The lowest local minimum: far outside its runs a law may decrease all the way to an edge.
    interior = loss_BR[:, 1:-1]
    is_minimum = (interior < loss_BR[:, :-2]) & (interior <= loss_BR[:, 2:])
    lowest = np.argmin(np.where(is_minimum, interior, np.inf), axis=1)
    start = np.where(is_minimum.any(axis=1), x_R[lowest + 1], np.nan)
    return _refine(form, params, budget, np.full(len(params), t), start)


def _refine(form: Form, params: Array, budget: AllocationBudget, t_B: Array, x_B: Array) -> Array:
    """log N at the local minimum near x, by Newton's method; NaN where there is none."""
    x = np.array(x_B, dtype=float)
    upper = _max_log_n(budget, t_B, np.ones(len(x)))
    done = np.isnan(x)
    for _ in range(_ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        x[rows] = np.minimum(x[rows], upper[rows] - _EDGE_DISTANCES[0])
        h = np.minimum(_STEP, (upper[rows] - x[rows]) / 4)
        x_BR = x[rows, None] + h[:, None] * _STENCIL
        d_BR = budget.training_tokens(np.exp(x_BR), np.exp(t_B[rows, None]))
        f = _losses_at(form, params[rows], budget, x_BR, np.log(d_BR))
        slope, curvature = f @ _FIRST / h, f @ _SECOND / h**2
        step = np.where(curvature > 0, -slope / curvature, -_MAX_STEP_N * np.sign(slope))
        half_way = (upper[rows] - x[rows]) / 2
        step = np.clip(step, -_MAX_STEP_N, np.minimum(_MAX_STEP_N, half_way))
        x[rows] += step
        done[rows] = (np.abs(step) < _TOLERANCE) | ~np.isfinite(step)
        x[rows[(x[rows] < 0) | ~np.isfinite(step)]] = np.nan
    return np.where(done, x, np.nan)


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
    x_B = _optimal_log_n(form, params, budget, begin)
    t_B = np.full(len(params), begin)

    def optimal_losses(rows: NDArray[np.intp], t_BR: Array) -> Array:
        t = t_BR.mean(axis=1)
        guess = x_B[rows] + (t - t_B[rows]) / 2
        x_B[rows] = _refine(form, params[rows], budget, t, guess)
        t_B[rows] = t
        x_BR = np.repeat(x_B[rows, None], t_BR.shape[1], axis=1)
        d_BR = budget.training_tokens(np.exp(x_BR), np.exp(t_BR))
        return _losses_at(form, params[rows], budget, x_BR, np.log(d_BR))

    t = _solve_for_loss(optimal_losses, target_B, t_B.copy())
    x = _refine(form, params, budget, t, x_B + (t - t_B) / 2)
    return x, np.where(np.isnan(x), np.nan, t)


def _solve_for_loss(
    losses: Callable[[NDArray[np.intp], Array], Array], target_B: Array, y_B: Array
) -> Array:
    """y at which a decreasing convex function equals its target, by Newton's method.

    `losses` takes indices into B and points [b, R] around one y for each, and returns losses
    [b, R]. From a point above the target every step stays above it, so no bracket is needed.
    """
    y = np.array(y_B, dtype=float)
    done = np.zeros(len(y), dtype=bool)
    for _ in range(_ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        f = losses(rows, y[rows, None] + _STEP * _STENCIL)
        slope = f @ _FIRST / _STEP
        step = (target_B[rows] - f[:, 2]) / slope
        # Where the loss no longer decreases the target is out of reach, or far to the left.
        flat = ~(slope < 0)
        step = np.where(flat, np.where(f[:, 2] > target_B[rows], np.inf, -_MAX_STEP_FLOPS), step)
        step = np.clip(step, -_MAX_STEP_FLOPS, _MAX_STEP_FLOPS)
        y[rows] += step
        failed = ~np.isfinite(f).all(axis=1) | (y[rows] > _MAX_LOG_FLOPS)
        y[rows[failed]] = np.nan
        done[rows] = (np.abs(step) < _TOLERANCE) | failed
    return np.where(done, y, np.nan)


def _max_log_n(budget: AllocationBudget, t_B: Array, d_B: Array) -> Array:
    """log N at which training on `d` tokens and inference take all FLOPs, by bisection, because
    FLOPs per token may be any increasing function of N."""
    if budget.flops_per_token is None:
        return np.asarray(t_B - np.log(budget.total_flops(np.ones_like(d_B), d_B)))
    low, high = np.full_like(t_B, -1.0), np.maximum(t_B, 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        affordable = np.log(budget.total_flops(np.exp(middle), d_B)) <= t_B
        low, high = np.where(affordable, middle, low), np.where(affordable, high, middle)
    return low


def _loss_at(form: Form, params: Array, budget: AllocationBudget, x_B: Array, z_B: Array) -> Array:
    return _losses_at(form, params, budget, x_B[:, None], z_B[:, None])[:, 0]


def _losses_at(
    form: Form, params: Array, budget: AllocationBudget, x_BR: Array, z_BR: Array
) -> Array:
    """Losses at log N and log D, [B, R]."""
    return losses(form, params, budget.values(np.exp(x_BR), np.exp(z_BR)))
