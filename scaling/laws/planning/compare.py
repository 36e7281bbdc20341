"""Laws side by side: what each is, what each allots to a grid of budgets, and where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq

from scaling.errors import UserError
from scaling.laws.law import Interval, Law
from scaling.laws.planning.allocate import Allocation, Sizes, allocate
from scaling.laws.planning.budgets import Budget
from scaling.laws.planning.counting import Relation, published_relation, recount
from scaling.laws.planning.reconcile import PowerLaw, kaplans_study
from scaling.laws.published import Published
from scaling.laws.runs.table import N_COLUMNS, SIX_ND, Counting

Verdict = Literal["overlap", "apart", "inside", "outside"]
QUANTITIES = ("a", "n", "d", "loss")
"""What two laws are compared in."""

_APART = 0.05  # in log C, between which a local exponent is measured


@dataclass(frozen=True)
class Entry:
    """One law, and what it allots to every budget. `law` is None where only sizes are known."""

    source: str
    law: Law | None
    convention: dict[str, str]
    allocations: tuple[Allocation, ...]
    study: PowerLaw | None
    """What Kaplan's method would have found were the law true; None where it is of no total N."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, without resamples."""
        law = self.law
        return {
            "source": self.source, "convention": self.convention,
            "law": None if law is None else law.name,
            "formula": None if law is None else law.form.formula,
            "n_runs": None if law is None else law.n_runs,
            "params": {} if law is None else dict(law.params),
            "intervals": {} if law is None else dict(law.intervals),
            "kaplans_study": self.study and self.study.to_json(),
            "allocations": [row.to_json() for row in self.allocations],
        }


@dataclass(frozen=True)
class Agreement:
    """Whether two laws agree on a quantity at a budget.

    Two intervals overlap or lie apart; where one law has none, its value lies inside or outside
    the other's. None where neither has an interval, or one has no value. Losses of different
    corpora or tokenizers are not comparable, whatever this says.
    """

    first: str
    second: str
    c: float
    verdicts: dict[str, Verdict | None]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"first": self.first, "second": self.second, "c": self.c, **self.verdicts}


def compare(
    laws: Sequence[tuple[str, Law | Published | Sizes]],
    budgets: Sequence[float],
    counting: Counting | None = None,
    relation: Relation | None = None,
    given: Mapping[str, float] | None = None,
) -> list[Entry]:
    """Every law at every budget C = 6 N D.

    Args:
        laws: what to call each, and the law; an empty name stands for its own.
        budgets: FLOPs.
        counting: what N, and C with it, counts in all of them; by default what each law's own
            paper or fit counts.
        relation: between total and non-embedding N; Pearce and Song's by default.
        given: values of the laws' other variables, as in `Budget`.

    Raises:
        UserError: a law says nothing of how to divide compute, or not which N it counts.
    """
    relation = relation or published_relation()
    entries = []
    for name, entry in laws:
        if isinstance(entry, Published):
            law, source = entry.law, name or entry.title
        else:
            law, source = entry if isinstance(entry, Law) else None, name or entry.name
        if law is None:
            rows = [_of_sizes(entry, c, counting, relation, source) for c in budgets]
        else:
            counted = law if counting is None else recount(law, counting, relation)
            rows = [allocate(counted, Budget(c=c, given=given or {}), source) for c in budgets]
        convention = {key: str(value) for key, value in entry.convention.items()
                      if key in ("n", "d", "c", "loss")}
        if counting is not None and counting != convention["n"]:
            convention |= {"n": counting, "from": convention["n"]}
            convention |= {} if law is None else {"c": SIX_ND}
        knows = law is not None and convention.get("from", convention["n"]) == "total" and (
            {*law.form.variables} <= {"n", "d", "c", "u"} and rows[0].n is not None)
        entries.append(Entry(source, law, convention, tuple(rows),
                             kaplans_study(law, relation) if law and knows else None))
    return entries


def agreements(entries: Sequence[Entry]) -> list[Agreement]:
    """Every pair of laws at every budget."""
    found = []
    for one, other in itertools.combinations(entries, 2):
        for left, right in zip(one.allocations, other.allocations, strict=True):
            verdicts = {
                name: verdict(getattr(left, name), getattr(left, f"{name}_interval"),
                              getattr(right, name), getattr(right, f"{name}_interval"))
                for name in QUANTITIES
            }
            found.append(Agreement(one.source, other.source, float(left.c or np.nan), verdicts))
    return found


def verdict(
    x: float | None, x_interval: Interval | None, y: float | None, y_interval: Interval | None
) -> Verdict | None:
    """Whether two values with their intervals, or one and a bare value, can be the same."""
    if x is None or y is None:
        return None
    if x_interval and y_interval:
        meet = x_interval[0] <= y_interval[1] and y_interval[0] <= x_interval[1]
        return "overlap" if meet else "apart"
    if x_interval is None and y_interval is None:
        return None
    low, high = x_interval or y_interval or (np.nan, np.nan)
    return "inside" if low <= (y if x_interval else x) <= high else "outside"


def _of_sizes(
    entry: Law | Published | Sizes, c: float, counting: Counting | None, relation: Relation,
    source: str,
) -> Allocation:
    """What optimal sizes alone allot; in another count, the same models again."""
    own = entry.convention["n"]
    if counting is None or own == counting:
        return allocate(entry, c, source)
    if own not in N_COLUMNS:
        raise UserError(f"{source}: counts N as {own}, which cannot be turned into {counting}")
    Budget(c=c)  # is positive
    to = relation.to(counting)

    def of(log_c: float) -> tuple[Allocation, float]:
        """What the entry gives to a budget of its own count, and the N of that model in this."""
        row = allocate(entry, float(np.exp(log_c)), source)
        return row, float(to(np.array([row.n], dtype=float))[0])

    def distance(log_c: float, log_target: float) -> float:
        """From the target to this count's compute: the tokens stay, and N is another."""
        row, n = of(log_c)
        return float(log_c + np.log(n / (row.n or np.nan)) - log_target)

    log_c = float(np.log(c))
    ends = [of(float(brentq(distance, 0.0, 2 * log_c + 10.0, args=(log_c + shift,))))
            for shift in (-_APART, 0.0, _APART)]
    row, n = ends[1]
    a = np.log(ends[2][1] / ends[0][1]) / (2 * _APART)
    spread = None
    if row.n_interval is not None:
        low, high = to(np.array(row.n_interval))
        spread = (float(low), float(high))
    return replace(
        row, counting=counting, c=c, total=c, n=n, a=float(a), n_interval=spread, a_interval=None,
        level=None,
        warnings=(*row.warnings, "gives sizes and no law of the loss, so these are its own models "
                                 f"counted anew, not the best ones under the {counting} count"),
    )
