"""M4 of Alabdulmohsin et al. 2022: a power law that is bounded on both sides."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.curve import Curve

Array = NDArray[np.float64]

_NEWTON_STEPS = 60     # at most; six are usual
_STEP = 1e-8           # after one this small the next would be rounding: they shrink as squares
_LEAST_ALPHA = 1e-15
_ALPHAS = (0.3, 1.0, 2.0)
_HIGHEST = (1.02, 1.3)   # of the largest outcome, where e_0 may be
_LOWEST = (0.5, 0.95)    # of the smallest one, where e_inf may be
_C, _E_INF, _E_0, _ALPHA = 1, 2, 3, 4  # places in theta, which holds logarithms


class Sigmoidal(Curve):
    """The outcome eps with (eps - e_inf)/(e_0 - eps)^alpha = beta x^-c.

    With eps = F = e_inf + (e_0 - e_inf) sigma(t) the equation is
    h = log sigma(t) - alpha log sigma(-t) - r = 0 for an r that is known. h rises in t everywhere,
    with a slope between 1 and alpha, and is convex or concave everywhere: Newton's method finds
    the one root from any start, without a bracket.
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        with np.errstate(all="ignore"):
            span = p.e_0 - p.e_inf
            r = np.log(p.beta) - p.c * np.log(self._x(v)) + (p.alpha - 1) * np.log(span)
            t = _root(np.real(p.alpha), np.real(r))
            # A last step in whatever arithmetic p has: on complex numbers it is the derivative
            # that the implicit function theorem gives.
            residual = p.alpha * np.logaddexp(0, t) - np.logaddexp(0, -t) - r
            t = t - residual / _slope(np.real(p.alpha), t)
            eps = p.e_inf + span / (1 + np.exp(-t))
            return np.where(np.real(span) > 0, eps, np.nan)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            span, t, f_by, _, t_by, eps = self._slopes(theta_BP, x_RV)
            j_BRP = (f_by + (span * _bump(t))[..., None] * t_by) / eps[..., None]
            # Where e_0 is below e_inf no value is accepted, and no derivative counts.
            return np.log(eps), np.where(np.isfinite(j_BRP), j_BRP, 0.0)

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        """By the implicit function theorem once more: with subscripts for derivatives,
        t_pq = -(h_pq + h_pt t_q + h_qt t_p + h_tt t_p t_q)/h_t, and so on for eps."""
        with np.errstate(all="ignore"):
            span, t, f_by, h_by, t_by, eps = self._slopes(theta_BP, x_RV)
            e_inf, e_0, alpha = self._natural(theta_BP).T[_E_INF:, :, None]
            up, bump = 1 / (1 + np.exp(-t)), _bump(t)
            zero = np.zeros_like(t)
            s_by = np.stack([zero, zero, zero - e_inf, zero + e_0, zero], axis=-1)
            ends = s_by / span[..., None]  # derivatives of log span, whose second ones follow
            second = _outer(ends, ends)
            second[..., _E_INF, _E_INF] -= ends[..., _E_INF]
            second[..., _E_0, _E_0] -= ends[..., _E_0]
            h_pq = (alpha - 1)[..., None, None] * second
            h_pq[..., _C, _C] += h_by[..., _C]
            h_pq[..., _ALPHA, _ALPHA] += h_by[..., _ALPHA]
            h_pq[..., _ALPHA, :] -= alpha[..., None] * ends
            h_pq[..., :, _ALPHA] -= alpha[..., None] * ends
            h_pt = np.zeros_like(t_by)
            h_pt[..., _ALPHA] = alpha * up
            t_pq = -(h_pq + _both(h_pt, t_by) + _times((alpha - 1) * bump, _outer(t_by, t_by))
                     ) / _slope(alpha, t)[..., None, None]
            eps_pq = (_both(s_by * bump[..., None], t_by) + _times(span * bump, t_pq)
                      + _times(span * bump * (1 - 2 * up), _outer(t_by, t_by)))
            eps_pq[..., _E_INF, _E_INF] += f_by[..., _E_INF]
            eps_pq[..., _E_0, _E_0] += f_by[..., _E_0]
            bend = eps_pq / eps[..., None, None] - _outer(j_BRP, j_BRP)
            bend = np.where(np.isfinite(bend), bend, 0.0)
        return np.asarray(np.einsum("br,brpq->bpq", w_BR, bend))

    def _slopes(
        self, theta_BP: Array, x_RV: Array
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """The span [B, R], t [B, R], the derivatives by theta of F, of h (both at fixed t) and of
        t, [B, R, P] each, and eps [B, R]."""
        _, c, e_inf, e_0, alpha = self._natural(theta_BP).T[..., None]
        log_beta = theta_BP[:, 0, None]  # beta itself overflows where c is large
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
        """beta and c by least squares, at each of some alpha, e_0 and e_inf."""
        log_x = np.log(x_RV[:, 0])
        starts = []
        for alpha, high, low in product(_ALPHAS, _HIGHEST, _LOWEST):
            e_0, e_inf = high * outcome_R.max(), low * outcome_R.min()
            left = np.log(outcome_R - e_inf) - alpha * np.log(e_0 - outcome_R)
            slope, level = np.polyfit(log_x, left, 1)
            starts.append([np.exp(level), -slope, e_inf, e_0, alpha])
        return self.internal(np.array(starts))


def _slope(alpha: Any, t: Array) -> Any:
    """dh/dt."""
    return 1 / (1 + np.exp(t)) + alpha / (1 + np.exp(-t))


def _bump(t: Array) -> Array:
    """The derivative of sigma."""
    return np.asarray(1 / (1 + np.exp(t)) / (1 + np.exp(-t)))


def _root(alpha: Array, r: Array) -> Array:
    """t with alpha log(1 + e^t) - log(1 + e^-t) = r."""
    t = np.where(r < 0, r, r / np.maximum(alpha, _LEAST_ALPHA))  # the asymptotes
    for _ in range(_NEWTON_STEPS):
        step = (alpha * np.logaddexp(0, t) - np.logaddexp(0, -t) - r) / _slope(alpha, t)
        t = t - step
        if not (np.abs(step) > _STEP * (1 + np.abs(t))).any():
            break
    return np.asarray(t)


def _outer(one: Array, other: Array) -> Array:
    return one[..., :, None] * other[..., None, :]


def _both(one: Array, other: Array) -> Array:
    """a_p b_q + a_q b_p."""
    return _outer(one, other) + _outer(other, one)


def _times(factor: Array, matrix: Array) -> Array:
    return factor[..., None, None] * matrix
