"""How to spend a compute budget: N*, D* and the loss to expect, under one law or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.law import Interval, Law, interval
from scaling.laws.published import Published, published
from scaling.laws.table import FLOPS_PER_PARAMETER_TOKEN

_OPTIMA = 0.95  # of the resamples must have one
FAR = 100.0
"""A budget beyond this many times the largest fitted compute is called far."""


@dataclass(frozen=True)
class Allocation:
    """The best use of `c` training FLOPs at C = 6 N D.

    `n`, `d` and `loss` (nats per token) are None where the law does not determine them. `a` is
    d log N* / d log C. Intervals hold 90% unless `level` says otherwise, and are of the law, not
    of one more run.
    """

    source: str
    counting: str
    c: float
    n: float | None
    d: float | None
    loss: float | None
    a: float | None
    n_interval: Interval | None = None
    d_interval: Interval | None = None
    loss_interval: Interval | None = None
    a_interval: Interval | None = None
    level: float | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def allocate(law: Law | Published, c: float, source: str = "") -> Allocation:
    """N*, D* and the loss at a budget.

    Args:
        law: a fitted or a published one.
        c: training FLOPs.
        source: what to call the law; its own name by default.

    Raises:
        UserError: the budget is not positive, or the law says nothing of allocation.
    """
    if not (np.isfinite(c) and c > 0):
        raise UserError(f"compute {c:g}: a positive number of FLOPs is expected, such as 1e21")
    if isinstance(law, Published):
        if law.law is None:
            return _from_sizes(law, c, source or law.title)
        return _from_law(law.law, c, source or law.title)
    return _from_law(law, c, source or law.name)


def side_by_side() -> list[Published]:
    """The published results that allocations are shown beside."""
    return [entry for entry in published().values() if entry.side_by_side]


def _from_law(law: Law, c: float, source: str) -> Allocation:
    best = law.form.optimum(law.point, c)
    if best is None:
        able = [name for name, form in FORMS.items()
                if form.optimum(np.ones((1, len(form.parameters))), 1.0) is not None]
        raise UserError(f"{source}: the law {law.name} says nothing of how to divide compute; "
                        f"laws that do are {', '.join(able)}")
    counting = str(law.convention["n"])
    warnings = tuple(law.warnings) + _far(law, c)
    if law.exponents.get("a") is None:
        return Allocation(source, counting, c, None, None, None, None, warnings=warnings)
    n = float(best[0])
    at = {"n": np.array([n]), "d": np.array([_tokens(n, c)])}
    spread: dict[str, Any] = {}
    if len(law.samples):
        sizes = law.form.optimum(law.samples, c)
        a = law.form.allocation_exponent(law.samples)
        assert sizes is not None  # as for the point above
        there = np.isfinite(sizes)
        if there.mean() < _OPTIMA:
            warnings += (f"{1 - there.mean():.0%} of the resamples have no optimum, since their "
                         "loss rises with N or with D; the intervals leave them out",)
        sizes, samples = sizes[there], law.samples[there]
        losses = np.array([
            law.form.loss(row[None], {"n": np.array([m]), "d": np.array([_tokens(m, c)])})[0, 0]
            for row, m in zip(samples, sizes, strict=True)
        ])
        spread = {"n_interval": interval(sizes), "d_interval": interval(_tokens(sizes, c)),
                  "loss_interval": interval(losses)}
        if a is not None:
            spread["a_interval"] = interval(a)
    return Allocation(source, counting, c, n, float(at["d"][0]), float(law.loss(at)[0]),
                      law.exponents["a"], warnings=warnings, **spread)


def _from_sizes(entry: Published, c: float, source: str) -> Allocation:
    if entry.sizes is None:
        raise UserError(f"{source}: says nothing of how to divide compute")
    n = entry.sizes.at(c)
    loss = None if entry.frontier is None else float(entry.frontier.loss({"c": np.array([c])})[0])
    return Allocation(source, str(entry.convention["n"]), c, n, _tokens(n, c), loss,
                      entry.sizes.exponent, a_interval=entry.sizes.interval,
                      level=entry.sizes.level)


def _tokens(n: Any, c: float) -> Any:
    return c / (FLOPS_PER_PARAMETER_TOKEN * n)


def _far(law: Law, c: float) -> tuple[str, ...]:
    known = law.convention.get("range", {}).get("c")
    if not known or c <= FAR * known[1]:
        return ()
    return (f"{c:.3g} FLOP is {c / known[1]:.3g} times the largest compute that this law was "
            f"fitted to ({known[1]:.3g}): an extrapolation, with intervals that do not know "
            "whether the law still holds",)
