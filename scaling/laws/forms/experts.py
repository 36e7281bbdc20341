"""Laws of sparse models: routed experts, granularity, and the share of inactive parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, repr=False)
class Routed(Formula):
    """log10 L = a_N log10 N + b_E log10 E^ + c_NE log10 N log10 E^ + d.

    N counts the parameters of the dense model, part of which the experts replace. The number of
    experts E saturates: 1/E^ = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max, so that E^ is
    E_start for one expert and at most E_max (Clark et al. 2022, eqs. 1 and 10, where the slopes are
    a, b and c).
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ()  # the slopes are negative

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"d"}

    def outcome_of(self, p: Any, v: Any) -> Any:
        n, e = np.log10(v.n), np.log10(_saturated(v.experts, p.E_start, p.E_max))
        return 10 ** (p.a_N * n + p.b_E * e + p.c_NE * n * e + p.d)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed E_start and E_max, log L is linear in the other parameters."""
        n = np.log10(x_RV[:, 0])
        starts = []
        for e_start, e_max in itertools.product(*self.grid.values()):
            e = np.log10(_saturated(x_RV[:, 1], e_start, e_max))
            design = np.stack([n, e, n * e, np.ones_like(n)], axis=-1)
            slopes, *_ = np.linalg.lstsq(design, np.log10(outcome_R), rcond=None)
            starts.append([*slopes, np.log(e_start), np.log(e_max)])
        return np.array(starts)


def _saturated(experts: Any, e_start: Any, e_max: Any) -> Any:
    """The saturated number of experts E^."""
    return 1 / (1 / (experts - 1 + 1 / (1 / e_start - 1 / e_max)) + 1 / e_max)


@dataclass(frozen=True, kw_only=True, repr=False)
class Sparse(PowerSum):
    """A law with powers of the share of active parameters, 1 - S."""

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """Logarithms of the variables, with 1 - S for the sparsity S."""
        sparsity = np.asarray(values["sparsity"], dtype=float)
        if (sparsity >= 1).any():
            raise UserError(f"{self.name}: a sparsity of {sparsity.max():g}, where a share below 1 "
                            "is expected: the number of inactive experts divided by all experts")
        return super().coordinates({**values, "sparsity": 1 - sparsity})


FORMS: tuple[Form, ...] = (
    Routed(
        name="clark", formula="10^(a_N log10 N + b_E log10 E^ + c_NE log10 N log10 E^ + d)",
        source="Clark et al. 2022, eqs. 1 and 10", variables=("n", "experts"),
        parameters=("a_N", "b_E", "c_NE", "d", "E_start", "E_max"),
        signed=("a_N", "b_E", "c_NE", "d"),
        units={"E_start": VARIABLES["experts"].unit, "E_max": VARIABLES["experts"].unit},
        counting="non-embedding", distinct=3,
        grid={"E_start": (1.2, 2.0, 4.0), "E_max": (100.0, 300.0, 1000.0)},
    ),
    # E, A and B are c, a and b in the paper.
    PowerSum(
        name="krajewski", formula="E + (g/G^gamma + A)/N^alpha + B/D^beta",
        source="Krajewski et al. 2024, eq. 9", variables=("n", "d", "granularity"),
        parameters=("E", "A", "B", "g", "alpha", "beta", "gamma"), counting="non-embedding",
        distinct=3,
        terms=(Term("E"), Term("A", (("n", "alpha"),)), Term("B", (("d", "beta"),)),
               Term("g", (("n", "alpha"), ("granularity", "gamma")))),
        grid={"gamma": (0.3, 0.8)},
    ),
    # E, A and B are e, a and b in the paper.
    Sparse(
        name="abnar",
        formula="E + A/N^alpha + B/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma)",
        source="Abnar et al. 2025, eq. 6", variables=("n", "d", "sparsity"),
        parameters=("E", "A", "B", "c", "d", "alpha", "beta", "lambda", "delta", "gamma"),
        signed=("lambda", "delta"), distinct=3,
        terms=(Term("E"), Term("A", (("n", "alpha"),)), Term("B", (("d", "beta"),)),
               Term("c", (("sparsity", "lambda"),)),
               Term("d", (("sparsity", "delta"), ("n", "gamma")))),
        grid={"alpha": (0.3, 0.6), "beta": (0.2, 0.4), "lambda": (-0.4, -0.1),
              "delta": (0.1, 0.3), "gamma": (0.1, 0.25)},
        # Exponents of either sign, and large ones: each of three terms may take the part of
        # another, or act on the densest runs alone.
        wide_grid={"alpha": (-0.2, 0.3), "beta": (0.2,), "lambda": (-10.0, -0.4, -0.1, 0.3),
                   "delta": (-0.15, 0.1), "gamma": (-0.1, 0.1, 0.25, 1.5)},
    ),
)
"""Laws of sparse models."""
