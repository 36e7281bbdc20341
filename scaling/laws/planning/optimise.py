"""The best N and D under any law, for all resamples at once.

A law of N and D is all that is needed: a scan over sizes finds the valley of every resample, and
Newton's method in log N its floor. Derivatives are central differences of fourth order, which at
steps of 1e-4 in log N give N* to about nine digits. Where a form has a closed form, that is taken.

Letters: B parameter vectors (resamples), R points, P parameters. x is log N, t the logarithm of
all FLOPs that are spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.planning.budgets import Budget

Array = NDArray[np.float64]

_BLOCK = 16         # resamples whose points are evaluated together; all but a block's diagonal
                    # is wasted, and less would be spent on calls
_SCAN = 240         # sizes between one parameter and one token
_EDGE = np.geomspace(1e-6, 2.0, 60)  # and closer ones where inference leaves nothing to train on
_STEP = 1e-4        # of the differences, in log N or log FLOPs: short, since the law of repeated
                    # data bends anew where repetition begins, and that is where its optimum lies
_STENCIL = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
_FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
_SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12
_CAP = 1.0          # the largest step of Newton's method in log N,
_LONGEST = 10.0     # and in log FLOPs
_ENOUGH = 1e-7      # of a step: the next would be its square
_ITERATIONS = 80
_MOST = np.log(1e60)  # FLOPs; a loss that takes more is out of reach
_START = np.log(1e21)
_APART = 0.05       # of the budgets between which a local exponent is measured, in log C


@dataclass(frozen=True)
class Solution:
    """What each of B parameter vectors makes of a budget; NaN where it has no answer.

    Sizes `n`, training tokens `d`, loss and all FLOPs `total`, [B] each. `a` is
    d log N* / d log C along the frontier. Where N or D was fixed, `a` is None, `excess` is the
    loss above the best at the same FLOPs, and `waste` the share of the FLOPs that the best
    division would have saved at the same loss.
    """

    n: Array
    d: Array
    loss: Array
    total: Array
    a: Array | None = None
    excess: Array | None = None
    waste: Array | None = None


def solve(form: Form, params_BP: Array, budget: Budget, start: float | None = None) -> Solution:
    """The best division of a budget, or the cheapest way to a loss.

    Args:
        form: any for which `divides` is true.
        params_BP: printed parameters, a law's point or its resamples.
        budget: what is asked; `Budget.check` has passed.
        start: FLOPs near those that the loss takes, if known.
    """
    t = start if start is None else float(np.log(start))
    with np.errstate(all="ignore"):  # a law with an exponent below zero has no optimum: NaN
        if budget.n is None and budget.d is None:
            return _free(form, params_BP, budget, t)
        return _fixed(form, params_BP, budget, t)


def losses(form: Form, params_BP: Array, values_BR: Mapping[str, Array]) -> Array:
    """Every law at points of its own: [B, R] from variables [B, R]."""
    parts = []
    points = next(iter(values_BR.values())).shape[1]
    for first in range(0, len(params_BP), _BLOCK):
        rows = slice(first, first + _BLOCK)
        params = params_BP[rows]
        flat = {name: np.ravel(values[rows]) for name, values in values_BR.items()}
        square = form.loss(params, flat).reshape(len(params), len(params), points)
        parts.append(np.einsum("bbr->br", square))
    return np.concatenate(parts)


def _free(form: Form, params: Array, budget: Budget, start: float | None) -> Solution:
    if budget.c is not None:
        t = np.full(len(params), np.log(budget.c))
        x = _best(form, params, budget, float(t[0]))
    else:
        assert budget.loss is not None
        x, t = _reach(form, params, budget, np.full(len(params), budget.loss), start)
    closed = form.allocation_exponent(params) if budget.six_nd else None
    if closed is not None and budget.unique_tokens is None:
        a = closed
    else:
        ahead, behind = (_polish(form, params, budget, t + s, x) for s in (_APART, -_APART))
        a = (ahead - behind) / (2 * _APART)
    n = np.exp(x)
    total = np.exp(t) if budget.c is None else np.full_like(t, budget.c)
    d = budget.tokens(n, total)
    loss = _loss(form, params, budget, x, np.log(d)) if budget.loss is None else np.where(
        np.isnan(x), np.nan, budget.loss)
    return Solution(n, d, loss, total, a)


def _fixed(form: Form, params: Array, budget: Budget, start: float | None) -> Solution:
    size = len(params)
    if budget.c is not None:
        t = np.full(size, np.log(budget.c))
        if budget.n is not None:
            n = np.full(size, budget.n)
            d = budget.tokens(n, np.exp(t))
        else:
            d = np.full(size, budget.d)
            n = np.exp(_bound(budget, t, d))
        d = np.where(d > 0, d, np.nan)
        loss = _loss(form, params, budget, np.log(n), np.log(d))
    else:
        loss = np.full(size, budget.loss)
        known = np.log(budget.n if budget.n is not None else budget.d or np.nan)

        def at(rows: NDArray[np.intp], y_BR: Array) -> Array:
            same = np.full_like(y_BR, known)
            x, z = (same, y_BR) if budget.n is not None else (y_BR, same)
            return _pairs(form, params[rows], budget, x, z)

        free = np.exp(_descend(at, loss, np.full(size, _START / 2)))
        n = free if budget.n is None else np.full(size, budget.n)
        d = free if budget.d is None else np.full(size, budget.d)
        t = np.log(budget.total(n, d))
    cheapest, needed = _reach(form, params, budget, loss, float(np.nanmedian(t)) if start is None
                              else start)
    x = _polish(form, params, budget, t, cheapest + (t - needed) / 2)
    best = _loss(form, params, budget, x, np.log(budget.tokens(np.exp(x), np.exp(t))))
    total = np.exp(t) if budget.c is None else np.full_like(t, budget.c)
    return Solution(n, d, loss, total, excess=loss - best, waste=-np.expm1(needed - t))


def _best(form: Form, params: Array, budget: Budget, t: float) -> Array:
    """log N* at one budget for all, by the closed form or by a scan and Newton's method."""
    if budget.six_nd and budget.unique_tokens is None:
        closed = form.optimum(params, np.exp(t))
        if closed is not None:
            return np.asarray(np.log(closed))
    last = float(_bound(budget, np.array([t]), np.ones(1))[0])
    if not last > 0:
        return np.full(len(params), np.nan)
    x_R = np.sort(np.concatenate([np.linspace(0, last, _SCAN), last - _EDGE[last > _EDGE]]))
    n_R = np.exp(x_R)
    d_R = np.maximum(budget.tokens(n_R, np.exp(t)), 1.0)
    loss_BR = form.loss(params, budget.values(n_R, d_R))
    loss_BR = np.where(np.isfinite(loss_BR), loss_BR, np.inf)
    # The deepest valley: far outside its runs a law may fall without end towards an edge.
    middle = loss_BR[:, 1:-1]
    valley = (middle < loss_BR[:, :-2]) & (middle <= loss_BR[:, 2:])
    place = np.argmin(np.where(valley, middle, np.inf), axis=1)
    start = np.where(valley.any(axis=1), x_R[place + 1], np.nan)
    return _polish(form, params, budget, np.full(len(params), t), start)


def _polish(form: Form, params: Array, budget: Budget, t_B: Array, x_B: Array) -> Array:
    """log N at the floor of the valley that x lies in; NaN where there is none."""
    x = np.array(x_B, dtype=float)
    last = _bound(budget, t_B, np.ones(len(x)))
    done = np.isnan(x)
    for _ in range(_ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        x[rows] = np.minimum(x[rows], last[rows] - _EDGE[0])
        h = np.minimum(_STEP, (last[rows] - x[rows]) / 4)
        x_BR = x[rows, None] + h[:, None] * _STENCIL
        d_BR = budget.tokens(np.exp(x_BR), np.exp(t_B[rows, None]))
        f = _pairs(form, params[rows], budget, x_BR, np.log(d_BR))
        slope, bend = f @ _FIRST / h, f @ _SECOND / h**2
        move = np.where(bend > 0, -slope / bend, -_CAP * np.sign(slope))
        room = (last[rows] - x[rows]) / 2
        move = np.clip(move, -_CAP, np.minimum(_CAP, room))
        x[rows] += move
        done[rows] = (np.abs(move) < _ENOUGH) | ~np.isfinite(move)
        x[rows[(x[rows] < 0) | ~np.isfinite(move)]] = np.nan
    return np.where(done, x, np.nan)


def _reach(
    form: Form, params: Array, budget: Budget, target_B: Array, start: float | None
) -> tuple[Array, Array]:
    """log N and log FLOPs of the cheapest way to a loss.

    The cheapest way to a loss is the best use of what it costs, so one follows the frontier to
    the budget whose best loss is the target. Its slope is that of the loss at fixed N, since
    moving along the valley's floor changes nothing.
    """
    begin = _START if start is None else start
    x_B = _best(form, params, budget, begin)
    t_B = np.full(len(params), begin)

    def at(rows: NDArray[np.intp], t_BR: Array) -> Array:
        t = t_BR.mean(axis=1)
        shift = x_B[rows] + (t - t_B[rows]) / 2
        x_B[rows] = _polish(form, params[rows], budget, t, shift)
        t_B[rows] = t
        x_BR = np.repeat(x_B[rows, None], t_BR.shape[1], axis=1)
        d_BR = budget.tokens(np.exp(x_BR), np.exp(t_BR))
        return _pairs(form, params[rows], budget, x_BR, np.log(d_BR))

    t = _descend(at, target_B, t_B.copy())
    x = _polish(form, params, budget, t, x_B + (t - t_B) / 2)
    return x, np.where(np.isnan(x), np.nan, t)


def _descend(
    at: Callable[[NDArray[np.intp], Array], Array], target_B: Array, y_B: Array
) -> Array:
    """y at which a falling, convex function meets its target, by Newton's method.

    `at` takes places among B and points [b, R] about one y for each, and gives losses [b, R]. From
    the high side every step ends on the high side, so no bracket is needed.
    """
    y = np.array(y_B, dtype=float)
    done = np.zeros(len(y), dtype=bool)
    for _ in range(_ITERATIONS):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        f = at(rows, y[rows, None] + _STEP * _STENCIL)
        slope = f @ _FIRST / _STEP
        move = (target_B[rows] - f[:, 2]) / slope
        # Where the loss does not fall any more the target is out of reach, or far to the left.
        flat = ~(slope < 0)
        move = np.where(flat, np.where(f[:, 2] > target_B[rows], np.inf, -_LONGEST), move)
        move = np.clip(move, -_LONGEST, _LONGEST)
        y[rows] += move
        lost = ~np.isfinite(f).all(axis=1) | (y[rows] > _MOST)
        y[rows[lost]] = np.nan
        done[rows] = (np.abs(move) < _ENOUGH) | lost
    return np.where(done, y, np.nan)


def _bound(budget: Budget, t_B: Array, d_B: Array) -> Array:
    """log N at which all FLOPs are spent on `d` tokens and the inference: by bisection, since
    FLOPs per token may be any growing function of N."""
    if budget.flops_per_token is None:
        return np.asarray(t_B - np.log(budget.total(np.ones_like(d_B), d_B)))
    low, high = np.full_like(t_B, -1.0), np.maximum(t_B, 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        affordable = np.log(budget.total(np.exp(middle), d_B)) <= t_B
        low, high = np.where(affordable, middle, low), np.where(affordable, high, middle)
    return low


def _loss(form: Form, params: Array, budget: Budget, x_B: Array, z_B: Array) -> Array:
    return _pairs(form, params, budget, x_B[:, None], z_B[:, None])[:, 0]


def _pairs(form: Form, params: Array, budget: Budget, x_BR: Array, z_BR: Array) -> Array:
    """Losses at log N and log D."""
    return losses(form, params, budget.values(np.exp(x_BR), np.exp(z_BR)))
