"""A law with everything that makes its numbers worth something, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.bootstrap import Unit
from scaling.laws.fitting.intervals import adjusted
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
Interval = tuple[float, float]
Method = Literal["bca", "percentile"]

LEVEL = 0.90
"""Coverage that every interval aims at."""

_KEPT_SAMPLES = 1000    # of resamples, and of residuals, in a file: enough for 90% intervals,
_KEPT_RESIDUALS = 200   # and small enough for git
_DIGITS = 7


@dataclass(frozen=True)
class Bootstrap:
    """Refits of resampled runs.

    `samples` [B, P] holds the printed parameters of the resamples that converged, and `left_out`
    [J, P] those with one run (or one part of many runs) left out. `residuals` are those of the
    fit itself, in the outcome's logarithm if the form has that link, widened for the freedom that
    P parameters took. `by` says what was drawn, `method` how intervals are made of it.
    """

    resamples: int
    converged: int
    seed: int
    samples: Array
    residuals: Array
    left_out: Array = field(default_factory=lambda: np.empty((0, 0)))
    by: Unit = "case"
    method: Method = "bca"


@dataclass(frozen=True)
class Law:
    """A form with its parameters, fitted or published.

    A standard error or an interval of None marks a parameter that the runs do not determine;
    `warnings` says why. What a published law does not say is absent.
    """

    form: Form
    convention: Mapping[str, Any]
    params: Mapping[str, float]
    n_runs: int | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
    objective: float | None = None
    se: Mapping[str, float | None] = field(default_factory=dict)
    se_delta: Mapping[str, float | None] = field(default_factory=dict)
    """Standard errors by the delta method, beside the bootstrap's in `se`."""
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    exponents: Mapping[str, float | None] = field(default_factory=dict)
    convergence: Mapping[str, float | bool | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    heldout: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_sha256: str | None = None
    bootstrap: Bootstrap | None = None

    @property
    def name(self) -> str:
        """The form's name."""
        return self.form.name

    @property
    def converged(self) -> bool:
        """Whether the fit ended at an optimum; a published law counts as one that did."""
        return self.convergence.get("converged") is not False

    @property
    def point(self) -> Array:
        """The parameters, [1, P]."""
        return np.array([[self.params[p] for p in self.form.parameters]])

    @property
    def samples(self) -> Array:
        """The parameters of the resamples, [B, P]; B is 0 where there was no bootstrap."""
        return self.bootstrap.samples if self.bootstrap else np.empty((0, self.point.shape[1]))

    def loss(self, values: Mapping[str, Array]) -> Array:
        """Predicted outcome, in most laws loss in nats per token, [R], from arrays of the form's
        variables."""
        return np.asarray(self.form.loss(self.point, values)[0])

    def band(self, quantity: Callable[[Array], Array]) -> tuple[Array, Array] | None:
        """90% intervals of quantities of the parameters.

        Args:
            quantity: turns printed parameters [B, P] into [B, Q]. Resamples for which it gives
                no number are left out.

        Returns:
            The low and high ends, [Q] each; None where there was no bootstrap.
        """
        if self.bootstrap is None or not len(self.samples):
            return None
        boot = self.bootstrap
        left_out = boot.left_out if boot.method == "bca" else boot.left_out[:0]
        with np.errstate(all="ignore"):
            return adjusted(quantity(boot.samples), quantity(self.point)[0],
                            quantity(left_out) if len(left_out) else None, LEVEL)

    def loss_band(self, values: Mapping[str, Array]) -> tuple[Array, Array] | None:
        """Where the law itself lies with 90% confidence: low and high, [R] each."""
        return self.band(lambda params: self.form.loss(params, values))

    def prediction_interval(self, values: Mapping[str, Array]) -> Interval | None:
        """Where the outcome of one more run would lie with 90% confidence, from arrays of one.

        The spread of the law over resamples, and on it the scatter of runs about the law: every
        resample's prediction is paired with every residual.
        """
        if self.bootstrap is None or not len(self.samples):
            return None
        predicted = self.form.linked(self.form.loss(self.samples, values))
        spread = self.form.unlinked(predicted + self.bootstrap.residuals)
        low, high = np.quantile(spread, _ends())
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Plain data: what `scaling fit --json` writes for one law."""
        boot = self.bootstrap
        return {
            "law": self.name,
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
                "samples": _thin(boot.samples, _KEPT_SAMPLES),
                "left_out": _round(boot.left_out.tolist()),
                "residuals": _thin(np.sort(boot.residuals), _KEPT_RESIDUALS),
            },
        }


def from_json(content: Any, source: str) -> Law:
    """The law that `to_json` wrote.

    Raises:
        UserError: it is no law, or a law whose form is not known here.
    """
    try:
        held = content.get("constraints") or {}
        form = constrain(FORMS[content["law"]], held.get("fixed"),
                         [(first, second) for first, second in held.get("tied", [])])
        params = {p: _number(content["params"][p]) for p in form.parameters}
        intervals = {k: (float(v[0]), float(v[1])) if v else None
                     for k, v in content.get("intervals", {}).items()}
        boot = content.get("bootstrap") or None
        return Law(
            form=form, convention=content["convention"], params=params,
            n_runs=content.get("n_runs"), excluded=content.get("excluded", {}),
            objective=content.get("objective"), se=content.get("se", {}),
            se_delta=content.get("se_delta", {}), intervals=intervals,
            exponents=content.get("exponents", {}), convergence=content.get("convergence", {}),
            warnings=tuple(content.get("warnings", ())), heldout=content.get("heldout", {}),
            data_sha256=content.get("data_sha256"),
            bootstrap=boot and Bootstrap(
                int(boot["resamples"]), int(boot["converged"]), int(boot["seed"]),
                np.array(boot["samples"], dtype=float).reshape(-1, len(params)),
                np.array(boot["residuals"], dtype=float),
                np.array(boot.get("left_out", []), dtype=float).reshape(-1, len(params)),
                boot.get("by", "case"), boot.get("method", "percentile"),
            ),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{source}: not a law as `scaling fit --json` writes it ({error!r}); "
                        f"known laws are {', '.join(FORMS)}") from None


def _ends() -> list[float]:
    return [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


def interval(samples: Array) -> Interval:
    """The 90% percentile interval; samples that are no number are left out."""
    low, high = np.quantile(samples[~np.isnan(samples)], _ends())
    return float(low), float(high)


def _thin(rows: Array, keep: int) -> Any:
    """At most `keep` of the rows, evenly over them, to seven significant digits."""
    if len(rows) > keep:
        rows = rows[np.linspace(0, len(rows) - 1, keep).round().astype(int)]
    return _round(rows.tolist())


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return [_round(item) for item in value]
    return float(f"{value:.{_DIGITS}g}")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
