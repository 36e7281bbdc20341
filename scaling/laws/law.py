"""A law with everything that makes its numbers worth something, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.90
"""Coverage that every interval aims at; the ends are percentiles of the bootstrap."""

_KEPT_SAMPLES = 1000    # of resamples, and of residuals, in a file: enough for 90% intervals,
_KEPT_RESIDUALS = 200   # and small enough for git
_DIGITS = 7


@dataclass(frozen=True)
class Bootstrap:
    """Refits of resampled runs.

    `samples` [B, P] holds the printed parameters of the resamples that converged; `residuals`
    are those of the log-loss of the fit itself, widened for the freedom that P parameters took.
    """

    resamples: int
    converged: int
    seed: int
    samples: Array
    residuals: Array


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

    def loss_band(self, values: Mapping[str, Array]) -> tuple[Array, Array] | None:
        """Where the law itself lies with 90% confidence: low and high, [R] each."""
        if not len(self.samples):
            return None
        low, high = np.quantile(self.form.loss(self.samples, values), _ends(), axis=0)
        return low, high

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
            "convention": dict(self.convention),
            "n_runs": self.n_runs,
            "excluded": dict(self.excluded),
            "params": dict(self.params),
            "objective": self.objective,
            "se": dict(self.se),
            "intervals": {k: list(v) if v else None for k, v in self.intervals.items()},
            "exponents": dict(self.exponents),
            "convergence": dict(self.convergence),
            "warnings": list(self.warnings),
            "heldout": {run: dict(row) for run, row in self.heldout.items()},
            "data_sha256": self.data_sha256,
            "bootstrap": {} if boot is None else {
                "resamples": boot.resamples, "converged": boot.converged, "seed": boot.seed,
                "level": LEVEL,
                "samples": _thin(boot.samples, _KEPT_SAMPLES),
                "residuals": _thin(np.sort(boot.residuals), _KEPT_RESIDUALS),
            },
        }


def from_json(content: Any, source: str) -> Law:
    """The law that `to_json` wrote.

    Raises:
        UserError: it is no law, or a law whose form is not known here.
    """
    try:
        form = FORMS[content["law"]]
        params = {p: _number(content["params"][p]) for p in form.parameters}
        intervals = {k: (float(v[0]), float(v[1])) if v else None
                     for k, v in content.get("intervals", {}).items()}
        boot = content.get("bootstrap") or None
        return Law(
            form=form, convention=content["convention"], params=params,
            n_runs=content.get("n_runs"), excluded=content.get("excluded", {}),
            objective=content.get("objective"), se=content.get("se", {}), intervals=intervals,
            exponents=content.get("exponents", {}), convergence=content.get("convergence", {}),
            warnings=tuple(content.get("warnings", ())), heldout=content.get("heldout", {}),
            data_sha256=content.get("data_sha256"),
            bootstrap=boot and Bootstrap(
                int(boot["resamples"]), int(boot["converged"]), int(boot["seed"]),
                np.array(boot["samples"], dtype=float).reshape(-1, len(params)),
                np.array(boot["residuals"], dtype=float),
            ),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{source}: not a law as `scaling fit --json` writes it ({error!r}); "
                        f"known laws are {', '.join(FORMS)}") from None


def save(laws: list[Law], path: Path) -> None:
    """Write laws as JSON, one line for each key, so that a change is one line of a diff."""
    blocks = []
    for law in laws:
        lines = [f"    {json.dumps(key)}: {json.dumps(_finite(value), separators=(', ', ': '))}"
                 for key, value in law.to_json().items()]
        blocks.append("   {\n" + ",\n".join(lines) + "\n   }")
    write_atomically(path, '{\n  "laws": [\n' + ",\n".join(blocks) + "\n  ]\n}\n")


def load(path: Path) -> list[Law]:
    """The laws that `save` wrote.

    Raises:
        UserError: there is no such file, or it holds no laws.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `scaling fit RUNS --json {path}` writes it"
                        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    laws = content.get("laws") if isinstance(content, dict) else None
    if not isinstance(laws, list) or not laws:
        raise UserError(f"{path}: holds no laws; a file that `scaling fit --json` wrote is "
                        "expected")
    return [from_json(law, str(path)) for law in laws]


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


def _finite(content: Any) -> Any:
    """A copy in which numbers that JSON cannot write are None."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
