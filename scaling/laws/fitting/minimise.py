"""Newton's method for many robust fits at once.

The same few runs are fitted again and again: from many starts, and on a thousand resamples, which
differ in the weights of the runs alone. All of them step together as one batch of small matrices.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.robust import Robust, Smooth
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]

_STEPS = 600  # a valley in which a term vanishes takes a few hundred
_DECREMENT = 1e-13  # of the objective: what the last step may still promise to gain
_DAMPINGS = np.array([0.01, 0.3, 1.0, 30.0])  # tried beside each other, times the last one's best
_BLOCK = 100_000    # problems times runs at once: what a core has at hand


@dataclass(frozen=True)
class Minimum:
    """Where each problem of a batch ended.

    theta [B, P], the objective [B], its gradient [B, P] and Hessian [B, P, P] there, and whether
    the Newton decrement says that nothing is left to gain.
    """

    theta: Array
    value: Array
    gradient: Array
    hessian: Array
    converged: NDArray[np.bool_]


def minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta_BP: Array, robust: Robust
) -> Minimum:
    """Minimise sum_r w[b, r] rho(y[b, r] - f(theta[b], x[r])) for every b.

    Args:
        form: gives f and its derivatives.
        x_RV: the form's variables in its coordinates, centred by the caller if at all.
        y_BR: measured outcomes, as the form predicts them; [R] where every problem has the same.
        w_BR: weight of each run in each problem; for a resample, how often it was drawn.
        theta_BP: where each problem starts.
        robust: rho.
    """
    y_BR = np.broadcast_to(y_BR, w_BR.shape)
    block = max(1, _BLOCK // max(1, w_BR.shape[1]))

    def solve(first: int) -> Minimum:
        part = slice(first, first + block)
        theta, w, y = theta_BP[part], w_BR[part], y_BR[part]
        for smooth in robust.stages():
            end = _minimise(form, x_RV, y, w, theta, smooth)
            theta = end.theta
        exact = (w * robust.cost(y - form.predict(theta, x_RV))).sum(axis=-1)
        return Minimum(theta, exact, end.gradient, end.hessian, end.converged)

    # NumPy computes outside the interpreter's lock, so threads share the blocks out.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                            else os.cpu_count()) as pool:
        parts = list(pool.map(solve, range(0, len(theta_BP), block)))
    return Minimum(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in Minimum.__dataclass_fields__))


def _minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, start_BP: Array, smooth: Smooth
) -> Minimum:
    """One stage: damped Newton steps until every problem has converged or stalled."""
    theta = np.array(start_BP, dtype=float)
    damping = np.full(len(theta), 1e-2)
    value = _value(form, x_RV, y_BR, w_BR, theta, smooth)
    converged = np.zeros(len(theta), dtype=bool)
    active = np.arange(len(theta))
    for _ in range(_STEPS):
        w, y = w_BR[active], y_BR[active]
        g, h, m = _expand(form, x_RV, y, w, theta[active], smooth)
        lost = ~np.isfinite(g.sum(axis=-1) + (h + m).sum(axis=(-1, -2)))
        if lost.any():  # no derivatives, no way on: such a problem has not converged
            active, w, y = active[~lost], w[~lost], y[~lost]
            g, h, m = g[~lost], h[~lost], m[~lost]
            if not len(active):
                break
        steps, decrement = _steps(g, h, m, damping[active, None] * _DAMPINGS)
        enough = decrement <= _DECREMENT * value[active] + smooth.floor * w.sum(axis=-1)
        left = np.arange(len(active))
        for factor, step in zip(_DAMPINGS, steps, strict=True):
            trial = theta[active[left]] + step[left]
            new = _value(form, x_RV, y[left], w[left], trial, smooth)
            better = new < value[active[left]]
            gained = left[better]
            theta[active[gained]], value[active[gained]] = trial[better], new[better]
            damping[active[gained]] *= factor
            left = left[~better]
            if not len(left):
                break
        damping[active[left]] *= 10 * _DAMPINGS[-1]
        damping = np.maximum(damping, 1e-12)
        converged[active] = enough
        stalled = damping[active] > 1e15
        active = active[~(enough | stalled)]
        if not len(active):
            break
    g, h, _ = _expand(form, x_RV, y_BR, w_BR, theta, smooth)
    return Minimum(theta, value, g, h, converged)


def _value(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: Smooth
) -> Array:
    with np.errstate(all="ignore"):  # a step too far is turned down, not feared
        r_BR = y_BR - form.predict(theta, x_RV)
        value = (w_BR * smooth.cost(r_BR)).sum(axis=-1)
    return np.where(np.isfinite(value), value, np.inf)


def _expand(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: Smooth
) -> tuple[Array, Array, Array]:
    """Gradient [B, P], Hessian [B, P, P], and the Hessian of the reweighted least squares that
    lies above the objective: positive definite, and the measure in which steps are damped."""
    f_BR, j_BRP = form.gradient(theta, x_RV)
    r_BR = y_BR - f_BR
    j_BPR = j_BRP.swapaxes(-1, -2)
    slope = w_BR * smooth.slope(r_BR)
    bend, pull = w_BR * smooth.bend(r_BR), w_BR * smooth.pull(r_BR)
    g = -(j_BPR @ slope[..., None])[..., 0]
    h = (bend[:, None] * j_BPR) @ j_BRP - form.curvature(theta, x_RV, slope, j_BRP)
    m = (pull[:, None] * j_BPR) @ j_BRP
    return g, h, m


def _steps(g: Array, h: Array, m: Array, damping_BT: Array) -> tuple[Array, Array]:
    """Steps downhill, [T, B, P], one for each damping, and the Newton decrement.

    In coordinates in which m is the unit matrix, every eigenvalue of the Hessian is made positive
    and raised by the damping: a Newton step far inside, a small step of reweighted least squares
    far outside. No change of units or of basis alters the step.
    """
    size = np.sqrt(np.maximum(np.diagonal(m, axis1=-2, axis2=-1), 1e-300))
    unit = m / (size[:, :, None] * size[:, None, :])
    s, q = np.linalg.eigh(unit)
    # Columns of `to` span theta in units of m; directions that m hardly sees stay short.
    to = q / np.sqrt(np.maximum(s, 1e-14))[:, None, :] / size[:, :, None]
    back = to.swapaxes(-1, -2)
    bend, turn = np.linalg.eigh(back @ h @ to)
    slope = (turn.swapaxes(-1, -2) @ (back @ g[..., None]))[..., 0]
    steep = np.maximum(np.abs(bend), 1e-12)
    move_BPT = -slope[..., None] / (steep[..., None] + damping_BT[:, None, :])
    decrement = 0.5 * (slope**2 / steep).sum(axis=-1)
    return np.moveaxis(to @ (turn @ move_BPT), -1, 0), decrement
