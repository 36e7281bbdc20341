"""Training of one run, from its newest checkpoint to its record."""

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
from scaling.parallel.process import is_leader
from scaling.runs.folder import RunFolder
from scaling.runs.record import make_record
from scaling.runs.trunk import Trunk
from scaling.training.checkpoint import Checkpoints
from scaling.training.environment import describe_environment
from scaling.training.session import Metrics, Report, StepRequest, TrainSession
from scaling.training.step import make_train_step

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stopped:
    """A run that was asked to stop, with its progress saved."""

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
    """Train a resolved run in its folder, from its newest checkpoint on.

    The lease of the folder must be held (RunFolder.lock). If several processes train the run
    together, the first of them holds it, and writes everything but checkpoints. The losses do not
    depend on whether and where the run was interrupted.

    Args:
        run: a resolved run (training/resolve.py).
        store: its tokens.
        path: the run's folder, claimed for this run if it is new.
        trunk: the trunk that the run may begin from, or saves states for.
        fence: called before every write; raises if another process has taken over the run.
        asked_to_stop: asked after every step; anything but None or False stops the run.
        report: called whenever metrics are written.

    Returns:
        The record, or Stopped.

    Raises:
        UserError: the folder holds another run, or the mesh cannot hold this one.
    """
    steps = train_steps(run, store, path, trunk=trunk, fence=fence, asked_to_stop=asked_to_stop,
                        report=report)
    return drive(steps)


def train_steps(
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
) -> Generator[StepRequest, Metrics, dict[str, Any] | Stopped]:
    """The steps of a resolved run, from its newest checkpoint to its record, as a generator.

    It yields requests of steps; the driver sends the metrics of each, after it has set
    `StepRequest.session.state` to a function that returns the state after it. Arguments and errors
    are those of `train`, and

    Args:
        mesh: the current mesh, if the run is trained side by side with others; by default the run's
            own is set.
        packed: number of runs that are trained side by side.
    """
    folder = RunFolder(path)
    writes = is_leader()
    if writes:
        folder.check()
        folder.claim(run, store)
    if (record := folder.record()) is not None:
        return record
    if writes:
        folder.remove_half_written()
    own_mesh = mesh is None
    mesh = mesh or make_mesh(run.execution.mesh)
    check_batch(mesh, run.batch_sequences)
    environment = describe_environment(run)
    if writes:
        write_atomically(folder.environment_path, json.dumps(environment, indent=2) + "\n")
    with (
        jax.set_mesh(mesh) if own_mesh else nullcontext(),
        Checkpoints(folder.checkpoints) as checkpoints,
        folder.metrics_writer() if writes else open(os.devnull, "w") as metrics,
    ):
        session = TrainSession(
            run, store, mesh, folder, trunk, fence, checkpoints, metrics, report, packed)
        outcome = yield from session.steps(asked_to_stop)
        if outcome is None:
            return Stopped(session.progress.step, run.steps)
        record = make_record(run, store, outcome, environment)
        fence()
        if writes:
            write_atomically(folder.record_path, json.dumps(record, indent=2) + "\n")
    return record


def drive(steps: Generator[StepRequest, Metrics, Result]) -> Result:
    """Execute the steps of a run that is trained alone, and return the generator's result. An error
    of a step is thrown into the generator."""
    with closing(steps):
        try:
            request = next(steps)
            session = request.session
            state = session.state()
            session.state = lambda: state
            step = make_train_step(
                session.run.objective, session.at_once, optimizer=session.run.optimizer.kind,
                trainable=session.run.trainable)
            while True:
                try:
                    state, metrics = step(
                        state, request.batch, request.numbers, request.seeds, session.teacher)
                except Exception as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(partial(jax.device_get, metrics))
        except StopIteration as end:
            result: Result = end.value
            return result
