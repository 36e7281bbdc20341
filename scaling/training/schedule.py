"""The learning rate at each step: computed on the host and handed to the compiled step as a
number, so that one compiled program serves every rate, schedule and length."""

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
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if isinstance(schedule, Cosine):
        done = (step - schedule.warmup_steps) / (steps - schedule.warmup_steps)
        low = schedule.final_fraction
        return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))
    branch = schedule.branch_step(steps)
    done = (step - branch) / (steps - branch)
    if done <= 0:
        return peak
    return peak * (1 - math.sqrt(done) if schedule.decay_shape == "1-sqrt" else 1 - done)
