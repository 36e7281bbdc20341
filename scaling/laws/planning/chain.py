"""One law behind another: from N and D to the loss, and from the loss to an error or accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.law import LEVEL, Law

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Chained:
    """Predictions of two laws in a row, [R] each.

    `low` and `high` hold what is predicted with 90% confidence, of the laws and not of one more
    run; they are None where a law has no resamples.
    """

    loss: Array
    outcome: Array
    low: Array | None
    high: Array | None


def chain(first: Law, second: Law, values: Mapping[str, Array]) -> Chained:
    """What the second law makes of the loss that the first one predicts.

    Gadre et al. 2024 (section 3.2) and Bhagia et al. 2024 (section 3) predict downstream tasks so.
    Resample i of the first law is put into resample i of the second, so that the interval has the
    uncertainty of both. The two are drawn independently: what the errors of one run's loss and of
    its downstream outcome have in common is not in it.

    Args:
        first: a law of the loss, in nats per token of the same text as the second law's L.
        second: a law of the loss alone, such as `gadre-error`.
        values: arrays [R] of the first law's variables.

    Raises:
        UserError: the second law is not one of the loss, or the first predicts something else.
    """
    if second.form.variables != ("l",):
        takes = ", ".join(second.form.variables)
        raise UserError(f"{second.name}: a law of the loss alone is expected behind {first.name}, "
                        f"and this one takes {takes}; gadre-error and olmo-accuracy are such laws")
    if not first.form.outcome.startswith("loss"):
        raise UserError(f"{first.name}: predicts {first.form.outcome}, where a law of the loss is "
                        f"expected before {second.name}, such as chinchilla")
    loss = first.loss(values)
    outcome = second.loss({"l": loss})
    pairs = min(len(first.samples), len(second.samples))
    if not pairs:
        return Chained(loss, outcome, None, None)
    losses = first.form.loss(first.samples[:pairs], values)
    outcomes = np.concatenate([second.form.loss(point[None], {"l": row})
                               for point, row in zip(second.samples, losses, strict=False)])
    low, high = np.quantile(outcomes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Chained(loss, outcome, low, high)
