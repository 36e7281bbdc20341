"""Search for the minimum of a loss in log N, for all resamples at once.

A scan over sizes brackets the minimum of every resample, and Newton's method refines it.
Derivatives are fourth-order central differences, which with steps of 1e-4 in log N give N* to about
nine digits. Where a law is too flat for them in double precision, finer and finer grids find the
middle of the sizes whose losses are equal.

Letters: B parameter vectors (resamples), R points, P parameters. x is log N, z is log D, t the
logarithm of the total FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
LossesOf = Callable[[NDArray[np.intp], Array], Array]
"""Losses [b, R] from indices into B, [b], and a coordinate, [b, R]."""

EQUAL = 1e-12
"""Largest relative difference of losses that count as equal: about their rounding errors."""
_BLOCK = 16         # resamples evaluated per call; only the diagonal of a block is used, so larger
                    # blocks waste work and smaller ones cost more calls
_N_SCAN = 240       # sizes of the scan, from one parameter to one token
# Distances from the upper end, for denser sizes where inference leaves little to train with:
_EDGE_DISTANCES = np.geomspace(1e-6, 2.0, 60)
STEP = 1e-4         # of the differences, in log N or log FLOPs: short, because the law of repeated
                    # data has a kink where repetition begins, which is where its optimum is
STENCIL = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
_SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12
_MAX_STEP_N = 1.0        # largest Newton step in log N
TOLERANCE = 1e-7         # of a step: Newton's next step would be about its square
ITERATIONS = 80
_FINER, _LEVELS = 21, 10  # points of a grid, and the number of ever finer grids
_ULPS = 4 * np.finfo(float).eps


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


def loss_at(form: Form, params: Array, budget: AllocationBudget, x_B: Array, z_B: Array) -> Array:
    """Losses at log N and log D, [B]."""
    return losses_at(form, params, budget, x_B[:, None], z_B[:, None])[:, 0]


def losses_at(
    form: Form, params: Array, budget: AllocationBudget, x_BR: Array, z_BR: Array
) -> Array:
    """Losses at log N and log D, [B, R]."""
    return losses(form, params, budget.values(np.exp(x_BR), np.exp(z_BR)))


def losses_on_budget(
    form: Form, params: Array, budget: AllocationBudget, x_BR: Array, t_BR: Array
) -> Array:
    """Losses at log N with the tokens that log FLOPs pay for, [B, R]; NaN if they pay for none."""
    d_BR = budget.training_tokens(np.exp(x_BR), np.exp(t_BR))
    return losses_at(form, params, budget, x_BR, np.log(np.where(d_BR > 0, d_BR, np.nan)))


def max_log_n(budget: AllocationBudget, t_B: Array, d_B: Array) -> Array:
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


def optimal_log_n(form: Form, params: Array, budget: AllocationBudget, t: float) -> Array:
    """log N* at one common budget, [B]: in closed form; by a scan and Newton's method; or, where
    the law is too flat for it, by finer and finer grids."""
    if budget.is_six_nd and budget.unique_tokens is None:
        closed = form.optimum(params, np.exp(t))
        if closed is not None:
            return np.asarray(np.log(closed))
    x_R = scan_sizes(budget, t)
    if not x_R.size:
        return np.full(len(params), np.nan)
    loss_BR = losses_of_scan(form, params, budget, x_R, np.full_like(x_R, t))
    lowest, loss_B = valley(loss_BR)
    has_valley = np.isfinite(loss_B)
    x = refine(form, params, budget, np.full(len(params), t),
               np.where(has_valley, x_R[lowest], np.nan))
    # A loss that is lower at an edge decreases towards it, and has no optimum.
    flat = np.flatnonzero(np.isnan(x) & has_valley
                          & (loss_B <= loss_BR.min(axis=1) + EQUAL * np.abs(loss_B)))
    if flat.size:
        equal = loss_BR[flat] <= loss_B[flat, None] * (1 + _ULPS)
        first, last = equal.argmax(axis=1), equal.shape[1] - 1 - equal[:, ::-1].argmax(axis=1)
        x[flat] = finest(
            lambda rows, x_BR: losses_on_budget(form, params[flat[rows]], budget, x_BR,
                                                np.full_like(x_BR, t)),
            x_R[np.maximum(first - 1, 0)], x_R[np.minimum(last + 1, len(x_R) - 1)])
    return x


def scan_sizes(budget: AllocationBudget, t: float, count: int = _N_SCAN) -> Array:
    """log N from one parameter to one token at a common budget, [R]; none if it does not pay for
    one of each."""
    upper = float(max_log_n(budget, np.array([t]), np.ones(1))[0])
    if not upper > 0:
        return np.empty(0)
    return np.sort(np.concatenate([
        np.linspace(0, upper, count), upper - _EDGE_DISTANCES[upper > _EDGE_DISTANCES]]))


def losses_of_scan(
    form: Form, params: Array, budget: AllocationBudget, x_R: Array, t_R: Array
) -> Array:
    """Losses of every parameter vector at the same log N and log FLOPs, [B, R], infinite where
    there is none."""
    n_R = np.exp(x_R)
    d_R = np.maximum(budget.training_tokens(n_R, np.exp(t_R)), 1.0)
    loss_BR = form.loss(params, budget.values(n_R, d_R))
    return np.where(np.isfinite(loss_BR), loss_BR, np.inf)


def valley(loss_BR: Array) -> tuple[NDArray[np.intp], Array]:
    """The index of the lowest local minimum of each row, and the loss there, infinite without one:
    far outside its runs a law may decrease all the way to an edge."""
    interior = loss_BR[:, 1:-1]
    is_minimum = (interior < loss_BR[:, :-2]) & (interior <= loss_BR[:, 2:])
    masked = np.where(is_minimum, interior, np.inf)
    return np.asarray(masked.argmin(axis=1) + 1), masked.min(axis=1)


def refine(form: Form, params: Array, budget: AllocationBudget, t_B: Array, x_B: Array) -> Array:
    """log N at the local minimum near x, by Newton's method; NaN where there is none, or where the
    loss is too flat to find it."""
    x = np.array(x_B, dtype=float)
    upper = max_log_n(budget, t_B, np.ones(len(x)))
    done = np.isnan(x)
    for _ in range(ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        x[rows] = np.minimum(x[rows], upper[rows] - _EDGE_DISTANCES[0])
        h = np.minimum(STEP, (upper[rows] - x[rows]) / 4)
        x_BR = x[rows, None] + h[:, None] * STENCIL
        f = losses_on_budget(form, params[rows], budget, x_BR,
                             np.broadcast_to(t_B[rows, None], x_BR.shape))
        slope, second = f @ FIRST / h, f @ _SECOND
        step = np.where(second > 0, -slope * h**2 / second, -_MAX_STEP_N * np.sign(slope))
        half_way = (upper[rows] - x[rows]) / 2
        step = np.clip(step, -_MAX_STEP_N, np.minimum(_MAX_STEP_N, half_way))
        x[rows] += step
        done[rows] = (np.abs(step) < TOLERANCE) | ~np.isfinite(step)
        x[rows[(x[rows] < 0) | ~np.isfinite(step)]] = np.nan
    return np.where(done, x, np.nan)


def finest(losses_of: LossesOf, low_B: Array, high_B: Array) -> Array:
    """The minimum between two ends, [B], by finer and finer grids; the middle of the points whose
    losses are equal to rounding."""
    low, high = np.array(low_B), np.array(high_B)
    rows = np.arange(len(low))
    for _ in range(_LEVELS):
        y_BR = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, _FINER)
        f = losses_of(rows, y_BR)
        f = np.where(np.isfinite(f), f, np.inf)
        least = f.min(axis=1, keepdims=True)
        equal = f <= least + _ULPS * np.abs(least)
        first, last = equal.argmax(axis=1), _FINER - 1 - equal[:, ::-1].argmax(axis=1)
        middle = (y_BR[rows, first] + y_BR[rows, last]) / 2
        low = y_BR[rows, np.maximum(first - 1, 0)]
        high = y_BR[rows, np.minimum(last + 1, _FINER - 1)]
    return np.asarray(middle)
