"""Losses of the residuals of a fit: Huber, absolute, or squared.

A fit minimises the *sum* over runs, not the mean: with a mean of 1e-6, optimisers with absolute
tolerances may stop at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3
"""Residual of the log-loss at which Huber's loss changes from quadratic to linear (Hoffmann et al.
2022, D.2)."""

KINDS = ("huber", "l1", "squared")

_L1_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class ResidualLoss:
    """The loss function of residuals r: `huber`, `l1` or `squared`.

    huber: r^2/2 up to `delta`, then delta (|r| - delta/2). l1: |r|. squared: r^2/2.
    """

    kind: Literal["huber", "l1", "squared"]
    delta: float = DELTA

    def stages(self) -> tuple[ScaledHuber, ...]:
        """Smooth losses to minimise in turn, each from the minimum of the previous one.

        The absolute loss is the limit of Huber's loss divided by delta as delta goes to zero.
        """
        if self.kind == "squared":
            return (ScaledHuber(np.inf, 1.0),)
        if self.kind == "huber":
            return (ScaledHuber(self.delta, 1.0),)
        return tuple(ScaledHuber(delta, 1 / delta) for delta in _L1_DELTAS)

    def cost(self, r: Array) -> Array:
        """The loss of each residual, without smoothing."""
        return np.abs(r) if self.kind == "l1" else self.stages()[-1].cost(r)


HUBER = ResidualLoss("huber")


@dataclass(frozen=True)
class ScaledHuber:
    """The smooth loss rho(r) = scale * Huber(r; delta), and the derivatives for Newton's method."""

    delta: float
    scale: float

    def cost(self, r: Array) -> Array:
        """rho(r)."""
        size = np.abs(r)
        near = np.minimum(size, self.delta)
        return self.scale * near * (size - near / 2)

    def psi(self, r: Array) -> Array:
        """rho'(r)."""
        return self.scale * np.clip(r, -self.delta, self.delta)

    def psi_prime(self, r: Array) -> Array:
        """rho''(r): `scale` up to delta, zero beyond."""
        return np.where(np.abs(r) <= self.delta, self.scale, 0.0)

    def irls_weight(self, r: Array) -> Array:
        """rho'(r)/r, the weight of iteratively reweighted least squares; positive everywhere."""
        return self.scale * (self.delta / np.maximum(np.abs(r), self.delta)
                             if np.isfinite(self.delta) else np.ones_like(r))

    @property
    def rounding_cost(self) -> float:
        """Loss of a residual that is only rounding error of double precision."""
        return 1e-28 * self.scale
