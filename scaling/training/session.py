"""A training session: everything about a run but its steps, from where it begins to its end.

A session does not execute steps. It requests them, and receives their metrics, from a driver: that
of a run alone (training/loop.py), or of several runs side by side (training/packed.py).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from io import TextIOBase
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from scaling.config import RunConfig
from scaling.data.prefetch import Prefetcher
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import DISK_FULL
from scaling.objectives import Arrays, Examples, bytes_per_prediction, heldout, target_entropy
from scaling.optim.optimizers import optimizer_numbers
from scaling.optim.schedule import learning_rate
from scaling.parallel import batch_sharding, batch_shards
from scaling.parallel.process import SyncPoint, broadcast_from_leader
from scaling.runs.folder import RunFolder
from scaling.runs.record import HeldoutLoss, RunResult
from scaling.runs.trunk import Trunk, validate_origin
from scaling.training.checkpoint import Checkpoints, Progress
from scaling.training.evaluation import evaluate
from scaling.training.initial import initial_state
from scaling.training.microbatch import sequences_at_once
from scaling.training.step import StepMetrics, TrainState, init_state, step_seeds
from scaling.training.teacher import load_teacher

_log = logging.getLogger(__name__)

EXPLODED = 2.0
"""A run has diverged when its training loss is NaN, or exceeds this multiple of ln(vocabulary), the
loss of a uniform guess."""


@dataclass(frozen=True)
class Report:
    """Progress of a run."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


class StepRequest(NamedTuple):
    """Arguments of a training step (training/step.py)."""

    session: TrainSession
    batch: Arrays
    """On the devices; on the host where runs are trained side by side."""
    numbers: NDArray[np.float32]
    seeds: NDArray[np.uint32]


Metrics = Callable[[], StepMetrics]
"""Metrics of a step, fetched from the device when called."""


class TrainSession:
    """A run that this process trains."""

    def __init__(
        self,
        run: RunConfig,
        store: TokenStore,
        mesh: Mesh,
        folder: RunFolder,
        trunk: Trunk | None,
        fence: Callable[[], None],
        checkpoints: Checkpoints,
        metrics: TextIOBase,
        report: Callable[[Report], None],
        packed: int,
    ) -> None:
        self.run, self.checkpoints, self.metrics, self.report = run, checkpoints, metrics, report
        self.folder, self.trunk, self.fence = folder, trunk, fence
        self.examples = Examples.of(run, store)
        self.heldout = heldout(run, store)
        sizes_V = store.token_bytes
        self.prediction_bytes = (
            None if sizes_V is None else bytes_per_prediction(self.heldout, sizes_V))
        self.parts = list(self.examples.functions.parts(run.objective))
        self.sharding = batch_sharding(mesh)
        self.at_once = sequences_at_once(run)
        self.teacher = load_teacher(run)
        self.packed = packed
        state, self.progress = self._begin()
        self.state: Callable[[], TrainState] = lambda: state
        """The current state; set by the driver, which holds it."""
        self.put: Callable[[Any], Any] = partial(
            jax.make_array_from_process_local_data, batch_sharding(mesh)
        ) if packed == 1 else lambda x: x
        self.started = time.perf_counter() - self.progress.seconds
        self.saved = time.monotonic()
        self.window: list[Metrics] = []

    def _begin(self) -> tuple[TrainState, Progress]:
        """State and progress from the newest checkpoint, from the trunk's, or initial ones
        (initial.py)."""
        state = init_state(self.run)
        if (restored := self.checkpoints.restore(state)) is not None:
            return restored
        if self.trunk is not None and (
                step := broadcast_from_leader(self.trunk.latest_step(self.run))):
            with Checkpoints(self.trunk.path, to_read=True) as left:
                # None if it is damaged: the run is then trained from the start. If it cannot be
                # read now, an error is raised: repeating the trunk's steps costs more than starting
                # the run again once it can be read.
                restored = left.restore(state, step)
                if restored is not None and (origin := left.origin(step)) is not None:
                    return self._branched(
                        restored, *validate_origin(origin, self.trunk.path / str(step)))
        return initial_state(self.run, state), Progress(0, [], 0.0)

    def _branched(
        self, restored: tuple[TrainState, Progress], trunk: str, metrics: list[dict[str, Any]]
    ) -> tuple[TrainState, Progress]:
        """Begin at the trunk's state, with its metrics up to there."""
        state, progress = restored
        for line in metrics:
            self._write(line)
        branch = {"run_id": trunk, "step": progress.step}
        return state, progress._replace(seconds=0.0, branch=branch)

    def steps(
        self, asked_to_stop: Callable[[], object]
    ) -> Generator[StepRequest, Metrics, RunResult | None]:
        """Train and evaluate; None if the run was stopped on the way."""
        n_steps = self.run.steps
        clock = (self.progress.step, time.perf_counter())
        batches = Prefetcher(self._batch, self.progress.step, n_steps)
        waited = 0.0
        accord = SyncPoint()
        for done, batch in enumerate(batches, self.progress.step + 1):
            step = done - 1
            rate = self._rate(step)
            numbers = optimizer_numbers(self.run.optimizer, rate)
            request = StepRequest(self, batch, numbers, step_seeds(self.run, step))
            self.window.append((yield request))
            self.progress = self.progress._replace(step=done)
            if done % self.run.logging.every_steps == 0 or done == n_steps:
                loss = self._log(done, rate, batches.waited - waited)
                waited = batches.waited
                now = time.perf_counter()
                speed = (done - clock[0]) * self.run.batch_tokens / (now - clock[1])
                clock = (done, now)
                self.report(Report(done, n_steps, loss, speed))
                if not loss <= EXPLODED * math.log(self.run.model.vocabulary):
                    return self._outcome("diverged", {})
            every = self.run.evaluation.every_steps
            if every and done % every == 0 and done != n_steps:
                self._evaluate()
            if self.trunk is not None and done in self.trunk.save_steps:
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

    def _rate(self, step: int) -> float:
        peak = self.run.optimizer.learning_rate
        return float(np.float32(learning_rate(self.run.schedule, peak, step, self.run.steps)))

    def _batch(self, step: int) -> Arrays:
        local = self.examples.at(step, jax.process_index(), jax.process_count())
        arrays: Arrays = jax.tree.map(self.put, local)
        return arrays

    def _pending(self) -> list[dict[str, float]]:
        """Losses since the last line of metrics, fetched from the devices."""
        return self.progress.pending + [
            {part: float(metrics().losses[part]) for part in self.parts} for metrics in self.window]

    def _log(self, done: int, rate: float, waited: float) -> float:
        pending = self._pending()
        losses = {part: math.fsum(each[part] for each in pending) / len(pending)
                  for part in self.parts}
        loss = losses[self.parts[0]]
        last = self.window[-1]()
        self._write({
            "step": done,
            "tokens": done * self.run.batch_tokens,
            "loss": loss,
            **_by_part("loss", losses),
            "learning_rate": rate,
            "grad_norm": float(last.grad_norm),
            **_routing(last),
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
        self.checkpoints.save(self.state(), self.progress)
        self.saved = time.monotonic()

    def _leave(self, trunk: Trunk) -> None:
        """Save the state for the runs whose cool-down begins at this step."""
        self._settle()
        lines = [line for line in self.folder.metrics() if line["step"] <= self.progress.step]
        origin = {"run_id": self.folder.path.name, "metrics": lines}
        self.fence()
        try:
            with Checkpoints(trunk.path, kept=None) as left:
                left.save(self.state(), self.progress, origin)
        except UserError:
            raise
        except (OSError, ValueError) as error:  # such as when another sweep has cleared the trunk
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            _log.warning("%s: step %d could not be saved for other runs, which repeat its steps "
                         "(%s)", trunk.path, self.progress.step, error)

    def _settle(self) -> None:
        """Bring the progress up to date with the state."""
        self.progress = self.progress._replace(pending=self._pending(), seconds=self._seconds())
        self.window = []

    def _evaluate(self) -> dict[str, HeldoutLoss]:
        """The held-out loss of each part, which is also logged."""
        scores = evaluate(self.state().model, self.run.objective, self.heldout,
                          self.at_once * batch_shards(), self.sharding, self.teacher,
                          self.run.batch_sequences)
        first = scores[self.parts[0]]
        self._write({
            "step": self.progress.step, "eval_loss": first.loss, "eval_loss_se": first.se,
            **_by_part("eval_loss", {part: score.loss for part, score in scores.items()}),
        })
        return scores

    def _outcome(self, status: str, scores: dict[str, HeldoutLoss]) -> RunResult:
        return RunResult(
            status, scores, target_entropy(self.heldout), self.progress.step, self._seconds(),
            len(self.heldout["ids"]), self.progress.branch, self.packed, self.prediction_bytes,
        )


def _by_part(name: str, losses: dict[str, float]) -> dict[str, float]:
    """Keys for the parts of a loss; none if there is a single part."""
    return {f"{name}_{part}": loss for part, loss in losses.items()} if len(losses) > 1 else {}


def _routing(metrics: StepMetrics) -> dict[str, float]:
    """Router statistics of a step, as keys of a line of metrics; none without experts."""
    if metrics.routing is None:
        return {}
    return {"balance_loss": float(metrics.routing.balance),
            "dropped_fraction": float(metrics.routing.dropped)}
