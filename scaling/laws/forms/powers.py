"""Laws that are sums of power laws: most of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import EXPONENT_STARTS, Form, project
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """coefficient / product of variables, each to the power of a parameter."""

    coefficient: str
    powers: tuple[tuple[str, str], ...] = ()
    """Pairs of variable and exponent."""


@dataclass(frozen=True, kw_only=True)
class PowerSum(Form):
    """A sum of power laws: theta holds the logarithms of the coefficients, and the exponents.

    log L is the log-sum-exp of terms that are linear in theta (Hoffmann et al. 2022, eq. 11).
    """

    terms: tuple[Term, ...]
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of an exponent to start from, where they are not `EXPONENT_STARTS`."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self._powers if p not in self.signed)

    @property
    def _powers(self) -> tuple[str, ...]:
        coefficients = {term.coefficient for term in self.terms}
        return tuple(p for p in self.parameters if p not in coefficients)

    @property
    def of_variables(self) -> frozenset[str]:
        constants = {term.coefficient for term in self.terms if not term.powers}
        return frozenset(self.parameters) - constants

    def _design(self, x_RV: Array) -> Array:
        """T with log term_k = sum_p T[k, r, p] theta_p: [K, R, P]."""
        t_KRP = np.zeros((len(self.terms), len(x_RV), len(self.parameters)))
        for k, term in enumerate(self.terms):
            t_KRP[k, :, self.parameters.index(term.coefficient)] = 1.0
            for variable, exponent in term.powers:
                p = self.parameters.index(exponent)
                t_KRP[k, :, p] -= x_RV[:, self.variables.index(variable)]
        return t_KRP

    def _log_terms(self, theta_BP: Array, t_KRP: Array) -> Array:
        k, r, p = t_KRP.shape
        return (theta_BP @ t_KRP.reshape(k * r, p).T).reshape(-1, k, r)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self._terms(theta_BP, self._design(x_RV))[0]

    def shares(self, theta_BP: Array, x_RV: Array) -> Array:
        """Share of each term in the loss: [B, K, R]."""
        _, e_BKR = self._terms(theta_BP, self._design(x_RV))
        return np.asarray(e_BKR / e_BKR.sum(axis=1, keepdims=True))

    def _terms(self, theta_BP: Array, t_KRP: Array) -> tuple[Array, Array]:
        """log L [B, R], and the terms [B, K, R], each run's in units of its largest."""
        u_BKR = self._log_terms(theta_BP, t_KRP)
        top_BR = u_BKR.max(axis=1)
        u_BKR -= top_BR[:, None]
        e_BKR = np.exp(u_BKR, out=u_BKR)
        return top_BR + np.log(e_BKR.sum(axis=1)), e_BKR

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        log_loss, p_BKR = self._terms(theta_BP, self._design(x_RV))
        p_BKR /= p_BKR.sum(axis=1, keepdims=True)
        j_BPR = np.zeros((len(theta_BP), len(self.parameters), len(x_RV)))
        for k, term in enumerate(self.terms):
            j_BPR[:, self.parameters.index(term.coefficient)] += p_BKR[:, k]
            for variable, exponent in term.powers:
                x_R = x_RV[:, self.variables.index(variable)]
                j_BPR[:, self.parameters.index(exponent)] -= p_BKR[:, k] * x_R
        return log_loss, j_BPR.swapaxes(-1, -2)

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        # Second derivative of log-sum-exp: the covariance of the terms' gradients.
        t_KRP = self._design(x_RV)
        k, r, p = t_KRP.shape
        w_BKR = self._terms(theta_BP, t_KRP)[1]
        w_BKR *= (w_BR / w_BKR.sum(axis=1))[:, None]
        products = (t_KRP[..., :, None] * t_KRP[..., None, :]).reshape(k * r, p * p)
        second = (w_BKR.reshape(-1, k * r) @ products).reshape(-1, p, p)
        return np.asarray(second - j_BRP.swapaxes(-1, -2) @ (w_BR[..., None] * j_BRP))

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """A grid of exponents, with the coefficients projected."""
        coefficients = [self.parameters.index(term.coefficient) for term in self.terms]
        free = [self.parameters.index(p) for p in self._powers]
        starts = []
        for exponents in itertools.product(*(self.grid.get(p, EXPONENT_STARTS)
                                             for p in self._powers)):
            theta = np.zeros(len(self.parameters))
            theta[free] = exponents
            bare_RK = np.exp(self._log_terms(theta[None], self._design(x_RV))[0].T)
            theta[coefficients] = project(bare_RK, outcome_R)
            starts.append(theta)
        return np.array(starts)

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        params = np.array(theta_BP, dtype=float)
        origin = self._log_terms(theta_BP, self._design(-centre_V[None]))[..., 0]
        for k, term in enumerate(self.terms):
            params[:, self.parameters.index(term.coefficient)] = np.exp(origin[:, k])
        return params

    def internal(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        for term in self.terms:
            place = self.parameters.index(term.coefficient)
            theta[:, place] = np.log(theta[:, place])
        return theta


@dataclass(frozen=True, kw_only=True)
class Chinchilla(PowerSum):
    """E + A/N^alpha + B/D^beta, whose optimum at C = 6 N D has a closed form."""

    def optimum(self, params_BP: Array, c: Array | float) -> Array:
        """N* = G (C/6)^(beta/(alpha+beta)), G = (alpha A/(beta B))^(1/(alpha+beta))
        (Hoffmann et al. 2022, eq. 4); NaN where an exponent is not positive."""
        _, a, b, alpha, beta = np.moveaxis(params_BP, -1, 0)
        power = beta / (alpha + beta)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            log_g = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
            n = np.exp(log_g + power * np.log(c / FLOPS_PER_PARAMETER_TOKEN))
        # Where loss rises with N or with D there is no optimum.
        return np.where((alpha > 0) & (beta > 0), n, np.nan)

    def allocation_exponent(self, params_BP: Array) -> Array:
        alpha, beta = params_BP[..., 3], params_BP[..., 4]
        return np.asarray(beta / (alpha + beta))


@dataclass(frozen=True, kw_only=True)
class Power(PowerSum):
    """Power laws of one variable each, printed as (X_c/X)^alpha: Kaplan's and Henighan's."""

    @property
    def _scales(self) -> list[tuple[int, int, int]]:
        """Places of the scale and the exponent in theta, and of the variable in x."""
        return [(self.parameters.index(term.coefficient), self.parameters.index(exponent),
                 self.variables.index(variable))
                for term in self.terms for variable, exponent in term.powers]

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        params = super().report(theta_BP, centre_V)
        for scale, power, variable in self._scales:
            alpha = theta_BP[:, power]
            log_coefficient = theta_BP[:, scale] + alpha * centre_V[variable]
            with np.errstate(over="ignore", divide="ignore"):  # a flat law's is at infinity
                params[:, scale] = np.exp(log_coefficient / alpha)
        return params

    def internal(self, params_BP: Array) -> Array:
        theta = super().internal(params_BP)
        for scale, power, _ in self._scales:
            theta[:, scale] *= theta[:, power]
        return theta
