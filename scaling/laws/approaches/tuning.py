"""The best learning rate and batch size of each N and D: the minimum of a quadratic in ln lr and
ln batch through the losses of a grid of runs.

A quadratic describes the loss near the best rate and batch only: larger rates raise it faster than
smaller ones, and then diverge. It is fitted to the neighbourhood of the run with the lowest loss,
with equal weights: the runs whose rate and batch are within a factor of that run's, and whose loss
is not far above it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from scaling.errors import DataError, option
from scaling.laws.approaches.isoflop import TOLERANCE, group_values
from scaling.laws.law import LEVEL
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

WITHIN = 4.0
"""Factor of the best run's learning rate and batch within which runs are fitted: two steps of the
usual grids, which double them."""
_FAR_ABOVE = 0.1   # relative to the lowest loss: runs that begin to diverge
_LEAST_VALUES = 3  # of rate or of batch, that determine a parabola
_RANK_RTOL = 1e-6

WORDS = {"lr": "learning rate", "batch": "batch"}
_PLURALS = {"lr": "learning rates", "batch": "batches"}


@dataclass(frozen=True)
class TuningGrid:
    """The runs of one N and D.

    Attributes:
        n: parameters.
        d: training tokens.
        c: training FLOPs, the geometric mean of the runs.
        variables: those that were tuned, V of lr and batch.
        log_x: their logarithms in every run, [R, V].
        loss: nats per token, [R].
    """

    n: float
    d: float
    c: float
    variables: tuple[str, ...]
    log_x: Array
    loss: Array

    def near_best(self, within: float | None) -> NDArray[np.bool_]:
        """Which runs are within a factor of the best run's rate and batch, and not far above its
        loss, [R]; the factor None is for any."""
        best = int(self.loss.argmin())
        near = self.loss <= self.loss[best] * (1 + _FAR_ABOVE)
        if within is not None:
            distance = np.abs(self.log_x - self.log_x[best]).max(axis=1)
            near &= distance <= math.log(within) + 1e-9
        return np.asarray(near)


@dataclass(frozen=True)
class TuningMinimum:
    """The minimum of the quadratic through one grid.

    Attributes:
        log_x: ln of the best rate and batch, [V]; NaN if there is none.
        se: standard errors of `log_x`, [V]; NaN if unknown.
        loss: the quadratic at its minimum, nats per token.
        curvature: second derivatives of the loss, [V, V].
        near: the runs that were fitted, [R].
        problem: why the minimum is not used; empty if it is.
    """

    log_x: Array
    se: Array
    loss: float
    curvature: Array
    near: NDArray[np.bool_]
    problem: str = ""


def tuning_grids(
    table: RunsTable, variables: tuple[str, ...], tolerance: float = TOLERANCE
) -> list[TuningGrid]:
    """The runs by N and D, the smallest first: values of N, and then of D, that follow each other
    within `tolerance` in their logarithm are the same.

    Raises:
        DataError: values follow each other so closely that none can be told from the next.
    """
    x = np.log(np.stack([table.values[v] for v in variables], axis=-1))
    grids = []
    size_of = _same(np.log(table.n), tolerance, "N")
    for size in range(size_of.max() + 1):
        of_size = np.flatnonzero(size_of == size)
        length_of = _same(np.log(table.d[of_size]), tolerance, "D")
        for length in range(length_of.max() + 1):
            rows = of_size[length_of == length]
            n, d, c = (_mean(each[rows]) for each in (table.n, table.d, table.c))
            grids.append(TuningGrid(n, d, c, variables, x[rows], table.loss[rows]))
    return grids


def _mean(values: Array) -> float:
    """The geometric mean, without rounding if all values are equal."""
    return float(values[0] if np.ptp(values) == 0 else np.exp(np.log(values).mean()))


def _same(log_x: Array, tolerance: float, name: str) -> NDArray[np.intp]:
    group_of = group_values(log_x, tolerance)
    for group in range(group_of.max() + 1):
        members = log_x[group_of == group]
        if np.ptp(members) > 2 * tolerance:
            low, high = np.exp([members.min(), members.max()])
            raise DataError(
                f"runs of {name} from {low:.4g} to {high:.4g} follow each "
                f"other in steps of less than {tolerance:.2g} in ln {name}, where several runs of "
                "the same N and D are expected, with different learning rates or batches; choose "
                f"the column of {name} with {option(f'{name.lower()}=', f'--{name.lower()}')}")
    return group_of


def quadratic_minima(
    grids: Sequence[TuningGrid], within: float | None = WITHIN, noise: float | None = None
) -> tuple[list[TuningMinimum], float]:
    """The minimum of a least-squares quadratic through each grid, and the degrees of freedom of the
    standard errors.

    Standard errors are those of the minimum to first order. The standard deviation of runs about
    their quadratic is pooled over all grids, since a single one has too few runs to estimate it,
    unless the noise is given.

    Args:
        grids: the runs of each N and D.
        within: factor of the best run's rate and batch within which runs are fitted; None for all.
        noise: standard deviation of the log-loss between runs.
    """
    fits = [_Quadratic.of(grid, within) for grid in grids]
    solved = [fit for fit in fits if isinstance(fit, _Quadratic)]
    dof = float(sum(len(fit.residuals) - fit.design.shape[1] for fit in solved))
    squares = sum(float(fit.residuals @ fit.residuals) for fit in solved)
    pooled = math.sqrt(squares / dof) if dof > 0 else math.nan
    minima = []
    for grid, fit in zip(grids, fits, strict=True):
        if isinstance(fit, TuningMinimum):
            minima.append(fit)
        else:
            sd = pooled if noise is None else noise * float(grid.loss.min())
            minima.append(fit.minimum(grid, within, sd))
    return minima, dof if noise is None else math.inf


def half_width(se: Array | float, dof: float) -> Array | float:
    """Half the width of the 90% interval of a minimum's logarithm, by Student's t."""
    return se * float(stdtrit(dof, (1 + LEVEL) / 2)) if dof > 0 else se * math.nan


@dataclass(frozen=True)
class _Quadratic:
    """A least-squares quadratic in z = (ln x - centre) / scale.

    Attributes:
        centre, scale: of each variable, [V].
        near: the runs that were fitted, [R].
        design: 1, z_i and z_i z_j of those runs, [M, K].
        coefficients: [K].
        residuals: [M].
    """

    centre: Array
    scale: Array
    near: NDArray[np.bool_]
    design: Array
    coefficients: Array
    residuals: Array

    @classmethod
    def of(cls, grid: TuningGrid, within: float | None) -> _Quadratic | TuningMinimum:
        """The quadratic through a grid; a minimum with its `problem` if its runs determine none."""
        near = grid.near_best(within)
        x = grid.log_x[near]
        if problem := _too_few(grid, x, within):
            return _none(grid, near, problem)
        low, high = x.min(axis=0), x.max(axis=0)
        centre, scale = (low + high) / 2, (high - low) / 2
        design = _basis((x - centre) / scale)
        if np.linalg.matrix_rank(design, tol=_RANK_RTOL * len(design)) < design.shape[1]:
            return _none(grid, near, f"its {len(x)} runs near the lowest loss do not determine the "
                         f"{design.shape[1]} coefficients of a quadratic; train every learning "
                         "rate with several batches")
        coefficients = np.asarray(np.linalg.pinv(design) @ grid.loss[near])
        return cls(centre, scale, near, design, coefficients,
                   np.asarray(grid.loss[near] - design @ coefficients))

    def minimum(self, grid: TuningGrid, within: float | None, sd: float) -> TuningMinimum:
        """The minimum, with the standard deviation of runs about the quadratic."""
        size = len(self.centre)
        slope = self.coefficients[1:1 + size]
        upper = np.zeros((size, size))
        upper[np.triu_indices(size)] = self.coefficients[1 + size:]
        curvature: Array = upper + upper.T
        if np.linalg.eigvalsh(curvature)[0] <= 0:
            return _none(grid, self.near, _at_the_end(grid) or (
                "its losses have no valley: the curvature of a quadratic through them is not "
                "positive; train a wider grid, or more seeds"))
        z = np.asarray(-np.linalg.solve(curvature, slope), dtype=float)
        # The slope at the minimum stays zero, and the coefficients are linear in the losses.
        by_loss = np.linalg.solve(curvature, _basis_slopes(z) @ np.linalg.pinv(self.design))
        se = self.scale * sd * np.linalg.norm(by_loss, axis=1)
        found = TuningMinimum(
            self.centre + self.scale * z, se, float((_basis(z[None]) @ self.coefficients)[0]),
            curvature / np.outer(self.scale, self.scale), self.near)
        problem = _off_the_grid(grid, found, within)
        return _none(grid, self.near, problem) if problem else found


def _basis(z_RV: Array) -> Array:
    """1, z_i, and z_i z_j for i <= j, [R, K]."""
    pairs = itertools.combinations_with_replacement(range(z_RV.shape[1]), 2)
    return np.stack([np.ones(len(z_RV)), *z_RV.T, *(z_RV[:, i] * z_RV[:, j] for i, j in pairs)],
                    axis=-1)


def _basis_slopes(z_V: Array) -> Array:
    """Derivatives of the basis at one point, [V, K]."""
    size = len(z_V)
    rows = []
    for k in range(size):
        unit = np.eye(size)[k]
        pairs = itertools.combinations_with_replacement(range(size), 2)
        rows.append([0.0, *unit, *(unit[i] * z_V[j] + z_V[i] * unit[j] for i, j in pairs)])
    return np.array(rows)


def _none(grid: TuningGrid, near: NDArray[np.bool_], problem: str) -> TuningMinimum:
    size = len(grid.variables)
    return TuningMinimum(np.full(size, np.nan), np.full(size, np.nan), math.nan,
                         np.full((size, size), np.nan), near, problem)


def _too_few(grid: TuningGrid, x: Array, within: float | None) -> str:
    """Why the runs near the lowest loss have too few values of a variable; empty if not so."""
    for i, variable in enumerate(grid.variables):
        count, every = len(np.unique(x[:, i])), len(np.unique(grid.log_x[:, i]))
        if count >= _LEAST_VALUES:
            continue
        words = _PLURALS[variable] if count != 1 else WORDS[variable]
        if every < _LEAST_VALUES:
            return (f"it has {count} distinct {words}, where {_LEAST_VALUES} are needed; train "
                    "more of them at this N and D")
        nearby = (f" within a factor of {within:g} of its best run and" if within is not None
                  else "")
        wider = (f", or give a larger {option('within=', '--within')}" if within is not None
                 else "")
        return _at_the_end(grid) or (
            f"it has {count} distinct {words}{nearby} at most {_FAR_ABOVE:.0%} above the lowest "
            f"loss, where {_LEAST_VALUES} are needed; train a finer grid{wider}")
    return ""


def _at_the_end(grid: TuningGrid) -> str:
    """Where the lowest loss is at an end of the grid; empty if it is inside."""
    best = grid.log_x[grid.loss.argmin()]
    for variable, value, column in zip(grid.variables, best, grid.log_x.T, strict=True):
        for end, word in ((column.min(), "smaller"), (column.max(), "larger")):
            if value == end:
                return (f"its lowest loss is at the edge of the grid, the {WORDS[variable]} "
                        f"{math.exp(end):.3g}; train {word} {_PLURALS[variable]} at this N and D")
    return ""


def _off_the_grid(grid: TuningGrid, found: TuningMinimum, within: float | None) -> str:
    """Why a minimum lies where the runs do not show it; empty if they do."""
    fitted = grid.log_x[found.near]
    for i, variable in enumerate(grid.variables):
        levels, x = np.unique(grid.log_x[:, i]), float(found.log_x[i])
        value, word = math.exp(min(x, 700.0)), WORDS[variable]
        for end, margin, sign, wanted in (
            (levels[0], (levels[1] - levels[0]) / 2, 1, "smaller"),
            (levels[-1], (levels[-1] - levels[-2]) / 2, -1, "larger"),
        ):
            inside = sign * (x - end)
            where = ("outside" if inside < 0 else
                     "at the edge of" if inside < margin else "")
            if where:
                return (f"its lowest loss, at a {word} of {value:.3g}, is {where} the grid, which "
                        f"ends at {math.exp(end):.3g}; train {wanted} {_PLURALS[variable]} at this "
                        "N and D")
        low, high = fitted[:, i].min(), fitted[:, i].max()
        if not low <= x <= high:
            wider = f"; give a larger {option('within=', '--within')}" if within else ""
            return (f"the minimum of its quadratic, at a {word} of {value:.3g}, is outside the "
                    f"fitted runs, from {math.exp(low):.3g} to {math.exp(high):.3g}{wider}")
        if found.se[i] > (high - low) / 2:
            return (f"its valley is too flat for its noise: the standard error of the logarithm of "
                    f"the best {word} is {found.se[i]:.2g}, more than half of the range of the "
                    "fitted runs; train a wider grid, or more seeds")
    return ""
