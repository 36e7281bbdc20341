"""Groups of runs that differ only in length, and their shared cost.

With a warmup-stable-decay schedule their states are bitwise equal until the shortest of them begins
its cool-down. The longest run is the trunk: the others start from its state at the step where their
own cool-down begins, and only their cool-downs are trained in addition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from scaling.config import WarmupStableDecay
from scaling.runs.planned import PlannedRun

StepCost = Callable[[PlannedRun], float]
"""The cost of a training step of a run, in FLOPs or seconds."""


def trunk_group_key(planned: PlannedRun) -> Hashable:
    """A key that is equal for runs that differ only in tokens and in the length or shape of the
    cool-down, and that have the same number of warm-up steps."""
    run = planned.run
    if not isinstance(run.schedule, WarmupStableDecay):
        return planned.run_id
    return (run.model, run.objective, run.init, run.trainable, run.optimizer,
            run.schedule.warmup_steps_of(run.steps), run.seed, run.batch_sequences, run.precision,
            run.data.store)


def trunk_groups(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """The runs in groups that share a trunk, the trunk first in each."""
    found: defaultdict[Hashable, list[PlannedRun]] = defaultdict(list)
    for planned in runs:
        found[trunk_group_key(planned)].append(planned)
    return [sorted(group, key=lambda p: (-p.run.steps, p.run_id)) for group in found.values()]


def shared_steps(planned: PlannedRun, trunk: PlannedRun) -> int:
    """Steps that a run shares with the trunk of its group; 0 for the trunk itself."""
    ends = [p.run.schedule.branch_step(p.run.steps) for p in (planned, trunk)
            if isinstance(p.run.schedule, WarmupStableDecay)]
    return 0 if planned.run_id == trunk.run_id else max(0, min(ends, default=0))


def trunk_group_cost(group: Sequence[PlannedRun], step_cost: StepCost) -> float:
    """The cost of a group if shared steps are trained once.

    Args:
        group: runs of one group, in any order.
        step_cost: the cost of a step.
    """
    trunk = min(group, key=lambda p: (-p.run.steps, p.run_id))
    return sum(step_cost(p) * (p.run.steps - shared_steps(p, trunk)) for p in group)


def step_flops(planned: PlannedRun) -> float:
    """Counted FLOPs of a training step."""
    return planned.flops / planned.run.steps


def runs_within_budget(runs: Iterable[PlannedRun], step_cost: StepCost, budget: float) -> set[str]:
    """The identities of the runs that fit in a budget, where each run costs what it adds to its
    group.

    Args:
        runs: runs in order of priority; a run that does not fit is skipped, and a later one that
            fits is still added.
        step_cost: the cost of a step.
        budget: the budget, in the unit of `step_cost`.
    """
    members: defaultdict[Hashable, list[PlannedRun]] = defaultdict(list)
    kept, spent = set(), 0.0
    for planned in runs:
        group = members[trunk_group_key(planned)]
        before = trunk_group_cost(group, step_cost) if group else 0.0
        extra = trunk_group_cost([*group, planned], step_cost) - before
        if spent + extra <= budget:
            group.append(planned)
            kept.add(planned.run_id)
            spent += extra
    return kept
