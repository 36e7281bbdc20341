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

from scaling.laws.forms.form import ZERO, Form
from scaling.laws.forms.losses import ResidualLoss, ScaledHuber

Array = NDArray[np.float64]

_MAX_STEPS = 600    # a few hundred are needed along a valley in which a term vanishes
_DECREMENT = 1e-13  # Newton decrement at convergence, relative to the objective
_DAMPINGS = np.array([0.01, 0.3, 1.0, 30.0])  # factors of the last damping, all tried per step
_BLOCK = 100_000    # problems times runs in one block, which fits a core's cache
_PLAIN_STEPS = 8    # steps after which further ones are bent
_PRECISION = 1e-16  # of a prediction
_SMALL_CONSTANT = 1e-3  # of the smallest outcome
_EQUAL = 1e-9       # relative, of two objectives: a constant of 1e-10 and one of zero
_STEPS_TO_ZERO = 24  # steps after which the minimum at a constant of zero is tried
_NO_EFFECT = 1e-28   # relative size in the metric, of a parameter that changes no prediction
_BEND = 0.1         # length of the step, relative to the whole, in the second difference along it


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
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta_BP: Array, robust: ResidualLoss,
    *, held: tuple[int, ...] = (), steps: int = _MAX_STEPS,
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
        held: indices of parameters that stay at their starts.
        steps: most steps of each problem.
    """
    y_BR = np.broadcast_to(y_BR, w_BR.shape)
    theta_BP = _from_zero(form, y_BR, theta_BP, held)
    block = max(1, _BLOCK // max(1, w_BR.shape[1]))

    def solve(first: int) -> Minimum:
        part = slice(first, first + block)
        theta, w, y = theta_BP[part], w_BR[part], y_BR[part]
        # errstate is per thread; steps that overflow are rejected.
        with np.errstate(all="ignore"):
            for smooth in robust.stages():
                minimum = _minimise(form, x_RV, y, w, theta, smooth, held, steps)
                theta = minimum.theta
            exact = (w * robust.cost(y - form.predict(theta, x_RV))).sum(axis=-1)
        return Minimum(theta, exact, minimum.gradient, minimum.hessian, minimum.converged)

    # NumPy releases the interpreter's lock, so threads run blocks in parallel.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                            else os.cpu_count()) as pool:
        parts = list(pool.map(solve, range(0, len(theta_BP), block)))
    return Minimum(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in Minimum.__dataclass_fields__))


def _from_zero(form: Form, y_BR: Array, theta_BP: Array, held: tuple[int, ...]) -> Array:
    """Starting points whose constants are not zero, where no step would move them."""
    theta = np.array(theta_BP, dtype=float)
    small = _SMALL_CONSTANT * np.abs(form.invert_link(y_BR[:1])).min()
    for index in map(form.fitted_parameters.index, form.constants):
        if index not in held and small > 0:
            theta[:, index] = np.maximum(theta[:, index], np.log(small))
    return theta


def _minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, start_BP: Array, smooth: ScaledHuber,
    held: tuple[int, ...] = (), steps: int = _MAX_STEPS,
) -> Minimum:
    """Damped Newton steps on one smooth loss until every problem has converged or stalled.

    A problem that needs many steps follows a curved valley, in most cases towards a constant of
    zero, which is at minus infinity in theta. So its steps are bent, and the minimum at zero is
    tried once (`_without_constant`).

    Args:
        held: indices of parameters that stay at their starts.
        steps: most steps of each problem.
    """
    theta = np.array(start_BP, dtype=float)
    damping = np.full(len(theta), 1e-2)
    value = _value(form, x_RV, y_BR, w_BR, theta, smooth)
    converged = np.zeros(len(theta), dtype=bool)
    active = np.arange(len(theta))
    for step_number in range(steps):
        if step_number == _STEPS_TO_ZERO:
            active = _without_constant(form, x_RV, y_BR, w_BR, smooth, theta, value, converged,
                                       active, held)
            if not len(active):
                break
        w, y, at = w_BR[active], y_BR[active], theta[active]
        f, j, g, h, m = _derivatives(form, x_RV, y, w, at, smooth)
        invalid = ~np.isfinite(g.sum(axis=-1) + (h + m).sum(axis=(-1, -2)))
        if invalid.any():  # without finite derivatives a problem stops, not converged
            active, w, y, at = (each[~invalid] for each in (active, w, y, at))
            f, j, g, h, m = (each[~invalid] for each in (f, j, g, h, m))
            if not len(active):
                break
        _hold(held, g, h, m)
        newton = _Newton.of(g, h, m)
        decrement = newton.decrement
        # Predictions are rounded, so the objective is known to a few times this precision only.
        rounding = _PRECISION * (w * np.abs(smooth.psi(y - f))).sum(axis=-1)
        done = decrement <= (_DECREMENT * value[active] + rounding
                             + smooth.rounding_cost * w.sum(axis=-1))
        left = np.arange(len(active))
        for factor in _DAMPINGS:
            step = newton.step(left, damping[active[left]] * factor)
            trial = at[left] + step
            new = _value(form, x_RV, y[left], w[left], trial, smooth)
            if step_number >= _PLAIN_STEPS:
                bend = _bend(form, x_RV, at[left], step, f[left], j[left])
                weight = w[left] * smooth.psi_prime(y[left] - f[left])
                slope = (j[left].swapaxes(-1, -2) @ (weight * bend)[..., None])[..., 0]
                bent = trial + newton.step(left, damping[active[left]] * factor, slope) / 2
                bent[:, held] = trial[:, held]
                bent_value = _value(form, x_RV, y[left], w[left], bent, smooth)
                lower = bent_value < new
                trial[lower], new[lower] = bent[lower], bent_value[lower]
            # The last step is taken even if the objective has no more digits to decrease by.
            better = new < value[active[left]] + np.where(done[left], 10 * rounding[left], 0)
            improved = active[left[better]]
            theta[improved], value[improved] = trial[better], new[better]
            damping[improved] *= factor
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
    _, _, g, h, _ = _derivatives(form, x_RV, y_BR, w_BR, theta, smooth)
    return Minimum(theta, value, g, h, converged)


def _without_constant(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, smooth: ScaledHuber, theta: Array,
    value: Array, converged: NDArray[np.bool_], active: NDArray[np.intp], held: tuple[int, ...],
) -> NDArray[np.intp]:
    """Finish the problems whose way leads to a constant of zero, in place.

    It does if the lowest objective for half of the present constant is below that for the constant
    itself, that for zero is not above it, and the objective increases with the constant at zero.
    A minimum at zero alone does not suffice: there may be a lower one at a larger constant.

    Returns:
        The problems that remain.
    """
    for index in map(form.fitted_parameters.index, form.constants):
        if index in held:
            continue

        def fit(
            log: Array | float, index: int = index, rows: NDArray[np.intp] = active
        ) -> Minimum:
            """Fits with the constant held at these logarithms."""
            start = theta[rows]
            start[:, index] = log
            return _minimise(form, x_RV, y_BR[rows], w_BR[rows], start, smooth, (*held, index))

        now = theta[active, index]
        here, half, at_zero = fit(now), fit(now - np.log(2)), fit(ZERO)
        lowest = np.minimum(value[active], here.value)
        done = (at_zero.converged & (at_zero.gradient[:, index] > 0)
                & (half.value <= here.value * (1 + _EQUAL))
                & (at_zero.value <= lowest * (1 + _EQUAL)))
        finished = active[done]
        theta[finished], value[finished] = at_zero.theta[done], at_zero.value[done]
        converged[finished] = True
        active = active[~done]
    return active


def _hold(held: tuple[int, ...], g: Array, h: Array, m: Array) -> None:
    """Change derivatives, in place, so that no step moves these parameters."""
    for index in held:
        g[:, index] = 0
        for matrix in (h, m):
            matrix[:, index, :] = matrix[:, :, index] = 0
            matrix[:, index, index] = 1


def _bend(form: Form, x_RV: Array, at: Array, step: Array, f: Array, j: Array) -> Array:
    """Second derivative of the predictions along a step, [B, R], by a second difference. A step is
    bent against it, which keeps it in a curved valley (geodesic acceleration, Transtrum and Sethna
    2012, arXiv:1201.5885, section 2)."""
    further = form.predict(at + _BEND * step, x_RV)
    return np.asarray(2 / _BEND * ((further - f) / _BEND - (j @ step[..., None])[..., 0]))


def _value(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: ScaledHuber
) -> Array:
    r_BR = y_BR - form.predict(theta, x_RV)
    value = (w_BR * smooth.cost(r_BR)).sum(axis=-1)
    return np.where(np.isfinite(value), value, np.inf)


def _derivatives(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, theta: Array, smooth: ScaledHuber
) -> tuple[Array, Array, Array, Array, Array]:
    """Derivatives of the predictions and of the objective.

    Returns:
        The predictions, [B, R], and their gradient, [B, R, P]; the gradient of the objective,
        [B, P], its Hessian, [B, P, P], and the Hessian of the reweighted least squares problem
        that majorises it, [B, P, P], which is positive definite and the metric of damping.
    """
    f_BR, j_BRP = form.gradient(theta, x_RV)
    r_BR = y_BR - f_BR
    j_BPR = j_BRP.swapaxes(-1, -2)
    psi = w_BR * smooth.psi(r_BR)
    psi_prime, weight = w_BR * smooth.psi_prime(r_BR), w_BR * smooth.irls_weight(r_BR)
    g = -(j_BPR @ psi[..., None])[..., 0]
    h = (psi_prime[:, None] * j_BPR) @ j_BRP - form.hessian(theta, x_RV, psi, j_BRP)
    m = (weight[:, None] * j_BPR) @ j_BRP
    return f_BR, j_BRP, g, h, m


@dataclass(frozen=True)
class _Newton:
    """Newton steps at a batch of points, for any damping.

    In coordinates in which the metric m is the identity, the eigenvalues of the Hessian are made
    positive and increased by the damping: a Newton step for small damping, a short step of
    reweighted least squares for large damping. The steps do not depend on units or basis of theta.

    Attributes:
        g: gradient, [B, P].
        vectors: eigenvectors of the Hessian, orthonormal in m, as columns, [B, P, P].
        curvature: absolute eigenvalues, [B, P].
    """

    g: Array
    vectors: Array
    curvature: Array

    @staticmethod
    def of(g: Array, h: Array, m: Array) -> _Newton:
        """The steps for gradients g, Hessians h and metrics m."""
        diagonal = np.diagonal(m, axis1=-2, axis2=-1)
        # Parameters without an effect on any prediction stay: rounding errors in their rows of the
        # Hessian would hide the curvature along the others.
        absent = diagonal <= _NO_EFFECT * diagonal.max(axis=-1, keepdims=True)
        if absent.any():
            either = absent[:, :, None] | absent[:, None, :]
            unit = np.eye(m.shape[-1])
            g = np.where(absent, 0.0, g)
            h, m = np.where(either, unit, h), np.where(either, unit, m)
            diagonal = np.diagonal(m, axis1=-2, axis2=-1)
        size = np.sqrt(np.maximum(diagonal, 1e-300))
        unit = m / (size[:, :, None] * size[:, None, :])
        s, q = np.linalg.eigh(unit)
        # Columns of `basis` are orthonormal in m; directions in which m is nearly zero stay short.
        basis = q / np.sqrt(np.maximum(s, 1e-14))[:, None, :] / size[:, :, None]
        eigenvalues, eigenvectors = np.linalg.eigh(basis.swapaxes(-1, -2) @ h @ basis)
        return _Newton(g, basis @ eigenvectors, np.maximum(np.abs(eigenvalues), 1e-12))

    @property
    def decrement(self) -> Array:
        """The decrease of the objective that an undamped step promises, [B]."""
        slope = (self.vectors.swapaxes(-1, -2) @ self.g[..., None])[..., 0]
        return np.asarray(0.5 * (slope**2 / self.curvature).sum(axis=-1))

    def step(self, rows: NDArray[np.intp], damping: Array, g: Array | None = None) -> Array:
        """Steps of some of the problems, against their gradients or others, [rows, P]."""
        vectors = self.vectors[rows]
        g = self.g[rows] if g is None else g
        slope = (vectors.swapaxes(-1, -2) @ g[..., None])[..., 0]
        scaled = slope / (self.curvature[rows] + damping[:, None])
        return np.asarray(-(vectors @ scaled[..., None])[..., 0])
