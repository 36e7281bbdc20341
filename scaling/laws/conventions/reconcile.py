"""Kaplan's and Chinchilla's exponents reconciled: one law under each way of counting N and C.

Kaplan et al. 2020 found N* ~ C^.73, Hoffmann et al. 2022 N* ~ C^.50. Most of the difference is due
to the former counting neither embeddings nor their compute, on models small enough for it to
matter (Pearce and Song 2024). This module evaluates any law of total parameters under Kaplan's
convention, and refits any table of runs under every convention that it has columns for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.allocation.allocate import Allocation, allocate
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.conventions.recount import (
    Relation,
    monotone_interpolation,
    published_relation,
    recount,
)
from scaling.laws.fitting.fit_law import fit_law
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, N_COLUMNS, SIX_ND, Counting
from scaling.laws.law import Interval, Law
from scaling.laws.published import counting as published_counting
from scaling.laws.read import from_frame

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """N* = coefficient C^exponent, fitted by least squares of the logarithms."""

    coefficient: float
    exponent: float
    interval: Interval | None = None
    """Interval of the exponent over the resamples of a fitted law."""

    def at(self, c: float) -> float:
        """N* at C FLOP."""
        return float(self.coefficient * c**self.exponent)

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {"exponent": self.exponent, "coefficient": self.coefficient,
                "interval": self.interval}


def power_law(c: Array, n: Array) -> PowerLaw:
    """The power law fitted to compute and size, [K] each."""
    exponent, log_coefficient = np.polyfit(np.log(c), np.log(n), 1)
    return PowerLaw(float(np.exp(log_coefficient)), float(exponent))


def kaplan_power_law(law: Law, relation: Relation | None = None) -> PowerLaw:
    """The power law that Kaplan's method would find if `law` were true.

    The simulation of Pearce and Song 2024, section 3: 20 sizes from about 768 to 1.5e9
    non-embedding parameters are trained on 1000 token counts. At each of 100 budgets C = 6 N D,
    with the same N, every size is represented by the run nearest to the budget, the size with the
    lowest loss is optimal, and a line is fitted to the optimal sizes in log-log. The exponent is
    .7805 with Besiroglu's constants and .7388 with Hoffmann's.

    Args:
        law: a law of N and D, in total parameters.
        relation: between total and non-embedding parameters; Pearce and Song's by default.

    Raises:
        UserError: the law does not count total parameters.
    """
    _check_total(law)
    relation = relation or published_relation()
    sizes_N, tokens_T, budgets_K = (
        np.logspace(*published_counting()["study"][name]) for name in ("sizes", "tokens", "budgets")
    )
    exact_KN = budgets_K[:, None] / (FLOPS_PER_PARAMETER_TOKEN * sizes_N)
    above = np.clip(np.searchsorted(tokens_T, exact_KN), 1, len(tokens_T) - 1)
    below_is_nearer = exact_KN - tokens_T[above - 1] < tokens_T[above] - exact_KN
    tokens_KN = tokens_T[above - below_is_nearer]
    total_KN = np.broadcast_to(relation.total(sizes_N), tokens_KN.shape)
    runs = AllocationBudget(c=6.0).values(total_KN.ravel(), tokens_KN.ravel())

    def log_optimal_sizes(params_BP: Array) -> Array:
        """log of the optimal size at each budget, [K, B]."""
        losses_BKN = law.form.loss(params_BP, runs).reshape(-1, *tokens_KN.shape)
        return np.asarray(np.log(sizes_N[losses_BKN.argmin(axis=-1)]).T)

    band = law.band(
        lambda params: np.polyfit(np.log(budgets_K), log_optimal_sizes(params), 1)[:1].T)
    return replace(power_law(budgets_K, np.exp(log_optimal_sizes(law.point)[:, 0])),
                   interval=band and (float(band[0][0]), float(band[1][0])))


@dataclass(frozen=True)
class CountedFrontier:
    """The exact allocations of a law under one way of counting, and a power law fitted to them."""

    counting: Counting
    allocations: tuple[Allocation, ...]
    power: PowerLaw

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {"counting": self.counting, "power": self.power.to_json(),
                "allocations": [entry.to_json() for entry in self.allocations]}


@dataclass(frozen=True)
class Reconciliation:
    """One law under both ways of counting, and the power law that Kaplan's method would find."""

    relation: str
    total: CountedFrontier
    non_embedding: CountedFrontier
    kaplan: PowerLaw

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {"relation": self.relation, "total": self.total.to_json(),
                "non_embedding": self.non_embedding.to_json(),
                "kaplans_study": self.kaplan.to_json()}


def frontier(
    law: Law, counting: Counting, budgets: Sequence[float], relation: Relation | None = None
) -> CountedFrontier:
    """N*, D*, loss and the local exponent at budgets C = 6 N D, with N counted as `counting`.

    Raises:
        UserError: fewer than two budgets, or the law does not determine N* at them.
    """
    counted = recount(law, counting, relation)
    rows = tuple(allocate(counted, c) for c in budgets)
    sizes = [row.n for row in rows if row.n is not None]
    if len(sizes) < max(2, len(rows)):
        reasons = "; ".join(dict.fromkeys(w for row in rows for w in row.warnings))
        raise UserError(f"{law.name}: N* is determined at {len(sizes)} of {len(rows)} budgets; a "
                        "frontier needs it at all of them, and at least two budgets"
                        f"{': ' + reasons if reasons else ''}")
    return CountedFrontier(counting, rows, power_law(np.array(budgets), np.array(sizes)))


def reconcile(
    law: Law, budgets: Sequence[float], relation: Relation | None = None
) -> Reconciliation:
    """A law of total parameters under Chinchilla's and under Kaplan's convention.

    Args:
        law: a law of N and D, in total parameters.
        budgets: FLOPs, 6 N D with the N of each convention.
        relation: between the two counts; Pearce and Song's by default.

    Raises:
        UserError: the law does not count total parameters, or does not determine N* at a budget.
    """
    _check_total(law)
    relation = relation or published_relation()
    return Reconciliation(
        relation.source, frontier(law, "total", budgets),
        frontier(law, "non-embedding", budgets, relation), kaplan_power_law(law, relation),
    )


@dataclass(frozen=True)
class CountingConvention:
    """A way of counting N and C: columns of a runs table, or C = 6 N D if `c_column` is None."""

    n: Counting
    n_column: str
    c_column: str | None = None

    @property
    def name(self) -> str:
        """Display name, such as `N total, C 6 N D`."""
        return f"N {self.n}, C {self.c_column or SIX_ND}"


COUNTING_CONVENTIONS = tuple(
    CountingConvention(counting, column, c)
    for counting, column in N_COLUMNS.items() for c in (None, "flops_6nd", "flops_counted")
    if (counting, c) != ("total", "flops_6nd")  # equals 6 N D of the same N
)
"""Every convention that the runs tables of this package have columns for."""


@dataclass(frozen=True)
class ConventionFit:
    """The law fitted to a table of runs under one convention, and its allocations."""

    convention: CountingConvention
    law: Law
    allocations: tuple[Allocation, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data, without the law's resamples."""
        return {"convention": self.convention.name, "params": dict(self.law.params),
                "warnings": list(self.law.warnings),
                "allocations": [entry.to_json() for entry in self.allocations]}


def fit_under_conventions(
    frame: pd.DataFrame,
    source: str,
    budgets: Sequence[float],
    *,
    conventions: Sequence[CountingConvention] = COUNTING_CONVENTIONS,
    form: Form | str = "chinchilla",
    d: str = "tokens",
    loss: str = "loss",
    resamples: int = 200,
    seed: int = 0,
) -> list[ConventionFit]:
    """Fit the same runs under every convention that the table has columns for.

    If C is a column, FLOPs per token are interpolated as a function of N between the runs' sizes,
    and N* is optimal at those FLOPs. D* counts the same tokens under all conventions, so it can be
    compared between them.

    Args:
        frame: runs, in the package's columns or those that `conventions` name.
        source: name of the table in messages.
        budgets: FLOPs, as each convention counts them.
        conventions: those whose columns are missing are left out.
        form: a form of N and D.
        d: column of training tokens.
        loss: column of losses, nats per token.
        resamples: bootstrap resamples of each fit.
        seed: seed of the bootstrap.

    Raises:
        UserError: the table has the columns of no convention, or cannot be fitted.
    """
    available = [convention for convention in conventions if convention.n_column in frame
                 and (convention.c_column is None or convention.c_column in frame)]
    if not available:
        columns = sorted({convention.n_column for convention in conventions})
        raise UserError(f"{source}: has none of the columns {', '.join(columns)}; a table with a "
                        "column of N is expected")
    laws: dict[str, Law] = {}
    fits = []
    for convention in available:
        n_column, c_column = convention.n_column, convention.c_column
        table = from_frame(frame, source, n=n_column, d=d, c=c_column, loss=loss,
                           counting=convention.n)
        if n_column not in laws:
            laws[n_column] = fit_law(table, form, resamples=resamples, seed=seed)
        law, flops_per_token = laws[n_column], None
        if c_column is not None:
            flops_per_token = monotone_interpolation(
                table.n, table.c / table.d, f"{source}: {n_column}", f"{c_column} per token")
        fits.append(ConventionFit(convention, law, tuple(
            allocate(law, AllocationBudget(c=c, flops_per_token=flops_per_token), convention.name)
            for c in budgets)))
    return fits


def _check_total(law: Law) -> None:
    if law.convention.get("n") != "total":
        raise UserError(f"the law {law.name} counts N as {law.convention.get('n')}; a law of total "
                        "parameters is expected, whose losses do not depend on Kaplan's count")
