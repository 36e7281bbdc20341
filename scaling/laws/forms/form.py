"""What the form of a scaling law is: a formula, its gradient, its starts, its units.

A form predicts the outcome of runs, in most laws the logarithm of the loss, from internal
coordinates theta in which it is well behaved, and turns them into the parameters that papers
print. `catalogue.py` lists the forms that there are.

Letters: B batch of parameter vectors, R runs, V variables, P parameters, K terms. `x_RV` holds the
form's variables in its own coordinates: their logarithms, where it does not say otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from scaling.laws.fitting.robust import HUBER, Robust
from scaling.laws.runs.table import Counting, RunsTable

Array = NDArray[np.float64]

EXPONENT_STARTS = (0.05, 0.15, 0.3, 0.45, 0.7, 1.1)
"""Exponents from which fits start; their products, where a law has several."""
STEP = 1e-6
"""Of theta, between gradients whose difference is a second derivative."""
_SMALLEST_SHARE = 0.02  # of the loss that a term has at a start

@dataclass(frozen=True, kw_only=True)
class Form(ABC):
    """A law's shape. Subclasses give the prediction, its gradient, starts, and the two turnings
    between theta and the printed parameters."""

    name: str
    formula: str
    source: str
    variables: tuple[str, ...]
    parameters: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    """Units of the parameters that have one; a loss is in nats per token."""
    counting: Counting = "total"
    """What N counts unless the user says otherwise."""
    outcome: str = "loss, nats per token"
    """What is predicted."""
    link: Literal["log", "identity"] = "log"
    """Residuals are of the outcome's logarithm, or of the outcome itself."""
    signed: tuple[str, ...] = ()
    """Parameters that may be negative or zero."""
    centred: bool = True
    """Whether fits may shift x to its mean, which `report` then undoes."""
    robust: Robust = HUBER
    """What residuals of the log-loss cost unless the user says otherwise."""
    distinct: int = 2
    """Distinct values that every variable needs."""
    envelope: str | None = None
    """The variable whose lower envelope is fitted; None fits every run."""

    @property
    @abstractmethod
    def exponents(self) -> tuple[str, ...]:
        """Parameters that are exponents: pure numbers, and positive in any law that makes sense."""

    @property
    def constraints(self) -> dict[str, Any]:
        """What holds parameters, as arguments of `constrain`; empty where nothing does."""
        return {}

    @property
    def of_variables(self) -> frozenset[str]:
        """Parameters that only runs at different N, D or C can determine; all but constants."""
        return frozenset(self.parameters)

    @abstractmethod
    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        """The outcome of every run, or its logarithm if `link` says so: [B, R]."""

    @abstractmethod
    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """What `predict` gives, [B, R], and with it its derivative by theta, [B, R, P]."""

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        """sum over runs of w times the second derivative of the prediction: [B, P, P].

        Here by differences of the gradient, of which j is given; that serves any form, and one
        that knows better overrides it.
        """
        columns = []
        for place in range(theta_BP.shape[-1]):
            shift = np.zeros(theta_BP.shape[-1])
            shift[place] = STEP
            _, ahead = self.gradient(theta_BP + shift, x_RV)
            columns.append(np.einsum("br,brp->bp", w_BR, ahead - j_BRP) / STEP)
        h_BPP = np.stack(columns, axis=-1)
        return np.asarray((h_BPP + h_BPP.swapaxes(-1, -2)) / 2)

    @abstractmethod
    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Where to begin: [S, P]."""

    @abstractmethod
    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        """The printed parameters, [B, P], of a fit to x - centre."""

    @abstractmethod
    def internal(self, params_BP: Array) -> Array:
        """theta, [B, P], for x that is not centred."""

    def optimum(self, params_BP: Array, c: Array | float) -> Array | None:
        """N that gives the lowest loss at C = 6 N D, or None for a form that knows of none."""
        return None

    def allocation_exponent(self, params_BP: Array) -> Array | None:
        """a = d log N* / d log C, or None."""
        return None

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """x_RV from arrays of the variables: their logarithms."""
        columns = [np.asarray(values[v], dtype=float) for v in self.variables]
        return np.asarray(np.log(np.stack(columns, axis=-1)))

    def linked(self, outcome: Array) -> Array:
        """Outcomes as `predict` gives them."""
        return np.asarray(np.log(outcome) if self.link == "log" else outcome)

    def unlinked(self, prediction: Array) -> Array:
        """Predictions as outcomes."""
        return np.asarray(np.exp(prediction) if self.link == "log" else prediction)

    def loss(self, params: Array, values: Mapping[str, Array]) -> Array:
        """Outcomes, in most laws L in nats per token, from printed parameters: [B, R] for [B, P]
        of them."""
        return self.unlinked(self.predict(self.internal(params), self.coordinates(values)))

    def rows(self, table: RunsTable) -> NDArray[np.intp]:
        """Places of the runs that this form is fitted to."""
        if self.envelope is None:
            return np.arange(table.loss.size)
        if self.envelope == "n":
            return _by_size(table)
        # Runs that no run with as little of the variable beats.
        values = table.c if self.envelope == "c" else table.d
        order = np.lexsort((table.loss, values))
        best = np.minimum.accumulate(np.concatenate([[np.inf], table.loss[order][:-1]]))
        return np.sort(order[table.loss[order] < best])


def _by_size(table: RunsTable) -> NDArray[np.intp]:
    """One run for each size: on the most tokens that all sizes were trained on, so that sizes are
    compared and not trainings; where there is no such count, each size's lowest loss."""
    sizes, size = np.unique(table.n, return_inverse=True)
    count = np.unique(table.d, return_inverse=True)[1]
    of_count = np.unique(np.stack([count, size]), axis=1)[0]
    shared = np.flatnonzero(np.bincount(of_count) == len(sizes))
    among = np.flatnonzero(count == shared[-1]) if len(shared) else np.arange(len(size))
    order = among[np.lexsort((table.loss[among], size[among]))]
    return np.sort(order[np.unique(size[order], return_index=True)[1]])


def project(bare_RK: Array, target_R: Array) -> Array:
    """Logarithms of the coefficients that bring a sum of terms nearest to a target, [K].

    Variable projection: at fixed exponents a law is linear in its coefficients, and non-negative
    least squares of the relative error gives them. No term starts so small that the objective
    would be flat in it.
    """
    relative = bare_RK / target_R[:, None]
    coefficients, _ = nnls(relative, np.ones(len(target_R)))
    return np.asarray(np.log(np.maximum(coefficients, _SMALLEST_SHARE / relative.mean(axis=0))))
