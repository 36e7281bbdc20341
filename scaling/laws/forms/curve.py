"""Base class of formulas of one variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.formula import Formula

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, repr=False)
class Curve(Formula):
    """A formula of one variable x, some of whose parameters have a unit of x."""

    scales_as: Mapping[str, float] = field(default_factory=dict)
    """Power of x whose unit a parameter has; its `grid` is in units of the geometric mean of x to
    that power."""
    decay_exponents: tuple[str, ...] = ()
    """Exponents that are positive if the outcome decreases with x."""
    asymptotes: tuple[str, ...] = ()
    """Parameters that runs at a single value of x can determine, such as E."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.decay_exponents

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {*self.asymptotes}

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        middle = float(np.exp(np.log(x_RV[:, 0]).mean()))
        grid = {name: tuple(value * middle ** self.scales_as.get(name, 0.0) for value in values)
                for name, values in self.grid.items()}
        return Formula.starts(replace(self, grid=grid), x_RV, outcome_R)

    def _x(self, v: Any) -> Any:
        return getattr(v, self.variables[0])
