"""What formulas of one variable have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.formula import Formula

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve(Formula):
    """A formula of one variable, with places along it."""

    along: Mapping[str, float] = field(default_factory=dict)
    """Parameters that scale as the variable to this power; their `grid` is in units of its
    geometric mean, to that power."""
    falling: tuple[str, ...] = ()
    """Exponents that are positive where the outcome falls."""
    limits: tuple[str, ...] = ()
    """Parameters that runs at one value of the variable would show."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.falling

    @property
    def of_variables(self) -> frozenset[str]:
        return frozenset(self.parameters) - {*self.limits}

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        middle = float(np.exp(np.log(x_RV[:, 0]).mean()))
        grid = {name: tuple(value * middle ** self.along.get(name, 0.0) for value in values)
                for name, values in self.grid.items()}
        return Formula.starts(replace(self, grid=grid), x_RV, outcome_R)

    def _x(self, v: Any) -> Any:
        return getattr(v, self.variables[0])
