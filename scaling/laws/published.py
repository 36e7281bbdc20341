"""Published constants, loaded from `published.json`, the only place where they are written."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms.catalogue import NAMED
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, UNIT_FACTORS
from scaling.laws.law import Interval, Law


@dataclass(frozen=True)
class OptimalSize:
    """N*(C) as printed in a paper: points (C in FLOP, N), and the exponent beyond them."""

    points: tuple[tuple[float, float], ...]
    exponent: float
    interval: Interval | None
    level: float | None
    """Coverage of `interval`, as in the paper."""

    def at(self, c: float) -> float:
        """N* at C FLOP: log-log linear interpolation between the points, a power law outside."""
        log_c, (x, y) = np.log(c), np.log(np.array(self.points)).T
        inside = float(np.clip(log_c, x[0], x[-1]))
        return float(np.exp(np.interp(inside, x, y) + self.exponent * (log_c - inside)))


@dataclass(frozen=True, repr=False)
class Published:
    """One published result: a law, optimal sizes, or both."""

    name: str
    title: str
    citation: str
    where: str
    mark: str
    """Provenance of the constants, a letter that `marks` explains."""
    note: str
    convention: Mapping[str, Any]
    law: Law | None
    sizes: OptimalSize | None
    frontier: Law | None
    """Loss as a function of compute along the paper's own optimal sizes."""
    side_by_side: bool
    """Whether allocations show it next to a user's own law."""

    def __repr__(self) -> str:
        of = self.law or self.frontier
        formula = f": {of.form.formula}" if of is not None else ""
        return f"{self.title}{formula} ({self.where}; mark {self.mark})"


@cache
def _content() -> dict[str, Any]:
    text = resources.files("scaling.laws").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def marks() -> dict[str, str]:
    """The meaning of each provenance mark."""
    return dict(_content()["marks"])


def counting() -> dict[str, Any]:
    """The published relation of total and non-embedding parameters: `omega`, `note`, the full
    `citation`, and the grids of the `study`, each as the log10 of its first and last value and the
    number of values."""
    entry = _content()["counting"]
    return {**entry, "citation": _content()["citations"][entry["citation"]]}


@cache
def published() -> dict[str, Published]:
    """Every published entry, by name, with all compute in FLOP."""
    return {name: _entry(name) for name in _content()["entries"]}


def published_named(name: str) -> Published:
    """The published entry of a name.

    Raises:
        UserError: the name is unknown.
    """
    if name in published():
        return published()[name]
    near = difflib.get_close_matches(name, published(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{name}: no published law of that name, and no such file; {hint}Published "
                    f"laws are {', '.join(published())}")


def _entry(name: str) -> Published:
    entry = _content()["entries"][name]
    sizes = entry.get("allocation")
    factor = _factor(sizes.get("unit")) if sizes else 1.0
    # A size given in FLOPs per token is converted to N with C = 6 N D.
    divisor = FLOPS_PER_PARAMETER_TOKEN if sizes and sizes.get("of") == "FLOPs of a token" else 1
    frontier = entry.get("frontier")
    return Published(
        name=name, title=entry["title"], citation=_content()["citations"][entry["citation"]],
        where=entry["where"], mark=entry["mark"], note=entry.get("note", ""),
        convention=entry["convention"],
        law=_law(name) if "law" in entry else None,
        sizes=sizes and OptimalSize(
            tuple((float(c) * factor, float(n) / divisor) for c, n in sizes["points"]),
            sizes["exponent"],
            (sizes["interval"][0], sizes["interval"][1]) if "interval" in sizes else None,
            sizes.get("level"),
        ),
        frontier=_law(frontier) if frontier else None,
        side_by_side=entry.get("side_by_side", False),
    )


def _law(name: str) -> Law:
    entry = _content()["entries"][name]
    form = NAMED[entry["law"]]
    units = entry.get("units", {})
    given = entry["params"]
    params = {p: float(given[p]) * _unit_scale(units.get(p), given) for p in form.parameters}
    point = np.array([[params[p] for p in form.parameters]])
    a = form.allocation_exponent(point)
    exponents = {} if a is None else {"a": float(a[0]), "b": float(1 - a[0])}
    return Law(form=form, convention=entry["convention"], params=params,
               se=entry.get("se", {}), exponents=exponents)


def _unit_scale(unit: str | list[str] | None, given: Mapping[str, float]) -> float:
    """The factor that converts a parameter to FLOP units; a unit [name, exponent] stands for the
    factor to the power of another parameter, as for beta of beta C^-alpha."""
    if isinstance(unit, list):
        name, exponent = unit
        return float(_factor(name) ** float(given[exponent]))
    return _factor(unit)


def _factor(unit: str | None) -> float:
    return 1.0 if unit is None else UNIT_FACTORS[unit]
