"""Training of runs of one shape side by side on one device: one compiled step for all of them.

A small model leaves an accelerator idle between its many small operations; `jax.vmap` makes one
large operation of those of several runs. Each run keeps its own batches, learning rate, metrics,
checkpoints and record, and ends by itself: another run then takes its slot. Its losses are those of
the run alone, up to the rounding of different kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from scaling.objectives import Arrays
from scaling.training.session import Metrics, StepRequest
from scaling.training.step import StepMetrics, TrainState, make_train_step

Result = TypeVar("Result")

POLL_SECONDS = 0.5
POLL_SHARE = 0.05
"""Least time between two searches for a run for a free slot, and the largest share of the time that
they may take, however many runs there are."""


class _Slot(Generic[Result]):
    """A slot of the pack, and its run. A run that has ended leaves its last request: the slot is
    still computed, and the result discarded."""

    def __init__(self) -> None:
        self.steps: Generator[StepRequest, Metrics, Result] | None = None
        self.request: StepRequest | None = None


def drive_together(
    width: int,
    next_run: Callable[[], Generator[StepRequest, Metrics, Result] | None],
    ended: Callable[[Result], None],
) -> None:
    """Execute the steps of runs of one shape, `width` at a time, until no run is left.

    The mesh of the runs, of one device, is the current one. The losses of a run depend neither on
    its slot nor on the other runs; on a CPU this was observed to hold to the last bit.

    Args:
        width: number of slots.
        next_run: the steps of a run that is to be trained (`scaling.training.loop.train_steps`);
            None if no run can begin now.
        ended: called with the result of each run when it ends.

    Raises:
        Exception: the error of a step. The runs are left at their newest checkpoints.
    """
    pack = _Pack(width, next_run, ended)
    try:
        while pack.fill():
            pack.step()
    finally:
        pack.close()


class _Pack(Generic[Result]):
    """The slots, with their states stacked."""

    def __init__(
        self, width: int,
        next_run: Callable[[], Generator[StepRequest, Metrics, Result] | None],
        ended: Callable[[Result], None],
    ) -> None:
        self.slots: list[_Slot[Result]] = [_Slot() for _ in range(width)]
        self.next_run, self.ended = next_run, ended
        self.states: TrainState | None = None
        self.next_search = 0.0
        self.fits = False

    def fill(self) -> bool:
        """Assign free slots to runs that can begin; False if all slots are still free."""
        free = [slot for slot in self.slots if slot.steps is None]
        began = time.monotonic()
        if len(free) == len(self.slots) or (free and began >= self.next_search):
            while free and (steps := self.next_run()) is not None:
                if self._begin(free[0], steps):
                    free.pop(0)
            took = time.monotonic() - began
            self.next_search = began + max(POLL_SECONDS, took / POLL_SHARE)
        return len(free) < len(self.slots)

    def _begin(
        self, slot: _Slot[Result], steps: Generator[StepRequest, Metrics, Result]
    ) -> bool:
        """Begin a run; False if it ends without a step."""
        try:
            request = next(steps)
        except StopIteration as end:
            self.ended(end.value)
            return False
        slot.steps, slot.request = steps, request
        index, state = self.slots.index(slot), request.session.state()
        if self.states is None:
            self.states = copies(len(self.slots), state)
        else:
            self.states = _put(self.states, index, state)
        request.session.state = lambda: _at(self.states, index)
        return True

    def step(self) -> None:
        """Execute a step of every run."""
        requests = [slot.request for slot in self.slots]
        some = next(request for request in requests if request is not None)
        filled = [request or some for request in requests]
        session = some.session
        step = make_train_step(session.run.objective, session.at_once, packed=True,
                               optimizer=session.run.optimizer.kind,
                               trainable=session.run.trainable)
        self.states, metrics = step(
            self.states, _stacked([request.batch for request in filled]),
            np.stack([request.numbers for request in filled]),
            np.stack([request.seeds for request in filled]), session.teacher,
        )
        if not self.fits:  # a device may report late that its memory is exceeded
            self.fits = bool(jax.block_until_ready(metrics))
        of_runs = _StackedMetrics(metrics)
        for index, slot in enumerate(self.slots):
            if slot.steps is None:
                continue
            try:
                slot.request = slot.steps.send(partial(of_runs.of, index))
            except StopIteration as end:
                slot.steps = None
                self.next_search = 0.0
                self.ended(end.value)

    def close(self) -> None:
        """Close the generators of all runs."""
        for slot in self.slots:
            if slot.steps is not None:
                slot.steps.close()


class _StackedMetrics:
    """Metrics of a step of all runs, fetched once."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    @cached_property
    def _fetched(self) -> Any:
        return jax.device_get(self._metrics)

    def of(self, index: int) -> StepMetrics:
        """Metrics of one run."""
        one: StepMetrics = jax.tree.map(lambda x_K: x_K[index], self._fetched)
        return one


def _stacked(batches: Sequence[Arrays]) -> Arrays:
    stacked: Arrays = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    return stacked


@partial(jax.jit, static_argnums=0)
def copies(width: int, state: TrainState) -> TrainState:
    """A state repeated `width` times, along an axis in front."""
    states: TrainState = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), state)
    return states


@partial(jax.jit, donate_argnums=0)
def _put(states: TrainState, index: int | jax.Array, state: TrainState) -> TrainState:
    changed: TrainState = jax.tree.map(lambda x_K, x: x_K.at[index].set(x), states, state)
    return changed


@jax.jit
def _at(states: TrainState, index: int | jax.Array) -> TrainState:
    state: TrainState = jax.tree.map(lambda x_K: x_K[index], states)
    return state
