"""How long a step takes here."""

from __future__ import annotations

import time

import jax
import numpy as np

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.objectives import Examples
from scaling.parallel import batch_sharding, make_mesh
from scaling.training.microbatch import sequences_at_once
from scaling.training.step import hyperparameters, init_state, make_train_step
from scaling.training.teacher import load_teacher

STEPS = 5
"""Steps that are timed, after one that compiles and one that warms up; the median counts."""


def time_step(run: RunConfig) -> float:
    """Seconds per token of a resolved run's step, on its first batch."""
    mesh = make_mesh(run.execution.mesh)
    first = Examples.of(run, TokenStore.open(run.data.store)).at(0)
    times = []
    with jax.set_mesh(mesh):
        state, teacher = init_state(run), load_teacher(run)
        step = make_train_step(run.objective, sequences_at_once(run))
        numbers = hyperparameters(run.optimizer, 0.0)
        batch = jax.device_put(first, batch_sharding(mesh))
        for _ in range(STEPS + 2):
            start = time.perf_counter()
            state, metrics = step(state, batch, numbers, teacher=teacher)
            float(metrics.loss)  # waits for the step
            times.append(time.perf_counter() - start)
    return float(np.median(times[2:])) / run.batch_tokens
