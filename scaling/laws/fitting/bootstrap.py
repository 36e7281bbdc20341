"""What the parameters would have been, had other runs been drawn; and had one been left out.

A resample of R runs is R draws with replacement, which is the same as giving every run the number
of times it was drawn as its weight; so all resamples share one set of arrays and are refitted as
one batch. For a law of an envelope the runs drawn from are those on the envelope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
Unit = Literal["case", "residual", "size"]

_CHECKED = 40  # resamples that are also fitted from afar; all of them, if any ends lower there
_AGREE = 1e-6
_LEFT_OUT = 100  # parts at most that are left out in turn
_MANY = 20_000   # runs, from which on a resample is one Newton step from the optimum
_BLOCK = 20_000_000  # resamples times runs whose weights are held at once


@dataclass(frozen=True)
class Problem:
    """A fit that has been made, to be made again: `x` [R, V] and `y` [R] as the form reads them,
    the `optimum` [P], the `starts` [S, P], and the number of parameters N of each run, `n` [R]."""

    form: Form
    x: Array
    y: Array
    n: Array
    optimum: Array
    starts: Array
    robust: Robust


def refit(problem: Problem, by: Unit, resamples: int, seed: int) -> Array:
    """theta of every resample that converged, [B, P] with B <= resamples.

    `by` says what is drawn: runs (case); residuals, put back on the fitted law (residual); or
    sizes N with all of their runs (size), for runs of a size that err together.

    Each resample is polished from the optimum of all runs. Some are also fitted from one of the
    starts; should any of those end lower, all are, and the lower end counts. A resample that drew
    too few distinct runs to determine the law does not converge, whatever the optimizer says.
    """
    runs = len(problem.y)
    rng = np.random.default_rng(seed)
    if runs >= _MANY:
        steps = _Steps(problem)
        block = max(1, _BLOCK // runs)
        return np.concatenate([
            steps.to(*_draw(problem, by, min(block, resamples - first), rng))
            for first in range(0, resamples, block)
        ])
    y_BR, w_BR = _draw(problem, by, resamples, rng)
    ends = _solve(problem, y_BR, w_BR, np.tile(problem.optimum, (resamples, 1)))
    theta, value, converged = ends.theta, ends.value, ends.converged
    for checked in (np.arange(min(_CHECKED, resamples)), np.arange(resamples)):
        # Starts in turn, so that every region of them is tried.
        turns = np.linspace(0, len(problem.starts) - 1, len(checked)).round().astype(int)
        other = _solve(problem, y_BR[checked], w_BR[checked], problem.starts[turns])
        lower = other.value < value[checked] * (1 - _AGREE)
        better = checked[lower]
        theta[better], value[better] = other.theta[lower], other.value[lower]
        converged[better] = other.converged[lower]
        if not lower.any():
            break
    return np.asarray(theta[converged & _determined(problem, w_BR)])


def leave_out(problem: Problem) -> Array:
    """theta with one run left out, for every run; of many runs, with a hundredth left out: [J, P].
    """
    runs = len(problem.y)
    parts = min(runs, _LEFT_OUT)
    # Runs are sorted by size; every part takes some of all.
    part_of_run = np.arange(runs) % parts
    w_JR = (part_of_run != np.arange(parts)[:, None]).astype(float)
    y_JR = np.broadcast_to(problem.y, w_JR.shape)
    if runs >= _MANY:
        return _Steps(problem).to(y_JR, w_JR)
    ends = _solve(problem, y_JR, w_JR, np.tile(problem.optimum, (parts, 1)))
    return np.asarray(ends.theta)


def _draw(
    problem: Problem, by: Unit, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Outcomes and weights of the runs in each resample: [B, R] each."""
    runs = len(problem.y)
    if by == "residual":
        fitted, residuals = _residuals(problem)
        drawn = rng.integers(0, runs, (resamples, runs))
        return fitted + residuals[drawn], np.ones((resamples, runs))
    of_run = np.arange(runs) if by == "case" else np.unique(problem.n, return_inverse=True)[1]
    units = int(of_run.max()) + 1
    w_BR = np.empty((resamples, runs))
    for weights in w_BR:
        times = np.bincount(rng.integers(0, units, units), minlength=units)
        weights[:] = times if by == "case" else times[of_run]
    return np.broadcast_to(problem.y, (resamples, runs)), w_BR


class _Steps:
    """One Newton step from the optimum to that of a resample: with tens of thousands of runs a
    resample's optimum lies so near that the rest is far below its spread, and all that a step
    needs are weighted sums of what is computed once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        form, theta, x = problem.form, problem.optimum, problem.x
        predicted, j_BRP = form.gradient(theta[None], x)
        self.predicted, self.j_RP = predicted[0], j_BRP[0]
        step = 1e-5
        self.second = np.stack([
            (form.gradient((theta + aside)[None], x)[1][0]
             - form.gradient((theta - aside)[None], x)[1][0]) / (2 * step)
            for aside in step * np.eye(len(theta))
        ], axis=-1)

    def to(self, y_BR: Array, w_BR: Array) -> Array:
        """theta of each resample: [B, P]."""
        parameters = self.j_RP.shape[1]
        smooth = self.problem.robust.stages()[-1]
        outer = (self.j_RP[:, :, None] * self.j_RP[:, None, :]).reshape(len(self.j_RP), -1)
        second = self.second.reshape(outer.shape)

        def sums(w_BR: Array, y_R: Array) -> Array:
            r_R = y_R - self.predicted
            slope, bend = smooth.slope(r_R)[:, None], smooth.bend(r_R)[:, None]
            return np.asarray(w_BR @ np.hstack([slope * self.j_RP, bend * outer - slope * second]))

        if y_BR.strides[0] == 0:  # the same outcomes for all
            both = sums(w_BR, y_BR[0])
        else:
            both = np.concatenate([sums(w[None], y) for w, y in zip(w_BR, y_BR, strict=True)])
        g_BP, h_BQ = both[:, :parameters], both[:, parameters:]
        h_BPP = h_BQ.reshape(-1, parameters, parameters)
        return np.asarray(self.problem.optimum
                          + np.linalg.solve(h_BPP, g_BP[..., None])[..., 0])


def _solve(problem: Problem, y_BR: Array, w_BR: Array, begin_BP: Array) -> Minimum:
    return minimise(problem.form, problem.x, y_BR, w_BR, begin_BP, problem.robust)


def _residuals(problem: Problem) -> tuple[Array, Array]:
    """What the law predicts, and residuals as wide as the errors were: those of a fit are narrower
    at runs of high leverage (Davison and Hinkley 1997, section 6.2.3)."""
    fitted, j_BRP = problem.form.gradient(problem.optimum[None], problem.x)
    q, _ = np.linalg.qr(j_BRP[0])
    leverage = np.minimum((q**2).sum(axis=1), 0.99)
    residuals = (problem.y - fitted[0]) / np.sqrt(1 - leverage)
    return fitted[0], residuals - residuals.mean()


def _determined(problem: Problem, w_BR: Array) -> NDArray[np.bool_]:
    """Whether a resample has as many distinct runs, and values of each variable, as it takes."""
    drawn = w_BR > 0
    enough = drawn.sum(axis=1) >= problem.x.shape[1] + 1
    enough &= drawn.sum(axis=1) >= len(problem.optimum)
    for column in problem.x.T:
        values, place = np.unique(column, return_inverse=True)
        if len(values) == 1:
            continue
        present = np.zeros((len(drawn), len(values)), dtype=bool)
        rows, runs = np.nonzero(drawn)
        present[rows, place[runs]] = True
        enough &= present.sum(axis=1) >= min(problem.form.distinct, len(values))
    return np.asarray(enough)
