"""Runs that differ only in how long they are, and what they pay together.

With a warm-up-stable-decay schedule their states are the same, bit for bit, until the shortest of
them cools down. The longest is the trunk: a sibling takes its state where its own cool-down begins,
and pays for the cool-down alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from scaling.config import WarmupStableDecay
from scaling.sweeps.planning.planned import PlannedRun

Price = Callable[[PlannedRun], float]
"""What a step of a run costs, in FLOPs or seconds."""


def family_of(planned: PlannedRun) -> Hashable:
    """Equal for runs that differ only in tokens, and in the length or shape of the cool-down."""
    run = planned.run
    if not isinstance(run.schedule, WarmupStableDecay):
        return planned.run_id
    return (run.model, run.objective, run.optimizer, run.schedule.warmup_steps, run.seed,
            run.batch_sequences, run.precision, run.data.store)


def families(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """The runs by family, the trunk of each first."""
    found: defaultdict[Hashable, list[PlannedRun]] = defaultdict(list)
    for planned in runs:
        found[family_of(planned)].append(planned)
    return [sorted(family, key=lambda p: (-p.run.steps, p.run_id)) for family in found.values()]


def shared_steps(planned: PlannedRun, trunk: PlannedRun) -> int:
    """Steps that a run takes over from its family's trunk; 0 for the trunk itself."""
    ends = [p.run.schedule.branch_step(p.run.steps) for p in (planned, trunk)
            if isinstance(p.run.schedule, WarmupStableDecay)]
    return 0 if planned.run_id == trunk.run_id else max(0, min(ends, default=0))


def paid(family: Sequence[PlannedRun], price: Price) -> float:
    """What a family costs when what its runs have in common is trained once.

    Args:
        family: runs of one family, in any order.
        price: of a step.
    """
    trunk = min(family, key=lambda p: (-p.run.steps, p.run_id))
    return sum(price(p) * (p.run.steps - shared_steps(p, trunk)) for p in family)


def flops_of_step(planned: PlannedRun) -> float:
    """The price of a step in counted FLOPs."""
    return planned.flops / planned.run.steps


def within(runs: Iterable[PlannedRun], price: Price, most: float) -> set[str]:
    """The runs that a budget pays for, each with what it adds to its family.

    Args:
        runs: in the order in which they are paid for; one that no longer fits is passed over, and
            a later one that does is taken.
        price: of a step.
        most: the budget, in the price's unit.
    """
    taken: defaultdict[Hashable, list[PlannedRun]] = defaultdict(list)
    kept, spent = set(), 0.0
    for planned in runs:
        family = taken[family_of(planned)]
        more = paid([*family, planned], price) - (paid(family, price) if family else 0.0)
        if spent + more <= most:
            family.append(planned)
            kept.add(planned.run_id)
            spent += more
    return kept
