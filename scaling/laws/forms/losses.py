"""Losses of the residuals of a fit: Huber with a delta that follows the noise, Huber with a fixed
delta, absolute, or squared.

A fit minimises the *sum* over runs, not the mean: with a mean of 1e-6, optimisers with absolute
tolerances may stop at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from scaling.errors import UserError

Array = NDArray[np.float64]

DELTA = 1e-3
"""Residual of the log-loss at which Huber's loss with a fixed delta changes from quadratic to
linear (Hoffmann et al. 2022, D.2)."""

WIDTH = 2.0
"""Delta of the adaptive loss, in standard deviations of the residuals. Measured in
experiments/objectives.py: as accurate as least squares where residuals are normal, and more
accurate where they are not."""

KINDS = ("adaptive", "huber", "l1", "squared")
"""All losses; "adaptive" is the default of laws of the loss."""

_SMALLEST_DELTA = 1e-6  # of the adaptive loss: residuals below it are rounding, not noise
_SCALE_STEPS = 100

_L1_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class ResidualLoss:
    """The loss function of residuals r.

    huber: r^2/2 up to `delta`, then delta (|r| - delta/2). adaptive: the same, with a `delta` of
    `WIDTH` standard deviations of the residuals, which a fit estimates (`adapted`). l1: |r|.
    squared: r^2/2.
    """

    kind: Literal["adaptive", "huber", "l1", "squared"]
    delta: float = DELTA

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise UserError(f"objective {self.kind!r:.40}: one of {', '.join(KINDS)} is expected")
        if not isinstance(self.delta, Real) or not self.delta > 0:
            raise UserError(f"delta {self.delta!r:.40}: a positive number is expected, such as "
                            "1e-3")

    def stages(self) -> tuple[ScaledHuber, ...]:
        """Smooth losses to minimise in turn, each from the minimum of the previous one.

        The absolute loss is the limit of Huber's loss divided by delta as delta goes to zero.
        """
        if self.kind == "squared":
            return (ScaledHuber(np.inf, 1.0),)
        if self.has_delta:
            return (ScaledHuber(self.delta, 1.0),)
        return tuple(ScaledHuber(delta, 1 / delta) for delta in _L1_DELTAS)

    @property
    def has_delta(self) -> bool:
        """Whether the loss is Huber's."""
        return self.kind in ("adaptive", "huber")

    @property
    def label(self) -> str:
        """The kind, and delta if there is one, such as "huber 0.001"."""
        return f"{self.kind} {self.delta:.3g}" if self.has_delta else self.kind

    def adapted(self, sd: float) -> ResidualLoss:
        """The adaptive loss for residuals of this standard deviation; any other loss unchanged."""
        if self.kind != "adaptive":
            return self
        return ResidualLoss("adaptive", max(WIDTH * sd, _SMALLEST_DELTA))

    def cost(self, r: Array) -> Array:
        """The loss of each residual, without smoothing."""
        return np.abs(r) if self.kind == "l1" else self.stages()[-1].cost(r)


ADAPTIVE = ResidualLoss("adaptive")


def residual_scale(r: Array, n_params: int) -> float:
    """A robust standard deviation of residuals, [R]: Huber's Proposal 2 (Huber and Ronchetti 2009,
    section 7.7), the standard deviation of normal residuals that has the same sum of squares after
    both are clipped at `WIDTH` of it; with a correction for the parameters that were fitted."""
    k = WIDTH
    density = float(np.exp(-k**2 / 2) / np.sqrt(2 * np.pi))
    clipped = 1 - 2 * float(ndtr(-k)) - 2 * k * density + 2 * k**2 * float(ndtr(-k))
    dof = max(1, len(r) - n_params)
    scale = 1.4826 * float(np.median(np.abs(r))) * np.sqrt(len(r) / dof) or float(np.std(r))
    for _ in range(_SCALE_STEPS):
        previous = scale
        within = np.clip(r, -k * scale, k * scale)
        scale = float(np.sqrt(within @ within / (dof * clipped)))
        if abs(scale - previous) <= 1e-9 * scale:
            break
    return scale


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
