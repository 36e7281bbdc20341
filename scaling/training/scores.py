"""A held-out loss, and how sure it is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Heldout(NamedTuple):
    """A held-out loss."""

    loss: float
    """Mean over predictions, nats."""
    error: float
    """Its standard error over sequences."""


def ratio(losses_B: NDArray[np.float64], weights_B: NDArray[np.float64]) -> Heldout:
    """The sum of losses over the sum of weights, and its standard error over sequences.

    The error is that of a ratio of sums (Cochran 1977, "Sampling Techniques", section 2.11), which
    for equal weights is that of a mean.
    """
    loss = losses_B.sum() / weights_B.sum()
    residual_B = losses_B - loss * weights_B
    n = len(losses_B)
    spread = math.sqrt(n / (n - 1) * float(residual_B @ residual_B))
    return Heldout(float(loss), float(spread / weights_B.sum()))
