"""A law as its formula: everything else is derived from it."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import STEP, Form, project

Array = NDArray[np.float64]

_TINY = 1e-30  # an imaginary step: no difference is taken, so nothing is lost to rounding


@dataclass(frozen=True, kw_only=True)
class Formula(Form):
    """A form of which a subclass writes the formula alone, in the words of its paper.

    The gradient is the formula's own, by a complex step (Squire and Trapp 1998): exact to
    rounding, for any formula of analytic functions. theta holds the logarithms of the parameters
    that are positive, and the others as they are.
    """

    centred: bool = False
    linear: tuple[str, ...] = ()
    """Parameters in which the outcome is linear: fits start with those that serve best."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of the other parameters to start from; all combinations are taken."""

    @abstractmethod
    def outcome_of(self, p: Any, v: Any) -> Any:
        """The outcome, from parameters `p.NAME` [B, 1] (perhaps complex) and variables `v.NAME`
        [R]."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self.parameters if p.startswith(("alpha", "beta")))

    @property
    def of_variables(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"E"}

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """The variables as they are: [R, V]."""
        return np.stack([np.asarray(values[v], dtype=float) for v in self.variables], axis=-1)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return np.asarray(self._predict(self._natural(theta_BP), x_RV).real)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        columns = [self._moved(theta_BP, place, x_RV) for place in range(theta_BP.shape[-1])]
        return (np.asarray(columns[0].real),
                np.stack([column.imag / _TINY for column in columns], axis=-1))

    def _moved(self, theta_BP: Array, place: int, x_RV: Array) -> Any:
        """The prediction a complex step aside."""
        aside = theta_BP.astype(complex)
        aside[:, place] += 1j * _TINY
        return self._predict(self._natural(aside), x_RV)

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        if type(self).gradient is not Formula.gradient:  # a gradient by hand is quicker
            return super().curvature(theta_BP, x_RV, w_BR, j_BRP)
        parameters = theta_BP.shape[-1]
        h_BPP = np.empty((len(theta_BP), parameters, parameters))
        for place in range(parameters):
            ahead = theta_BP.copy()
            ahead[:, place] += STEP
            for other in range(place + 1):  # the matrix is symmetric: half of it is enough
                slope_BR = self._moved(ahead, other, x_RV).imag / _TINY
                second = np.einsum("br,br->b", w_BR, slope_BR - j_BRP[..., other]) / STEP
                h_BPP[:, place, other] = h_BPP[:, other, place] = second
        return h_BPP

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Every point of the grid, with the linear parameters projected."""
        starts = []
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            params = point | dict.fromkeys(self.linear, 0.0)
            if self.linear:
                unit = [params | {name: 1.0} for name in self.linear]
                bare_RK = np.stack([self._outcome(p, x_RV) for p in unit], axis=-1)
                rest_R = self._outcome(params, x_RV)
                params |= dict(zip(self.linear, self._solve(
                    bare_RK - rest_R[:, None], outcome_R - rest_R, outcome_R), strict=True))
            starts.append([params[name] for name in self.parameters])
        return self.internal(np.array(starts))

    def _solve(self, bare_RK: Array, target_R: Array, scale_R: Array) -> Array:
        """Linear parameters that bring the sum of terms nearest to a target, relative to scale."""
        if set(self.linear) & set(self.signed):
            solution, *_ = np.linalg.lstsq(bare_RK / scale_R[:, None], target_R / scale_R,
                                           rcond=None)
            positive = [name not in self.signed for name in self.linear]
            return np.asarray(np.where(positive, np.maximum(solution, 1e-6), solution))
        return np.asarray(np.exp(project(bare_RK, target_R)))

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        return np.asarray(self._natural(theta_BP))

    def internal(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
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

    def _predict(self, params_BP: Any, x_RV: Array) -> Any:
        p = SimpleNamespace(**{name: params_BP[:, i, None]
                               for i, name in enumerate(self.parameters)})
        v = SimpleNamespace(**{name: x_RV[:, i] for i, name in enumerate(self.variables)})
        with np.errstate(all="ignore"):
            outcome = self.outcome_of(p, v)
            outcome = np.broadcast_to(outcome, (len(params_BP), len(x_RV)))
            return np.log(outcome) if self.link == "log" else outcome

    def _outcome(self, params: Mapping[str, float], x_RV: Array) -> Array:
        """Outcomes of one set of parameters, whatever the link: [R]."""
        p = SimpleNamespace(**{name: np.array([[value]]) for name, value in params.items()})
        v = SimpleNamespace(**{name: x_RV[:, i] for i, name in enumerate(self.variables)})
        return np.array(np.broadcast_to(self.outcome_of(p, v), (1, len(x_RV)))[0], dtype=float)
