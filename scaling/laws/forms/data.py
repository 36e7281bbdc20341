"""Laws of N and D beyond Chinchilla's: other combinations of the two, and repeated data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import (
    Form,
    constant_of,
    log_of_constant,
    project_coefficients,
)
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]

# Initial values of the family; those of E are relative to the lowest loss.
_FAMILY_EXPONENTS = (0.15, 0.4)
_FAMILY_POWERS = (0.15, 1.0)
_FAMILY_E = (0.001, 0.6)
_FAMILY_LOGS = [1, 2, 5]  # indices of the parameters but E whose logarithms are in theta
_FAMILY_POWERED = [1, 2, 3, 4]  # coordinates that the power of the sum multiplies


@dataclass(frozen=True, kw_only=True, repr=False)
class QFamily(Form):
    """E + [(A/N^alpha)^(1/q) + (B/D^beta)^(1/q)]^q.

    q = 1 is Chinchilla's law. E = 0 with q = beta is Kaplan's law of N and D, with
    alpha = alpha_N, beta = alpha_D, A = N_c^alpha_N and B = D_c^alpha_D. theta is (log E, log A,
    log B, alpha, beta, log q).
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("alpha", "beta")

    @property
    def constants(self) -> tuple[str, ...]:
        return ("E",)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"E"}

    def _parts(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array, Array, Array, Array]:
        """log L; the share of the bracket in L; the logarithm of the bracket before it is raised
        to q; the share of N in the bracket; and the derivative of the logarithm of the bracket
        raised to q with respect to log q: [B, R] each."""
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
        of_e = np.exp(theta_BP[:, :1] - log_loss)  # one less the share has no digits near E = 0
        return log_loss, np.stack(
            [of_e, a, b, -a * x_RV[:, 0], -b * x_RV[:, 1], share * by_q], axis=-1)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed E, q and exponents the bracket is linear in A^(1/q) and B^(1/q)."""
        starts = []
        for alpha, beta, q, share in itertools.product(
                _FAMILY_EXPONENTS, _FAMILY_EXPONENTS, _FAMILY_POWERS, _FAMILY_E):
            e = share * outcome_R.min()
            terms_RK = np.exp(-x_RV * np.array([alpha, beta]) / q)
            log_a, log_b = q * project_coefficients(terms_RK, (outcome_R - e) ** (1 / q))
            starts.append([np.log(e), log_a, log_b, alpha, beta, np.log(q)])
        return np.array(starts)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        e, a, b, alpha, beta, log_q = theta_BP.T
        logs = [a + alpha * centre_V[0], b + beta * centre_V[1]]
        with np.errstate(over="ignore"):
            return np.stack([constant_of(e), *np.exp(logs), alpha, beta, np.exp(log_q)], axis=-1)

    def from_params(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        theta[:, 0] = log_of_constant(theta[:, 0])
        theta[:, _FAMILY_LOGS] = np.log(theta[:, _FAMILY_LOGS])
        return theta

    def optimum(self, params_BP: Array, c: Array | float) -> Array:
        """The optimum of Chinchilla's law with A^(1/q), B^(1/q), alpha/q and beta/q, which the
        bracket is: N* = G (C/6)^(beta/(alpha+beta)), G^((alpha+beta)/q) =
        alpha A^(1/q) / (beta B^(1/q)); NaN if an exponent is not positive."""
        _, a, b, alpha, beta, q = np.moveaxis(params_BP, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            log_g = (q * np.log(alpha / beta) + np.log(a / b)) / (alpha + beta)
            power = beta / (alpha + beta)
            n = np.exp(log_g + power * np.log(c / FLOPS_PER_PARAMETER_TOKEN))
        return np.where((alpha > 0) & (beta > 0), n, np.nan)

    def allocation_exponent(self, params_BP: Array) -> Array:
        alpha, beta = params_BP[..., 3], params_BP[..., 4]
        return np.asarray(beta / (alpha + beta))


@dataclass(frozen=True, kw_only=True, repr=False)
class PowerOfSum(QFamily):
    """E + (A N^-alpha + B D^-beta)^k, the q-family in parameters of the terms inside the bracket.

    The family's A, B, alpha and beta are A^k, B^k, k alpha and k beta, and its q is k. theta is
    (log E, log A, log B, alpha, beta, log k), so that each parameter can be fixed. There are no
    published constants to check it against but those of the family.
    """

    def _family(self, theta_BP: Array) -> Array:
        """theta of the family."""
        family = np.array(theta_BP)
        family[:, _FAMILY_POWERED] *= np.exp(theta_BP[:, [-1]])
        return family

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return super().predict(self._family(theta_BP), x_RV)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        family = self._family(theta_BP)
        log_loss, j_BRP = super().gradient(family, x_RV)
        powered = j_BRP[..., _FAMILY_POWERED]
        j_BRP[..., -1] += (powered * family[:, None, _FAMILY_POWERED]).sum(axis=-1)
        j_BRP[..., _FAMILY_POWERED] = powered * np.exp(theta_BP[:, None, [-1]])
        return log_loss, j_BRP

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        theta = super().starts(x_RV, outcome_R)
        theta[:, _FAMILY_POWERED] /= np.exp(theta[:, [-1]])
        return theta

    def optimum(self, params_BP: Array, c: Array | float) -> Array:
        """That of Chinchilla's law with the terms of the bracket."""
        family = np.array(params_BP, dtype=float)
        k = family[..., [-1]]
        with np.errstate(over="ignore", invalid="ignore"):
            family[..., [1, 2]] **= k
        family[..., [3, 4]] *= k
        return super().optimum(family, c)


@dataclass(frozen=True, kw_only=True, repr=False)
class DataConstrained(Formula):
    """E + A/N'^alpha + B/D'^beta, with effective tokens D' and effective parameters N'.

    D' = U_D + U_D R_D (1 - exp(-r/R_D)), with U_D unique tokens and r = D/U_D - 1 repetitions. N'
    is the same function of U_N, the N that is compute-optimal for U_D tokens under A, B, alpha and
    beta; an N below U_N is its own effective value (Muennighoff et al. 2023, eqs. 5 and 6; their
    R*_D and R*_N are R_D and R_N here).
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        unique = np.minimum(v.u, v.d)
        n_optimal = (p.alpha * p.A / (p.beta * p.B) * unique**p.beta) ** (1 / p.alpha)
        n_term = p.A * _effective(np.minimum(v.n, n_optimal), v.n, p.R_N) ** -p.alpha
        return p.E + n_term + p.B * _effective(unique, v.d, p.R_D) ** -p.beta

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """In closed form, because bootstraps of this law are slow."""
        n, d, u = x_RV.T
        u = np.minimum(u, d)
        e, a, b, alpha, beta, r_d, r_n = self._natural(theta_BP).T[..., None]
        log_n_optimal = (np.log(alpha * a / (beta * b)) + beta * np.log(u)) / alpha
        u_n = np.minimum(n, np.exp(log_n_optimal))
        n_eff, d_eff = _effective(u_n, n, r_n), _effective(u, d, r_d)
        of_n, of_d = a * n_eff**-alpha, b * d_eff**-beta
        loss = e + of_n + of_d
        of_n, of_d = of_n / loss, of_d / loss
        # d log N' / d log U_N, which is zero if U_N is N itself.
        slope = np.where(u_n < n, 1 - np.exp((1 - n / u_n) / r_n) * n / n_eff, 0.0)
        return np.log(loss), np.stack([
            e / loss, of_n * (1 - slope), of_d + of_n * slope,
            of_n * (slope * (alpha * log_n_optimal - 1) - alpha * np.log(n_eff)),
            of_n * slope * (1 - beta * np.log(u)) - of_d * beta * np.log(d_eff),
            -of_d * beta * _effective_by_r(u, d, r_d) / d_eff,
            -of_n * alpha * _effective_by_r(u_n, n, r_n) / n_eff,
        ], axis=-1)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """With N' approximated by N, the law is linear in E, A and B."""
        n, d, u = x_RV.T
        starts = []
        for powers in itertools.product(*self.grid.values()):
            alpha, beta, r_d, _ = powers
            d_eff = _effective(np.minimum(u, d), d, r_d)
            terms_RK = np.stack([np.ones_like(n), n**-alpha, d_eff**-beta], axis=-1)
            starts.append([*project_coefficients(terms_RK, outcome_R), *np.log(powers)])
        return np.array(starts)


def _effective(unique: Any, total: Any, r: Any) -> Any:
    """Effective value of `total`, of which all but `unique` is repetition or excess."""
    return unique * (1 - r * np.expm1((1 - total / unique) / r))


def _effective_by_r(unique: Any, total: Any, r: Any) -> Any:
    """The derivative of `_effective` with respect to log r."""
    times = (total / unique - 1) / r
    return -unique * r * (np.expm1(-times) + times * np.exp(-times))


@dataclass(frozen=True, kw_only=True, repr=False)
class BoundedLoss(Formula):
    """E + (L_0 - E) h/(1 + h), with h = A/N^alpha + B/D^beta + C N^gamma/U^delta.

    The terms of h are a model that is too small, too few tokens D, and overfitting to the unique
    tokens U among them (D is T and U is D in the paper). The loss saturates at L_0, that of a model
    that has learnt nothing. The equation was read in summaries of the paper, and its constants were
    not checked. Where h is small this is Chinchilla's law with A and B times L_0 - E,
    and a term of overfitting.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("alpha", "beta", "gamma", "delta")

    def outcome_of(self, p: Any, v: Any) -> Any:
        unique = np.minimum(v.u, v.d)
        h = (p.A * v.n**-p.alpha + p.B * v.d**-p.beta
             + p.C * v.n**p.gamma * unique**-p.delta)
        return p.E + (p.L_0 - p.E) * h / (1 + h)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """In closed form, because the law has nine parameters."""
        n, d, u = x_RV.T
        log_n, log_d, log_u = np.log(n), np.log(d), np.log(np.minimum(u, d))
        e, l_0, a, b, c, alpha, beta, gamma, delta = self._natural(theta_BP).T[..., None]
        with np.errstate(all="ignore"):
            of_n, of_d = a * n**-alpha, b * d**-beta
            of_u = c * np.exp(gamma * log_n - delta * log_u)
            h = of_n + of_d + of_u
            loss = e + (l_0 - e) * h / (1 + h)
            by_h = (l_0 - e) / (1 + h) ** 2 / loss
            return np.log(loss), np.stack([
                e / (1 + h) / loss, l_0 * h / (1 + h) / loss, by_h * of_n, by_h * of_d,
                by_h * of_u, -by_h * of_n * alpha * log_n, -by_h * of_d * beta * log_d,
                by_h * of_u * gamma * log_n, -by_h * of_u * delta * log_u], axis=-1)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed E, L_0 and exponents, h = (L - E)/(L_0 - L) is linear in A, B and C."""
        n, d, u = x_RV.T
        u = np.minimum(u, d)
        starts = []
        for low, high, alpha, beta, gamma, delta in itertools.product(*self.grid.values()):
            e, l_0 = low * outcome_R.min(), high * outcome_R.max()
            terms_RK = np.stack([n**-alpha, d**-beta, n**gamma * u**-delta], axis=-1)
            logs = project_coefficients(terms_RK, (outcome_R - e) / (l_0 - outcome_R))
            starts.append([e, l_0, *np.exp(logs), alpha, beta, gamma, delta])
        return self.from_params(np.array(starts))


@dataclass(frozen=True, kw_only=True, repr=False)
class OverTraining(Formula):
    """E + (A M^eta + B M^-eta) C^-eta, with M = D/N tokens per parameter.

    With C = 6 N D it is Chinchilla's law with alpha = beta = 2 eta, and A and B times 6^-eta.
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
    PowerOfSum(
        name="skaling", formula="E + (A N^-alpha + B D^-beta)^k",
        source="the q-family in the parameters of the sum",
        variables=("n", "d"), parameters=("E", "A", "B", "alpha", "beta", "k"), distinct=3,
    ),
    DataConstrained(
        name="muennighoff", formula="E + A/N'^alpha + B/D'^beta with N'(N, U; R_N), D'(D, U; R_D)",
        source="Muennighoff et al. 2023, eqs. 5 and 6", variables=("n", "d", "u"),
        parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
        units={"R_D": "repetitions", "R_N": "repetitions"}, distinct=3,
        grid={"alpha": (0.2, 0.4), "beta": (0.2, 0.4), "R_D": (5.0, 50.0), "R_N": (1.0, 10.0)},
    ),
    # A, B and C are a, b and c in the paper.
    BoundedLoss(
        name="bryant", formula="E + (L_0 - E) h/(1 + h) with h = A/N^alpha + B/D^beta "
                               "+ C N^gamma/U_D^delta",
        source="Bryant and Liu 2026, arXiv:2605.09189",
        variables=("n", "d", "u"),
        parameters=("E", "L_0", "A", "B", "C", "alpha", "beta", "gamma", "delta"), distinct=3,
        grid={"E": (0.4, 0.8), "L_0": (1.1, 2.0), "alpha": (0.2, 0.5), "beta": (0.2, 0.5),
              "gamma": (0.5,), "delta": (0.4, 0.8)},
    ),
    # Like the paper, by least squares of the losses, not of their logarithms.
    OverTraining(
        name="gadre", formula="E + (A (D/N)^eta + B (D/N)^-eta) C^-eta",
        source="Gadre et al. 2024, eq. 4", variables=("n", "d", "c"),
        parameters=("E", "A", "B", "eta"), linear=("E", "A", "B"),
        link="identity", robust=ResidualLoss("squared"),
        grid={"eta": (0.03, 0.07, 0.12, 0.2, 0.3)},
    ),
)
"""Laws of N and D."""
