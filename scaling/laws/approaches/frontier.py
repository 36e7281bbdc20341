"""The compute-optimal frontier: N* and D* as power laws of C, without a law of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws import show
from scaling.laws.allocation.allocate import FAR_FACTOR, Allocation
from scaling.laws.approaches.line import Line
from scaling.laws.approaches.optima import Optima
from scaling.laws.arguments import checked
from scaling.laws.json_object import JsonObject
from scaling.laws.law import LEVEL, Interval
from scaling.laws.law_json import MOST_WARNINGS, convention_of, counts_of

APPROACHES: dict[str, str] = {
    "approach-1": "Hoffmann et al. 2022, section 3.1",
    "approach-2": "Hoffmann et al. 2022, section 3.2",
    "approach-2-cubic": "Hoffmann et al. 2022, section 3.2, with cubics for skewed valleys",
    "approach-2-akima": "Porian et al. 2024, section 3",
}
"""The approaches, with their sources."""

_KEPT_OPTIMA = 200  # most optima in a file


@dataclass(frozen=True, repr=False)
class Frontier:
    """N* = G C^a and D* = H C^b, with C in FLOP, and the optima that they were fitted to.

    The 90% intervals account for the scatter of the optima about the power law, but not for the
    bias of a parabola or an envelope.
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

    @checked
    def allocation(self, c: float, source: str = "") -> Allocation:
        """N* and D* at a budget of c FLOP; the loss is None, since no law of it was fitted.

        Raises:
            UserError: the budget is not a positive number.
        """
        if not (np.isfinite(c) and c > 0):
            raise UserError(f"compute {c:g}: a positive number of FLOPs is expected, such as 1e21")
        warnings = self.warnings
        largest = float(self.convention["range"]["c"][1])
        if c > FAR_FACTOR * largest:
            warnings += (f"{c:.3g} FLOP is {c / largest:.4g} times the largest budget whose "
                         f"optimum is used ({largest:.3g}): an extrapolation, whose intervals "
                         "assume that the power law still holds",)
        return Allocation(
            source or self.name, str(self.convention["n"]), c, self.n.at(c), self.d.at(c), None,
            self.n.exponent, self.n.interval(c), self.d.interval(c), None,
            self.n.exponent_interval, None, warnings,
        )

    def __repr__(self) -> str:
        used = int(self.optima.used.sum())
        table = show.TextTable(("parameter", "value", "90% interval"), tuple(
            (name, show.number(value), show.span(self.intervals[name]))
            for name, value in self.params.items()), ("parameter",))
        return "\n".join([f"{self.name}: N* = G C^a, D* = H C^b",
                          f"{self.n_runs} runs; {used} of {len(self.optima.c)} optima used",
                          table.text(), *(f"warning: {warning}" for warning in self.warnings)])

    def to_json(self) -> dict[str, Any]:
        """The frontier as JSON-compatible data, as `scaling fit --save` writes it, with NaN for
        unknown numbers.

        `lines` and `optima` are the keys that `frontier_from_json` needs in addition to those of
        all laws.
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
            # Linear least squares has a unique optimum in closed form.
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


def frontier_from_json(content: Any, source: str, path: str = "") -> Frontier:
    """A frontier from the data that `Frontier.to_json` returns; every value is checked, and null
    is NaN.

    Args:
        content: parsed JSON.
        source: name of the file in messages.
        path: dotted path of the frontier inside the file, for messages.

    Raises:
        UserError: a value is not one that `to_json` returns.
    """
    fields = JsonObject(content, source, path)
    name = fields.text("law", APPROACHES)
    convention = convention_of(fields.object("convention"))
    if "c" not in convention.get("range", {}):
        raise fields.error("convention.range.c", None, "a lower and an upper end")
    lines = fields.object("lines")
    return Frontier(
        name=name, convention=convention, n=_line(lines.object("n")), d=_line(lines.object("d")),
        optima=_optima(fields.object("optima")), n_runs=fields.count("n_runs"),
        excluded=counts_of(fields.object("excluded")), objective=fields.optional("objective"),
        warnings=fields.texts("warnings", MOST_WARNINGS),
        data_sha256=fields.text("data_sha256") if "data_sha256" in fields else None,
    )


def _optima(fields: JsonObject) -> Optima:
    numbers = {key: fields.array(key, _KEPT_OPTIMA) for key in ("c", "n", "d", "loss", "n_se")}
    used, reason = fields.items("used", _KEPT_OPTIMA), fields.texts("reason", _KEPT_OPTIMA)
    if not all(isinstance(value, bool) for value in used):
        raise fields.error("used", used, "a list of true and false")
    if len({len(used), len(reason), *map(len, numbers.values())}) > 1:
        raise fields.error("", [], "one value of each key for every optimum")
    return Optima(**numbers, used=np.array(used, dtype=bool), reason=reason)


def _line(fields: JsonObject) -> Line:
    centre, level, exponent = (fields.number(key) for key in ("centre", "level", "exponent"))
    of_level, covariance, of_exponent = fields.array("covariance", 3, exactly=True).tolist()
    if of_level < 0 or of_exponent < 0:
        raise fields.error("covariance", str((of_level, of_exponent)), "non-negative variances")
    dof = fields.count("dof") if "dof" in fields else math.inf
    return Line(centre, level, exponent, (of_level, covariance, of_exponent), dof)
