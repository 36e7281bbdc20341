"""Base class of the functional forms of scaling laws.

A form predicts the outcome of runs, in most laws the logarithm of the loss, from internal
coordinates theta that are well conditioned for fitting, and converts theta to the parameters that
papers print. `catalogue.py` lists all forms.

Axes: B batch of parameter vectors, R runs, V variables, P parameters, K terms. `x_RV` holds the
variables in the form's own coordinates: their logarithms, unless the form overrides `coordinates`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from scaling.laws.forms.losses import ADAPTIVE, ResidualLoss
from scaling.laws.forms.variables import Counting
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

EXPONENT_STARTS = (0.05, 0.15, 0.3, 0.45, 0.7, 1.1)
"""Initial values of an exponent; all combinations for a law with several exponents."""
STEP = 1e-6
"""Step of theta in finite differences of the gradient."""
MOST_EXPONENT = 25.0
"""The largest size of an exponent in a fit (`Form.bounded_exponents`). Beyond, a term acts on the
runs at one end of its variable alone, and its coefficient soon overflows."""
ZERO = -50.0
"""The coordinate in theta, a logarithm, of a constant that is zero."""
_NO_CONSTANT = 1e-9  # below this, a constant has no effect on any outcome
_MIN_SHARE = 0.02  # of the loss, that a term has at a starting point

@dataclass(frozen=True, kw_only=True, repr=False)
class Form(ABC):
    """The functional form of a law.

    Subclasses implement the prediction, its gradient, starting points, and the conversions between
    theta and the printed parameters.
    """

    name: str
    formula: str
    source: str
    variables: tuple[str, ...]
    parameters: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    """Units of the parameters that have one; a loss is in nats per token."""
    counting: Counting = "total"
    """Which parameters N counts by default."""
    outcome: str = "loss, nats per token"
    """The predicted quantity and its unit."""
    link: Literal["log", "identity"] = "log"
    """Whether residuals are of the outcome's logarithm or of the outcome itself."""
    signed: tuple[str, ...] = ()
    """Parameters that may be negative or zero."""
    centred: bool = True
    """Whether fits may subtract the mean of x, which `to_params` then undoes."""
    robust: ResidualLoss = ADAPTIVE
    """Default loss of the residuals."""
    distinct: int = 2
    """Number of distinct values that N, D and C need."""
    distinct_others: int = 1
    """Number of distinct values that every other variable needs."""
    envelope: str | None = None
    """The variable along which only the lower envelope of the runs is fitted; None for all runs."""

    def __repr__(self) -> str:
        return f"{self.name}: {self.formula}  ({self.source})"

    @property
    @abstractmethod
    def exponents(self) -> tuple[str, ...]:
        """Parameters that are exponents: dimensionless, and positive in any meaningful law."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Parameters that are known to be factors of a term; the list may be incomplete."""
        return tuple(p for p in self.parameters if p in ("A", "B") or p in self.units)

    @property
    def constraints(self) -> dict[str, Any]:
        """Constraints on the parameters, as arguments of `constrain`; empty if there are none."""
        return {}

    @property
    def scaling_params(self) -> frozenset[str]:
        """Parameters of the terms that scale with N, D or C, which only runs at several values of
        these determine: all except additive constants such as E."""
        return frozenset(self.parameters)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The values of variables that are text, by variable: arrays hold their indices."""
        return {}

    @property
    def fitted_parameters(self) -> tuple[str, ...]:
        """Parameters that are neither fixed nor tied, one for each coordinate of theta."""
        return self.parameters

    @property
    def constants(self) -> tuple[str, ...]:
        """Positive additive constants, such as E, whose logarithms are coordinates of theta: a fit
        may find one to be zero."""
        return ()

    @property
    def bounded_exponents(self) -> Mapping[str, tuple[str, ...]]:
        """Fitted exponents whose size a fit limits to `MOST_EXPONENT`, with the coefficients of
        their terms, which are not determined without them."""
        return {}

    @property
    def has_hessian(self) -> bool:
        """Whether `hessian` is in closed form."""
        return False

    def undetermined(self, x_RV: Array) -> dict[str, tuple[str, ...]]:
        """Parameters that no outcomes of these runs could determine, by the variable whose values
        are the reason; empty for most laws.

        Args:
            x_RV: variables in the form's coordinates, not centred, [R, V].
        """
        return {}

    @abstractmethod
    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        """Predicted outcome of every run, or its logarithm if `link` is "log", [B, R]."""

    @abstractmethod
    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        """The prediction, [B, R], and its derivative with respect to theta, [B, R, P]."""

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        """Sum over runs of w times the second derivative of the prediction, [B, P, P].

        The default uses finite differences of the gradient; forms with a closed form override it.

        Args:
            theta_BP: parameters, [B, P].
            x_RV: variables, [R, V].
            w_BR: weights, [B, R].
            j_BRP: the gradient at theta, [B, R, P].
        """
        columns = []
        for i in range(theta_BP.shape[-1]):
            step = np.zeros(theta_BP.shape[-1])
            step[i] = STEP
            _, shifted_BRP = self.gradient(theta_BP + step, x_RV)
            columns.append(np.einsum("br,brp->bp", w_BR, shifted_BRP - j_BRP) / STEP)
        h_BPP = np.stack(columns, axis=-1)
        return np.asarray((h_BPP + h_BPP.swapaxes(-1, -2)) / 2)

    @abstractmethod
    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Starting points of a fit, theta [S, P]."""

    def wide_starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Further starting points, [S, P], for optima far from those of usual runs; by default
        none. Few of them end at the lowest minimum of a usual table."""
        return np.empty((0, len(self.fitted_parameters)))

    @abstractmethod
    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        """The printed parameters, [B, P], from theta of a fit to x - centre."""

    @abstractmethod
    def from_params(self, params_BP: Array) -> Array:
        """theta, [B, P], for x that is not centred."""

    def optimum(self, params_BP: Array, c: Array | float) -> Array | None:
        """N* with the lowest loss at C = 6 N D; None for a form without a closed form of it."""
        return None

    def allocation_exponent(self, params_BP: Array) -> Array | None:
        """a = d log N* / d log C; None for a form without a closed form of it."""
        return None

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """x_RV from arrays [R] of the variables: by default their logarithms."""
        columns = [np.asarray(values[v], dtype=float) for v in self.variables]
        return np.asarray(np.log(np.stack(columns, axis=-1)))

    def scaled_to(self, x_RV: Array) -> Form:
        """The same form with a theta that suits a fit to these runs, x [R, V]; by default itself.
        """
        return self

    def apply_link(self, outcome: Array) -> Array:
        """Outcomes on the scale of `predict`: their logarithm if `link` is "log"."""
        return np.asarray(np.log(outcome) if self.link == "log" else outcome)

    def invert_link(self, prediction: Array) -> Array:
        """Outcomes from values on the scale of `predict`, the inverse of `apply_link`."""
        return np.asarray(np.exp(prediction) if self.link == "log" else prediction)

    def loss(self, params: Array, values: Mapping[str, Array]) -> Array:
        """Predicted outcomes, [B, R], from printed parameters, [B, P]: in most laws the loss in
        nats per token. NaN or infinite if the parameters give no finite value."""
        with np.errstate(all="ignore"):
            prediction = self.predict(self.from_params(params), self.coordinates(values))
            return self.invert_link(prediction)

    def fitted_rows(self, table: RunsTable) -> NDArray[np.intp]:
        """Indices of the runs that this form is fitted to: all, or those on the envelope."""
        if self.envelope is None:
            return np.arange(table.loss.size)
        if self.envelope == "n":
            return _best_per_size(table)
        # Runs with a lower loss than every run with as much of the variable or less.
        values = table.c if self.envelope == "c" else table.d
        order = np.lexsort((table.loss, values))
        best = np.minimum.accumulate(np.concatenate([[np.inf], table.loss[order][:-1]]))
        return np.sort(order[table.loss[order] < best])


def _best_per_size(table: RunsTable) -> NDArray[np.intp]:
    """One run per size: the best at the largest token count on which every size was trained, so
    that only N differs between them; without such a count, the run of each size with the lowest
    loss."""
    sizes, size_index = np.unique(table.n, return_inverse=True)
    d_index = np.unique(table.d, return_inverse=True)[1]
    d_of_pairs = np.unique(np.stack([d_index, size_index]), axis=1)[0]
    shared = np.flatnonzero(np.bincount(d_of_pairs) == len(sizes))
    runs = np.flatnonzero(d_index == shared[-1]) if len(shared) else np.arange(len(size_index))
    order = runs[np.lexsort((table.loss[runs], size_index[runs]))]
    return np.sort(order[np.unique(size_index[order], return_index=True)[1]])


def constant_of(log: Array) -> Array:
    """Constants from their coordinates in theta: zero where they have no effect on any outcome."""
    with np.errstate(over="ignore"):
        value = np.exp(log)
    return np.where(value < _NO_CONSTANT, 0.0, value)


def log_of_constant(value: Array) -> Array:
    """The coordinates in theta of constants, of which zero is `ZERO`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(value == 0, ZERO, np.log(value))


def project_coefficients(
    terms_RK: Array, target_R: Array, scale_R: Array | None = None
) -> Array:
    """Logarithms of the coefficients that minimise the relative error of a sum of terms, [K].

    Variable projection: at fixed exponents a law is linear in its coefficients, which non-negative
    least squares of the relative error determines. Every coefficient has a lower bound, below which
    the objective would be flat in it.

    Args:
        terms_RK: the terms with coefficients of one, [R, K].
        target_R: the sum to approximate, [R].
        scale_R: what errors are relative to, positive, [R]; by default the target.
    """
    scale_R = target_R if scale_R is None else scale_R
    relative = terms_RK / scale_R[:, None]
    if not np.isfinite(relative).all():  # the exponents overflow or underflow for these runs
        return np.zeros(relative.shape[1])
    coefficients, _ = scipy.optimize.nnls(relative, target_R / scale_R)
    return np.asarray(np.log(np.maximum(coefficients, _MIN_SHARE / relative.mean(axis=0))))
