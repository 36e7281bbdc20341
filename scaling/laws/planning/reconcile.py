"""Kaplan against Chinchilla: what one law says under each way of counting.

Kaplan et al. 2020 found N* ~ C^.73, Hoffmann et al. 2022 N* ~ C^.50. Most of the distance is that
the former counted neither embeddings nor their compute, on models small enough for it to matter
(Pearce and Song 2024). Here any law of total parameters is read as Kaplan would have read it, and
any table of runs is refitted under every count that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.fit import fit
from scaling.laws.forms.form import Form
from scaling.laws.law import Interval, Law
from scaling.laws.planning.allocate import Allocation, allocate
from scaling.laws.planning.budgets import Budget
from scaling.laws.planning.counting import Relation, curve, published_relation, recount
from scaling.laws.published import counting as published_counting
from scaling.laws.runs.table import (
    FLOPS_PER_PARAMETER_TOKEN,
    N_COLUMNS,
    SIX_ND,
    Counting,
    from_frame,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """N* = coefficient C^exponent, by least squares of the logarithms."""

    coefficient: float
    exponent: float
    interval: Interval | None = None
    """Of the exponent, over the resamples of a fitted law."""

    def at(self, c: float) -> float:
        """N* at C FLOP."""
        return float(self.coefficient * c**self.exponent)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"exponent": self.exponent, "coefficient": self.coefficient,
                "interval": self.interval}


def power_law(c: Array, n: Array) -> PowerLaw:
    """The power law through points of compute and size."""
    exponent, level = np.polyfit(np.log(c), np.log(n), 1)
    return PowerLaw(float(np.exp(level)), float(exponent))


def kaplans_study(law: Law, relation: Relation | None = None) -> PowerLaw:
    """The power law that Kaplan's method finds where `law` is the truth.

    As Pearce and Song 2024, section 3, simulate it: 20 sizes from about 768 to 1.5e9 parameters
    without embeddings are trained on 1000 counts of tokens; at each of 100 budgets C = 6 N D, with
    the same N, every size is represented by the run nearest to the budget, the size with the
    lowest loss is the best, and a line in log-log goes through the best. With Besiroglu's
    constants the exponent is .7805, with Hoffmann's .7388.

    Args:
        law: of N and D, in total parameters.
        relation: between total and non-embedding parameters; Pearce and Song's by default.
    """
    law = _of_total(law)
    relation = relation or published_relation()
    sizes_N, tokens_T, budgets_K = (
        np.logspace(*published_counting()["study"][name]) for name in ("sizes", "tokens", "budgets")
    )
    wanted_KN = budgets_K[:, None] / (FLOPS_PER_PARAMETER_TOKEN * sizes_N)
    above = np.clip(np.searchsorted(tokens_T, wanted_KN), 1, len(tokens_T) - 1)
    nearer = wanted_KN - tokens_T[above - 1] < tokens_T[above] - wanted_KN
    tokens_KN = tokens_T[above - nearer]
    total_KN = np.broadcast_to(relation.total(sizes_N), tokens_KN.shape)
    runs = Budget(c=1.0).values(total_KN.ravel(), tokens_KN.ravel())

    def logs(params_BP: Array) -> Array:
        """log of the best size at each budget, [K, B]."""
        losses_BKN = law.form.loss(params_BP, runs).reshape(-1, *tokens_KN.shape)
        return np.asarray(np.log(sizes_N[losses_BKN.argmin(axis=-1)]).T)

    spread = law.band(lambda params: np.polyfit(np.log(budgets_K), logs(params), 1)[:1].T)
    return replace(power_law(budgets_K, np.exp(logs(law.point)[:, 0])),
                   interval=spread and (float(spread[0][0]), float(spread[1][0])))


@dataclass(frozen=True)
class CountedFrontier:
    """What a law allots to budgets under one count, exactly, and the power law nearest to it."""

    counting: Counting
    allocations: tuple[Allocation, ...]
    power: PowerLaw

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"counting": self.counting, "power": self.power.to_json(),
                "allocations": [entry.to_json() for entry in self.allocations]}


@dataclass(frozen=True)
class Reconciliation:
    """One law under both counts, and what Kaplan's method would have made of it."""

    relation: str
    total: CountedFrontier
    non_embedding: CountedFrontier
    study: PowerLaw

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"relation": self.relation, "total": self.total.to_json(),
                "non_embedding": self.non_embedding.to_json(),
                "kaplans_study": self.study.to_json()}


def frontier(
    law: Law, counting: Counting, budgets: Sequence[float], relation: Relation | None = None
) -> CountedFrontier:
    """N*, D*, loss and the local exponent at budgets C = 6 N D, N and C counted as `counting`.

    Raises:
        UserError: fewer than two budgets, or the law does not determine N* at them.
    """
    counted = recount(law, counting, relation)
    rows = tuple(allocate(counted, c) for c in budgets)
    sizes = [row.n for row in rows if row.n is not None]
    if len(sizes) < max(2, len(rows)):
        reasons = "; ".join(dict.fromkeys(w for row in rows for w in row.warnings))
        raise UserError(f"{law.name}: N* at {len(sizes)} of {len(rows)} budgets, where all of at "
                        f"least two are needed for a frontier{': ' + reasons if reasons else ''}")
    return CountedFrontier(counting, rows, power_law(np.array(budgets), np.array(sizes)))


def reconcile(
    law: Law, budgets: Sequence[float], relation: Relation | None = None
) -> Reconciliation:
    """A law of total parameters as Chinchilla's authors and as Kaplan's would report it.

    Args:
        law: of N and D, in total parameters.
        budgets: FLOPs at which both are compared, 6 N D with each one's own N.
        relation: between the two counts; Pearce and Song's by default.
    """
    law = _of_total(law)
    relation = relation or published_relation()
    return Reconciliation(
        relation.source, frontier(law, "total", budgets),
        frontier(law, "non-embedding", budgets, relation), kaplans_study(law, relation),
    )


@dataclass(frozen=True)
class Convention:
    """A way of counting N and C, by the columns of a runs table; C is 6 N D without a column."""

    n: Counting
    n_column: str
    c_column: str | None = None

    @property
    def name(self) -> str:
        """`N total, C 6 N D`."""
        return f"N {self.n}, C {self.c_column or SIX_ND}"


CONVENTIONS = tuple(
    Convention(counting, column, c)
    for counting, column in N_COLUMNS.items() for c in (None, "flops_6nd", "flops_counted")
    if (counting, c) != ("total", "flops_6nd")  # which is 6 N D of this very N
)
"""Every way of counting that our own runs tables have columns for."""


@dataclass(frozen=True)
class Refit:
    """The law that a table of runs gives under one convention, and what it allots."""

    convention: Convention
    law: Law
    allocations: tuple[Allocation, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the law's resamples."""
        return {"convention": self.convention.name, "params": dict(self.law.params),
                "warnings": list(self.law.warnings),
                "allocations": [entry.to_json() for entry in self.allocations]}


def refit(
    frame: pd.DataFrame,
    source: str,
    budgets: Sequence[float],
    *,
    conventions: Sequence[Convention] = CONVENTIONS,
    form: Form | str = "chinchilla",
    d: str = "tokens",
    loss: str = "loss",
    resamples: int = 200,
    seed: int = 0,
) -> list[Refit]:
    """Fit the same runs under every convention that the table has columns for.

    Where C is a column, its FLOPs per token are a function of N through the runs' sizes, and N*
    is the best at that price. D* is in the same tokens throughout, so it shows what moves.

    Args:
        frame: runs, in our own columns or those that `conventions` name.
        source: what to call the table in messages.
        budgets: FLOPs, as each convention counts them.
        conventions: those whose columns are missing are left out.
        form: of N and D.
        d: column of training tokens.
        loss: column of losses, nats per token.
        resamples: of each fit's bootstrap.
        seed: of its draws.

    Raises:
        UserError: the table has the columns of none, or cannot be fitted.
    """
    able = [way for way in conventions if way.n_column in frame
            and (way.c_column is None or way.c_column in frame)]
    if not able:
        wanted = sorted({way.n_column for way in conventions})
        raise UserError(f"{source}: has none of the columns {', '.join(wanted)}; a table that "
                        "counts N is expected")
    laws: dict[str, Law] = {}
    found = []
    for way in able:
        table = from_frame(frame, source, n=way.n_column, d=d, c=way.c_column, loss=loss,
                           counting=way.n)
        if way.n_column not in laws:
            laws[way.n_column] = fit(table, form, resamples=resamples, seed=seed)
        law, price = laws[way.n_column], None
        if way.c_column is not None:
            price = curve(table.n, table.c / table.d, f"{source}: {way.n_column}",
                          f"{way.c_column} per token")
        found.append(Refit(way, law, tuple(
            allocate(law, Budget(c=c, flops_per_token=price), way.name) for c in budgets)))
    return found


def _of_total(law: Law) -> Law:
    if law.convention.get("n") != "total":
        raise UserError(f"the law {law.name} counts N as {law.convention.get('n')}; one of total "
                        "parameters is expected, whose losses do not depend on Kaplan's count")
    return law
