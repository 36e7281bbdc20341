"""Estimated duration of a sweep, from measured step times of some models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from scaling.accounting import run_flops_per_token
from scaling.accounting.hardware import peak_flops
from scaling.errors import UserError
from scaling.launch.local import Share
from scaling.launch.packing import shape_of
from scaling.runs.planned import GRID, PlannedRun
from scaling.runs.state import RunState
from scaling.sweeps.measure import BUDGET_SECONDS, TimedRun, TimingCallback, measure
from scaling.sweeps.plan import Plan

SECONDS_PER_HOUR = 3600

START_SECONDS = 3.0
"""Time of a run in addition to its steps: set-up, evaluation, checkpoint; a round figure."""

_N_CANDIDATES = 12
"""Number of models, evenly spaced by rank, from which the measured ones are chosen."""


@dataclass(frozen=True)
class StepTimeModel:
    """Seconds per token as a linear function of FLOPs per token, through the measured models."""

    seconds: float
    """Intercept: seconds per token at zero FLOPs."""
    seconds_per_flop: float
    """Slope."""
    measured: tuple[Hashable, ...] = ()
    """Measured shapes (packing.shape_of); the times of all others are estimates."""

    @classmethod
    def measure(
        cls, runs: list[PlannedRun], share: Share, pack: str | int = "auto", workers: int = 1,
        budget: float | None = BUDGET_SECONDS,
        watch: TimingCallback = lambda seconds, model: None,
    ) -> StepTimeModel | None:
        """Measure the smallest model, and the largest one that the budget allows; times measured on
        this machine before are reused.

        Args:
            runs: the runs of a plan.
            share: cores or GPU of one worker.
            pack: number of runs of one shape that train concurrently (SweepConfig.pack).
            workers: number of workers that share the runs.
            budget: seconds for the measurement; None for no limit.
            watch: called with the progress.

        Returns:
            None if no step ended within the budget.

        Raises:
            UserError: a step fails.
        """
        by_flops = {run_flops_per_token(p.run): p for p in runs}
        ordered = [by_flops[flops] for flops in sorted(by_flops)]
        count = min(_N_CANDIDATES, len(ordered))
        chosen = [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]
        same_shape = Counter(shape_of(p.run) for p in runs)
        models = [TimedRun(p.run, same_shape[shape_of(p.run)], pack, workers) for p in chosen]
        # Workers divide their cores according to the batches and the largest run of the grid.
        grid = [p for p in runs if p.role == GRID] or runs
        divide = {p.run.batch_sequences: p.run
                  for p in sorted(grid, key=lambda p: p.facts["params_total"])}
        times = measure(models, share, list(divide.values()), budget, watch)
        if not times:
            return None
        shapes = tuple(shape_of(models[place].run) for place in times)
        low, high = min(times), max(times)
        flops = [run_flops_per_token(models[place].run) for place in (low, high)]
        if low == high:
            return cls(0.0, times[low] / flops[0], shapes)
        slope = max(0.0, (times[high] - times[low]) / (flops[1] - flops[0]))
        return cls(max(0.0, times[low] - slope * flops[0]), slope, shapes)

    @classmethod
    def from_peak(cls, gpu: str, mfu: float) -> StepTimeModel:
        """The step times of an accelerator at a given utilisation.

        Args:
            gpu: its name (accounting/hardware.py).
            mfu: model FLOPs utilisation, in (0, 1].

        Raises:
            UserError: the accelerator is unknown, or `mfu` is out of range.
        """
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g}: a share of the peak above 0 and at most 1 is "
                            "expected, such as 0.4")
        return cls(0.0, 1 / (peak_flops(gpu) * mfu))

    def is_measured(self, planned: PlannedRun) -> bool:
        """Whether the step time of this run's shape was measured."""
        return shape_of(planned.run) in self.measured

    def seconds_of_step(self, planned: PlannedRun) -> float:
        """Estimated seconds of one step of a run."""
        per_token = self.seconds + self.seconds_per_flop * run_flops_per_token(planned.run)
        return planned.run.batch_tokens * per_token

    def seconds_left(self, planned: PlannedRun, state: RunState) -> float:
        """Estimated seconds until a run is over."""
        if state.over:
            return 0.0
        return START_SECONDS + (planned.run.steps - state.step) * self.seconds_of_step(planned)


def within_hours(plan: Plan, step_times: StepTimeModel) -> Plan:
    """The plan limited to the sweep's max_device_hours, if set.

    Raises:
        UserError: they cover no run of the grid.
    """
    hours = plan.sweep.max_device_hours
    if hours is None:
        return plan
    return plan.capped(step_times.seconds_of_step, hours * SECONDS_PER_HOUR, "max_device_hours")
