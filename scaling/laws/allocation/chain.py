"""Chained laws: from N and D to the loss, and from the loss to a downstream error or accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.law import LEVEL, Law, check_level, end_shares, paired_samples
from scaling.laws.values import broadcast, variables_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Chained:
    """Predictions of two chained laws, [R] each.

    `low` and `high` are confidence limits of the laws, 90% ones by default, not prediction limits
    of a new run; they are None if a law has no resamples.
    """

    loss: Array
    outcome: Array
    low: Array | None
    high: Array | None


@checked
def chain(
    first: Law, second: Law, values: Mapping[str, ArrayLike], level: float = LEVEL
) -> Chained:
    """The second law evaluated at the loss that the first law predicts.

    Gadre et al. 2024 (section 3.2) and Bhagia et al. 2024 (section 3) predict downstream tasks
    this way. Resample i of the first law is paired with resample i of the second, so that the
    interval includes the uncertainty of both. Only the laws of `fit_chain` have resamples of the
    same runs, which include a correlation between the errors of a run's loss and of its downstream
    outcome; those of other laws count as independent.

    Args:
        first: a law of the loss, in nats per token of the same text as the second law's L.
        second: a law of the loss alone, such as `gadre-error`.
        values: the first law's variables, arrays [R] or numbers.
        level: coverage of the limits.

    Raises:
        UserError: the second law is not a function of the loss alone, or the first does not
            predict a loss, or the level is no coverage.
    """
    check_level(level)
    if second.form.variables != ("l",):
        variables = ", ".join(second.form.variables)
        raise UserError(f"{second.name}: a law of the loss alone is expected after {first.name}, "
                        f"and this one takes {variables}; use one such as gadre-error or "
                        "olmo-accuracy")
    if not first.form.outcome.startswith("loss"):
        raise UserError(f"{first.name}: predicts {first.form.outcome}, but a law of the loss is "
                        f"expected before {second.name}, such as chinchilla")
    arrays = variables_of(first.form, broadcast(values)[0])
    loss = first.loss(arrays)
    outcome = second.loss({"l": loss})
    of_first, of_second = paired_samples(first, second)
    if not len(of_first):
        return Chained(loss, outcome, None, None)
    losses = first.form.loss(of_first, arrays)
    outcomes = np.concatenate([second.form.loss(point[None], {"l": row})
                               for point, row in zip(of_second, losses, strict=True)])
    low, high = np.quantile(outcomes, end_shares(level), axis=0)
    return Chained(loss, outcome, low, high)
