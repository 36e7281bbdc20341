"""Farseer: a power law of D whose parameters depend on N."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form, project_coefficients
from scaling.laws.forms.formula import Formula

Array = NDArray[np.float64]

_MIN_GROUPS = 3  # sizes, or groups of similar sizes, that starting points are made of


@dataclass(frozen=True, kw_only=True, repr=False)
class Farseer(Formula):
    """e^(a3 N^gamma + b3) + e^(a2 N^beta + b2) D^(-e^(a1 N^alpha + b1)).

    At every N it is a power law of D plus a constant; the logarithms of its exponent, coefficient
    and constant are a N^power + b. The terms a N^power and b nearly cancel, which makes fits of a
    and b slow; therefore theta holds (value at a small N, value at a large N, power) of each of the
    three functions. A fit takes the smallest and the largest N of its runs (`scaled_to`).
    """

    ends: tuple[float, float] = (1e7, 1e9)
    """The small and the large N."""

    slopes: tuple[float, ...] = (0.15, 0.3, 0.55)
    """Initial values of the exponent of D at the smallest and the largest N."""
    powers: tuple[float, ...] = (-1.0, -0.15, 0.15, 0.6)
    """Initial values of the powers of N."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return ()  # alpha, beta and gamma occur inside exponents, and may have either sign

    @property
    def bounded_exponents(self) -> Mapping[str, tuple[str, ...]]:
        return {"alpha": ("a1",), "beta": ("a2",), "gamma": ("a3",)}

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters)

    def scaled_to(self, x_RV: Array) -> Farseer:
        n = x_RV[:, 0]
        return replace(self, ends=(float(n.min()), float(n.max())))

    def outcome_of(self, p: Any, v: Any) -> Any:
        floor = np.exp(p.a3 * v.n**p.gamma + p.b3)
        slope = np.exp(p.a1 * v.n**p.alpha + p.b1)
        return floor + np.exp(p.a2 * v.n**p.beta + p.b2 - slope * np.log(v.d))

    def loss(self, params: Array, values: Mapping[str, Array]) -> Array:
        """By the formula itself: the values at sizes far from the runs have too few digits for
        large powers."""
        return np.asarray(np.exp(self._predict(params, self.coordinates(values))))

    def from_params(self, params_BP: Array) -> Array:
        a, b, power = (params_BP[:, i::3] for i in range(3))
        small, large = self.ends
        return np.asarray(_interleave(a * small**power + b, a * large**power + b, power))

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self._parts(theta_BP, x_RV)[0]

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """In closed form: the law has nine parameters, and a fit follows long valleys."""
        log_loss, of_floor, log_decay, shares, slopes = self._parts(theta_BP, x_RV)
        by_function = (-(1 - of_floor) * log_decay, 1 - of_floor, of_floor)
        columns = []
        for i, by in enumerate(by_function):
            columns += [by * (1 - shares[i]), by * shares[i], by * slopes[i]]
        return log_loss, np.stack(columns, axis=-1)

    def _parts(
        self, theta_BP: Array, x_RV: Array
    ) -> tuple[Array, Array, Array, list[Array], list[Array]]:
        """log L; the share of the constant in L; the exponent of D times log D; and for each of the
        three functions its share w of the way from the small to the large N, which is
        (N^p - S^p)/(L^p - S^p), and its derivative with respect to the power p: [B, R] each."""
        log_n, log_d = np.log(x_RV).T
        small, large = self.ends
        log_n, whole = log_n - np.log(small), np.log(large / small)
        values, shares, slopes = [], [], []
        with np.errstate(all="ignore"):
            for low, high, power in zip(*(theta_BP[:, i::3].T[..., None] for i in range(3)),
                                        strict=True):
                part, total = np.expm1(power * log_n), np.expm1(power * whole)
                w = part / total
                by_power = (log_n * (part + 1) - w * whole * (total + 1)) / total
                values.append(low + (high - low) * w)
                shares.append(w)
                slopes.append((high - low) * by_power)
            log_decay = np.exp(values[0]) * log_d
            log_loss = np.logaddexp(values[2], values[1] - log_decay)
            return log_loss, np.exp(values[2] - log_loss), log_decay, shares, slopes

    def _natural(self, theta_BP: Any) -> Any:
        low, high, power = (theta_BP[:, i::3] for i in range(3))
        small, large = self.ends
        a = (high - low) / (large**power - small**power)
        return _interleave(a, low - a * small**power, power)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """As in the first stage of the paper: a constant and a coefficient for each N at given
        exponents of D, and a linear fit of the logarithms of each to N^power. Exponents of D are
        given at the smallest and at the largest N. Where few sizes have several token counts, runs
        of similar N count as one size."""
        n, d = x_RV.T
        groups = [n == size for size in np.unique(n) if len(np.unique(d[n == size])) > 2]
        if len(groups) < _MIN_GROUPS:
            parts = np.array_split(np.argsort(n, kind="stable"), _MIN_GROUPS)
            groups = [np.isin(np.arange(len(n)), part) for part in parts]
        sizes = np.array([np.exp(np.log(n[group]).mean()) for group in groups])
        place = np.log(sizes / sizes[0]) / np.log(sizes[-1] / sizes[0])
        log_ends = np.log(self.ends)
        starts = []
        for low, high, power in itertools.product(self.slopes, self.slopes, self.powers):
            log_slopes = np.log(low) + np.log(high / low) * place
            logs = np.array([
                project_coefficients(
                    np.stack([d[group]**-np.exp(log_slope), np.ones(group.sum())], axis=-1),
                    outcome_R[group])
                for group, log_slope in zip(groups, log_slopes, strict=True)])
            theta = []
            for values in (log_slopes, *logs.T):
                a, b = np.polyfit(sizes**power, values, 1)
                theta += [*(a * np.exp(power * log_ends) + b), power]
            starts.append(theta)
        return np.array(starts)


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
    ),
)
"""The Farseer law."""
