"""Bootstrap and jackknife refits of a law.

A resample of R runs is R draws with replacement, which is equivalent to weighting every run by the
number of times it was drawn; so all resamples share one set of arrays and are refitted as one
batch. For a law of an envelope the runs on the envelope are resampled.

The wild bootstrap keeps every run, and multiplies its residual by a random factor that all rows of
one cluster share (Cameron, Gelbach and Miller 2008): it needs no equal variances, and with few
clusters no resample lacks a part of the design.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from scaling.errors import UserError, option
from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]
ResampleUnit = Literal["case", "residual", "size", "cluster", "wild"]

_CHECKED = 40    # resamples that are also fitted from other starts; all, if any ends lower
_RTOL = 1e-6     # of the objective, within which two optima are the same
_MAX_PARTS = 100  # parts that the jackknife leaves out in turn
_MANY_RUNS = 2_000  # from which a resample is fitted by one Newton step from the optimum
_CHUNK = 1000     # resamples in memory at once, and between two progress updates
_SEEDS = 2**63
_MOST_LEVERAGE = 0.99  # for which residuals are rescaled
_UPPER = 0.95           # quantile at the upper end of a 90% interval
_WEBB_CLUSTERS = 12    # below which two factors give too few different resamples
_SIGNS = np.array([-1.0, 1.0])
_WEBB = np.sqrt([0.5, 1.0, 1.5])
"""Positive ones of the six factors of Webb 2014 (Queen's Economics Department paper 1315)."""
MOST_RESAMPLES = 100_000
"""Upper bound of resamples, far above what 90% intervals need."""


@dataclass(frozen=True)
class BootstrapProblem:
    """A completed fit, and all that is needed to repeat it on resampled runs.

    Attributes:
        form: the form.
        x: variables in the form's coordinates, [R, V].
        y: outcomes on the scale of the form's predictions, [R].
        unit: what each run belongs to, [R]; a resample draws units, with all of their runs. -1 for
            a point that every resample includes once.
        optimum: theta of the fit, [P].
        starts: starting points, [S, P].
        robust: loss of the residuals.
        held: indices of parameters that resamples do not change, those of dropped terms.
    """

    form: Form
    x: Array
    y: Array
    unit: NDArray[np.intp]
    optimum: Array
    starts: Array
    robust: ResidualLoss
    held: tuple[int, ...] = ()

    @property
    def has_one_step_fits(self) -> bool:
        """Whether a resample is fitted by one Newton step."""
        return len(self.y) >= _MANY_RUNS and not self.held


def check_resamples(resamples: int, seed: int) -> None:
    """Check the number of resamples and the seed.

    Raises:
        UserError: the number of resamples is not in 0 to `MOST_RESAMPLES`, or the seed is not in
            0 to 2^63 - 1.
    """
    for name, value in (("resamples", resamples), ("seed", seed)):
        if not isinstance(value, int | np.integer):
            raise UserError(f"{name}={value!r:.40}: an integer is expected")
    if not 0 <= resamples <= MOST_RESAMPLES:
        raise UserError(f"{resamples:,} resamples: an integer from 0 to {MOST_RESAMPLES:,} is "
                        "expected; 1000 are enough for 90% intervals")
    if not 0 <= seed < _SEEDS:
        raise UserError(f"seed {seed}: an integer from 0 to 2^63 - 1 is expected")


def resampled_units(table: RunsTable, by: ResampleUnit) -> tuple[ResampleUnit, NDArray[np.intp]]:
    """What is resampled, and the unit of each run, [R]: itself, its size N, or its cluster. Runs
    with clusters are resampled by cluster unless sizes or residuals are asked for; the wild
    bootstrap has a factor for each cluster, or for each run of a table without.

    Raises:
        UserError: the runs have no sizes or clusters, or all belong to one.
    """
    if by not in get_args(ResampleUnit):
        raise UserError(f"{option('resample=', '--resample ')}{by}: one of "
                        f"{', '.join(get_args(ResampleUnit))} is expected")
    each = np.arange(table.loss.size)
    if by == "residual":
        return by, each
    if by in ("case", "wild") and not table.cluster.size:
        return by, _of_runs(table, each)
    if by == "size":
        if np.isnan(table.n).any():
            raise UserError(f"{option('resample=', '--resample ')}size: needs N of every run; name "
                            f"its column with {option('n=', '--n')}")
        unit = np.unique(table.n, return_inverse=True)[1]
    elif table.cluster.size:
        by = "cluster" if by == "case" else by
        unit = np.unique(table.cluster, return_inverse=True)[1]
    else:
        raise UserError(f"{option('resample=', '--resample ')}cluster: needs the run that each row "
                        f"belongs to; name its column with {option('cluster=', '--cluster')}")
    if unit.max() == 0:
        named = option("resample=", "--resample ")
        raise UserError(f"{named}{by}: all runs have one {'size' if by == 'size' else 'cluster'}, "
                        "where at least two are expected; resample runs")
    return by, _of_runs(table, unit)


def _of_runs(table: RunsTable, unit: NDArray[np.intp]) -> NDArray[np.intp]:
    """Units of the runs alone, numbered from zero; -1 for the ideal points among them."""
    if not table.ideal.any():
        return unit
    found = np.full(len(unit), -1, dtype=np.intp)
    found[~table.ideal] = np.unique(unit[~table.ideal], return_inverse=True)[1]
    return found


def refit_resamples(
    problem: BootstrapProblem, by: ResampleUnit, resamples: int, seed: int,
    watch: Callable[[int], None] = lambda done: None,
) -> Array:
    """Refit resampled runs.

    Each resample is fitted from the optimum of all runs. Some are also fitted from one of the
    starts; if any of those fits ends at a lower objective, all resamples are, and the lower optimum
    is kept. A resample with too few distinct runs to determine the law counts as not converged.

    Args:
        problem: the fit to all runs.
        by: what is resampled: units of the problem, or residuals, added to the fitted law.
        resamples: number of resamples.
        seed: seed of the draws.
        watch: called with the number of resamples done.

    Returns:
        theta of every converged resample, [B, P] with B <= resamples.
    """
    return refit_numbered(problem, by, resamples, seed, watch)[0]


def refit_numbered(
    problem: BootstrapProblem, by: ResampleUnit, resamples: int, seed: int,
    watch: Callable[[int], None] = lambda done: None,
) -> tuple[Array, NDArray[np.intp]]:
    """As `refit_resamples`, with the number of the resample that each theta is of, [B]. Problems
    with equally many units draw the same units in resamples of one number under one seed."""
    rng = np.random.default_rng(seed)
    one_step = _OneStepFits(problem) if problem.has_one_step_fits else None
    parts, numbers, from_starts = [], [], False
    for first in range(0, resamples, _CHUNK):
        y_BR, w_BR = _draw(problem, by, min(_CHUNK, resamples - first), rng)
        if one_step is not None:
            parts.append(one_step.theta(y_BR, w_BR))
            numbers.append(first + np.arange(len(y_BR)))
        else:
            distinct, index = _distinct(y_BR, w_BR)
            part, kept, from_starts = _fit_chunk(
                problem, y_BR[:len(distinct)], distinct, first, resamples, from_starts)
            place = np.full(len(distinct), -1)
            place[kept] = np.arange(len(kept))
            place = place[index]
            parts.append(part[place[place >= 0]])
            numbers.append(first + np.flatnonzero(place >= 0))
        watch(first + len(y_BR))
    return np.concatenate(parts), np.concatenate(numbers)


def _distinct(y_BR: Array, w_BR: Array) -> tuple[Array, NDArray[np.intp]]:
    """The different weights of resamples with the same outcomes, and the place of each resample's
    among them: few units have few resamples. All weights, in order, if most of them differ."""
    if y_BR.strides[0] == 0 and len(w_BR):
        distinct, index = np.unique(w_BR, axis=0, return_inverse=True)
        if len(distinct) <= len(w_BR) / 2:
            return distinct, index.ravel()
    return w_BR, np.arange(len(w_BR))


def _fit_chunk(
    problem: BootstrapProblem, y_BR: Array, w_BR: Array, first: int, resamples: int,
    from_starts: bool,
) -> tuple[Array, NDArray[np.intp], bool]:
    """Fit one chunk of the resamples; `first` is the index of its first resample.

    Returns:
        theta of the converged ones, their indices in the chunk, and `from_starts` for the next
        chunk: whether resamples are fitted from the starts, too.
    """
    count = len(y_BR)
    minima = _solve(problem, y_BR, w_BR, np.tile(problem.optimum, (count, 1)))
    theta, value, converged = minima.theta, minima.value, minima.converged

    def improve(rows: NDArray[np.intp], total: int) -> bool:
        """Fit some resamples again, each from another start, evenly spaced over all starts."""
        chosen = np.linspace(0, len(problem.starts) - 1, total).round().astype(int)[first + rows]
        other = _solve(problem, y_BR[rows], w_BR[rows], problem.starts[chosen])
        lower = other.value < value[rows] * (1 - _RTOL)
        better = rows[lower]
        theta[better], value[better] = other.theta[lower], other.value[lower]
        converged[better] = other.converged[lower]
        return bool(lower.any())

    if first == 0:
        checked = min(_CHECKED, count)
        from_starts = improve(np.arange(checked), checked)
    if from_starts:
        improve(np.arange(count), resamples)
    kept = np.flatnonzero(converged & _determined(problem, w_BR))
    return np.asarray(theta[kept]), kept, from_starts


def widening(problem: BootstrapProblem, by: ResampleUnit) -> float:
    """The factor by which resamples scatter too little.

    Drawn units: the square root of units over degrees of freedom, since the fit has made residuals
    smaller than the errors; at most the square root of two. Residuals are corrected for that
    beforehand (`_residuals`): one for those that are drawn. Those of the wild bootstrap have the
    right standard error, and their intervals are wider by the ratio of Student's to the normal
    quantile, at most that of two degrees of freedom.
    """
    if by == "residual":
        return 1.0
    units = int(problem.unit.max()) + 1
    dof = units - len(problem.optimum)
    if by == "wild":
        return float(stdtrit(max(dof, 2), _UPPER) / ndtri(_UPPER))
    return float(np.sqrt(units / max(dof, units / 2)))


def jackknife(problem: BootstrapProblem) -> Array:
    """theta with each unit left out, or each of a hundred parts if there are more, [J, P]."""
    parts = min(int(problem.unit.max()) + 1, _MAX_PARTS)
    # Runs are sorted by size, so every part has runs of all sizes.
    part_of_run = np.where(problem.unit < 0, -1, problem.unit % parts)
    w_JR = (part_of_run != np.arange(parts)[:, None]).astype(float)
    y_JR = np.broadcast_to(problem.y, w_JR.shape)
    if problem.has_one_step_fits:
        return _OneStepFits(problem).theta(y_JR, w_JR)
    minima = _solve(problem, y_JR, w_JR, np.tile(problem.optimum, (parts, 1)))
    return np.asarray(minima.theta)


def _draw(
    problem: BootstrapProblem, by: ResampleUnit, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Outcomes and weights of the runs in each resample, [B, R] each."""
    runs = len(problem.y)
    units = int(problem.unit.max()) + 1
    if by == "residual":
        fitted, residuals = _residuals(problem, np.arange(runs))
        residuals -= residuals.mean()
        drawn = rng.integers(0, runs, (resamples, runs))
        return fitted + residuals[drawn], np.ones((resamples, runs))
    if by == "wild":
        fitted, residuals = _residuals(problem, problem.unit)
        factors = _SIGNS if units >= _WEBB_CLUSTERS else np.concatenate([-_WEBB, _WEBB])
        drawn_BU = factors[rng.integers(0, len(factors), (resamples, units))]
        drawn_BU = np.append(drawn_BU, np.zeros((resamples, 1)), axis=1)  # of unit -1
        return fitted + residuals * drawn_BU[:, problem.unit], np.ones((resamples, runs))
    w_BR = np.empty((resamples, runs))
    for weights in w_BR:
        times = np.bincount(rng.integers(0, units, units), minlength=units)
        weights[:] = np.append(times, 1)[problem.unit]  # the last one is of unit -1
    return np.broadcast_to(problem.y, (resamples, runs)), w_BR


class _OneStepFits:
    """Fits of resamples by one Newton step from the optimum of all runs.

    With tens of thousands of runs the optimum of a resample is so close that the error of one step
    is far below the spread of the resamples. A step needs only weighted sums of terms that are
    computed once.
    """

    def __init__(self, problem: BootstrapProblem) -> None:
        self.problem = problem
        form, theta, x = problem.form, problem.optimum, problem.x
        predicted, j_BRP = form.gradient(theta[None], x)
        self.predicted, self.j_RP = predicted[0], j_BRP[0]
        step = 1e-5
        self.second = np.stack([
            (form.gradient((theta + shift)[None], x)[1][0]
             - form.gradient((theta - shift)[None], x)[1][0]) / (2 * step)
            for shift in step * np.eye(len(theta))
        ], axis=-1)

    def theta(self, y_BR: Array, w_BR: Array) -> Array:
        """theta of each resample, [B, P]."""
        n_params = self.j_RP.shape[1]
        smooth = self.problem.robust.stages()[-1]
        outer = (self.j_RP[:, :, None] * self.j_RP[:, None, :]).reshape(len(self.j_RP), -1)
        second = self.second.reshape(outer.shape)

        def sums(w_BR: Array, y_R: Array) -> Array:
            r_R = y_R - self.predicted
            psi, psi_prime = smooth.psi(r_R)[:, None], smooth.psi_prime(r_R)[:, None]
            return np.asarray(w_BR @ np.hstack([psi * self.j_RP, psi_prime * outer - psi * second]))

        if y_BR.strides[0] == 0:  # all resamples have the same outcomes
            g_and_h = sums(w_BR, y_BR[0])
        else:
            g_and_h = np.concatenate([sums(w[None], y) for w, y in zip(w_BR, y_BR, strict=True)])
        g_BP, h_BQ = g_and_h[:, :n_params], g_and_h[:, n_params:]
        h_BPP = h_BQ.reshape(-1, n_params, n_params)
        return np.asarray(self.problem.optimum
                          + np.linalg.solve(h_BPP, g_BP[..., None])[..., 0])


def _solve(problem: BootstrapProblem, y_BR: Array, w_BR: Array, start_BP: Array) -> Minimum:
    return minimise(problem.form, problem.x, y_BR, w_BR, start_BP, problem.robust,
                    held=problem.held)


def _residuals(problem: BootstrapProblem, unit_R: NDArray[np.intp]) -> tuple[Array, Array]:
    """Predictions, and residuals rescaled for leverage so that they have the variance of the
    errors: r_g of each unit becomes (I - H_gg)^(-1/2) r_g, with H the projection on the slopes
    (Bell and McCaffrey 2002; for units of one run, Davison and Hinkley 1997, section 6.2.3)."""
    fitted, j_BRP = problem.form.gradient(problem.optimum[None], problem.x)
    q, _ = np.linalg.qr(j_BRP[0])
    residuals = problem.y - fitted[0]
    order = np.argsort(unit_R, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(unit_R[order])) + 1):
        u, s, _ = np.linalg.svd(q[rows], full_matrices=False)
        factor = 1 / np.sqrt(1 - np.minimum(s**2, _MOST_LEVERAGE)) - 1
        residuals[rows] += u @ (factor * (residuals[rows] @ u))
    return fitted[0], residuals


def _determined(problem: BootstrapProblem, w_BR: Array) -> NDArray[np.bool_]:
    """Whether each resample has enough distinct runs, and distinct values of each variable."""
    drawn = w_BR > 0
    enough = drawn.sum(axis=1) >= problem.x.shape[1] + 1
    enough &= drawn.sum(axis=1) >= len(problem.optimum)
    for column in problem.x[:, :len(problem.form.variables)].T:
        values, value_index = np.unique(column, return_inverse=True)
        if len(values) == 1:
            continue
        present = np.zeros((len(drawn), len(values)), dtype=bool)
        rows, runs = np.nonzero(drawn)
        present[rows, value_index[runs]] = True
        enough &= present.sum(axis=1) >= min(problem.form.distinct, len(values))
    return np.asarray(enough)
