"""Runs of one shape side by side on one device: one program takes a step of each of them.

A small model leaves an accelerator idle between its many small operations. `jax.vmap` makes one
large operation of those of several runs. Each stays a run of its own, with its batches, its
learning rate, its metrics, checkpoints and record, and its own end: another one then takes its
seat. The losses are those of the run alone, but for the rounding of other kernels.
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
from scaling.training.course import Said, Turn
from scaling.training.step import StepMetrics, TrainState, make_train_step

Came = TypeVar("Came")

LOOK_SECONDS = 0.5
LOOK_SHARE = 0.05
"""Between two looks for a run that could take a seat that is free; a look takes at most this share
of the time, however many runs there are."""


class _Seat(Generic[Came]):
    """A place in the pack, and the run that has it. A run that is over leaves its last turn: its
    seat is worked on like the others, and nobody looks at what comes out."""

    def __init__(self) -> None:
        self.course: Generator[Turn, Said, Came] | None = None
        self.turn: Turn | None = None


def drive_together(
    width: int,
    next_course: Callable[[], Generator[Turn, Said, Came] | None],
    came: Callable[[Came], None],
) -> None:
    """Take the steps of runs of one shape, so many at a time, until none is left.

    The mesh of the runs, of one device, is in force. What a run's losses are depends neither on its
    seat nor on the others; on a CPU that was seen to hold to the last bit.

    Args:
        width: seats.
        next_course: a run that is to be trained, by `scaling.training.loop.turns`; None if there
            is none to begin now.
        came: called with what came of each run, when it is over.

    Raises:
        Exception: whatever the devices say of a step. No run is told; all go on from their newest
            checkpoints when they are next trained.
    """
    pack = _Pack(width, next_course, came)
    try:
        while pack.fill():
            pack.step()
    finally:
        pack.close()


class _Pack(Generic[Came]):
    """The seats, and their states as one."""

    def __init__(
        self, width: int, next_course: Callable[[], Generator[Turn, Said, Came] | None],
        came: Callable[[Came], None],
    ) -> None:
        self.seats: list[_Seat[Came]] = [_Seat() for _ in range(width)]
        self.next_course, self.came = next_course, came
        self.states: TrainState | None = None
        self.next_look = 0.0
        self.proven = False

    def fill(self) -> bool:
        """Give free seats to runs that wait; False if no seat is taken in the end."""
        free = [seat for seat in self.seats if seat.course is None]
        began = time.monotonic()
        if len(free) == len(self.seats) or (free and began >= self.next_look):
            while free and (course := self.next_course()) is not None:
                if self._sit(free[0], course):
                    free.pop(0)
            took = time.monotonic() - began
            self.next_look = began + max(LOOK_SECONDS, took / LOOK_SHARE)
        return len(free) < len(self.seats)

    def _sit(self, seat: _Seat[Came], course: Generator[Turn, Said, Came]) -> bool:
        """Begin a run; False if it is over at once."""
        try:
            turn = next(course)
        except StopIteration as end:
            self.came(end.value)
            return False
        seat.course, seat.turn = course, turn
        number, state = self.seats.index(seat), turn.course.state()
        if self.states is None:
            self.states = copies(len(self.seats), state)
        else:
            self.states = _put(self.states, number, state)
        turn.course.state = lambda: _at(self.states, number)
        return True

    def step(self) -> None:
        """Take a step of every run."""
        turns = [seat.turn for seat in self.seats]
        some = next(turn for turn in turns if turn is not None)
        filled = [turn or some for turn in turns]
        course = some.course
        function = make_train_step(course.run.objective, course.at_once, packed=True)
        self.states, metrics = function(
            self.states, _stacked([turn.batch for turn in filled]),
            np.stack([turn.numbers for turn in filled]),
            np.stack([turn.seeds for turn in filled]), course.teacher,
        )
        if not self.proven:  # that the device holds so many, which it may say late
            self.proven = bool(jax.block_until_ready(metrics))
        said = _Stacked(metrics)
        for number, seat in enumerate(self.seats):
            if seat.course is None:
                continue
            try:
                seat.turn = seat.course.send(partial(said.of, number))
            except StopIteration as end:
                seat.course = None
                self.next_look = 0.0
                self.came(end.value)

    def close(self) -> None:
        """Leave all runs where they stand."""
        for seat in self.seats:
            if seat.course is not None:
                seat.course.close()


class _Stacked:
    """What a step says of all runs, fetched once."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    @cached_property
    def _fetched(self) -> Any:
        return jax.device_get(self._metrics)

    def of(self, number: int) -> StepMetrics:
        """What it says of one of them."""
        one: StepMetrics = jax.tree.map(lambda x_K: x_K[number], self._fetched)
        return one


def _stacked(batches: Sequence[Arrays]) -> Arrays:
    stacked: Arrays = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    return stacked


@partial(jax.jit, static_argnums=0)
def copies(width: int, state: TrainState) -> TrainState:
    """So many of one state, along an axis in front."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), state)


@partial(jax.jit, donate_argnums=0)
def _put(states: TrainState, number: int, state: TrainState) -> TrainState:
    return jax.tree.map(lambda x_K, x: x_K.at[number].set(x), states, state)


@jax.jit
def _at(states: TrainState, number: int) -> TrainState:
    return jax.tree.map(lambda x_K: x_K[number], states)
