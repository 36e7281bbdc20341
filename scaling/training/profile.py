"""Measured time of a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import numpy as np

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.objectives import Examples
from scaling.optim.optimizers import optimizer_numbers
from scaling.parallel import batch_sharding, make_mesh
from scaling.training.memory import check_memory
from scaling.training.microbatch import sequences_at_once
from scaling.training.packed import copies
from scaling.training.step import init_state, make_train_step, step_seeds
from scaling.training.teacher import load_teacher

STEPS = 5
"""Timed steps, after one that compiles and one that warms up; the median counts."""


def time_steps(run: RunConfig, slots: int = 1) -> Iterator[float]:
    """Seconds per token of a resolved run, on its first batch: after each step the median of the
    steps so far.

    Args:
        run: the run.
        slots: number of such runs trained side by side; their tokens are added up.

    Raises:
        UserError: it exceeds the memory.
    """
    store = TokenStore.open(run.data.store)
    check_memory(run, store)
    mesh = make_mesh(run.execution.mesh)
    first = Examples.of(run, store).at(0)
    times: list[float] = []
    with jax.set_mesh(mesh):
        state, teacher = init_state(run), load_teacher(run)
        step = make_train_step(run.objective, sequences_at_once(run), packed=slots > 1,
                               optimizer=run.optimizer.kind, trainable=run.trainable)
        given = (first, optimizer_numbers(run.optimizer, 0.0), step_seeds(run, 0))
        if slots > 1:
            state = copies(slots, state)
            batch, numbers, seeds = jax.tree.map(lambda x: np.stack([x] * slots), given)
        else:
            batch, numbers, seeds = jax.device_put(first, batch_sharding(mesh)), *given[1:]
        for _ in range(STEPS + 2):
            start = time.perf_counter()
            state, metrics = step(state, batch, numbers, seeds, teacher)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
            if len(times) > 1:  # the step that warms up counts where there is time for no other
                yield float(np.median(times[2:] or times[1:])) / (slots * run.batch_tokens)
