"""A fitted law: parameters, convention, uncertainty, convergence evidence, and its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.fitting.bootstrap import ResampleUnit
from scaling.laws.fitting.intervals import bca_intervals, widened
from scaling.laws.forms.constrained import formula_json
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.schedule_laws import schedules_json
from scaling.laws.forms.wrapped import is_raw
from scaling.laws.frozen import freeze_fields

Array = NDArray[np.float64]
Interval = tuple[float, float]
Method = Literal["bca", "percentile"]

LEVEL = 0.90
"""Nominal coverage of every interval."""

KEPT_SAMPLES = 1000    # resamples saved in a file: enough for 90% intervals, small enough for git
KEPT_RESIDUALS = 200   # residuals saved in a file
KEPT_LEFT_OUT = 100    # jackknife fits saved in a file: all that a fit makes
_MAX_PAIRS = 10_000_000  # pairs of resample and residual in a prediction interval
_DIGITS = 7


@dataclass(frozen=True)
class Bootstrap:
    """Bootstrap and jackknife refits of a law.

    Attributes:
        resamples: number of resamples drawn.
        converged: number of resamples that converged.
        seed: seed of the draws.
        samples: printed parameters of the converged resamples, [B, P].
        residuals: residuals of the fit to all runs, of the outcome's logarithm if the form has
            the log link, scaled up for the P degrees of freedom used by the parameters.
        left_out: printed parameters with one run, or one part of many runs, left out, [J, P].
        by: what was resampled.
        method: how intervals are computed from the samples.
        widening: factor by which deviations from the estimate are then enlarged, for the
            parameters that were fitted.
        numbers: which of the resamples drawn each sample is of, [B]; empty if unknown.
    """

    resamples: int
    converged: int
    seed: int
    samples: Array
    residuals: Array
    left_out: Array = field(default_factory=lambda: np.empty((0, 0)))
    by: ResampleUnit = "case"
    method: Method = "bca"
    widening: float = 1.0
    numbers: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    def __post_init__(self) -> None:
        freeze_fields(self)


@dataclass(frozen=True, repr=False)
class Law:
    """A form with its parameters, fitted or published.

    A standard error or an interval of None marks a parameter that the runs do not determine;
    `warnings` gives the reason. Fields that a publication does not report are None or empty.
    """

    form: Form
    convention: Mapping[str, Any]
    params: Mapping[str, float]
    n_runs: int | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
    objective: float | None = None
    se: Mapping[str, float | None] = field(default_factory=dict)
    se_delta: Mapping[str, float | None] = field(default_factory=dict)
    """Standard errors by the delta method; `se` has those of the bootstrap."""
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    exponents: Mapping[str, float | None] = field(default_factory=dict)
    convergence: Mapping[str, float | bool | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    heldout: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_sha256: str | None = None
    bootstrap: Bootstrap | None = None

    def __post_init__(self) -> None:
        freeze_fields(self)

    @property
    def name(self) -> str:
        """Name of the form; with the column of the outcome for one of laws of several outcomes,
        such as "chinchilla of c4_loss"."""
        outcome = self.convention.get("outcome")
        return self.form.name if outcome is None else f"{self.form.name} of {outcome}"

    def __repr__(self) -> str:
        params = ", ".join(f"{name} = {value:.4g}" for name, value in self.params.items()
                           if self.se.get(name, 0.0) is not None)
        return f"{self.name}: {self.form.formula} with {params or 'nothing determined'}"

    @property
    def converged(self) -> bool:
        """Whether the fit converged; true for a published law."""
        return self.convergence.get("converged") is not False

    @property
    def residual_loss(self) -> ResidualLoss:
        """The loss of the residuals that was minimised; the form's own if none is recorded."""
        kind = self.convention.get("objective", self.form.robust.kind)
        return ResidualLoss(kind, self.convention.get("delta", self.form.robust.delta))

    @property
    def point(self) -> Array:
        """The point estimate of the parameters, [1, P]."""
        return np.array([[self.params[p] for p in self.form.parameters]])

    @property
    def samples(self) -> Array:
        """The parameters of the resamples, [B, P]; B is 0 without a bootstrap."""
        return self.bootstrap.samples if self.bootstrap else np.empty((0, self.point.shape[1]))

    @checked
    def loss(self, values: Mapping[str, ArrayLike]) -> Array:
        """Predicted outcome, [R], from arrays [R] of the form's variables: in most laws the loss
        in nats per token.

        Raises:
            UserError: a variable is missing.
        """
        for name in self.form.variables:
            if name not in values:
                raise UserError(f"{self.name}: needs {name}; give arrays of "
                                f"{', '.join(self.form.variables)}")
        floats = {name: np.asarray(each, dtype=float) for name, each in values.items()}
        return np.asarray(self.form.loss(self.point, floats)[0])

    def band(
        self, quantity: Callable[[Array], Array], level: float = LEVEL
    ) -> tuple[Array, Array] | None:
        """Bootstrap intervals of functions of the parameters.

        Args:
            quantity: maps printed parameters [B, P] to [B, Q]. Resamples for which the result is
                not finite are left out.
            level: coverage, 90% by default.

        Returns:
            Lower and upper ends, [Q] each; None without a bootstrap.
        """
        if self.bootstrap is None or not len(self.samples):
            return None
        boot = self.bootstrap
        left_out = boot.left_out if boot.method == "bca" else boot.left_out[:0]
        with np.errstate(all="ignore"):
            samples, point = quantity(boot.samples), quantity(self.point)[0]
            ends = bca_intervals(samples, point, quantity(left_out) if len(left_out) else None,
                                 level)
            return widened(ends, point, samples, boot.widening)

    def loss_band(
        self, values: Mapping[str, Array], level: float = LEVEL
    ) -> tuple[Array, Array] | None:
        """Confidence band of the law itself: lower and upper ends, [R] each."""
        return self.band(lambda params: self.form.loss(params, values), level)

    def prediction_interval(
        self, values: Mapping[str, Array], level: float = LEVEL
    ) -> Interval | None:
        """Prediction interval for the outcome of one new run, from variables of shape [1].

        Combines the spread of the law over resamples with the scatter of runs about the law: the
        prediction of every resample is added to every residual.
        """
        ends = self.prediction_quantiles(values, end_shares(level))
        return None if ends is None else (ends[0], ends[1])

    def prediction_quantiles(
        self, values: Mapping[str, Array], shares: Sequence[float]
    ) -> tuple[float, ...] | None:
        """Quantiles of the same predictive distribution of one new run's outcome.

        Args:
            values: variables of shape [1].
            shares: probabilities, from 0 to 1.

        Returns:
            One outcome for each share; None without a bootstrap.
        """
        if self.bootstrap is None or not len(self.samples):
            return None
        residuals = self.bootstrap.residuals
        if len(self.samples) * len(residuals) > _MAX_PAIRS:
            residuals = _evenly(np.sort(residuals), max(1, _MAX_PAIRS // len(self.samples)))
        with np.errstate(all="ignore"):
            predicted = self.form.apply_link(self.form.loss(self.samples, values))
            centre = self.form.apply_link(self.form.loss(self.point, values))
            predicted = centre + self.bootstrap.widening * (predicted - centre)
            outcomes = self.form.invert_link(predicted + residuals)
        outcomes = outcomes[np.isfinite(outcomes)]
        if not outcomes.size:
            return None
        return tuple(np.quantile(outcomes, shares).tolist())

    def to_json(self) -> dict[str, Any]:
        """The law as JSON-compatible data, as `scaling fit --save` writes it."""
        boot = self.bootstrap
        return {
            "law": self.form.name,
            **({} if (formula := formula_json(self.form)) is None else {"form": formula}),
            **({"residuals": "raw"} if is_raw(self.form) else {}),
            **schedules_json(self.form),
            **({"constraints": self.form.constraints} if self.form.constraints else {}),
            "convention": dict(self.convention),
            "n_runs": self.n_runs,
            "excluded": dict(self.excluded),
            "params": dict(self.params),
            "objective": self.objective,
            "se": dict(self.se),
            "se_delta": dict(self.se_delta),
            "intervals": {k: list(v) if v else None for k, v in self.intervals.items()},
            "exponents": dict(self.exponents),
            "convergence": dict(self.convergence),
            "warnings": list(self.warnings),
            "heldout": {run: dict(row) for run, row in self.heldout.items()},
            "data_sha256": self.data_sha256,
            "bootstrap": {} if boot is None else {
                "resamples": boot.resamples, "converged": boot.converged, "seed": boot.seed,
                "level": LEVEL, "by": boot.by, "method": boot.method,
                "widening": boot.widening,
                "samples": _thin(boot.samples, KEPT_SAMPLES),
                "left_out": _round(boot.left_out.tolist()),
                "residuals": _thin(np.sort(boot.residuals), KEPT_RESIDUALS),
            },
        }


def paired_samples(first: Law, second: Law) -> tuple[Array, Array]:
    """Parameters of both laws, [B, P] each, of the resamples in which both converged.

    Resamples of one number are of the same draw if the laws were fitted with one seed to equally
    many runs in one order. Laws of a file have no numbers, and are paired in order.
    """
    ours, theirs = first.bootstrap, second.bootstrap
    if ours is not None and theirs is not None and len(ours.numbers) and len(theirs.numbers):
        _, one, other = np.intersect1d(ours.numbers, theirs.numbers, return_indices=True)
        return first.samples[one], second.samples[other]
    n_pairs = min(len(first.samples), len(second.samples))
    return first.samples[:n_pairs], second.samples[:n_pairs]


def end_shares(level: float = LEVEL) -> list[float]:
    """The probabilities below the lower and the upper end of an interval of a coverage."""
    return [(1 - level) / 2, (1 + level) / 2]


def check_level(level: float) -> None:
    """Check the coverage of intervals.

    Raises:
        UserError: it is not a share.
    """
    if not 0 < level < 1:
        raise UserError(f"level={level:g}: a coverage above 0 and below 1 is expected, such as 0.9")


def percentile_interval(samples: Array) -> Interval:
    """The 90% percentile interval of samples; NaN are left out."""
    low, high = np.quantile(samples[~np.isnan(samples)], end_shares())
    return float(low), float(high)


def _thin(rows: Array, keep: int) -> Any:
    """At most `keep` evenly spaced rows, rounded to seven significant digits."""
    return _round(_evenly(rows, keep).tolist())


def _evenly(rows: Array, keep: int) -> Array:
    if len(rows) <= keep:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, keep).round().astype(int)])


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return [_round(item) for item in value]
    return float(f"{value:.{_DIGITS}g}")
