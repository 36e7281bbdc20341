"""Laws of data mixtures: the loss on one domain as a function of the shares of training domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss

Array = NDArray[np.float64]

_CONSTANTS = (0.3, 0.6, 0.8, 0.9, 0.97)  # initial c, relative to the lowest loss
_TOLERANCE = 1e-6  # of a sum of shares


@dataclass(frozen=True, kw_only=True, repr=False)
class DataMixture(Formula):
    """c + k exp(t_1 r_1 + ... + t_m r_m), for models of one size trained on one number of tokens.

    r_j is the share of training domain j. Shares of all domains add up to one, so that one domain
    is left out: with it, k and a number added to every t could not be told apart. A negative t_j
    means that more of domain j, instead of the one left out, lowers the loss.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ()  # rates of an exponential, which have either sign

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"c"}

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """The shares, [R, V].

        Raises:
            UserError: the shares of a run add up to more than one.
        """
        x_RV = super().coordinates(values)
        total = x_RV.sum(axis=-1)
        if (total > 1 + _TOLERANCE).any():
            raise UserError(f"{self.name}: shares of the training tokens that add up to "
                            f"{total.max():.4g} in a run, where at most 1 is expected; give each "
                            "as a fraction of all training tokens")
        return x_RV

    def outcome_of(self, p: Any, v: Any) -> Any:
        rate = sum(getattr(p, f"t{j}") * getattr(v, share)
                   for j, share in enumerate(self.variables, start=1))
        return p.c + p.k * np.exp(rate)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed c, log(L - c) is linear in log k and t."""
        if np.ptp(x_RV.sum(axis=-1)) < _TOLERANCE and x_RV.shape[1] > 1:
            raise DataError(f"{self.name}: the shares add up to one number in every run, which "
                            "cannot tell k from t; leave out the share of one domain, with a law "
                            "of one share less")
        design = np.column_stack([np.ones(len(x_RV)), x_RV])
        starts = []
        for constant in _CONSTANTS:
            c = constant * outcome_R.min()
            log_k, *rates = np.linalg.lstsq(design, np.log(outcome_R - c), rcond=None)[0]
            starts.append([np.log(c), log_k, *rates])
        return np.array(starts)


def data_mixture(shares: int) -> DataMixture:
    """The data mixing law of the shares of this many training domains, one less than there are."""
    numbered = range(1, shares + 1)
    rates = tuple(f"t{j}" for j in numbered)
    return DataMixture(
        name=f"ye-{shares}",
        formula=f"c + k exp({' + '.join(f't{j} r_{j}' for j in numbered)})",
        source="Ye et al. 2024 (data mixing laws), arXiv:2403.16952",
        variables=tuple(f"share{j}" for j in numbered), parameters=("c", "k", *rates),
        signed=rates, robust=ResidualLoss("huber", 0.01),
    )


FORMS: tuple[Form, ...] = tuple(data_mixture(shares) for shares in (1, 2, 3))
"""Laws of the mixture of two, three and four training domains."""
