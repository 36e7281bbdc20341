"""M4 of Alabdulmohsin et al. 2022: a power law between an upper and a lower bound."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.curve import Curve

Array = NDArray[np.float64]

_MAX_NEWTON_STEPS = 60  # six are usual
_STEP_TOLERANCE = 1e-8  # convergence is quadratic, so the next step would be rounding error
_MIN_ALPHA = 1e-15
MOST_ALPHA = 20.0
"""The bound of alpha. As it grows, so does e_0, and the law approaches one without an upper bound,
(eps - e_inf) exp(k eps) = beta x^-c; at the bound, beta still is a number that can be printed."""
_LARGEST = 30.0  # coordinate of alpha that stands for the bound itself
_ALPHAS = (0.3, 1.0, 2.0)
_HIGHEST = (1.02, 1.3)   # initial e_0, relative to the largest outcome
_LOWEST = (0.5, 0.95)    # initial e_inf, relative to the smallest outcome
_C, _E_INF, _E_0, _ALPHA = 1, 2, 3, 4  # indices in theta


class Sigmoidal(Curve):
    """The outcome eps with (eps - e_inf)/(e_0 - eps)^alpha = beta x^-c.

    With eps = F = e_inf + (e_0 - e_inf) sigma(t) the equation is
    h = log sigma(t) - alpha log sigma(-t) - r = 0 with a known r. h increases with t, with a slope
    between 1 and alpha, and is convex or concave everywhere, so that Newton's method converges to
    the unique root from any start.

    theta holds logarithms, and of alpha minus log(1/alpha - 1/MOST_ALPHA), which is infinite at its
    bound.
    """

    def _natural(self, theta_BP: Any) -> Any:
        params = super()._natural(theta_BP)
        params[:, _ALPHA] = 1 / (1 / MOST_ALPHA + np.exp(-theta_BP[:, _ALPHA]))
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = super().from_params(params_BP)
        with np.errstate(divide="ignore"):
            room = np.maximum(1 / params_BP[:, _ALPHA] - 1 / MOST_ALPHA, np.exp(-_LARGEST))
            theta[:, _ALPHA] = -np.log(room)
        return theta

    def outcome_of(self, p: Any, v: Any) -> Any:
        with np.errstate(all="ignore"):
            span = p.e_0 - p.e_inf
            r = np.log(p.beta) - p.c * np.log(self._x(v)) + (p.alpha - 1) * np.log(span)
            t = _root(np.real(p.alpha), np.real(r))
            # The last step may be complex, and then has the derivative of the implicit function
            # theorem in its imaginary part.
            residual = p.alpha * np.logaddexp(0, t) - np.logaddexp(0, -t) - r
            t = t - residual / _slope(np.real(p.alpha), t)
            eps = p.e_inf + span / (1 + np.exp(-t))
            return np.where(np.real(span) > 0, eps, np.nan)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            span, t, f_by, _, t_by, eps = self._slopes(theta_BP, x_RV)
            j_BRP = (f_by + (span * _bump(t))[..., None] * t_by) / eps[..., None]
            j_BRP[..., _ALPHA] *= self._alpha_slope(theta_BP)
            # If e_0 is below e_inf the value is NaN, and the derivatives are not used.
            return np.log(eps), np.where(np.isfinite(j_BRP), j_BRP, 0.0)

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        """By the implicit function theorem: with subscripts for derivatives,
        t_pq = -(h_pq + h_pt t_q + h_qt t_p + h_tt t_p t_q)/h_t, and the chain rule for eps."""
        with np.errstate(all="ignore"):
            span, t, f_by, h_by, t_by, eps = self._slopes(theta_BP, x_RV)
            e_inf, e_0, alpha = self._natural(theta_BP).T[_E_INF:, :, None]
            up, bump = 1 / (1 + np.exp(-t)), _bump(t)
            slope = self._alpha_slope(theta_BP)  # first, all derivatives are by log alpha
            j_BRP = np.concatenate([j_BRP[..., :_ALPHA], j_BRP[..., _ALPHA:] / slope[..., None]],
                                   axis=-1)
            zero = np.zeros_like(t)
            s_by = np.stack([zero, zero, zero - e_inf, zero + e_0, zero], axis=-1)
            log_span_by = s_by / span[..., None]
            second = _outer(log_span_by, log_span_by)  # minus the second derivative of log span
            second[..., _E_INF, _E_INF] -= log_span_by[..., _E_INF]
            second[..., _E_0, _E_0] -= log_span_by[..., _E_0]
            h_pq = (alpha - 1)[..., None, None] * second
            h_pq[..., _C, _C] += h_by[..., _C]
            h_pq[..., _ALPHA, _ALPHA] += h_by[..., _ALPHA]
            h_pq[..., _ALPHA, :] -= alpha[..., None] * log_span_by
            h_pq[..., :, _ALPHA] -= alpha[..., None] * log_span_by
            h_pt = np.zeros_like(t_by)
            h_pt[..., _ALPHA] = alpha * up
            t_pq = -(h_pq + _both(h_pt, t_by) + _times((alpha - 1) * bump, _outer(t_by, t_by))
                     ) / _slope(alpha, t)[..., None, None]
            eps_pq = (_both(s_by * bump[..., None], t_by) + _times(span * bump, t_pq)
                      + _times(span * bump * (1 - 2 * up), _outer(t_by, t_by)))
            eps_pq[..., _E_INF, _E_INF] += f_by[..., _E_INF]
            eps_pq[..., _E_0, _E_0] += f_by[..., _E_0]
            log_eps_pq = eps_pq / eps[..., None, None] - _outer(j_BRP, j_BRP)
            log_eps_pq[..., _ALPHA, :] *= slope[..., None]
            log_eps_pq[..., :, _ALPHA] *= slope[..., None]
            log_eps_pq[..., _ALPHA, _ALPHA] -= j_BRP[..., _ALPHA] * slope * (1 - slope)
            log_eps_pq = np.where(np.isfinite(log_eps_pq), log_eps_pq, 0.0)
        return np.asarray(np.einsum("br,brpq->bpq", w_BR, log_eps_pq))

    def _alpha_slope(self, theta_BP: Array) -> Array:
        """The derivative of log alpha by its coordinate, [B, 1]."""
        return np.asarray(1 / (1 + np.exp(theta_BP[:, _ALPHA, None]) / MOST_ALPHA))

    def _slopes(
        self, theta_BP: Array, x_RV: Array
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """The span and t, [B, R] each; the derivatives with respect to logarithms of F and h at
        fixed t, and of t, [B, R, P] each; and eps, [B, R]."""
        _, c, e_inf, e_0, alpha = self._natural(theta_BP).T[..., None]
        log_beta = theta_BP[:, 0, None]  # beta itself may overflow if c is large
        log_x = np.log(x_RV[:, 0])
        span = np.where(e_0 > e_inf, e_0 - e_inf, np.nan) + 0 * log_x
        t = _root(alpha, log_beta - c * log_x + (alpha - 1) * np.log(span))
        up, down = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(t))
        zero = np.zeros_like(t)
        f_by = np.stack([zero, zero, e_inf * down, e_0 * up, zero], axis=-1)
        by_span = (1 - alpha) / span
        h_by = np.stack([zero - 1, c * log_x, -by_span * e_inf, by_span * e_0,
                         alpha * (np.logaddexp(0, t) - np.log(span))], axis=-1)
        t_by = -h_by / _slope(alpha, t)[..., None]
        return span, t, f_by, h_by, t_by, e_inf + span * up

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """beta and c by least squares, for a grid of alpha, e_0 and e_inf."""
        log_x = np.log(x_RV[:, 0])
        starts = []
        for alpha, high, low in product(_ALPHAS, _HIGHEST, _LOWEST):
            e_0, e_inf = high * outcome_R.max(), low * outcome_R.min()
            left = np.log(outcome_R - e_inf) - alpha * np.log(e_0 - outcome_R)
            slope, level = np.polyfit(log_x, left, 1)
            starts.append([np.exp(level), -slope, e_inf, e_0, alpha])
        return self.from_params(np.array(starts))


def _slope(alpha: Any, t: Array) -> Any:
    """dh/dt."""
    return 1 / (1 + np.exp(t)) + alpha / (1 + np.exp(-t))


def _bump(t: Array) -> Array:
    """The derivative of the logistic function sigma."""
    return np.asarray(1 / (1 + np.exp(t)) / (1 + np.exp(-t)))


def _root(alpha: Array, r: Array) -> Array:
    """t with alpha log(1 + e^t) - log(1 + e^-t) = r."""
    t = np.where(r < 0, r, r / np.maximum(alpha, _MIN_ALPHA))  # the asymptotes
    for _ in range(_MAX_NEWTON_STEPS):
        step = (alpha * np.logaddexp(0, t) - np.logaddexp(0, -t) - r) / _slope(alpha, t)
        t = t - step
        if not (np.abs(step) > _STEP_TOLERANCE * (1 + np.abs(t))).any():
            break
    return np.asarray(t)


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def _both(a: Array, b: Array) -> Array:
    """a_p b_q + a_q b_p."""
    return _outer(a, b) + _outer(b, a)


def _times(factor: Array, matrix: Array) -> Array:
    return factor[..., None, None] * matrix
