"""Valleys of an objective: curved, and so flat along their floor that Newton's steps are short.

A valley means that the runs do not determine some parameters, such as both the place and the height
of a break beyond the runs. Its lower end is often at infinity, where the predictions converge and
the parameters do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss

Array = NDArray[np.float64]

_ROUNDS = 40
_STEPS = 40          # Newton's steps of one round
_FACTORS = np.array([1.0, 4.0, 16.0, 64.0])  # of the last progress, all tried in a round
_USUAL_FACTOR = 4.0  # a larger best factor lengthens the next round's distances
_RTOL = 1e-8         # of the objective; a valley with a smaller decrease in a round is flat
_FLAT_ROUNDS = 2     # in succession
_LAST_RTOL = 1e-6    # the decrease in the last of all rounds, below which a valley is flat, too


def follow_valley(
    form: Form, x_RV: Array, y_R: Array, theta_P: Array, robust: ResidualLoss
) -> tuple[Minimum, bool]:
    """Follow a valley from a point at which Newton's steps did not converge.

    In each round the parameter that advances most in a few steps is held far ahead, at several
    distances, and the others are fitted again; the lowest of these points begins the next round.

    Args:
        form: the form.
        x_RV: variables in the form's coordinates.
        y_R: outcomes on the scale of the form's predictions.
        theta_P: where the steps ended.
        robust: loss of the residuals.

    Returns:
        The minimum, a batch of one, and whether the search has ended: at a minimum, or where the
        objective decreases no further along the valley.
    """
    def fit(begin: Array, held: tuple[int, ...] = ()) -> Minimum:
        return minimise(form, x_RV, y_R, np.ones((len(begin), len(y_R))), begin, robust, held=held,
                        steps=_STEPS)

    at, reach, flat, decrease = fit(theta_P[None]), 1.0, 0, np.inf
    advance = at.theta[0] - theta_P
    for _ in range(_ROUNDS):
        if at.converged[0] or flat == _FLAT_ROUNDS:
            break
        parameter = int(np.argmax(np.abs(advance)))
        ahead = at.theta + reach * _FACTORS[:, None] * advance
        # Ahead along the straight line, and with only this parameter ahead.
        alone = np.repeat(at.theta, len(_FACTORS), axis=0)
        alone[:, parameter] = ahead[:, parameter]
        held = fit(np.concatenate([ahead, alone]), (parameter,))
        lowest = int(np.argmin(_finite(held.value)))
        begin = np.stack([at.theta[0], held.theta[lowest]])
        after = fit(begin)
        best = int(np.argmin(_finite(after.value)))
        decrease = float(at.value[0] - after.value[best])
        flat = flat + 1 if decrease <= _RTOL * at.value[0] else 0
        factor = float(_FACTORS[lowest % len(_FACTORS)]) if best else 1.0
        reach = max(1.0, reach * factor / _USUAL_FACTOR) if best else 1.0
        advance = (after.theta[best] - at.theta[0]) / factor
        at = Minimum(*(getattr(after, name)[[best]] for name in Minimum.__dataclass_fields__))
        if not np.abs(advance).any():
            break
    return at, bool(at.converged[0] or flat == _FLAT_ROUNDS
                    or decrease <= _LAST_RTOL * at.value[0])


def _finite(value: Array) -> Array:
    return np.where(np.isfinite(value), value, np.inf)
