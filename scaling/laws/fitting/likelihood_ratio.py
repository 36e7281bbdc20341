"""The scale that converts an increase of the objective to a likelihood ratio statistic.

If one quantity of the parameters is fixed at its true value, twice the increase of a sum of rho is
distributed as c times chi-squared with one degree of freedom. For least squares of independent
residuals c is their variance, and in general

    c = (g' H^-1 J H^-1 g) / (g' H^-1 g),  J = sum psi^2 f f',  H = sum E[psi'] f f',

with psi the derivative of rho, f the gradient of a run's prediction and g that of the quantity: the
sandwich variance divided by the inverse curvature (Kent 1982, Biometrika 69, p. 19; for robust
regression Schrader and Hettmansperger 1980, Biometrika 67, p. 93; Huber and Ronchetti 2009,
sections 3.2 and 7.6). Runs may have residuals of different variance, such as small and large
models; they must be independent, and the form must be approximately true.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, ndtr

from scaling.laws.forms.losses import ResidualLoss

Array = NDArray[np.float64]

_NO_EFFECT = 1e-9  # relative size of a column of the gradient


@dataclass(frozen=True)
class LikelihoodScale:
    """The scale of an objective for one quantity of the parameters.

    Attributes:
        c: twice an increase of the objective divided by c is a likelihood ratio statistic.
        se: sandwich standard error of the quantity.
        direction: change of theta, [P], that increases the quantity by one at the lowest increase
            of the objective.
        dof: degrees of freedom, the number of runs minus that of parameters.
    """

    c: float
    se: float
    direction: Array
    dof: int

    def threshold(self, level: float) -> float:
        """The increase of the objective that fixing the quantity at its true value exceeds with
        probability 1 - level. Uses the F distribution with 1 and `dof` degrees of freedom, which
        is chi-squared for many runs."""
        return self.c * float(fdtri(1, self.dof, level)) / 2


def likelihood_scale(
    residuals: Array, j_RP: Array, slope_P: Array, robust: ResidualLoss
) -> LikelihoodScale:
    """The scale of the objective for one quantity of the parameters.

    Args:
        residuals: residuals of the fit, [R].
        j_RP: derivative of the predictions with respect to theta, [R, P].
        slope_P: derivative of the quantity with respect to theta, [P].
        robust: loss of the residuals.
    """
    runs, n_params = j_RP.shape
    dof = max(1, runs - n_params)
    psi, psi_prime = _psi(residuals, n_params, robust)
    size = np.sqrt((j_RP**2).sum(axis=0))  # makes the rest independent of units of theta
    # A parameter at minus infinity in theta, such as a constant of zero, has no effect on any run
    # and is at its bound: the others are judged as if it were fixed there.
    size[size <= _NO_EFFECT * size.max(initial=0)] = np.inf
    j, g = j_RP / size, slope_P / size
    inverse = np.linalg.pinv((psi_prime[:, None] * j).T @ j, rcond=1e-13, hermitian=True)
    step = inverse @ g
    inverse_curvature = float(g @ step)
    meat = float(((j @ step) ** 2) @ psi**2) * runs / dof
    if not (inverse_curvature > 0 and meat > 0):
        return LikelihoodScale(np.finfo(float).tiny, np.inf, np.zeros(n_params), dof)
    return LikelihoodScale(meat / inverse_curvature, float(np.sqrt(meat)),
                           step / size / inverse_curvature, dof)


def score_moments(r: Array, n_params: int, robust: ResidualLoss) -> tuple[float, float]:
    """Means of psi^2 and of the expectation of psi' over residuals, [R]."""
    psi, psi_prime = _psi(r, n_params, robust)
    return float((psi**2).mean()), max(float(psi_prime.mean()), np.finfo(float).tiny)


def _psi(r: Array, n_params: int, robust: ResidualLoss) -> tuple[Array, Array]:
    """psi of every residual, and the expectation of psi' there, [R] each.

    psi' is one within delta of zero, and zero outside. If delta is small, few residuals are inside,
    so each is smoothed by a normal kernel of Silverman's bandwidth (as in Powell 1991 for the
    absolute loss). A fit of the absolute loss interpolates as many runs as it has parameters; their
    zero residuals are left out of the density estimate, and their psi is taken to be of size one.
    """
    if robust.kind == "squared":
        return r, np.ones_like(r)
    quartiles = float(np.subtract(*np.quantile(r, [0.75, 0.25]))) / 1.349
    spread = min(float(np.std(r)), quartiles) or float(np.std(r))
    width = max(0.9 * spread * len(r) ** -0.2, np.finfo(float).tiny)
    if robust.has_delta:
        within = ndtr((robust.delta - r) / width) - ndtr((-robust.delta - r) / width)
        return np.clip(r, -robust.delta, robust.delta), np.asarray(within)
    density = 2 * normal_density(r / width) / width
    density[np.argsort(np.abs(r), kind="stable")[:n_params]] = 0
    return np.ones_like(r), np.asarray(density)


def normal_density(x: Array | float) -> Array:
    """Density of the standard normal distribution."""
    return np.asarray(np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi))
