"""Farseer: a power law of D whose parameters depend on N."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form, project_coefficients
from scaling.laws.forms.formula import Formula

Array = NDArray[np.float64]

_SMALL, _LARGE = 1e7, 1e9  # the two N at which theta holds the values of the three functions
_INITIAL_A1 = -0.05  # not zero, at which alpha would have no effect


@dataclass(frozen=True, kw_only=True)
class Farseer(Formula):
    """e^(a3 N^gamma + b3) + e^(a2 N^beta + b2) D^(-e^(a1 N^alpha + b1)).

    At every N it is a power law of D plus a constant; the logarithms of its exponent, coefficient
    and constant are a N^power + b. The terms a N^power and b nearly cancel, which makes fits of a
    and b slow; therefore theta holds (value at a small N, value at a large N, power) of each of the
    three functions.
    """

    slopes: tuple[float, ...] = (0.2, 0.4)
    """Initial values of the exponent of D."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return ()  # alpha, beta and gamma occur inside exponents, and may have either sign

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters)

    def outcome_of(self, p: Any, v: Any) -> Any:
        floor = np.exp(p.a3 * v.n**p.gamma + p.b3)
        slope = np.exp(p.a1 * v.n**p.alpha + p.b1)
        return floor + np.exp(p.a2 * v.n**p.beta + p.b2 - slope * np.log(v.d))

    def from_params(self, params_BP: Array) -> Array:
        a, b, power = (params_BP[:, i::3] for i in range(3))
        return np.asarray(_interleave(a * _SMALL**power + b, a * _LARGE**power + b, power))

    def _natural(self, theta_BP: Any) -> Any:
        low, high, power = (theta_BP[:, i::3] for i in range(3))
        a = (high - low) / (_LARGE**power - _SMALL**power)
        return _interleave(a, low - a * _SMALL**power, power)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """As in the first stage of the paper: a constant and a coefficient for each N at a given
        exponent of D, and a linear fit of the logarithms of each to N^power."""
        n, d = x_RV.T
        groups = [n == size for size in np.unique(n) if len(np.unique(d[n == size])) > 1]
        if len(groups) < 2:  # fewer than two sizes have several token counts: one law for all
            groups = [np.ones(len(n), dtype=bool)] * 2
            sizes = np.array([n.min(), n.max()])
        else:
            sizes = np.array([n[group][0] for group in groups])
        starts = []
        for *powers, slope in itertools.product(*self.grid.values(), self.slopes):
            logs = np.array([
                project_coefficients(
                    np.stack([d[group]**-slope, np.ones(group.sum())], axis=-1), outcome_R[group])
                for group in groups])
            lines = [np.polyfit(sizes**power, log, 1)
                     for power, log in zip(powers[1:], logs.T, strict=True)]
            b1 = np.log(slope) - _INITIAL_A1 * np.mean(sizes**powers[0])
            starts.append([_INITIAL_A1, b1, powers[0], *lines[0], powers[1], *lines[1], powers[2]])
        return self.from_params(np.array(starts))


def _interleave(*columns: Any) -> Any:
    """Three arrays [B, 3], real or complex, with their columns interleaved as [B, 9]."""
    return np.stack(columns, axis=-1).reshape(len(columns[0]), -1)


FORMS: tuple[Form, ...] = (
    Farseer(
        name="farseer",
        formula="exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
        source="Li et al. 2025, Farseer, section 3", variables=("n", "d"),
        parameters=("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma"),
        signed=("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma"), distinct=4,
        grid={"alpha": (0.1,), "beta": (-0.1, 0.1), "gamma": (0.1, 0.25)},
    ),
)
"""The Farseer law."""
