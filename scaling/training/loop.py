"""Train one run, from wherever it stands to its record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.files import write_atomically
from scaling.parallel import check_batch, make_mesh
from scaling.parallel.process import leads
from scaling.training.checkpoint import Checkpoints
from scaling.training.course import Course, Report, Said, Turn
from scaling.training.environment import describe_environment
from scaling.training.record import make_record
from scaling.training.run_folder import RunFolder
from scaling.training.step import make_train_step
from scaling.training.trunk import Trunk

Came = TypeVar("Came")


@dataclass(frozen=True)
class Stopped:
    """A run that was asked to stop: all it did is saved."""

    step: int
    steps: int


def train(
    run: RunConfig,
    store: TokenStore,
    path: Path,
    *,
    trunk: Trunk | None = None,
    fence: Callable[[], None] = lambda: None,
    asked_to_stop: Callable[[], object] = lambda: None,
    report: Callable[[Report], None] = lambda _: None,
) -> dict[str, Any] | Stopped:
    """Train a resolved run in its folder, going on from its newest checkpoint.

    The lease of the folder must be held (RunFolder.lock). Where several processes train the run
    together, the first of them holds it, and it alone writes, but for checkpoints. The losses do
    not depend on how often the run was interrupted, nor where.

    Args:
        run: a run that `resolve` has been through.
        store: its tokens.
        path: the run's folder, claimed for this run if it is new.
        trunk: where the run may begin, and what it leaves for others.
        fence: called before anything is written; raises if the run has become another's.
        asked_to_stop: asked after every step; anything but None or False stops the run.
        report: called whenever metrics are written.

    Returns:
        The record, or Stopped.

    Raises:
        UserError: the folder holds another run, or the mesh cannot hold this one.
    """
    steps = turns(run, store, path, trunk=trunk, fence=fence, asked_to_stop=asked_to_stop,
                  report=report)
    return drive(steps)


def turns(
    run: RunConfig,
    store: TokenStore,
    path: Path,
    *,
    mesh: Mesh | None = None,
    packed: int = 1,
    trunk: Trunk | None = None,
    fence: Callable[[], None] = lambda: None,
    asked_to_stop: Callable[[], object] = lambda: None,
    report: Callable[[Report], None] = lambda _: None,
) -> Generator[Turn, Said, dict[str, Any] | Stopped]:
    """The steps of a resolved run, from its newest checkpoint to its record. Before a turn is
    asked for, what the turn before it said has to be sent, and `Turn.course.state` to be what it
    led to. Arguments and errors are those of `scaling.training.loop.train`, but for

    Args:
        mesh: that in force, where the run trains beside others; by default its own is put in force.
        packed: how many seats there are, its own included.
    """
    folder = RunFolder(path)
    writes = leads()
    if writes:
        folder.claim(run, store)
    if (record := folder.record()) is not None:
        return record
    if writes:
        folder.sweep_leftovers()
    beside = mesh is not None
    mesh = mesh or make_mesh(run.execution.mesh)
    check_batch(mesh, run.batch_sequences)
    environment = describe_environment()
    if writes:
        write_atomically(path / "environment.json", json.dumps(environment, indent=2) + "\n")
    with (
        nullcontext() if beside else jax.set_mesh(mesh),
        Checkpoints(folder.checkpoints) as checkpoints,
        folder.metrics_writer() if writes else open(os.devnull, "w") as metrics,
    ):
        course = Course(
            run, store, mesh, folder, trunk, fence, checkpoints, metrics, report, packed)
        outcome = yield from course.turns(asked_to_stop)
        if outcome is None:
            return Stopped(course.progress.step, run.steps)
        record = make_record(run, store, outcome, environment)
        fence()
        if writes:
            write_atomically(folder.record_path, json.dumps(record, indent=2) + "\n")
    return record


def drive(course: Generator[Turn, Said, Came]) -> Came:
    """Take the steps of a run that trains alone, and return what came of it. It is told of a step
    that fails."""
    with closing(course):
        try:
            turn = next(course)
            state = turn.course.state()
            turn.course.state = lambda: state
            step = make_train_step(turn.course.run.objective, turn.course.at_once)
            while True:
                try:
                    state, metrics = step(
                        state, turn.batch, turn.numbers, turn.seeds, turn.course.teacher)
                except Exception as error:
                    turn = course.throw(error)
                else:
                    turn = course.send(partial(jax.device_get, metrics))
        except StopIteration as end:
            came: Came = end.value
            return came
