"""How to spend a compute budget: N*, D* and the loss to expect, under one law or another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.law import Interval, Law
from scaling.laws.planning.budgets import Budget, divides
from scaling.laws.planning.optimise import Solution, solve
from scaling.laws.published import Published, published
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]

_OF_EXPERTS = {"experts", "granularity", "sparsity"}
_OPTIMA = 0.95  # of the resamples must have one
FAR = 100.0
"""A budget beyond this many times the largest fitted compute is called far."""


@dataclass(frozen=True)
class Allocation:
    """The best use of a budget, or the cheapest way to a loss.

    `c` is the FLOPs of training, 6 N D unless the budget counts them otherwise, and `total` adds
    those of inference. `n`, `d` and `loss` (nats per token) are None where the law does not
    determine them. `a` is d log N* / d log C. Where N or D was `fixed`, `excess` is the loss above
    the best at the same FLOPs, and `waste` the share of the FLOPs that the best division would
    save at the same loss. `epochs` are given where unique tokens are. Intervals hold 90% unless
    `level` says otherwise, and are of the law, not of one more run.
    """

    source: str
    counting: str
    c: float | None
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
    total: float | None = None
    inference_tokens: float = 0.0
    unique_tokens: float | None = None
    epochs: float | None = None
    fixed: Literal["n", "d"] | None = None
    excess: float | None = None
    waste: float | None = None
    total_interval: Interval | None = None
    epochs_interval: Interval | None = None
    excess_interval: Interval | None = None
    waste_interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Sizes(Protocol):
    """Optimal sizes without a law of the loss, as a frontier that was fitted to optima has them."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def convention(self) -> Mapping[str, Any]:
        """What N, D and C are."""

    def allocation(self, c: float, source: str = "") -> Allocation:
        """N* and D* at a budget of C FLOP."""


def allocate(
    law: Law | Published | Sizes, budget: Budget | float, source: str = ""
) -> Allocation:
    """N*, D* and the loss at a budget.

    Args:
        law: a fitted or a published one, or a fitted frontier.
        budget: training FLOPs, or a `Budget` that says more.
        source: what to call the law; its own name by default.

    Raises:
        UserError: the budget is not positive, or the law has no answer to what it asks.
    """
    if not isinstance(budget, Budget):
        budget = Budget(c=budget)
    if isinstance(law, Published):
        source = source or law.title
        if law.law is None:
            return _from_sizes(law, budget, source)
        law = law.law
    source = source or law.name
    if isinstance(law, Law):
        return _from_law(law, budget, source)
    c = _plain(budget, source)
    return replace(law.allocation(c, source), total=c)


def answers(entry: Law | Published | Sizes, budget: Budget) -> bool:
    """Whether `allocate` has an answer."""
    if not isinstance(entry, Law | Published):
        return budget.plain
    law = entry.law if isinstance(entry, Published) else entry
    if law is None:
        return isinstance(entry, Published) and entry.sizes is not None and budget.plain
    try:
        budget.check(law.form, law.name)
    except UserError:
        return False
    return divides(law.form)


def side_by_side() -> list[Published]:
    """The published results that allocations are shown beside."""
    return [entry for entry in published().values() if entry.side_by_side]


def determined(law: Law) -> bool:
    """Whether the runs determine how the loss depends on what can be chosen."""
    if law.form.allocation_exponent(law.point) is not None:
        return law.exponents.get("a") is not None
    return bool(np.isfinite(law.point).all()) and not any(
        name in law.se and law.se[name] is None for name in law.form.of_variables)


def _from_law(law: Law, budget: Budget, source: str) -> Allocation:
    if not divides(law.form):
        able = sorted((form for form in FORMS.values() if divides(form)),
                      key=lambda form: form.allocation_exponent(_ones(form)) is None)
        raise UserError(f"{source}: the law {law.name} says nothing of how to divide compute; "
                        f"laws that do are {', '.join(form.name for form in able)}")
    budget.check(law.form, source)
    budget, counted = _of_experts(law, budget)
    asked: dict[str, Any] = {
        "source": source, "counting": str(law.convention["n"]),
        "inference_tokens": budget.inference_tokens, "unique_tokens": budget.unique_tokens,
        "fixed": "n" if budget.n is not None else "d" if budget.d is not None else None,
    }
    nothing: dict[str, Any] = {**asked, "n": budget.n, "d": budget.d, "loss": budget.loss,
                               "a": None, "c": None if budget.inference_tokens else budget.c}
    if not determined(law):
        return Allocation(**nothing, warnings=(*law.warnings, *counted, *_far(law, budget.c)))
    found = solve(law.form, law.point, budget)
    answer = _numbers(budget, found)
    if not np.isfinite([answer[name][0] for name in ("n", "d", "loss", "c")]).all():
        return Allocation(**nothing, warnings=(*law.warnings, *counted, _no_answer(budget)))
    point: dict[str, Any] = {name: float(values[0]) for name, values in answer.items()}
    warnings = (*law.warnings, *counted, *_far(law, point["c"]))
    spread, lost = _spread(law, budget, list(answer), point["total"])
    if lost > 1 - _OPTIMA:
        warnings += (_lost(budget, lost),)
    return Allocation(**asked, **{"a": None, **point}, **spread, warnings=warnings)


def _of_experts(law: Law, budget: Budget) -> tuple[Budget, tuple[str, ...]]:
    """The budget as a law of sparse models counts it, and what is to be said of it.

    Only active parameters cost FLOPs; N counts all of them in these laws.
    """
    variables = {*law.form.variables}
    if budget.flops_per_token is not None or not variables & _OF_EXPERTS:
        return budget, ()
    if "sparsity" in variables:
        active = FLOPS_PER_PARAMETER_TOKEN * (1 - budget.given["sparsity"])
        if not active > 0:
            raise UserError(f"sparsity {budget.given['sparsity']:g}: a share below 1 is expected")
        return replace(budget, flops_per_token=lambda n: active * n), ()
    return budget, ("C = 6 N D counts every expert, though a token passes through few: give the "
                    "budget FLOPs per token as a function of N",)


def _spread(
    law: Law, budget: Budget, names: list[str], total: float
) -> tuple[dict[str, Any], float]:
    """Intervals of what an allocation reports, by name, and the share of the resamples that have
    no answer and are left out. What the budget itself says has no interval."""
    seen: list[Array] = []

    def quantity(params_BP: Array) -> Array:
        answer_BQ = np.stack(list(_numbers(budget, solve(law.form, params_BP, budget, total))
                                  .values()), axis=1)
        answer_BQ[~np.isfinite(answer_BQ).all(axis=1)] = np.nan
        seen.append(answer_BQ)
        return answer_BQ

    band = law.band(quantity)
    if band is None:
        return {}, 0.0
    lost = float(np.isnan(seen[0]).any(axis=1).mean())
    return {f"{name}_interval": (float(low), float(high))
            for name, low, high in zip(names, *band, strict=True)
            if name != "c" and low < high}, lost


def _numbers(budget: Budget, found: Solution) -> dict[str, Array]:
    """What an allocation reports, [B] each."""
    trained = budget.training(found.n) * found.d if budget.inference_tokens else found.total
    numbers = {"c": trained, "n": found.n, "d": found.d, "loss": found.loss, "total": found.total}
    numbers |= {name: values for name in ("a", "excess", "waste")
                if (values := getattr(found, name)) is not None}
    if budget.unique_tokens is not None:
        numbers["epochs"] = found.d / np.minimum(found.d, budget.unique_tokens)
    return numbers


def _from_sizes(entry: Published, budget: Budget, source: str) -> Allocation:
    if entry.sizes is None:
        raise UserError(f"{source}: says nothing of how to divide compute")
    c = _plain(budget, source)
    n = entry.sizes.at(c)
    loss = None if entry.frontier is None else float(entry.frontier.loss({"c": np.array([c])})[0])
    return Allocation(source, str(entry.convention["n"]), c, n, c / (FLOPS_PER_PARAMETER_TOKEN * n),
                      loss, entry.sizes.exponent, a_interval=entry.sizes.interval,
                      level=entry.sizes.level, total=c)


def _plain(budget: Budget, source: str) -> float:
    """The budget's FLOPs, of which sizes alone can be asked."""
    if not budget.plain or budget.c is None:
        raise UserError(f"{source}: gives N* at a compute budget and no law of N and D, so it "
                        "cannot say more; ask a law of both, such as besiroglu2024")
    return budget.c


def _no_answer(budget: Budget) -> str:
    if budget.loss is not None:
        return (f"a loss of {budget.loss:g} is out of reach under this law, whatever the compute; "
                "ask for a higher one")
    if budget.n is not None or budget.d is not None:
        return ("the budget leaves nothing to train with, or the law has no optimum to compare "
                "with; raise the budget, or lower what is fixed or the inference")
    return ("the law has no optimum at this budget: its loss falls towards one parameter or "
            "towards one token")


def _lost(budget: Budget, share: float) -> str:
    why = ("have no optimum, since their loss rises with N or with D" if budget.loss is None else
           f"never come down to a loss of {budget.loss:g}, or have no optimum")
    return f"{share:.0%} of the resamples {why}; the intervals leave them out"


def _far(law: Law, c: float | None) -> tuple[str, ...]:
    known = law.convention.get("range", {}).get("c")
    if not known or c is None or c <= FAR * known[1]:
        return ()
    return (f"{c:.3g} FLOP is {c / known[1]:.3g} times the largest compute that this law was "
            f"fitted to ({known[1]:.3g}): an extrapolation, with intervals that do not know "
            "whether the law still holds",)


def _ones(form: Any) -> Array:
    return np.ones((1, len(form.parameters)))
