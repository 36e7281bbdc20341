"""The law of parallel streams, which act like more parameters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form, project_coefficients
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, repr=False)
class ParallelStreams(Formula):
    """(A/(N (k log P + 1)))^alpha + E, for P parallel passes of each token through one model.

    Every pass has its own learnt prefix, and their outputs are averaged with learnt weights. The
    tokens D are the same in all runs. With one stream it is a power law of N; the logarithm is
    natural.
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.E + (p.A / (v.n * (p.k * np.log(v.streams) + 1)))**p.alpha

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed alpha and k the law is linear in A^alpha and E."""
        n, streams = x_RV.T
        starts = []
        for alpha, k in itertools.product(*self.grid.values()):
            power = (n * (k * np.log(streams) + 1))**-alpha
            logs = project_coefficients(np.stack([power, np.ones_like(n)], axis=-1), outcome_R)
            starts.append([logs[1], logs[0] / alpha, np.log(alpha), np.log(k)])
        return np.array(starts)


FORMS: tuple[Form, ...] = (
    # Like the paper, with Huber's loss of the log-loss.
    ParallelStreams(
        name="parscale", formula="E + (A/(N (k log P + 1)))^alpha",
        source="Chen et al. 2025 (ParScale), arXiv:2505.10475, eq. 5",
        variables=("n", "streams"), parameters=("E", "A", "alpha", "k"),
        units={"A": VARIABLES["n"].unit}, counting="non-embedding", distinct=3,
        robust=ResidualLoss("huber"),
        grid={"alpha": (0.1, 0.2, 0.35, 0.6), "k": (0.1, 0.3, 0.8)},
    ),
)
"""Laws of parallel streams."""
