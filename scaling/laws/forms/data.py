"""Laws of parameters and data beyond Chinchilla's: how the two combine, and data that repeats."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form, project
from scaling.laws.forms.formula import Formula
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]

# Where fits of the family start; the floors are E as a part of the lowest loss.
_FAMILY_EXPONENTS = (0.15, 0.4)
_FAMILY_POWERS = (0.15, 1.0)
_FAMILY_FLOORS = (0.001, 0.6)
_FAMILY_LOGS = [0, 1, 2, 5]  # places in theta of what it has the logarithm of


@dataclass(frozen=True, kw_only=True)
class QFamily(Form):
    """E + [(A/N^alpha)^(1/q) + (B/D^beta)^(1/q)]^q.

    q = 1 is Chinchilla's law. E = 0 with q = beta is Kaplan's of N and D, with alpha = alpha_N,
    beta = alpha_D, A = N_c^alpha_N and B = D_c^alpha_D. theta is (log E, log A, log B, alpha,
    beta, log q).
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("alpha", "beta")

    @property
    def of_variables(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"E"}

    def _parts(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array, Array, Array, Array]:
        """log L, the share of the bracket in it, log of the bracket before it is raised to q, the
        share of N in that, and the derivative of the bracket's logarithm by log q: [B, R] each."""
        e, a, b, alpha, beta, log_q = theta_BP.T[..., None]
        q = np.exp(log_q)
        u, v = (a - alpha * x_RV[:, 0]) / q, (b - beta * x_RV[:, 1]) / q
        inner = np.logaddexp(u, v)
        of_n = np.exp(u - inner)
        log_loss = np.logaddexp(e, q * inner)
        by_q = q * (inner - of_n * u - (1 - of_n) * v)
        return log_loss, np.exp(q * inner - log_loss), inner, of_n, by_q

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self._parts(theta_BP, x_RV)[0]

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        log_loss, share, _, of_n, by_q = self._parts(theta_BP, x_RV)
        a, b = share * of_n, share * (1 - of_n)
        return log_loss, np.stack(
            [1 - share, a, b, -a * x_RV[:, 0], -b * x_RV[:, 1], share * by_q], axis=-1)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At a given E the bracket is linear in A^(1/q) and B^(1/q)."""
        starts = []
        for alpha, beta, q, floor in itertools.product(
                _FAMILY_EXPONENTS, _FAMILY_EXPONENTS, _FAMILY_POWERS, _FAMILY_FLOORS):
            e = floor * outcome_R.min()
            bare_RK = np.exp(-x_RV * np.array([alpha, beta]) / q)
            log_a, log_b = q * project(bare_RK, (outcome_R - e) ** (1 / q))
            starts.append([np.log(e), log_a, log_b, alpha, beta, np.log(q)])
        return np.array(starts)

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        e, a, b, alpha, beta, log_q = theta_BP.T
        logs = [e, a + alpha * centre_V[0], b + beta * centre_V[1]]
        with np.errstate(over="ignore"):
            return np.stack([*np.exp(logs), alpha, beta, np.exp(log_q)], axis=-1)

    def internal(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        with np.errstate(divide="ignore"):  # of E = 0
            theta[:, _FAMILY_LOGS] = np.log(theta[:, _FAMILY_LOGS])
        return theta

    def optimum(self, params_BP: Array, c: Array | float) -> Array:
        """The bracket is Chinchilla's law of A^(1/q), B^(1/q), alpha/q and beta/q, and so is its
        optimum: N* = G (C/6)^(beta/(alpha+beta)), G^((alpha+beta)/q) =
        alpha A^(1/q) / (beta B^(1/q)); NaN where an exponent is not positive."""
        _, a, b, alpha, beta, q = np.moveaxis(params_BP, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            log_g = (q * np.log(alpha / beta) + np.log(a / b)) / (alpha + beta)
            power = beta / (alpha + beta)
            n = np.exp(log_g + power * np.log(c / FLOPS_PER_PARAMETER_TOKEN))
        return np.where((alpha > 0) & (beta > 0), n, np.nan)

    def allocation_exponent(self, params_BP: Array) -> Array:
        alpha, beta = params_BP[..., 3], params_BP[..., 4]
        return np.asarray(beta / (alpha + beta))


@dataclass(frozen=True, kw_only=True)
class DataConstrained(Formula):
    """E + A/N'^alpha + B/D'^beta, in which repeated tokens and excess parameters are worth less.

    D' = U_D + U_D R_D (1 - exp(-r/R_D)), where U_D are the unique tokens and r = D/U_D - 1 how
    often they are repeated. N' is the same of U_N, the N that is compute-optimal for U_D tokens
    under A, B, alpha and beta; a smaller N is worth itself (Muennighoff et al. 2023, eqs. 5 and 6;
    their R*_D and R*_N are R_D and R_N here).
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        unique = np.minimum(v.u, v.d)
        enough = (p.alpha * p.A / (p.beta * p.B) * unique**p.beta) ** (1 / p.alpha)
        of_n = p.A * _worth(np.minimum(v.n, enough), v.n, p.R_N) ** -p.alpha
        return p.E + of_n + p.B * _worth(unique, v.d, p.R_D) ** -p.beta

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """By hand: a bootstrap of this law takes long enough."""
        n, d, u = x_RV.T
        u = np.minimum(u, d)
        e, a, b, alpha, beta, r_d, r_n = self._natural(theta_BP).T[..., None]
        log_enough = (np.log(alpha * a / (beta * b)) + beta * np.log(u)) / alpha
        few = np.minimum(n, np.exp(log_enough))
        sizes, tokens = _worth(few, n, r_n), _worth(u, d, r_d)
        of_n, of_d = a * sizes**-alpha, b * tokens**-beta
        loss = e + of_n + of_d
        of_n, of_d = of_n / loss, of_d / loss
        # d log N' / d log U_N, where U_N is not N itself.
        bend = np.where(few < n, 1 - np.exp((1 - n / few) / r_n) * n / sizes, 0.0)
        return np.log(loss), np.stack([
            e / loss, of_n * (1 - bend), of_d + of_n * bend,
            of_n * (bend * (alpha * log_enough - 1) - alpha * np.log(sizes)),
            of_n * bend * (1 - beta * np.log(u)) - of_d * beta * np.log(tokens),
            -of_d * beta * _worth_by_r(u, d, r_d) / tokens,
            -of_n * alpha * _worth_by_r(few, n, r_n) / sizes,
        ], axis=-1)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """With N' taken as N, the law is linear in E, A and B."""
        n, d, u = x_RV.T
        starts = []
        for powers in itertools.product(*self.grid.values()):
            alpha, beta, r_d, _ = powers
            data = _worth(np.minimum(u, d), d, r_d)
            bare_RK = np.stack([np.ones_like(n), n**-alpha, data**-beta], axis=-1)
            starts.append([*project(bare_RK, outcome_R), *np.log(powers)])
        return np.array(starts)


def _worth(unique: Any, total: Any, r: Any) -> Any:
    """What `total` is worth when all but `unique` of it is repetition or excess."""
    return unique * (1 - r * np.expm1((1 - total / unique) / r))


def _worth_by_r(unique: Any, total: Any, r: Any) -> Any:
    """The derivative of `_worth` by log r."""
    times = (total / unique - 1) / r
    return -unique * r * (np.expm1(-times) + times * np.exp(-times))


@dataclass(frozen=True, kw_only=True)
class OverTraining(Formula):
    """E + (A M^eta + B M^-eta) C^-eta, with M = D/N tokens a parameter.

    Where C = 6 N D it is Chinchilla's law with alpha = beta = 2 eta, and A and B times 6^-eta.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("eta",)

    def outcome_of(self, p: Any, v: Any) -> Any:
        m = v.d / v.n
        return p.E + (p.A * m**p.eta + p.B * m**-p.eta) * v.c**-p.eta

    def optimum(self, params_BP: Array, c: Array | float) -> Array:
        """The best M is (B/A)^(1/(2 eta)) at every C."""
        _, a, b, eta = np.moveaxis(params_BP, -1, 0)
        return np.asarray(np.sqrt(c / FLOPS_PER_PARAMETER_TOKEN) * (a / b) ** (1 / (4 * eta)))

    def allocation_exponent(self, params_BP: Array) -> Array:
        return np.full(params_BP.shape[:-1], 0.5)


FORMS: tuple[Form, ...] = (
    QFamily(
        name="q-family", formula="E + [(A/N^alpha)^(1/q) + (B/D^beta)^(1/q)]^q",
        source="a family with Hoffmann et al. 2022, eq. 2, at q = 1 and Kaplan et al. 2020, "
               "eq. 1.5, at E = 0 and q = beta",
        variables=("n", "d"), parameters=("E", "A", "B", "alpha", "beta", "q"), distinct=3,
    ),
    DataConstrained(
        name="muennighoff", formula="E + A/N'^alpha + B/D'^beta with N'(N, U; R_N), D'(D, U; R_D)",
        source="Muennighoff et al. 2023, eqs. 5 and 6", variables=("n", "d", "u"),
        parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
        units={"R_D": "repetitions", "R_N": "repetitions"}, distinct=3,
        grid={"alpha": (0.2, 0.4), "beta": (0.2, 0.4), "R_D": (5.0, 50.0), "R_N": (1.0, 10.0)},
    ),
    # The paper fits losses, not their logarithms, by least squares.
    OverTraining(
        name="gadre", formula="E + (A (D/N)^eta + B (D/N)^-eta) C^-eta",
        source="Gadre et al. 2024, eq. 4", variables=("n", "d", "c"),
        parameters=("E", "A", "B", "eta"), linear=("E", "A", "B"),
        link="identity", robust=Robust("squared"),
        grid={"eta": (0.03, 0.07, 0.12, 0.2, 0.3)},
    ),
)
"""Laws of parameters and data."""
