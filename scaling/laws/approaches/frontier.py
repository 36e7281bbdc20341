"""The compute-optimal frontier: N* and D* as power laws of C, without a law of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.approaches.line import Line
from scaling.laws.approaches.optima import Optima
from scaling.laws.law import LEVEL, Interval
from scaling.laws.planning.allocate import FAR, Allocation

APPROACHES: dict[str, str] = {
    "approach-1": "Hoffmann et al. 2022, section 3.1",
    "approach-2": "Hoffmann et al. 2022, section 3.2",
    "approach-2-akima": "Porian et al. 2024, section 3",
}
"""The approaches that give one, with their sources."""

_KEPT_OPTIMA = 200  # in a file


@dataclass(frozen=True)
class Frontier:
    """N* = G C^a and D* = H C^b, with C in FLOP, and the optima that they were fitted to.

    Intervals hold 90%; they know how the optima scatter about the power law, and nothing of what
    a parabola or an envelope is biased by.
    """

    name: str
    convention: Mapping[str, Any]
    n: Line
    d: Line
    optima: Optima
    n_runs: int
    excluded: Mapping[str, int] = field(default_factory=dict)
    objective: float | None = None
    warnings: tuple[str, ...] = ()
    data_sha256: str | None = None

    @property
    def params(self) -> dict[str, float]:
        """G and a of N*, H and b of D*."""
        return {"G": self.n.coefficient, "a": self.n.exponent,
                "H": self.d.coefficient, "b": self.d.exponent}

    @property
    def exponents(self) -> dict[str, float]:
        """a = d log N*/d log C and b = d log D*/d log C."""
        return {"a": self.n.exponent, "b": self.d.exponent}

    @property
    def se(self) -> dict[str, float | None]:
        """Standard errors of a and b, and of the logarithms of G and H."""
        return {"log G": self.n.se(1.0), "a": self.n.exponent_se,
                "log H": self.d.se(1.0), "b": self.d.exponent_se}

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """90% intervals of the parameters."""
        return {"G": self.n.interval(1.0), "a": self.n.exponent_interval,
                "H": self.d.interval(1.0), "b": self.d.exponent_interval}

    def allocation(self, c: float, source: str = "") -> Allocation:
        """N* and D* at a budget of C FLOP; the loss is None, since no law of it was fitted.

        Raises:
            UserError: the budget is not a positive number.
        """
        if not (np.isfinite(c) and c > 0):
            raise UserError(f"compute {c:g}: a positive number of FLOPs is expected, such as 1e21")
        warnings = self.warnings
        largest = float(self.convention["range"]["c"][1])
        if c > FAR * largest:
            warnings += (f"{c:.3g} FLOP is {c / largest:.3g} times the largest budget whose "
                         f"optimum is used ({largest:.3g}): an extrapolation, with intervals that "
                         "do not know whether the power law still holds",)
        return Allocation(
            source or self.name, str(self.convention["n"]), c, self.n.at(c), self.d.at(c), None,
            self.n.exponent, self.n.interval(c), self.d.interval(c), None,
            self.n.exponent_interval, None, warnings,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: what `scaling fit --json` writes for one law; numbers that are none are NaN.

        `lines` and `optima` are what `from_json` needs beyond the keys that all laws have.
        """
        kept = self.optima
        if len(kept.c) > _KEPT_OPTIMA:
            kept = kept.take(np.linspace(0, len(kept.c) - 1, _KEPT_OPTIMA).round().astype(np.intp))
        return {
            "law": self.name,
            "convention": dict(self.convention),
            "n_runs": self.n_runs,
            "excluded": dict(self.excluded),
            "params": self.params,
            "objective": self.objective,
            "se": self.se,
            "intervals": {k: list(v) if v else None for k, v in self.intervals.items()},
            "exponents": self.exponents,
            # Least squares of a straight line has one optimum, in closed form.
            "convergence": {"start_agreement": 1.0, "grad_norm": 0.0, "condition": None,
                            "converged": True},
            "warnings": list(self.warnings),
            "heldout": {},
            "data_sha256": self.data_sha256,
            "level": LEVEL,
            "lines": {name: {"centre": line.centre, "level": line.level,
                             "exponent": line.exponent, "covariance": list(line.covariance),
                             # JSON has no infinity.
                             "dof": line.dof if math.isfinite(line.dof) else None}
                      for name, line in (("n", self.n), ("d", self.d))},
            "optima": {"c": kept.c.tolist(), "n": kept.n.tolist(), "d": kept.d.tolist(),
                       "loss": kept.loss.tolist(), "n_se": kept.n_se.tolist(),
                       "used": kept.used.tolist(), "reason": list(kept.reason)},
        }


def frontier_from_json(content: Any, source: str) -> Frontier:
    """The frontier that `to_json` wrote; null stands for a number that was none.

    Raises:
        UserError: it is no frontier.
    """
    try:
        if content["law"] not in APPROACHES:
            raise ValueError(f"law {content['law']}")
        optima = content["optima"]
        numbers = {key: np.array([math.nan if v is None else v for v in optima[key]], dtype=float)
                   for key in ("c", "n", "d", "loss", "n_se")}
        return Frontier(
            name=content["law"], convention=content["convention"],
            n=_line(content["lines"]["n"]), d=_line(content["lines"]["d"]),
            optima=Optima(**numbers, used=np.array(optima["used"], dtype=bool),
                          reason=tuple(optima["reason"])),
            n_runs=int(content["n_runs"]), excluded=content.get("excluded", {}),
            objective=content.get("objective"), warnings=tuple(content.get("warnings", ())),
            data_sha256=content.get("data_sha256"),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{source}: not a frontier as `scaling fit --json` writes it ({error!r}); "
                        f"known are {', '.join(APPROACHES)}") from None


def _line(content: Any) -> Line:
    first, second, third = (math.nan if v is None else float(v) for v in content["covariance"])
    dof = math.inf if content["dof"] is None else float(content["dof"])
    return Line(float(content["centre"]), float(content["level"]), float(content["exponent"]),
                (first, second, third), dof)
