"""Choosing runs from many candidates: a greedy c-optimal design, and exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.planning.fisher import Information

Array = NDArray[np.float64]

_WORTH = 1e-6   # of the variance: what an exchange has to gain
_PASSES = 50    # over the chosen runs; a few are enough
_ROUNDING = 1e-12  # of the budget


@dataclass(frozen=True)
class Choice:
    """Choosing among K candidates, in coordinates in which what is known is the unit matrix:
    z [K, P] their gradients, `gradient` [P] the target's."""

    h: Array
    m: Array
    gradient: Array
    z: Array
    bend: Array
    drive: Array
    cost: Array

    @classmethod
    def of(
        cls, known: Information, slope_P: Array, rows: tuple[Array, Array, Array], cost: Array
    ) -> Choice:
        j, bend, drive = rows
        return cls(known.h, known.m, known.basis.T @ slope_P, j @ known.basis, bend, drive, cost)

    def _with(self, chosen: Sequence[int]) -> tuple[Array, Array]:
        z = self.z[list(chosen)]
        return (self.h + (self.bend[list(chosen)] * z.T) @ z,
                self.m + (self.drive[list(chosen)] * z.T) @ z)

    def variance(self, chosen: Sequence[int]) -> float:
        """Of the target, with these candidates trained."""
        h, m = self._with(chosen)
        w = np.linalg.solve(h, self.gradient)
        return float(w @ m @ w)

    def _after(self, chosen: Sequence[int]) -> Array:
        """Variance with these and one more, for each candidate: [K]. Sherman and Morrison 1950."""
        h, m = self._with(chosen)
        w = np.linalg.solve(h, self.gradient)
        hz = np.linalg.solve(h, self.z.T)
        along = self.z @ w
        share = self.bend * along / (1 + self.bend * (self.z.T * hz).sum(axis=0))
        w_PK = w[:, None] - share * hz
        return np.asarray((w_PK * (m @ w_PK)).sum(axis=0)
                          + self.drive * (self.z.T * w_PK).sum(axis=0) ** 2)

    def best(self, budget: float, runs: int, seeds: int) -> list[int]:
        """The better of two greedy choices, by gain and by gain for each FLOP, both exchanged."""
        ends = [self._exchanged(self._greedy(budget, runs, seeds, price),
                                budget, runs, seeds)
                for price in (self.cost, np.ones_like(self.cost))]
        return min(ends, key=self.variance)

    def ordered(self, chosen: Sequence[int]) -> list[int]:
        """The same runs, those first that gain the most for each FLOP."""
        left, order = list(chosen), list[int]()
        while left:
            after = self._after(order)
            now = self.variance(order)
            order.append(max(left, key=lambda k: ((now - after[k]) / self.cost[k], -k)))
            left.remove(order[-1])
        return order

    def _greedy(self, budget: float, runs: int, seeds: int, price: Array) -> list[int]:
        chosen: list[int] = []
        left = budget
        while len(chosen) < runs:
            gain = (self.variance(chosen) - self._after(chosen)) / price
            fine = (self.cost <= left * (1 + _ROUNDING)) & self._free(chosen, seeds)
            k = int(np.argmax(np.where(fine, gain, -np.inf)))
            if not fine[k] or gain[k] <= 0:
                break
            chosen.append(k)
            left -= self.cost[k]
        return chosen

    def _exchanged(
        self, chosen: list[int], budget: float, runs: int, seeds: int
    ) -> list[int]:
        """Each run in turn replaced by the candidate that serves best, until none serves better;
        what the exchanges free is spent on more runs, where they may still be more."""
        variance = self.variance(chosen)
        for _ in range(_PASSES):
            before = variance
            for place in range(len(chosen) + (len(chosen) < runs)):
                rest = chosen[:place] + chosen[place + 1:]
                left = budget - float(self.cost[rest].sum())
                fine = (self.cost <= left * (1 + _ROUNDING)) & self._free(rest, seeds)
                after = np.where(fine, self._after(rest), np.inf)
                k = int(np.argmin(after))
                if after[k] < variance * (1 - _WORTH):
                    chosen, variance = [*rest[:place], k, *rest[place:]], float(after[k])
            if variance > before * (1 - _WORTH):
                break
        return chosen

    def _free(self, chosen: Sequence[int], seeds: int) -> NDArray[np.bool_]:
        """Candidates that have a seed left."""
        taken = np.bincount(np.array(chosen, dtype=int), minlength=len(self.cost))
        return np.asarray(taken < seeds)
