"""Kaplan's joint law of parameters and data: a power of a sum of power laws."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import EXPONENT_STARTS, Form, project_coefficients

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, repr=False)
class KaplanJoint(Form):
    """[(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D.

    theta is (p, q, g, alpha_D) with log L = alpha_D log(e^p N^-g + e^q / D), where g is the ratio
    of the exponents: at fixed g and alpha_D, L^(1/alpha_D) is linear in e^p and e^q.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("alpha_N", "alpha_D")

    def _inner(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """Logarithm of the bracket, and the share of its first term, [B, R] each."""
        p, q, g, _ = theta_BP.T[..., None]
        u, v = p - g * x_RV[:, 0], q - x_RV[:, 1]
        total = np.logaddexp(u, v)
        return total, np.exp(u - total)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return np.asarray(theta_BP[:, 3, None] * self._inner(theta_BP, x_RV)[0])

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        total, share = self._inner(theta_BP, x_RV)
        power = theta_BP[:, 3, None]
        return power * total, np.stack(
            [power * share, power * (1 - share), -power * share * x_RV[:, 0], total], axis=-1
        )

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        starts = []
        for alpha_n, alpha_d in itertools.product(EXPONENT_STARTS, repeat=2):
            g = alpha_n / alpha_d
            bracket = outcome_R ** (1 / alpha_d)
            terms_RK = np.exp(np.stack([-g * x_RV[:, 0], -x_RV[:, 1]], axis=-1))
            starts.append([*project_coefficients(terms_RK, bracket), g, alpha_d])
        return np.array(starts)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        p, q, g, alpha_d = theta_BP.T
        with np.errstate(over="ignore", divide="ignore"):
            n_c, d_c = np.exp(p / g + centre_V[0]), np.exp(q + centre_V[1])
        return np.stack([n_c, d_c, g * alpha_d, alpha_d], axis=-1)

    def from_params(self, params_BP: Array) -> Array:
        n_c, d_c, alpha_n, alpha_d = params_BP.T
        g = alpha_n / alpha_d
        return np.stack([g * np.log(n_c), np.log(d_c), g, alpha_d], axis=-1)
