"""What a residual costs: Huber, absolute, or squared.

A fit minimises the *sum* over runs, not the mean: a mean of 1e-6 tempts optimisers with absolute
tolerances to stop before they have begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3
"""Where Huber's loss turns from squared to absolute, in log-loss (Hoffmann et al. 2022, D.2)."""

_L1_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Robust:
    """A loss of residuals r of the log-loss.

    huber: r^2/2 up to `delta`, then delta (|r| - delta/2). l1: |r|. squared: r^2/2.
    """

    kind: Literal["huber", "l1", "squared"]
    delta: float = DELTA

    def stages(self) -> tuple[Smooth, ...]:
        """Smooth losses to be minimised one after another, each from the last one's minimum.

        The absolute loss is the limit of Huber's, divided by delta, as delta falls.
        """
        if self.kind == "squared":
            return (Smooth(np.inf, 1.0),)
        if self.kind == "huber":
            return (Smooth(self.delta, 1.0),)
        return tuple(Smooth(delta, 1 / delta) for delta in _L1_DELTAS)

    def cost(self, r: Array) -> Array:
        """The cost of each residual, exactly as named."""
        return np.abs(r) if self.kind == "l1" else self.stages()[-1].cost(r)


HUBER = Robust("huber")


@dataclass(frozen=True)
class Smooth:
    """scale * Huber(delta), with the derivatives that Newton's method needs."""

    delta: float
    scale: float

    def cost(self, r: Array) -> Array:
        """rho(r)."""
        size = np.abs(r)
        near = np.minimum(size, self.delta)
        return self.scale * near * (size - near / 2)

    def slope(self, r: Array) -> Array:
        """rho'(r)."""
        return self.scale * np.clip(r, -self.delta, self.delta)

    def bend(self, r: Array) -> Array:
        """rho''(r): one near zero, nothing beyond delta."""
        return np.where(np.abs(r) <= self.delta, self.scale, 0.0)

    def pull(self, r: Array) -> Array:
        """rho'(r)/r, the weight of iteratively reweighted least squares; positive everywhere."""
        return self.scale * (self.delta / np.maximum(np.abs(r), self.delta)
                             if np.isfinite(self.delta) else np.ones_like(r))

    @property
    def floor(self) -> float:
        """Cost of a residual that is nothing but rounding of double precision."""
        return 1e-28 * self.scale
