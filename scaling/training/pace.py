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
from scaling.training.pack import copies
from scaling.training.step import hyperparameters, init_state, make_train_step, step_seeds
from scaling.training.teacher import load_teacher

STEPS = 5
"""Steps that are timed, after one that compiles and one that warms up; the median counts."""


def time_step(run: RunConfig, seats: int = 1) -> float:
    """Seconds per token of a resolved run's step, on its first batch.

    Args:
        run: what is timed.
        seats: how many such runs train side by side; their tokens count together.
    """
    mesh = make_mesh(run.execution.mesh)
    first = Examples.of(run, TokenStore.open(run.data.store)).at(0)
    times = []
    with jax.set_mesh(mesh):
        state, teacher = init_state(run), load_teacher(run)
        step = make_train_step(run.objective, sequences_at_once(run), packed=seats > 1)
        given = (first, hyperparameters(run.optimizer, 0.0), step_seeds(run, 0))
        if seats > 1:
            state = copies(seats, state)
            batch, numbers, seeds = jax.tree.map(lambda x: np.stack([x] * seats), given)
        else:
            batch, numbers, seeds = jax.device_put(first, batch_sharding(mesh)), *given[1:]
        for _ in range(STEPS + 2):
            start = time.perf_counter()
            state, metrics = step(state, batch, numbers, seeds, teacher)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
    return float(np.median(times[2:])) / (seats * run.batch_tokens)
