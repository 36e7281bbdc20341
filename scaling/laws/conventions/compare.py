"""Comparison of laws: their allocations at the same budgets, and where these differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy

from scaling.errors import UserError
from scaling.laws.allocation.allocate import (
    Allocation,
    FrontierLike,
    allocate,
    allocate_by_sizes,
    optimal_size,
)
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.conventions.reconcile import PowerLaw, kaplan_power_law
from scaling.laws.conventions.recount import Relation, published_relation, recount
from scaling.laws.forms.variables import N_COLUMNS, SIX_ND, Counting
from scaling.laws.law import Interval, Law
from scaling.laws.published import Published

Verdict = Literal["overlap", "apart", "inside", "outside"]
QUANTITIES = ("a", "n", "d", "loss")
"""Quantities in which two laws are compared."""

_EXPONENT_STEP = 0.05  # in log C, of the difference quotient of a local exponent


@dataclass(frozen=True)
class ComparedLaw:
    """One law and its allocation of every budget. `law` is None if only sizes are known."""

    source: str
    law: Law | None
    convention: dict[str, str]
    allocations: tuple[Allocation, ...]
    kaplan: PowerLaw | None
    """The power law that Kaplan's method would find if the law were true; None if the law is not
    a function of total N."""

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data, without resamples."""
        law = self.law
        return {
            "source": self.source, "convention": self.convention,
            "law": None if law is None else law.name,
            "formula": None if law is None else law.form.formula,
            "n_runs": None if law is None else law.n_runs,
            "params": {} if law is None else dict(law.params),
            "intervals": {} if law is None else dict(law.intervals),
            "kaplans_study": self.kaplan and self.kaplan.to_json(),
            "allocations": [row.to_json() for row in self.allocations],
        }


@dataclass(frozen=True)
class Agreement:
    """Whether two laws agree on a quantity at a budget.

    `overlap` or `apart` for two intervals; `inside` or `outside` for a value without an interval
    against the other law's interval; None if neither has an interval or one has no value. Losses
    on different corpora or tokenizers are not comparable, whatever the verdict.
    """

    first: str
    second: str
    c: float
    verdicts: dict[str, Verdict | None]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {"first": self.first, "second": self.second, "c": self.c, **self.verdicts}


def compare(
    laws: Sequence[tuple[str, Law | Published | FrontierLike]],
    budgets: Sequence[float],
    counting: Counting | None = None,
    relation: Relation | None = None,
    given: Mapping[str, float] | None = None,
) -> list[ComparedLaw]:
    """Allocations of every law at every budget C = 6 N D.

    Args:
        laws: pairs of a display name and a law; an empty name stands for the law's own.
        budgets: FLOPs.
        counting: which parameters N, and C with it, counts in all of them; by default each law's
            own convention.
        relation: between total and non-embedding N; Pearce and Song's by default.
        given: values of the laws' other variables, as in `AllocationBudget`.

    Raises:
        UserError: a law does not determine how to divide compute, or its N is of unknown counting.
    """
    relation = relation or published_relation()
    compared = []
    for name, entry in laws:
        if isinstance(entry, Published):
            law, source = entry.law, name or entry.title
        else:
            law, source = entry if isinstance(entry, Law) else None, name or entry.name
        if law is not None:
            counted = law if counting is None else recount(law, counting, relation)
            rows = [allocate(counted, AllocationBudget(c=c, given=given or {}), source)
                    for c in budgets]
        elif not isinstance(entry, Law):
            rows = [_recounted_sizes(entry, c, counting, relation, source) for c in budgets]
        convention = {key: str(value) for key, value in entry.convention.items()
                      if key in ("n", "d", "c", "loss")}
        if counting is not None and counting != convention["n"]:
            convention |= {"n": counting, "from": convention["n"]}
            convention |= {} if law is None else {"c": SIX_ND}
        has_total_n = law is not None and convention.get("from", convention["n"]) == "total" and (
            {*law.form.variables} <= {"n", "d", "c", "u"} and rows[0].n is not None)
        compared.append(ComparedLaw(
            source, law, convention, tuple(rows),
            kaplan_power_law(law, relation) if law and has_total_n else None))
    return compared


def agreements(laws: Sequence[ComparedLaw]) -> list[Agreement]:
    """The agreement of every pair of laws at every budget."""
    found = []
    for first, second in itertools.combinations(laws, 2):
        for left, right in zip(first.allocations, second.allocations, strict=True):
            verdicts = {
                name: verdict(getattr(left, name), getattr(left, f"{name}_interval"),
                              getattr(right, name), getattr(right, f"{name}_interval"))
                for name in QUANTITIES
            }
            found.append(Agreement(first.source, second.source, float(left.c or np.nan), verdicts))
    return found


def verdict(
    x: float | None, x_interval: Interval | None, y: float | None, y_interval: Interval | None
) -> Verdict | None:
    """Whether two values are compatible, given the interval of at least one of them."""
    if x is None or y is None:
        return None
    if x_interval and y_interval:
        overlap = x_interval[0] <= y_interval[1] and y_interval[0] <= x_interval[1]
        return "overlap" if overlap else "apart"
    if x_interval is None and y_interval is None:
        return None
    low, high = x_interval or y_interval or (np.nan, np.nan)
    return "inside" if low <= (y if x_interval else x) <= high else "outside"


def _recounted_sizes(
    entry: Published | FrontierLike, c: float, counting: Counting | None, relation: Relation,
    source: str,
) -> Allocation:
    """The allocation of optimal sizes alone; under another counting, that of the same models."""
    own = entry.convention["n"]
    if counting is None or own == counting:
        return allocate(entry, c, source)
    if own not in N_COLUMNS:
        raise UserError(f"{source}: counts N as {own}, which cannot be converted to {counting}")
    AllocationBudget(c=c)  # checks that c is positive
    convert = relation.to(counting)

    def sizes(log_c: float) -> tuple[float, float]:
        """N* at a budget of the entry's own counting, and the N of that model in `counting`."""
        n = optimal_size(entry, float(np.exp(log_c)))
        return n, float(convert(np.array([n]))[0])

    def excess_log_c(log_c: float, log_target: float) -> float:
        """log C under `counting` less the target; D is the same under both."""
        n, converted = sizes(log_c)
        return float(log_c + np.log(converted / n) - log_target)

    log_c = float(np.log(c))
    try:
        own_log_c = [float(scipy.optimize.brentq(excess_log_c, 0.0, 2 * log_c + 10.0,
                                                args=(log_c + step,)))
                     for step in (-_EXPONENT_STEP, 0.0, _EXPONENT_STEP)]
    except UserError:
        raise
    except ValueError:  # the same sign at both ends
        raise UserError(f"{source}: no budget under its own count of N corresponds to {c:g} FLOPs "
                        "under the other; compare at another budget") from None
    row = allocate_by_sizes(entry, float(np.exp(own_log_c[1])), source)
    _, n = sizes(own_log_c[1])
    a = np.log(sizes(own_log_c[2])[1] / sizes(own_log_c[0])[1]) / (2 * _EXPONENT_STEP)
    if row.n is None:
        return replace(row, counting=counting, c=c, total=c)
    interval = None
    if row.n_interval is not None:
        low, high = convert(np.array(row.n_interval))
        interval = (float(low), float(high))
    return replace(
        row, counting=counting, c=c, total=c, n=n, a=float(a), n_interval=interval,
        a_interval=None, level=None,
        warnings=(*row.warnings, "gives sizes but no law of the loss, so these are its own models "
                                 f"recounted, not the optimal ones under the {counting} count"),
    )
