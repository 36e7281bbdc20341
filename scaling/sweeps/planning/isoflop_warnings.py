"""Warnings about isoflop budgets with too few sizes to locate the minimum of the loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from scaling.runs.planned import PlannedRun
from scaling.sweeps.planning.points import BUDGET_ERROR, IsoFlopBudget

MIN_SIZES = 5
"""Fewest sizes of a budget: a parabola has three parameters, and two further sizes show that its
minimum is between them."""

_MAX_LISTED = 3


def thin_budgets(
    budgets: Sequence[tuple[dict[str, Any], IsoFlopBudget]], runs: Sequence[PlannedRun],
    over_budget: Collection[str],
) -> list[str]:
    """A warning for each budget with fewer than MIN_SIZES usable sizes.

    Args:
        budgets: of all isoflop grids, each with the values of the varied keys.
        runs: of the plan.
        over_budget: identities of runs outside max_flops or max_device_hours.
    """
    found = []
    for choice, budget in budgets:
        paid = {(p.run.model, p.run.batch_sequences) for p in runs
                if p.run_id not in over_budget and "isoflop" in p.grids and p.choice == choice
                and abs(p.flops / budget.flops - 1) <= BUDGET_ERROR}
        trained = [s for s in budget.usable if (s.run.model, s.run.batch_sequences) in paid]
        if len(trained) < MIN_SIZES:
            found.append(_warning(budget, len(trained)))
    return list(dict.fromkeys(found))


def _warning(budget: IsoFlopBudget, count: int) -> str:
    window, usable = budget.grid.tokens_per_parameter, budget.usable
    reasons = []
    if window and (outside := len(budget.shapes) - len(usable)):
        excluded = [f"{shape.size} at {ratio:.3g}" for shape, ratio
                    in zip(budget.shapes, budget.ratios, strict=True) if shape not in usable]
        more = ", ..." if outside > _MAX_LISTED else ""
        reasons.append(
            f"{outside} of {len(budget.shapes)} sizes use it outside {window[0]:g} to "
            f"{window[1]:g} tokens per parameter ({', '.join(excluded[:_MAX_LISTED])}{more})")
    if over := len(usable) - count:
        reasons.append(f"max_flops or max_device_hours exclude {over}")
    if not reasons:
        reasons.append(f"the sweep has only {len(budget.shapes)}")
    return (f"{budget.source}: the budget of {budget.flops:.3g} FLOPs has {count} usable size(s), "
            f"fewer than the {MIN_SIZES} that a minimum needs: {'; '.join(reasons)}. "
            + _fix(budget, count, over))


def _fix(budget: IsoFlopBudget, count: int, over: int) -> str:
    if len(budget.usable) >= MIN_SIZES and over:
        return "Raise max_flops or max_device_hours, or remove a budget"
    more = f"Add {MIN_SIZES - count} or more sizes"
    window = budget.grid.tokens_per_parameter
    if window is None:
        return f"{more}, on either side of the best one"
    # At a fixed budget, tokens per parameter fall roughly as the square of the parameters.
    middle = math.sqrt(window[0] * window[1])
    shape, ratio = min(zip(budget.shapes, budget.ratios, strict=True),
                       key=lambda pair: abs(math.log(pair[1] / middle)))
    low, high = (shape.n(budget.grid.counting) * math.sqrt(ratio / end) for end in reversed(window))
    return (f"{more} of about {low:.2g} to {high:.2g} parameters ({budget.grid.counting}), or "
            "widen tokens_per_parameter")

