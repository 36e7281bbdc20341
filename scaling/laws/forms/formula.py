"""Base class of laws that are given by their formula only; all else is derived from it."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import (
    STEP,
    Form,
    constant_of,
    log_of_constant,
    project_coefficients,
)

Array = NDArray[np.float64]

_COMPLEX_STEP = 1e-30  # can be this small, because the complex step has no rounding error


@dataclass(frozen=True, kw_only=True, repr=False)
class Formula(Form):
    """A form whose subclass implements only `outcome_of`, in the notation of its paper.

    The gradient is computed by a complex step (Squire and Trapp 1998), which is exact to rounding
    for any formula of analytic functions. theta holds the logarithms of the positive parameters,
    and the `signed` ones unchanged.
    """

    centred: bool = False
    linear: tuple[str, ...] = ()
    """Parameters in which the outcome is linear: their initial values are least squares fits."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Initial values of the other parameters; fits start from all combinations."""

    @abstractmethod
    def outcome_of(self, p: Any, v: Any) -> Any:
        """The outcome, [B, R], from parameters `p.NAME`, [B, 1], which may be complex, and
        variables `v.NAME`, [R]."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self.parameters if p.startswith(("alpha", "beta")))

    @property
    def coefficients(self) -> tuple[str, ...]:
        return (*super().coefficients, *self.linear)

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(p for p in self.parameters
                     if p not in self.scaling_params and p not in self.signed)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"E"}

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """The variables without transformation, [R, V]."""
        return np.stack([np.asarray(values[v], dtype=float) for v in self.variables], axis=-1)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return np.asarray(self._predict(self._natural(theta_BP), x_RV).real)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        columns = [self._step(theta_BP, i, x_RV) for i in range(theta_BP.shape[-1])]
        return (np.asarray(columns[0].real),
                np.stack([column.imag / _COMPLEX_STEP for column in columns], axis=-1))

    def _step(self, theta_BP: Array, i: int, x_RV: Array) -> Any:
        """The prediction after a complex step of parameter i."""
        shifted = theta_BP.astype(complex)
        shifted[:, i] += 1j * _COMPLEX_STEP
        return self._predict(self._natural(shifted), x_RV)

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        if type(self).gradient is not Formula.gradient:  # differences of an explicit gradient
            return super().hessian(theta_BP, x_RV, w_BR, j_BRP)
        n_params = theta_BP.shape[-1]
        h_BPP = np.empty((len(theta_BP), n_params, n_params))
        for i in range(n_params):
            shifted = theta_BP.copy()
            shifted[:, i] += STEP
            for j in range(i + 1):  # the matrix is symmetric
                slope_BR = self._step(shifted, j, x_RV).imag / _COMPLEX_STEP
                second = np.einsum("br,br->b", w_BR, slope_BR - j_BRP[..., j]) / STEP
                h_BPP[:, i, j] = h_BPP[:, j, i] = second
        return h_BPP

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Every point of the grid, with the best linear parameters for each."""
        # Errors are relative to the outcomes, or to the largest where one may be zero.
        scale_R = outcome_R if (outcome_R > 0).all() else np.full_like(
            outcome_R, np.abs(outcome_R).max() or 1.0)
        starts = []
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            params = point | dict.fromkeys(self.linear, 0.0)
            if self.linear:
                unit = [params | {name: 1.0} for name in self.linear]
                terms_RK = np.stack([self._outcome(p, x_RV) for p in unit], axis=-1)
                rest_R = self._outcome(params, x_RV)
                params |= dict(zip(self.linear, self._solve(
                    terms_RK - rest_R[:, None], outcome_R - rest_R, scale_R), strict=True))
            starts.append([params[name] for name in self.parameters])
        return self.from_params(np.array(starts))

    def _solve(self, terms_RK: Array, target_R: Array, scale_R: Array) -> Array:
        """Linear parameters that minimise the error of the sum of terms, relative to scale."""
        if set(self.linear) & set(self.signed):
            solution, *_ = np.linalg.lstsq(terms_RK / scale_R[:, None], target_R / scale_R,
                                           rcond=None)
            positive = [name not in self.signed for name in self.linear]
            return np.asarray(np.where(positive, np.maximum(solution, 1e-6), solution))
        # At some points of the grid the other terms alone may exceed the outcome.
        scale_R = target_R if (target_R > 0).all() else scale_R
        return np.asarray(np.exp(project_coefficients(terms_RK, target_R, scale_R)))

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        params = np.asarray(self._natural(theta_BP))
        for index in map(self.parameters.index, self.constants):
            params[:, index] = constant_of(theta_BP[:, index])
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        for index in map(self.parameters.index, self.constants):
            theta[:, index] = np.exp(log_of_constant(theta[:, index]))
        with np.errstate(divide="ignore", invalid="ignore"):
            theta[:, self._positive] = np.log(theta[:, self._positive])
        return theta

    @property
    def _positive(self) -> list[int]:
        return [i for i, name in enumerate(self.parameters) if name not in self.signed]

    def _natural(self, theta_BP: Any) -> Any:
        params = theta_BP.copy()
        with np.errstate(over="ignore"):
            params[:, self._positive] = np.exp(params[:, self._positive])
        return params

    def _variables(self, x_RV: Array) -> Any:
        """What `outcome_of` gets: the variables by name, [R] each."""
        return SimpleNamespace(**{name: x_RV[:, i] for i, name in enumerate(self.variables)})

    def _predict(self, params_BP: Any, x_RV: Array) -> Any:
        p = SimpleNamespace(**{name: params_BP[:, i, None]
                               for i, name in enumerate(self.parameters)})
        v = self._variables(x_RV)
        with np.errstate(all="ignore"):
            outcome = self.outcome_of(p, v)
            outcome = np.broadcast_to(outcome, (len(params_BP), len(x_RV)))
            return np.log(outcome) if self.link == "log" else outcome

    def _outcome(self, params: Mapping[str, float], x_RV: Array) -> Array:
        """Outcomes for one set of parameters, without the link, [R]."""
        p = SimpleNamespace(**{name: np.array([[value]]) for name, value in params.items()})
        v = self._variables(x_RV)
        return np.array(np.broadcast_to(self.outcome_of(p, v), (1, len(x_RV)))[0], dtype=float)
