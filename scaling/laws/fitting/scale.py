"""What a rise of the objective is worth: the scale that makes of it a likelihood ratio.

Twice the rise of a sum of rho from holding one quantity g of the parameters at its true value is
distributed as c times chi-squared with one degree of freedom, where for least squares of
independent residuals c is their variance, and in general

    c = (g' H^-1 J H^-1 g) / (g' H^-1 g),  J = sum psi^2 f f',  H = sum E[psi'] f f',

psi the slope of rho, f the gradient of a run's prediction and g that of the quantity: the sandwich
variance over the inverse curvature (Kent 1982, Biometrika 69, p. 19; for robust regression
Schrader and Hettmansperger 1980, Biometrika 67, p. 93; Huber and Ronchetti 2009, sections 3.2 and
7.6). Runs may differ in the size of their residuals, as small models do from large ones; they have
to be independent, and the form has to be true on the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scaling.laws.fitting.robust import Robust

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """The scale of an objective for one quantity.

    `c` turns rises of the objective into likelihood ratios, `se` is the sandwich standard error of
    the quantity, `path` [P] the change of theta that moves it by one at the least expense, and
    `freedom` the number of runs less that of parameters.
    """

    c: float
    se: float
    path: Array
    freedom: int

    def rise(self, level: float) -> float:
        """The rise that holding the quantity at its true value exceeds with probability
        1 - level: by F with one degree of freedom, which is chi-squared where runs are many."""
        return self.c * float(stats.f.ppf(level, 1, self.freedom)) / 2


def scale_of(residuals: Array, j_RP: Array, slope_P: Array, robust: Robust) -> Scale:
    """The scale for a quantity whose derivative by theta is the slope, from the residuals of a fit
    and its predictions' derivatives j."""
    runs, parameters = j_RP.shape
    freedom = max(1, runs - parameters)
    psi, bend = _psi(residuals, parameters, robust)
    size = np.maximum(np.sqrt((j_RP**2).sum(axis=0)), 1e-300)  # no unit of theta may matter
    j, g = j_RP / size, slope_P / size
    inverse = np.linalg.pinv((bend[:, None] * j).T @ j, rcond=1e-13, hermitian=True)
    step = inverse @ g
    curved = float(g @ step)
    meat = float(((j @ step) ** 2) @ psi**2) * runs / freedom
    if not (curved > 0 and meat > 0):
        return Scale(np.finfo(float).tiny, np.inf, np.zeros(parameters), freedom)
    return Scale(meat / curved, float(np.sqrt(meat)), step / size / curved, freedom)


def _psi(r: Array, parameters: int, robust: Robust) -> tuple[Array, Array]:
    """psi of every residual, and the expectation of psi' there: [R] each.

    psi' is one within delta of zero and nothing outside. Few residuals are inside where delta is
    small, so each is smoothed by a normal kernel of Silverman's bandwidth (as Powell 1991 does for
    the absolute loss). A fit of the absolute loss runs through as many runs as it has parameters;
    their zeros say nothing of the density, and their psi is neither -1 nor 1 but of that size.
    """
    if robust.kind == "squared":
        return r, np.ones_like(r)
    quartiles = float(np.subtract(*np.quantile(r, [0.75, 0.25]))) / 1.349
    spread = min(float(np.std(r)), quartiles) or float(np.std(r))
    width = max(0.9 * spread * len(r) ** -0.2, np.finfo(float).tiny)
    if robust.kind == "huber":
        within = (stats.norm.cdf((robust.delta - r) / width)
                  - stats.norm.cdf((-robust.delta - r) / width))
        return np.clip(r, -robust.delta, robust.delta), np.asarray(within)
    density = 2 * stats.norm.pdf(r / width) / width
    density[np.argsort(np.abs(r), kind="stable")[:parameters]] = 0
    return np.ones_like(r), np.asarray(density)
