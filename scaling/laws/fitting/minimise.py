"""Batched Newton's method for robust fits.

The same runs are fitted many times: from many starting points, and for a thousand resamples that
differ only in the weights of the runs. All fits advance together as one batch of small matrices.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss, ScaledHuber

Array = NDArray[np.float64]

_MAX_STEPS = 600    # a few hundred are needed along a valley in which a term vanishes
_DECREMENT = 1e-13  # Newton decrement at convergence, relative to the objective
_DAMPINGS = np.array([0.01, 0.3, 1.0, 30.0])  # factors of the last damping, all tried per step
_BLOCK = 100_000    # problems times runs in one block, which fits a core's cache


@dataclass(frozen=True)
class Minimum:
    """The end points of a batch of minimisations.

    Attributes:
        theta: parameters, [B, P].
        value: objective, [B].
        gradient: gradient of the objective, [B, P].
        hessian: Hessian of the objective, [B, P, P].
        converged: whether the Newton decrement is below its tolerance, [B].
    """

    theta: Array
    value: Array
    gradient: Array
    hessian: Array
    converged: NDArray[np.bool_]


def minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta_BP: Array, robust: ResidualLoss
) -> Minimum:
    """Minimise sum_r w[b, r] rho(y[b, r] - f(theta[b], x[r])) for every b.

    Args:
        form: f and its derivatives.
        x_RV: variables in the form's coordinates, centred by the caller if at all.
        y_BR: measured outcomes on the scale of the form's predictions, [B, R], or [R] if they are
            the same for every problem.
        w_BR: weight of each run in each problem; in a resample, the number of times it was drawn.
        theta_BP: starting points.
        robust: rho.
    """
    y_BR = np.broadcast_to(y_BR, w_BR.shape)
    block = max(1, _BLOCK // max(1, w_BR.shape[1]))

    def solve(first: int) -> Minimum:
        part = slice(first, first + block)
        theta, w, y = theta_BP[part], w_BR[part], y_BR[part]
        # errstate is per thread; steps that overflow are rejected.
        with np.errstate(all="ignore"):
            for smooth in robust.stages():
                minimum = _minimise(form, x_RV, y, w, theta, smooth)
                theta = minimum.theta
            exact = (w * robust.cost(y - form.predict(theta, x_RV))).sum(axis=-1)
        return Minimum(theta, exact, minimum.gradient, minimum.hessian, minimum.converged)

    # NumPy releases the interpreter's lock, so threads run blocks in parallel.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                            else os.cpu_count()) as pool:
        parts = list(pool.map(solve, range(0, len(theta_BP), block)))
    return Minimum(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in Minimum.__dataclass_fields__))


def _minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, start_BP: Array, smooth: ScaledHuber
) -> Minimum:
    """Damped Newton steps on one smooth loss until every problem has converged or stalled."""
    theta = np.array(start_BP, dtype=float)
    damping = np.full(len(theta), 1e-2)
    value = _value(form, x_RV, y_BR, w_BR, theta, smooth)
    converged = np.zeros(len(theta), dtype=bool)
    active = np.arange(len(theta))
    for _ in range(_MAX_STEPS):
        w, y = w_BR[active], y_BR[active]
        g, h, m = _derivatives(form, x_RV, y, w, theta[active], smooth)
        invalid = ~np.isfinite(g.sum(axis=-1) + (h + m).sum(axis=(-1, -2)))
        if invalid.any():  # without finite derivatives a problem stops, not converged
            active, w, y = active[~invalid], w[~invalid], y[~invalid]
            g, h, m = g[~invalid], h[~invalid], m[~invalid]
            if not len(active):
                break
        steps, decrement = _newton_steps(g, h, m, damping[active, None] * _DAMPINGS)
        done = decrement <= _DECREMENT * value[active] + smooth.rounding_cost * w.sum(axis=-1)
        left = np.arange(len(active))
        for factor, step in zip(_DAMPINGS, steps, strict=True):
            trial = theta[active[left]] + step[left]
            new = _value(form, x_RV, y[left], w[left], trial, smooth)
            better = new < value[active[left]]
            improved = left[better]
            theta[active[improved]], value[active[improved]] = trial[better], new[better]
            damping[active[improved]] *= factor
            left = left[~better]
            if not len(left):
                break
        damping[active[left]] *= 10 * _DAMPINGS[-1]
        damping = np.maximum(damping, 1e-12)
        converged[active] = done
        stalled = damping[active] > 1e15
        active = active[~(done | stalled)]
        if not len(active):
            break
    g, h, _ = _derivatives(form, x_RV, y_BR, w_BR, theta, smooth)
    return Minimum(theta, value, g, h, converged)


def _value(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: ScaledHuber
) -> Array:
    r_BR = y_BR - form.predict(theta, x_RV)
    value = (w_BR * smooth.cost(r_BR)).sum(axis=-1)
    return np.where(np.isfinite(value), value, np.inf)


def _derivatives(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: ScaledHuber
) -> tuple[Array, Array, Array]:
    """Gradient, [B, P], Hessian, [B, P, P], and the Hessian of the reweighted least squares problem
    that majorises the objective, [B, P, P], which is positive definite and the metric of damping.
    """
    f_BR, j_BRP = form.gradient(theta, x_RV)
    r_BR = y_BR - f_BR
    j_BPR = j_BRP.swapaxes(-1, -2)
    psi = w_BR * smooth.psi(r_BR)
    psi_prime, weight = w_BR * smooth.psi_prime(r_BR), w_BR * smooth.irls_weight(r_BR)
    g = -(j_BPR @ psi[..., None])[..., 0]
    h = (psi_prime[:, None] * j_BPR) @ j_BRP - form.hessian(theta, x_RV, psi, j_BRP)
    m = (weight[:, None] * j_BPR) @ j_BRP
    return g, h, m


def _newton_steps(g: Array, h: Array, m: Array, damping_BT: Array) -> tuple[Array, Array]:
    """Descent steps, [T, B, P], one for each damping, and the Newton decrement, [B].

    In coordinates in which the metric m is the identity, the eigenvalues of the Hessian are made
    positive and increased by the damping: a Newton step for small damping, a short step of
    reweighted least squares for large damping. The steps do not depend on units or basis of theta.
    """
    size = np.sqrt(np.maximum(np.diagonal(m, axis1=-2, axis2=-1), 1e-300))
    unit = m / (size[:, :, None] * size[:, None, :])
    s, q = np.linalg.eigh(unit)
    # Columns of `basis` are orthonormal in m; directions in which m is nearly zero stay short.
    basis = q / np.sqrt(np.maximum(s, 1e-14))[:, None, :] / size[:, :, None]
    basis_t = basis.swapaxes(-1, -2)
    eigenvalues, eigenvectors = np.linalg.eigh(basis_t @ h @ basis)
    slope = (eigenvectors.swapaxes(-1, -2) @ (basis_t @ g[..., None]))[..., 0]
    curvature = np.maximum(np.abs(eigenvalues), 1e-12)
    step_BPT = -slope[..., None] / (curvature[..., None] + damping_BT[:, None, :])
    decrement = 0.5 * (slope**2 / curvature).sum(axis=-1)
    return np.moveaxis(basis @ (eigenvectors @ step_BPT), -1, 0), decrement
