"""Laws that are one product of powers, in which some variables help and others hurt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.powers import PowerSum

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Product(PowerSum):
    """A single term, coefficient times variables to powers, in which powers may have either sign.

    The exponents that `rising` names stand in the numerator. Every exponent is printed positive,
    as the paper's formula has it, and one that comes out negative says that the outcome goes the
    other way.
    """

    rising: tuple[str, ...] = ()

    def _design(self, x_RV: Array) -> Array:
        t_KRP = super()._design(x_RV)
        for exponent in self.rising:
            t_KRP[:, :, self.parameters.index(exponent)] *= -1
        return t_KRP

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        t_RP = self._design(x_RV)[0]  # the logarithm of one term is linear in theta
        return theta_BP @ t_RP.T, np.broadcast_to(t_RP, (len(theta_BP), *t_RP.shape))
