"""Compute-optimal allocation: N*, D* and the predicted loss of a budget under a law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.allocation.budgets import AllocationBudget, divides_compute
from scaling.laws.allocation.optimise import Solution, lowest_loss, solve
from scaling.laws.arguments import checked
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, MOST_LOSS
from scaling.laws.law import LEVEL, Interval, Law, check_level
from scaling.laws.published import Published, published

Array = NDArray[np.float64]

_EXPERT_VARIABLES = {"experts", "granularity", "sparsity"}
_MAX_FLOPS = 1e36
_BELOW_ONE = ("the law gives fewer than one parameter or one token at this budget, which is far "
              "outside the range of its runs; raise the budget")
_MIN_SOLVED = 0.95  # share of the resamples with an optimum, below which a warning is added
_NOTHING = 1e-3    # nats per token: less than what another seed changes counts as nothing
_MOST_USED = 0.1   # share of a budget that buys all but nothing, below which this is said
_NEAR = 10 * _NOTHING  # nats per token that a tenth of a budget may cost, to be looked into
FAR_FACTOR = 100.0
"""Budgets above this multiple of the largest fitted compute get an extrapolation warning."""


@dataclass(frozen=True, repr=False)
class Allocation:
    """The optimal allocation of a budget, the cheapest allocation that reaches a loss, or what a
    law predicts for fixed N and D.

    `c` is training FLOPs, 6 N D unless the budget counts them otherwise, and `total` includes
    inference FLOPs; both are less than the budget if more FLOPs do not lower the loss. `n`, `d` and
    `loss` (nats per token) are None if the law does not determine them. `a` is d log N* / d log C.
    If N or D or both were `fixed`, `excess` is the loss above the optimum at the same FLOPs, and
    `waste` the share of the FLOPs that the optimum would save at the same loss. `epochs` is set if
    unique tokens are given. Intervals cover 90% unless `level` is set; they are confidence
    intervals of the law, not prediction intervals of a new run.
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
    fixed: Literal["n", "d", "both"] | None = None
    excess: float | None = None
    waste: float | None = None
    total_interval: Interval | None = None
    epochs_interval: Interval | None = None
    excess_interval: Interval | None = None
    waste_interval: Interval | None = None

    def __repr__(self) -> str:
        def shown(symbol: str, name: str) -> str:
            value, ends = getattr(self, name), getattr(self, f"{name}_interval", None)
            if value is None:
                return f"{symbol} not determined"
            interval = "" if ends is None else f" ({ends[0]:.4g} to {ends[1]:.4g})"
            return f"{symbol} {value:.4g}{interval}"

        sizes = (("N", "D") if self.fixed else ("N*", "D*"))
        lines = [f"{self.source}: {shown('C', 'c')} FLOP", shown(f"{sizes[0]} =", "n"),
                 shown(f"{sizes[1]} =", "d"), shown("loss =", "loss")]
        others = (("C with inference =", "total", bool(self.inference_tokens)),
                  ("epochs =", "epochs", self.epochs is not None),
                  ("loss above the optimum =", "excess", self.excess is not None),
                  ("share of C wasted =", "waste", self.waste is not None))
        lines += [shown(symbol, name) for symbol, name, given in others if given]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON-serialisable data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@runtime_checkable
class FrontierLike(Protocol):
    """Optimal sizes without a law of the loss, such as a frontier fitted to measured optima."""

    @property
    def name(self) -> str:
        """Display name."""

    @property
    def convention(self) -> Mapping[str, Any]:
        """How N, D and C are counted."""

    def allocation(self, c: float, source: str = "") -> Allocation:
        """N* and D* at a budget of C FLOP."""


@checked
def allocate(
    law: Law | Published | FrontierLike, budget: AllocationBudget | float, source: str = "",
    level: float = LEVEL,
) -> Allocation:
    """N*, D* and the loss at a budget.

    Args:
        law: a fitted or published law, or a fitted frontier.
        budget: training FLOPs, or an `AllocationBudget` with further constraints.
        source: display name of the law; its own name by default.
        level: coverage of the intervals of a law; those of optimal sizes alone are 90% ones.

    Raises:
        UserError: the budget is not positive, the level is no coverage, or the law does not support
            such a budget.
    """
    if not isinstance(budget, AllocationBudget):
        budget = AllocationBudget(c=budget)
    check_level(level)
    with np.errstate(all="ignore"):  # degenerate laws overflow; their allocation is None
        return _allocate(law, budget, source, level)


def _allocate(
    law: Law | Published | FrontierLike, budget: AllocationBudget, source: str, level: float
) -> Allocation:
    if isinstance(law, Published):
        source = source or law.title
        if law.law is None:
            return allocate_by_sizes(law, _plain_flops(law, budget, source), source)
        law = law.law
    source = source or law.name
    if isinstance(law, Law):
        return _from_law(law, budget, source, level)
    return allocate_by_sizes(law, _plain_flops(law, budget, source), source)


def allocate_by_sizes(entry: Published | FrontierLike, c: float, source: str) -> Allocation:
    """The allocation of C FLOP by optimal sizes alone, without a law of N and D; its fields are
    None if it has fewer than one parameter or one token."""
    if not isinstance(entry, Published):
        row = replace(entry.allocation(c, source), total=c)
    else:
        n = optimal_size(entry, c)
        loss = (None if entry.frontier is None
                else float(entry.frontier.loss({"c": np.array([c])})[0]))
        a, interval, level = (None, None, None) if entry.sizes is None else (
            entry.sizes.exponent, entry.sizes.interval, entry.sizes.level)
        row = Allocation(source, str(entry.convention["n"]), c, n,
                         c / (FLOPS_PER_PARAMETER_TOKEN * n), loss, a, a_interval=interval,
                         level=level, total=c)
    if _is_plausible(row.n, row.d, 1.0 if row.loss is None else row.loss, row.c):
        return row
    return replace(row, n=None, d=None, loss=None, a=None, n_interval=None, d_interval=None,
                   loss_interval=None, a_interval=None, warnings=(*row.warnings, _BELOW_ONE))


def optimal_size(entry: Published | FrontierLike, c: float) -> float:
    """N* at C FLOP, at any distance from the budgets that were fitted; NaN if undefined."""
    if isinstance(entry, Published):
        return math.nan if entry.sizes is None else entry.sizes.at(c)
    n = entry.allocation(c).n
    return math.nan if n is None else n


def can_allocate(entry: Law | Published | FrontierLike, budget: AllocationBudget) -> bool:
    """Whether `allocate` accepts this law and budget."""
    if not isinstance(entry, Law | Published):
        return budget.is_plain
    law = entry.law if isinstance(entry, Published) else entry
    if law is None:
        return isinstance(entry, Published) and entry.sizes is not None and budget.is_plain
    try:
        budget.check_form(law.form, law.name)
    except UserError:
        return False
    return divides_compute(law.form)


def reference_laws() -> list[Published]:
    """The published results that are listed with every allocation."""
    return [entry for entry in published().values() if entry.side_by_side]


def is_determined(law: Law) -> bool:
    """Whether the runs determine how the loss depends on N and D."""
    if law.form.allocation_exponent(law.point) is not None:
        return law.exponents.get("a") is not None
    return bool(np.isfinite(law.point).all()) and not any(
        name in law.se and law.se[name] is None for name in law.form.scaling_params)


def _from_law(law: Law, budget: AllocationBudget, source: str, level: float) -> Allocation:
    if not divides_compute(law.form):
        able = sorted((form for form in FORMS.values() if divides_compute(form)),
                      key=lambda form: form.allocation_exponent(_unit_params(form)) is None)
        raise UserError(f"{source}: the law {law.name} does not determine how to divide compute "
                        f"between N and D; laws that do are "
                        f"{', '.join(form.name for form in able)}")
    budget.check_form(law.form, source)
    budget, expert_warnings = with_active_experts(law, budget)
    request: dict[str, Any] = {
        "source": source, "counting": str(law.convention["n"]),
        "inference_tokens": budget.inference_tokens, "unique_tokens": budget.unique_tokens,
        "fixed": "both" if budget.is_prediction else "n" if budget.n is not None else (
            "d" if budget.d is not None else None),
    }
    unsolved: dict[str, Any] = {**request, "n": budget.n, "d": budget.d, "loss": budget.loss,
                                "a": None, "c": None if budget.inference_tokens else budget.c}
    if not (budget.is_prediction or is_determined(law)):
        return Allocation(**unsolved, warnings=(
            *law.warnings, *expert_warnings, *_extrapolation_warning(law, budget.c)))
    quantities = _quantities(budget, solve(law.form, law.point, budget))
    point: dict[str, Any] = {name: float(values[0]) for name, values in quantities.items()}
    if not _is_plausible(point["n"], point["d"], point["loss"], point["c"]):
        reason = _unsolved_reason(law, budget, point["loss"])
        return Allocation(**unsolved, warnings=(*law.warnings, *expert_warnings, reason))
    warnings = (*law.warnings, *expert_warnings, *_extrapolation_warning(law, point["c"]),
                *_idle_warning(law, budget, point))
    intervals, unsolved_share = _intervals(law, budget, point, level)
    if unsolved_share > 1 - _MIN_SOLVED:
        warnings += (_resample_warning(budget, unsolved_share),)
    finite: dict[str, Any] = {
        name: value if math.isfinite(value) else None for name, value in point.items()}
    return Allocation(**request, **{"a": None, **finite}, **intervals, warnings=warnings,
                      level=None if level == LEVEL else level)


def with_active_experts(
    law: Law, budget: AllocationBudget
) -> tuple[AllocationBudget, tuple[str, ...]]:
    """The budget with the FLOPs per token of a mixture of experts, and warnings about it.

    Only active parameters cost FLOPs; N counts all parameters in these laws.
    """
    variables = {*law.form.variables}
    if budget.flops_per_token is not None or not variables & _EXPERT_VARIABLES:
        return budget, ()
    if "sparsity" in variables:
        active = FLOPS_PER_PARAMETER_TOKEN * (1 - budget.given["sparsity"])
        if not active > 0:
            raise UserError(f"sparsity {budget.given['sparsity']:g}: a share below 1 is expected")
        return replace(budget, flops_per_token=lambda n: active * n), ()
    return budget, ("C = 6 N D counts every expert, but a token passes through only a few of them; "
                    "pass FLOPs per token as a function of N in the budget",)


def _intervals(
    law: Law, budget: AllocationBudget, point: dict[str, Any], level: float
) -> tuple[dict[str, Any], float]:
    """Bootstrap intervals of the reported quantities, by name, and the share of the resamples
    that have no solution and are left out. Quantities that the budget fixes have no interval."""
    evaluated: list[Array] = []
    names = list(point)
    # A law that stopped falling has an optimum, but no exponent.
    needed = [names.index(name) for name in ("c", "n", "d", "loss", "total")]

    def quantities(params_BP: Array) -> Array:
        solution = solve(law.form, params_BP, budget, point["total"])
        values_BQ = np.stack(list(_quantities(budget, solution).values()), axis=1)
        values_BQ[~np.isfinite(values_BQ[:, needed]).all(axis=1)] = np.nan
        evaluated.append(values_BQ[:, needed])
        return values_BQ

    band = law.band(quantities, level)
    if band is None:
        return {}, 0.0
    unsolved_share = float(np.isnan(evaluated[0]).any(axis=1).mean())
    return {f"{name}_interval": (float(low), float(high))
            for name, low, high in zip(names, *band, strict=True)
            if name != "c" and low < high and math.isfinite(point[name])}, unsolved_share


def _quantities(budget: AllocationBudget, solution: Solution) -> dict[str, Array]:
    """The quantities that an allocation reports, [B] each."""
    c = (budget.training_flops(solution.n) * solution.d if budget.inference_tokens
         else solution.total)
    quantities = {"c": c, "n": solution.n, "d": solution.d, "loss": solution.loss,
                  "total": solution.total}
    quantities |= {name: values for name in ("a", "excess", "waste")
                   if (values := getattr(solution, name)) is not None}
    if budget.unique_tokens is not None:
        quantities["epochs"] = solution.d / np.minimum(solution.d, budget.unique_tokens)
    return quantities


def _is_plausible(*quantities: float | None) -> bool:
    """Whether N, D, loss and C can be those of a model: N and D at least one, and a loss no higher
    than that of a uniform prediction."""
    n, d, loss, c = (math.nan if value is None else value for value in quantities)
    sizes = 1 <= n < math.inf and 1 <= d < math.inf
    return sizes and 0 < loss <= MOST_LOSS and 0 < c <= _MAX_FLOPS


def _plain_flops(entry: Published | FrontierLike, budget: AllocationBudget, source: str) -> float:
    """The budget's FLOPs: the only kind of budget that optimal sizes alone can allocate."""
    if isinstance(entry, Published) and entry.sizes is None:
        raise UserError(f"{source}: does not determine how to divide compute between N and D")
    if not budget.is_plain or budget.c is None:
        raise UserError(f"{source}: gives N* at a compute budget but no law of N and D, so other "
                        "constraints cannot be applied; use a law of both, such as besiroglu2024")
    return budget.c


def _unsolved_reason(law: Law, budget: AllocationBudget, loss: float) -> str:
    if MOST_LOSS < loss < math.inf:
        return (f"the loss would be {loss:.4g} nats per token, above that of a uniform prediction "
                f"({MOST_LOSS:.3g}), so this budget is far outside the range of the law")
    if budget.loss is not None:
        one = np.ones(1)
        with np.errstate(all="ignore"):
            most = float(law.loss(budget.values(one, one))[0])
        if not most > budget.loss:
            return (f"a loss of {budget.loss:g} takes fewer than one parameter or one token under "
                    "this law; choose a lower loss")
        floor = float(lowest_loss(law.form, law.point, budget)[0])
        known = f", whose lowest loss is {floor:.6g}" if floor > budget.loss else ""
        return (f"a loss of {budget.loss:g} is out of reach under this law at any compute{known}; "
                "choose a higher loss")
    if budget.n is not None or budget.d is not None:
        return ("the budget leaves no compute for training, or the law has no optimum to compare "
                "with; raise the budget, or lower the fixed N or D or the inference tokens")
    return ("the law has no optimum at this budget: its loss decreases towards one parameter or "
            "towards one token")


def _idle_warning(
    law: Law, budget: AllocationBudget, point: Mapping[str, float]
) -> tuple[str, ...]:
    """A warning if the loss stops falling, or rises again, within a compute budget."""
    if budget.c is None:
        return ()
    n, d, loss, total = (point[name] for name in ("n", "d", "loss", "total"))
    less = math.sqrt(_MOST_USED)
    fewer = np.array([n if budget.n is not None else n * less]), np.array(
        [d if budget.d is not None else d * less])
    if total == budget.c and not law.loss(budget.values(*fewer))[0] < loss + _NEAR:
        return ()
    if loss + _NOTHING <= MOST_LOSS:
        enough = solve(law.form, law.point, replace(budget, c=None, loss=loss + _NOTHING), total)
        if enough.total[0] < _MOST_USED * budget.c:
            return (f"the loss stops falling within this budget: {enough.total[0]:.3g} FLOPs "
                    f"(N = {enough.n[0]:.3g}, D = {enough.d[0]:.3g}) reach "
                    f"{loss + _NOTHING:.4g}, and the rest of the budget buys nothing (less than "
                    f"{_NOTHING:g} nats per token)",)
    return () if total == budget.c else (
        f"the loss is lowest at {total:.3g} FLOPs and no lower beyond, so the rest of the budget "
        "buys nothing",)


def _resample_warning(budget: AllocationBudget, share: float) -> str:
    reason = ("have no optimum, because their loss rises with N or with D" if budget.loss is None
              else f"never reach a loss of {budget.loss:g}, or have no optimum")
    return f"{share:.0%} of the resamples {reason}; the intervals leave them out"


def _extrapolation_warning(law: Law, c: float | None) -> tuple[str, ...]:
    known = law.convention.get("range", {}).get("c")
    if not known or c is None or c <= FAR_FACTOR * known[1]:
        return ()
    return (f"{c:.3g} FLOP is {c / known[1]:.4g} times the largest compute that this law was "
            f"fitted to ({known[1]:.3g}): an extrapolation, whose intervals do not include the "
            "uncertainty about whether the law still holds",)


def _unit_params(form: Any) -> Array:
    return np.ones((1, len(form.parameters)))
