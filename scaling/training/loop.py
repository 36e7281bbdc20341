"""Train one run, from wherever it stands to its record."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.files import write_atomically
from scaling.objectives import Arrays, Examples, heldout, target_entropy
from scaling.parallel import batch_sharding, batch_shares, check_batch, make_mesh
from scaling.parallel.process import Accord, leads, word_of_leader
from scaling.training.ahead import Ahead
from scaling.training.checkpoint import Checkpoints, Progress
from scaling.training.environment import describe_environment
from scaling.training.evaluation import evaluate
from scaling.training.microbatch import sequences_at_once
from scaling.training.record import Outcome, make_record
from scaling.training.run_folder import RunFolder
from scaling.training.schedule import learning_rate
from scaling.training.scores import Heldout
from scaling.training.step import StepMetrics, TrainState, init_state, make_train_step, step_seeds
from scaling.training.teacher import load_teacher
from scaling.training.trunk import Trunk

EXPLODED = 2.0
"""A run has diverged when its training loss exceeds this many times ln(vocabulary), the loss of a
model that knows nothing, or is no number."""


@dataclass(frozen=True)
class Stopped:
    """A run that was asked to stop: all it did is saved."""

    step: int
    steps: int


@dataclass(frozen=True)
class Report:
    """How far a run is, for whoever watches."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


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
    folder = RunFolder(path)
    writes = leads()
    if writes:
        folder.claim(run, store)
    if (record := folder.record()) is not None:
        return record
    if writes:
        folder.sweep_leftovers()
    mesh = make_mesh(run.execution.mesh)
    check_batch(mesh, run.batch_sequences)
    environment = describe_environment()
    if writes:
        write_atomically(path / "environment.json", json.dumps(environment, indent=2) + "\n")
    with (
        jax.set_mesh(mesh),
        Checkpoints(folder.checkpoints) as checkpoints,
        folder.metrics_writer() if writes else open(os.devnull, "w") as metrics,
    ):
        loop = _Loop(run, store, mesh, folder, trunk, fence, checkpoints, metrics, report)
        outcome = loop.run_to_the_end(asked_to_stop)
        if outcome is None:
            return Stopped(loop.progress.step, run.steps)
        record = make_record(run, store, outcome, environment)
        fence()
        if writes:
            write_atomically(folder.record_path, json.dumps(record, indent=2) + "\n")
    return record


class _Loop:
    """The state of one process that trains one run."""

    def __init__(
        self,
        run: RunConfig,
        store: TokenStore,
        mesh: Mesh,
        folder: RunFolder,
        trunk: Trunk | None,
        fence: Callable[[], None],
        checkpoints: Checkpoints,
        metrics: TextIO,
        report: Callable[[Report], None],
    ) -> None:
        self.run, self.checkpoints, self.metrics, self.report = run, checkpoints, metrics, report
        self.folder, self.trunk, self.fence = folder, trunk, fence
        self.examples = Examples.of(run, store)
        self.heldout = heldout(run, store)
        self.parts = list(self.examples.kind.parts(run.objective))
        self.sharding = batch_sharding(mesh)
        at_once = sequences_at_once(run)
        self.step_function = make_train_step(run.optimizer, run.objective, at_once)
        self.evaluation_batch = at_once * batch_shares()
        self.teacher = load_teacher(run)
        self.state: TrainState = init_state(run)
        self.progress = Progress(0, [], 0.0)
        if (restored := checkpoints.restore(self.state)) is not None:
            self.state, self.progress = restored
        elif trunk is not None and (step := word_of_leader(trunk.nearest(run))):
            self._begin_at(trunk, step)
        self.started = time.perf_counter() - self.progress.seconds
        self.saved = time.monotonic()
        self.window: list[StepMetrics] = []

    def _begin_at(self, trunk: Trunk, step: int) -> None:
        """Begin where the trunk stood after so many steps, with its metrics up to there."""
        with Checkpoints(trunk.path, to_read=True) as left:
            if (restored := left.restore(self.state, step)) is None:
                return  # damaged: the run trains alone
            origin = left.origin(step)
        self.state, progress = restored
        branch = {"run_id": origin["run_id"], "step": step}
        self.progress = progress._replace(seconds=0.0, branch=branch)
        for line in origin["metrics"]:
            self._write(line)

    def run_to_the_end(self, asked_to_stop: Callable[[], object]) -> Outcome | None:
        """Train, evaluate, and say how it ended; None if it was stopped on the way."""
        steps = self.run.steps
        clock = (self.progress.step, time.perf_counter())
        batches = Ahead(self._batch, self.progress.step, steps)
        waited = 0.0
        accord = Accord()
        for done, batch in enumerate(batches, self.progress.step + 1):
            step = done - 1
            rate, seeds = self._rate(step), step_seeds(self.run, step)
            self.state, metrics = self.step_function(self.state, batch, rate, seeds, self.teacher)
            self.window.append(metrics)
            self.progress = self.progress._replace(step=done)
            if done % self.run.logging.every_steps == 0 or done == steps:
                loss = self._log(done, rate, batches.waited - waited)
                waited = batches.waited
                now = time.perf_counter()
                speed = (done - clock[0]) * self.run.batch_tokens / (now - clock[1])
                clock = (done, now)
                self.report(Report(done, steps, loss, speed))
                if not loss <= EXPLODED * math.log(self.run.model.vocabulary):
                    return self._outcome("diverged", {})
            every = self.run.evaluation.every_steps
            if every and done % every == 0 and done != steps:
                self._evaluate()
            if self.trunk is not None and done in self.trunk.leave:
                self._leave(self.trunk)
            due = time.monotonic() - self.saved >= self.run.checkpoint.every_seconds
            stop, save = accord(bool(asked_to_stop()), due)
            if stop or save:
                self._save()
            if stop:
                return None
        self._save()
        scores = self._evaluate()
        finite = all(math.isfinite(score.loss) for score in scores.values())
        return self._outcome("done" if finite else "diverged", scores)

    def _rate(self, step: int) -> np.float32:
        peak = self.run.optimizer.learning_rate
        return np.float32(learning_rate(self.run.schedule, peak, step, self.run.steps))

    def _batch(self, step: int) -> Arrays:
        mine = self.examples.at(step, jax.process_index(), jax.process_count())
        put = partial(jax.make_array_from_process_local_data, self.sharding)
        arrays: Arrays = jax.tree.map(put, mine)
        return arrays

    def _pending(self) -> list[dict[str, float]]:
        """Losses since the last line, those of this process fetched from the devices."""
        fetched = [m.losses for m in jax.device_get(self.window)]
        return self.progress.pending + [
            {part: float(losses[part]) for part in self.parts} for losses in fetched]

    def _log(self, done: int, rate: np.float32, waited: float) -> float:
        pending = self._pending()
        losses = {part: math.fsum(each[part] for each in pending) / len(pending)
                  for part in self.parts}
        loss = losses[self.parts[0]]
        self._write({
            "step": done,
            "tokens": done * self.run.batch_tokens,
            "loss": loss,
            **_beside("loss", losses),
            "learning_rate": float(rate),
            "grad_norm": float(self.window[-1].grad_norm),
            **_routing(self.window[-1]),
            "seconds": round(self._seconds(), 3),
            "data_wait_seconds": round(waited, 4),
        })
        self.progress = self.progress._replace(pending=[])
        self.window = []
        return loss

    def _write(self, line: dict[str, Any]) -> None:
        self.fence()
        plain = {k: v if math.isfinite(v) else None for k, v in line.items()}
        self.metrics.write(json.dumps(plain, allow_nan=False) + "\n")

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _save(self) -> None:
        self._settle()
        self.fence()
        self.checkpoints.save(self.state, self.progress)
        self.saved = time.monotonic()

    def _leave(self, trunk: Trunk) -> None:
        """Leave the state for the runs that begin to cool down here."""
        self._settle()
        lines = [line for line in self.folder.metrics() if line["step"] <= self.progress.step]
        origin = {"run_id": self.folder.path.name, "metrics": lines}
        self.fence()
        with Checkpoints(trunk.path, kept=None) as left:
            left.save(self.state, self.progress, origin)

    def _settle(self) -> None:
        """Bring the progress up to the state."""
        self.progress = self.progress._replace(pending=self._pending(), seconds=self._seconds())
        self.window = []

    def _evaluate(self) -> dict[str, Heldout]:
        """The held-out loss of each part, also written down."""
        scores = evaluate(self.state.model, self.run.objective, self.heldout,
                          self.evaluation_batch, self.sharding, self.teacher)
        first = scores[self.parts[0]]
        self._write({
            "step": self.progress.step, "eval_loss": first.loss, "eval_loss_se": first.error,
            **_beside("eval_loss", {part: score.loss for part, score in scores.items()}),
        })
        return scores

    def _outcome(self, status: str, scores: dict[str, Heldout]) -> Outcome:
        return Outcome(
            status, scores, target_entropy(self.heldout), self.progress.step, self._seconds(),
            len(self.heldout["ids"]), self.progress.branch,
        )


def _beside(name: str, losses: dict[str, float]) -> dict[str, float]:
    """The parts of a loss by names of their own; nothing where there is one alone."""
    return {f"{name}_{part}": loss for part, loss in losses.items()} if len(losses) > 1 else {}


def _routing(metrics: StepMetrics) -> dict[str, float]:
    """What a line of metrics says of a step's experts; nothing where there are none."""
    if metrics.routing is None:
        return {}
    return {"balance_loss": float(metrics.routing.balance),
            "dropped_fraction": float(metrics.routing.dropped)}
