"""Published constants, as data: `published.json` is the one place where they are typed."""

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
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.law import Interval, Law
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN
from scaling.laws.variables import UNIT_FACTORS


@dataclass(frozen=True)
class OptimalSize:
    """N*(C) as a paper prints it: points (C in FLOP, N), and the exponent beyond them."""

    points: tuple[tuple[float, float], ...]
    exponent: float
    interval: Interval | None
    level: float | None
    """Coverage of `interval`, which is the paper's and not ours."""

    def at(self, c: float) -> float:
        """N* at C FLOP: straight lines between the points in log-log, the exponent outside."""
        log_c, (x, y) = np.log(c), np.log(np.array(self.points)).T
        inside = float(np.clip(log_c, x[0], x[-1]))
        return float(np.exp(np.interp(inside, x, y) + self.exponent * (log_c - inside)))


@dataclass(frozen=True)
class Published:
    """One published result: a law, or optimal sizes, or both."""

    name: str
    title: str
    citation: str
    where: str
    mark: str
    """How well the constants are known here; `MARKS` says what the letters mean."""
    note: str
    convention: Mapping[str, Any]
    law: Law | None
    sizes: OptimalSize | None
    frontier: Law | None
    """Loss against compute along the paper's own optimal sizes."""
    side_by_side: bool
    """Whether allocations show it beside a user's own law."""


@cache
def _content() -> dict[str, Any]:
    text = resources.files("scaling.laws").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def marks() -> dict[str, str]:
    """What the provenance marks mean."""
    return dict(_content()["marks"])


def counting() -> dict[str, Any]:
    """How total and non-embedding parameters are related, and the study that says so: `omega`,
    `note`, the full `citation`, and the grids of the `study`, each as the log10 of its first and
    last value and how many there are."""
    entry = _content()["counting"]
    return {**entry, "citation": _content()["citations"][entry["citation"]]}


@cache
def published() -> dict[str, Published]:
    """Every published entry, by name, with all compute in FLOP."""
    return {name: _entry(name) for name in _content()["entries"]}


def published_named(name: str) -> Published:
    """A published entry by its name.

    Raises:
        UserError: there is none.
    """
    if name in published():
        return published()[name]
    near = difflib.get_close_matches(name, published(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{name}: no published law of that name, and no such file; {hint}Published "
                    f"are {', '.join(published())}")


def _entry(name: str) -> Published:
    entry = _content()["entries"][name]
    sizes = entry.get("allocation")
    factor = _factor(sizes.get("unit")) if sizes else 1.0
    # A paper that divides C between FLOPs of a token and tokens has an N in them too: C = 6 N D.
    per = FLOPS_PER_PARAMETER_TOKEN if sizes and sizes.get("of") == "FLOPs of a token" else 1
    frontier = entry.get("frontier")
    return Published(
        name=name, title=entry["title"], citation=_content()["citations"][entry["citation"]],
        where=entry["where"], mark=entry["mark"], note=entry.get("note", ""),
        convention=entry["convention"],
        law=_law(name) if "law" in entry else None,
        sizes=sizes and OptimalSize(
            tuple((float(c) * factor, float(n) / per) for c, n in sizes["points"]),
            sizes["exponent"],
            (sizes["interval"][0], sizes["interval"][1]) if "interval" in sizes else None,
            sizes.get("level"),
        ),
        frontier=_law(frontier) if frontier else None,
        side_by_side=entry.get("side_by_side", False),
    )


def _law(name: str) -> Law:
    entry = _content()["entries"][name]
    form = FORMS[entry["law"]]
    units = entry.get("units", {})
    given = entry["params"]
    params = {p: float(given[p]) * _scale(units.get(p), given) for p in form.parameters}
    point = np.array([[params[p] for p in form.parameters]])
    a = form.allocation_exponent(point)
    exponents = {} if a is None else {"a": float(a[0]), "b": float(1 - a[0])}
    return Law(form=form, convention=entry["convention"], params=params,
               se=entry.get("se", {}), exponents=exponents)


def _scale(unit: str | list[str] | None, given: Mapping[str, float]) -> float:
    """What takes a parameter to our units: a factor, or one to the power of another parameter, as
    for beta of beta C^-alpha with C in some unit."""
    if isinstance(unit, list):
        name, power = unit
        return float(_factor(name) ** float(given[power]))
    return _factor(unit)


def _factor(unit: str | None) -> float:
    return 1.0 if unit is None else UNIT_FACTORS[unit]
