"""Case resampling: what the parameters would have been, had other runs been drawn.

A resample of R runs is R draws with replacement, which is the same as giving every run the number
of times it was drawn as its weight; so all resamples share one set of arrays and are refitted as
one batch. For a law of an envelope the runs drawn from are those on the envelope.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.minimise import minimise
from scaling.laws.robust import Robust

Array = NDArray[np.float64]

_OTHER_STARTS = (0.25, 0.75)  # places in the list of starts, as parts of it


def refit(
    form: Form, x_RV: Array, y_R: Array, optimum_P: Array, starts_SP: Array,
    robust: Robust, resamples: int, seed: int,
) -> Array:
    """theta of every resample that converged, [B, P] with B <= resamples.

    Each resample is polished from the optimum of all runs and from a few other starts, and the
    lowest end counts. A resample that drew too few distinct runs to determine the law does not
    converge, whatever the optimizer says.
    """
    runs = len(y_R)
    draws = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    begin = [optimum_P, *(starts_SP[int(part * (len(starts_SP) - 1))] for part in _OTHER_STARTS)]
    ends = minimise(form, x_RV, y_R, np.tile(draws.astype(float), (len(begin), 1)),
                    np.repeat(begin, resamples, axis=0), robust)
    best = np.argmin(ends.value.reshape(len(begin), resamples), axis=0)
    place = best * resamples + np.arange(resamples)
    theta, converged = ends.theta[place], ends.converged[place]
    keep = converged & _determined(form, x_RV, draws)
    return np.asarray(theta[keep])


def _determined(form: Form, x_RV: Array, draws_BR: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a resample has as many distinct runs, and values of each variable, as it takes."""
    drawn = draws_BR > 0
    enough = drawn.sum(axis=1) >= len(form.parameters)
    for column in x_RV.T:
        values = np.unique(column)
        present = np.stack([(drawn & (column == value)).any(axis=1) for value in values], axis=1)
        enough &= present.sum(axis=1) >= form.distinct
    return np.asarray(enough)
