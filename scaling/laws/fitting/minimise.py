"""Batched Newton's method for robust fits.

The same runs are fitted many times: from many starting points, and for a thousand resamples that
differ only in the weights of the runs. All fits advance together as one batch of small matrices.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import ZERO, Form
from scaling.laws.forms.losses import ResidualLoss, ScaledHuber

Array = NDArray[np.float64]

_MAX_STEPS = 600    # a few hundred are needed along a valley in which a term vanishes
_DECREMENT = 1e-13  # Newton decrement at convergence, relative to the objective
_DAMPINGS = np.array([0.01, 0.3, 1.0, 30.0])  # factors of the last damping, all tried per step
_BLOCK = 100_000    # problems times runs in one block, which fits a core's cache
_PLAIN_STEPS = 8    # first steps, which are in theta and straight
_PRECISION = 1e-16  # of a prediction
_SMALL_CONSTANT = 1e-9  # of a small outcome, below which a second derivative has no digits
_NO_CONSTANT = 1e-12  # of a small outcome, below which a constant is zero
_SMALLEST = 1e-9    # of the largest outcome: what counts as a small one where some are near zero
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

    if len(theta_BP) <= block:
        return solve(0)
    # NumPy releases the interpreter's lock, so threads run blocks in parallel.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                            else os.cpu_count()) as pool:
        parts = list(pool.map(solve, range(0, len(theta_BP), block)))
    return Minimum(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in Minimum.__dataclass_fields__))


def _minimise(
    form: Form, x_RV: Array, y_BR: Array, w_BR: Array, start_BP: Array, smooth: ScaledHuber,
    held: tuple[int, ...] = (), steps: int = _MAX_STEPS,
) -> Minimum:
    """Damped Newton steps on one smooth loss until every problem has converged or stalled.

    A problem that needs many steps follows a curved valley, in many cases towards a constant of
    zero. So its steps are bent, and they change the constants themselves, of which theta has the
    logarithms: zero is then no further away than any other value. A step ends where a constant
    becomes zero, and the constant stays there unless a further step increases it. First steps of
    this kind would too often end in a minimum at zero beside a lower one.

    Args:
        held: indices of parameters that stay at their starts.
        steps: most steps of each problem.
    """
    theta = np.array(start_BP, dtype=float)
    ends = np.abs(form.invert_link(np.array([y_BR.min(), y_BR.max()])))
    constants = _Constants(
        tuple(index for index in map(form.fitted_parameters.index, form.constants)
              if index not in held), float(max(ends.min(), _SMALLEST * ends.max())))
    damping = np.full(len(theta), 1e-2)
    value = _value(form, x_RV, y_BR, w_BR, theta, smooth)
    converged = np.zeros(len(theta), dtype=bool)
    active = np.arange(len(theta))
    for step_number in range(steps):
        is_plain = step_number < _PLAIN_STEPS
        if step_number == _PLAIN_STEPS:  # derivatives by constants that underflow are not finite
            at_least = np.full(theta.shape[1], -np.inf)
            at_least[list(constants.indices)] = ZERO
            theta = np.maximum(theta, at_least)
        moving = replace(constants, indices=()) if is_plain else constants
        w, y = _rows(active, len(theta), w_BR, y_BR)
        at = theta[active]
        f, j, g, h, m = _derivatives(form, x_RV, y, w, at, smooth)
        invalid = ~np.isfinite(g.sum(axis=-1) + (h + m).sum(axis=(-1, -2)))
        if invalid.any():  # without finite derivatives a problem stops, not converged
            active, w, y, at = (each[~invalid] for each in (active, w, y, at))
            f, j, g, h, m = (each[~invalid] for each in (f, j, g, h, m))
            if not len(active):
                break
        moving.linearise(at, g, h, m)
        newton, fixed = _newton(moving.at_zero(at), held, g, h, m)
        decrement = newton.decrement
        # Predictions are rounded, so the objective is known to a few times this precision only.
        rounding = _PRECISION * (w * np.abs(smooth.psi(y - f))).sum(axis=-1)
        is_end = decrement <= (_DECREMENT * value[active] + rounding
                               + smooth.rounding_cost * w.sum(axis=-1))
        # Plain steps do not tell whether a constant of zero stays.
        done = is_end & ~constants.at_zero(at).any(axis=-1) if is_plain else is_end
        left = np.arange(len(active))
        for factor in _DAMPINGS:
            f_left, j_left, y_left, w_left, at_left = _rows(left, len(active), f, j, y, w, at)
            strength = damping[active[left]] * factor
            step = moving.shortened(at_left, newton.step(left, strength))
            trial = moving.moved(at_left, step)
            new = _value(form, x_RV, y_left, w_left, trial, smooth)
            if not is_plain:
                bend = _bend(form, x_RV, at_left, step, f_left, j_left, moving)
                weight = w_left * smooth.psi_prime(y_left - f_left)
                slope = (moving.gradient(at_left, j_left).swapaxes(-1, -2)
                         @ (weight * bend)[..., None])[..., 0]
                slope[fixed[left]] = 0
                bent = step + newton.step(left, strength, slope) / 2
                bent = moving.moved(at_left, moving.shortened(at_left, bent))
                bent_value = _value(form, x_RV, y_left, w_left, bent, smooth)
                lower = bent_value < new
                trial[lower], new[lower] = bent[lower], bent_value[lower]
            # The last step is taken even if the objective has no more digits to decrease by.
            better = new < value[active[left]] + np.where(is_end[left], 10 * rounding[left], 0)
            improved = active[left[better]]
            theta[improved], value[improved] = trial[better], new[better]
            damping[improved] *= factor
            left = left[~better]
            if not len(left):
                break
        damping[active[left[~is_end[left]]]] *= 10 * _DAMPINGS[-1]
        damping = np.maximum(damping, 1e-12)
        converged[active] = done
        stalled = damping[active] > 1e15
        active = active[~(done | stalled)]
        if not len(active):
            break
    _, _, g, h, _ = _derivatives(form, x_RV, y_BR, w_BR, theta, smooth)
    return Minimum(theta, value, g, h, converged)


def _rows(rows: NDArray[np.intp], count: int, *arrays: Array) -> tuple[Array, ...]:
    """Increasing rows of arrays, which are not copied if these are all of their `count` rows."""
    return arrays if len(rows) == count else tuple(each[rows] for each in arrays)


@dataclass(frozen=True)
class _Constants:
    """Steps of constants instead of their logarithms, which theta has.

    Attributes:
        indices: of the constants in theta.
        outcome: the size of a small outcome, which constants are compared with.
    """

    indices: tuple[int, ...]
    outcome: float

    def linearise(self, at: Array, g: Array, h: Array, m: Array) -> None:
        """Make derivatives with respect to the logarithms those with respect to the constants, in
        place."""
        for index in self.indices:
            size = np.exp(at[:, index])
            h[:, index, index] -= g[:, index]
            # The difference has no digits where the constant is small; the metric has.
            small = size < _SMALL_CONSTANT * self.outcome
            h[small, index, index] = m[small, index, index]
            g[:, index] /= size
            for matrix in (h, m):
                matrix[:, index, :] /= size[:, None]
                matrix[:, :, index] /= size[:, None]

    def gradient(self, at: Array, j_BRP: Array) -> Array:
        """The gradient of the predictions with respect to the constants, [B, R, P]."""
        if not self.indices:
            return j_BRP
        j_BRP = j_BRP.copy()
        for index in self.indices:
            j_BRP[:, :, index] /= np.exp(at[:, index])[:, None]
        return j_BRP

    def at_zero(self, at: Array) -> NDArray[np.bool_]:
        """Which parameters are constants of zero, [B, P]."""
        found = np.zeros(at.shape, dtype=bool)
        for index in self.indices:
            found[:, index] = at[:, index] <= ZERO
        return found

    def shortened(self, at: Array, step: Array) -> Array:
        """Steps that end where a constant becomes zero."""
        for index in self.indices:
            size, change = np.exp(at[:, index]), step[:, index]
            share = np.where(-change > size, size / np.maximum(-change, size), 1.0)
            share[at[:, index] <= ZERO] = 1.0
            step = step * share[:, None]
        return step

    def moved(self, at: Array, step: Array) -> Array:
        """The parameters after the steps."""
        end = at + step
        for index in self.indices:
            size = np.exp(at[:, index]) + step[:, index]
            end[:, index] = np.where(size > _NO_CONSTANT * self.outcome, np.log(size), ZERO)
        return end


def _newton(
    at_zero: NDArray[np.bool_], held: tuple[int, ...], g: Array, h: Array, m: Array
) -> tuple[_Newton, NDArray[np.bool_]]:
    """Newton steps that leave some parameters as they are, and which of these, [B, P]: those that
    are held, and constants of zero that would become negative.

    Args:
        at_zero: which parameters are constants of zero, [B, P].
        held: indices of parameters that are held.
        g, h, m: derivatives, which are changed in place.
    """
    fixed = at_zero & (g > 0)
    fixed[:, held] = True
    _hold(fixed, g, h, m)
    newton = _Newton.of(g, h, m)
    if at_zero.any():
        whole = newton.step(np.arange(len(g)), np.zeros(len(g)))
        if (negative := at_zero & (whole < 0)).any():
            fixed |= negative
            _hold(fixed, g, h, m)
            newton = _Newton.of(g, h, m)
    return newton, fixed


def _hold(fixed: NDArray[np.bool_], g: Array, h: Array, m: Array) -> None:
    """Change derivatives, in place, so that no step moves the parameters that are fixed, [B, P]."""
    if not fixed.any():
        return
    g[fixed] = 0
    either = fixed[:, :, None] | fixed[:, None, :]
    unit = np.broadcast_to(np.eye(fixed.shape[1]), h.shape)
    for matrix in (h, m):
        matrix[either] = unit[either]


def _bend(
    form: Form, x_RV: Array, at: Array, step: Array, f: Array, j: Array, constants: _Constants
) -> Array:
    """Second derivative of the predictions along a step, [B, R], by a second difference. A step is
    bent against it, which keeps it in a curved valley (geodesic acceleration, Transtrum and Sethna
    2012, arXiv:1201.5885, section 2)."""
    further = form.predict(constants.moved(at, _BEND * step), x_RV)
    slope = (constants.gradient(at, j) @ step[..., None])[..., 0]
    return np.asarray(2 / _BEND * ((further - f) / _BEND - slope))


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
