"""Laws that are sums of power laws, or a single product of powers.

Kaplan's and Chinchilla's law use the classes of this file and are listed in `catalogue.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import (
    EXPONENT_STARTS,
    Form,
    constant_of,
    log_of_constant,
    project_coefficients,
)
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, VARIABLES

Array = NDArray[np.float64]


_ABSENT = -1e300  # logarithm of a coefficient of zero: its term is zero whatever its exponents


def _log_of_coefficient(value: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(value == 0, _ABSENT, np.log(value))


@dataclass(frozen=True)
class Term:
    """One term of a sum: coefficient / (product of variables raised to exponents).

    Without powers the term is a constant.
    """

    coefficient: str
    powers: tuple[tuple[str, str], ...] = ()
    """Pairs of a variable and the parameter that is its exponent."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PowerSum(Form):
    """A sum of power laws. theta holds the logarithms of the coefficients, and the exponents.

    log L is the log-sum-exp of terms whose logarithms are linear in theta (Hoffmann et al. 2022,
    eq. 11).
    """

    terms: tuple[Term, ...]
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Initial values of an exponent, if they are not `EXPONENT_STARTS`."""
    wide_grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Those of all exponents for `wide_starts`; empty if there are none."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self._all_exponents if p not in self.signed)

    @property
    def _all_exponents(self) -> tuple[str, ...]:
        coefficients = {term.coefficient for term in self.terms}
        return tuple(p for p in self.parameters if p not in coefficients)

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(term.coefficient for term in self.terms if term.powers)

    @property
    def bounded_exponents(self) -> Mapping[str, tuple[str, ...]]:
        if len(self.terms) < 2:
            return {}
        return {name: tuple(term.coefficient for term in self.terms
                            if name in (exponent for _, exponent in term.powers))
                for name in self._all_exponents}

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {*self.constants}

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(term.coefficient for term in self.terms if not term.powers)

    def _design(self, x_RV: Array) -> Array:
        """The design tensor T with log term_k = sum_p T[k, r, p] theta_p, [K, R, P]."""
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
        """Share of each term in the loss, [B, K, R]."""
        _, e_BKR = self._terms(theta_BP, self._design(x_RV))
        return np.asarray(e_BKR / e_BKR.sum(axis=1, keepdims=True))

    def _terms(self, theta_BP: Array, t_KRP: Array) -> tuple[Array, Array]:
        """log L, [B, R], and the terms divided by the largest term of each run, [B, K, R]."""
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

    @property
    def has_hessian(self) -> bool:
        return True

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        # The second derivative of log-sum-exp is the covariance of the terms' gradients.
        t_KRP = self._design(x_RV)
        k, r, p = t_KRP.shape
        w_BKR = self._terms(theta_BP, t_KRP)[1]
        w_BKR *= (w_BR / w_BKR.sum(axis=1))[:, None]
        products = (t_KRP[..., :, None] * t_KRP[..., None, :]).reshape(k * r, p * p)
        second = (w_BKR.reshape(-1, k * r) @ products).reshape(-1, p, p)
        return np.asarray(second - j_BRP.swapaxes(-1, -2) @ (w_BR[..., None] * j_BRP))

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """A grid of exponents, with the best coefficients for each."""
        coefficients = [self.parameters.index(term.coefficient) for term in self.terms]
        exponents = [self.parameters.index(p) for p in self._all_exponents]
        starts = []
        for values in itertools.product(*(self.grid.get(p, EXPONENT_STARTS)
                                          for p in self._all_exponents)):
            theta = np.zeros(len(self.parameters))
            theta[exponents] = values
            terms_RK = np.exp(self._log_terms(theta[None], self._design(x_RV))[0].T)
            theta[coefficients] = project_coefficients(terms_RK, outcome_R)
            starts.append(theta)
        return np.array(starts)

    def wide_starts(self, x_RV: Array, outcome_R: Array) -> Array:
        if not self.wide_grid:
            return super().wide_starts(x_RV, outcome_R)
        return PowerSum.starts(replace(self, grid=self.wide_grid), x_RV, outcome_R)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        params = np.array(theta_BP, dtype=float)
        origin = self._log_terms(theta_BP, self._design(-centre_V[None]))[..., 0]
        for k, term in enumerate(self.terms):
            value = np.exp(origin[:, k]) if term.powers else constant_of(origin[:, k])
            params[:, self.parameters.index(term.coefficient)] = value
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        for term in self.terms:
            index = self.parameters.index(term.coefficient)
            theta[:, index] = (_log_of_coefficient if term.powers
                               else log_of_constant)(theta[:, index])
        return theta


@dataclass(frozen=True, kw_only=True, repr=False)
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
        # There is no optimum if the loss rises with N or with D.
        return np.where((alpha > 0) & (beta > 0), n, np.nan)

    def allocation_exponent(self, params_BP: Array) -> Array:
        alpha, beta = params_BP[..., 3], params_BP[..., 4]
        return np.asarray(beta / (alpha + beta))


@dataclass(frozen=True, kw_only=True, repr=False)
class Power(PowerSum):
    """Sum of power laws of one variable each, printed as (X_c/X)^alpha: Kaplan's, Henighan's."""

    @property
    def _scales(self) -> list[tuple[int, int, int]]:
        """For each power law, the indices of X_c and alpha in theta, and of X in x."""
        return [(self.parameters.index(term.coefficient), self.parameters.index(exponent),
                 self.variables.index(variable))
                for term in self.terms for variable, exponent in term.powers]

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        params = super().to_params(theta_BP, centre_V)
        for scale, exponent, variable in self._scales:
            alpha = theta_BP[:, exponent]
            log_coefficient = theta_BP[:, scale] + alpha * centre_V[variable]
            with np.errstate(over="ignore", divide="ignore"):  # X_c of a flat law is infinite
                params[:, scale] = np.exp(log_coefficient / alpha)
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = super().from_params(params_BP)
        for scale, exponent, _ in self._scales:
            theta[:, scale] *= theta[:, exponent]
        return theta


@dataclass(frozen=True, kw_only=True, repr=False)
class PowerProduct(PowerSum):
    """A single term: a coefficient times variables to powers in the numerator or denominator.

    Exponents are printed with the sign of the paper's formula; a negative estimate means that the
    outcome changes in the opposite direction.
    """

    numerator: tuple[str, ...] = ()
    """Exponents of variables in the numerator; the others are in the denominator."""

    def _design(self, x_RV: Array) -> Array:
        t_KRP = super()._design(x_RV)
        for exponent in self.numerator:
            t_KRP[:, :, self.parameters.index(exponent)] *= -1
        return t_KRP

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        t_RP = self._design(x_RV)[0]  # the logarithm of a single term is linear in theta
        return theta_BP @ t_RP.T, np.broadcast_to(t_RP, (len(theta_BP), *t_RP.shape))


def _henighan(variable: str) -> Power:
    """Henighan's law of one variable: Kaplan's plus a constant. It is fitted to the lower envelope
    of the runs, because it describes the loss if no other variable is limiting."""
    x = variable.upper()
    return Power(
        name=f"henighan-{variable}", formula=f"L_inf + ({x}_0/{x})^alpha_{x}",
        source="Henighan et al. 2020, eq. 1.1", variables=(variable,),
        parameters=("L_inf", f"{x}_0", f"alpha_{x}"), units={f"{x}_0": VARIABLES[variable].unit},
        counting="non-embedding", distinct=3, envelope=variable,
        terms=(Term("L_inf"), Term(f"{x}_0", ((variable, f"alpha_{x}"),))),
    )


FORMS: tuple[Form, ...] = (
    _henighan("n"),
    _henighan("d"),
    _henighan("c"),
    # In the paper A is alpha times powers of the sizes of a reference model, which no fit can
    # distinguish from alpha.
    PowerSum(
        name="ghorbani", formula="L_inf + A/(N_e^p_e N_d^p_d)",
        source="Ghorbani et al. 2021, eq. 2", variables=("encoder", "decoder"),
        parameters=("L_inf", "A", "p_e", "p_d"), counting="non-embedding", distinct=3,
        terms=(Term("L_inf"), Term("A", (("encoder", "p_e"), ("decoder", "p_d")))),
    ),
)
"""Sums of power laws: of one variable with a constant, and of encoder and decoder sizes."""
