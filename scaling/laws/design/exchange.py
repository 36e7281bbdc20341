"""Choice of runs among many candidates: a greedy c-optimal design improved by exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.design.fisher import Information

Array = NDArray[np.float64]

_MIN_GAIN = 1e-6   # relative decrease of the variance that an exchange must achieve
_MAX_PASSES = 50   # over the chosen runs; a few are usually enough
_ROUNDING = 1e-12  # relative tolerance of the budget


@dataclass(frozen=True)
class CandidateSet:
    """K candidate runs, in coordinates in which the information of the runs so far is the unit
    matrix.

    `h` and `m` [P, P] are the factors of the sandwich covariance of the runs so far, `gradient`
    [P] the gradient of the target, and `z` [K, P] the gradients of the candidates' predictions.
    `curvature` and `score_variance` [K] are the moments of `fisher.residual_moments`, and `cost`
    [K] is in the unit of the budget.
    """

    h: Array
    m: Array
    gradient: Array
    z: Array
    curvature: Array
    score_variance: Array
    cost: Array

    @classmethod
    def from_runs(
        cls, information: Information, gradient_P: Array, candidates: tuple[Array, Array, Array],
        cost: Array,
    ) -> CandidateSet:
        """The candidates, given the information of the runs so far.

        Args:
            information: of the runs so far.
            gradient_P: gradient of the target by theta.
            candidates: J [K, P] and the moments [K] and [K] of the candidates, as
                `fisher.gradient_and_moments` returns them.
            cost: in the unit of the budget, [K].
        """
        j, curvature, score_variance = candidates
        basis = information.basis
        return cls(information.h, information.m, basis.T @ gradient_P, j @ basis, curvature,
                   score_variance, cost)

    def _information(self, chosen: Sequence[int]) -> tuple[Array, Array]:
        """h and m of the runs so far and the chosen candidates, [P, P] each."""
        z = self.z[list(chosen)]
        return (self.h + (self.curvature[list(chosen)] * z.T) @ z,
                self.m + (self.score_variance[list(chosen)] * z.T) @ z)

    def variance(self, chosen: Sequence[int]) -> float:
        """Variance of the target after training the chosen candidates."""
        h, m = self._information(chosen)
        w = np.linalg.solve(h, self.gradient)
        return float(w @ m @ w)

    def _variance_after_each(self, chosen: Sequence[int]) -> Array:
        """Variance after training the chosen candidates and one more, for each candidate, [K]
        (Sherman and Morrison 1950)."""
        h, m = self._information(chosen)
        w = np.linalg.solve(h, self.gradient)
        hz = np.linalg.solve(h, self.z.T)
        along = self.z @ w
        share = self.curvature * along / (1 + self.curvature * (self.z.T * hz).sum(axis=0))
        w_PK = w[:, None] - share * hz
        return np.asarray((w_PK * (m @ w_PK)).sum(axis=0)
                          + self.score_variance * (self.z.T * w_PK).sum(axis=0) ** 2)

    def choose(self, budget: float, runs: int, seeds: int) -> list[int]:
        """Indices of at most `runs` candidates within the budget, each at most `seeds` times: the
        better of the greedy choices by gain and by gain per cost, both improved by exchanges."""
        choices = [self._exchange(self._greedy(budget, runs, seeds, price), budget, runs, seeds)
                   for price in (self.cost, np.ones_like(self.cost))]
        return min(choices, key=self.variance)

    def order_by_gain(self, chosen: Sequence[int]) -> list[int]:
        """The same candidates, in decreasing order of gain per cost."""
        remaining, order = list(chosen), list[int]()
        while remaining:
            after = self._variance_after_each(order)
            now = self.variance(order)
            order.append(max(remaining, key=lambda k: ((now - after[k]) / self.cost[k], -k)))
            remaining.remove(order[-1])
        return order

    def _greedy(self, budget: float, runs: int, seeds: int, price: Array) -> list[int]:
        chosen: list[int] = []
        left = budget
        while len(chosen) < runs:
            gain = (self.variance(chosen) - self._variance_after_each(chosen)) / price
            affordable = (self.cost <= left * (1 + _ROUNDING)) & self._available(chosen, seeds)
            k = int(np.argmax(np.where(affordable, gain, -np.inf)))
            if not affordable[k] or gain[k] <= 0:
                break
            chosen.append(k)
            left -= self.cost[k]
        return chosen

    def _exchange(
        self, chosen: list[int], budget: float, runs: int, seeds: int
    ) -> list[int]:
        """Each run in turn replaced by the best candidate, until no exchange improves the choice;
        compute that the exchanges free is spent on more runs, up to the given number."""
        variance = self.variance(chosen)
        for _ in range(_MAX_PASSES):
            before = variance
            for place in range(len(chosen) + (len(chosen) < runs)):
                rest = chosen[:place] + chosen[place + 1:]
                left = budget - float(self.cost[rest].sum())
                affordable = (self.cost <= left * (1 + _ROUNDING)) & self._available(rest, seeds)
                after = np.where(affordable, self._variance_after_each(rest), np.inf)
                k = int(np.argmin(after))
                if after[k] < variance * (1 - _MIN_GAIN):
                    chosen, variance = [*rest[:place], k, *rest[place:]], float(after[k])
            if variance > before * (1 - _MIN_GAIN):
                break
        return chosen

    def _available(self, chosen: Sequence[int], seeds: int) -> NDArray[np.bool_]:
        """Candidates that are chosen fewer than `seeds` times, [K]."""
        count = np.bincount(np.array(chosen, dtype=int), minlength=len(self.cost))
        return np.asarray(count < seeds)
