"""Learning-rate schedules: the rate of a step is computed on the host and passed to the compiled
step as an argument, so one compiled program serves every rate, schedule and length."""

from __future__ import annotations

import math

from scaling.config.training import Cosine, Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Learning rate of one step.

    Args:
        schedule: its kind and parameters.
        peak: the largest rate.
        step: counted from 0.
        steps: number of steps in all.
    """
    warmup = schedule.warmup_steps_of(steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if isinstance(schedule, Cosine):
        done = (step - warmup) / (steps - warmup)
        low = schedule.final_fraction
        return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))
    branch = schedule.branch_step(steps)
    done = (step - branch) / (steps - branch)
    if done <= 0:
        return peak
    return peak * (1 - math.sqrt(done) if schedule.decay_shape == "1-sqrt" else 1 - done)
