"""One run between its steps: where it begins, what it writes down, when it ends.

A course does not take the steps itself. It says what the next one is taken with, and is told what
came of it, by whoever drives it: alone (training/loop.py), or side by side with others
(training/pack.py).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.files import NO_ROOM
from scaling.objectives import Arrays, Examples, heldout, target_entropy
from scaling.parallel import batch_sharding, batch_shares
from scaling.parallel.process import Accord, word_of_leader
from scaling.training.ahead import Ahead
from scaling.training.checkpoint import Checkpoints, Progress
from scaling.training.evaluation import evaluate
from scaling.training.microbatch import sequences_at_once
from scaling.training.record import Outcome
from scaling.training.run_folder import RunFolder
from scaling.training.schedule import learning_rate
from scaling.training.scores import Heldout
from scaling.training.step import StepMetrics, TrainState, hyperparameters, init_state, step_seeds
from scaling.training.teacher import load_teacher
from scaling.training.trunk import Trunk

_log = logging.getLogger(__name__)

EXPLODED = 2.0
"""A run has diverged when its training loss exceeds this many times ln(vocabulary), the loss of a
model that knows nothing, or is no number."""


@dataclass(frozen=True)
class Report:
    """How far a run is, for whoever watches."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


class Turn(NamedTuple):
    """What a step is taken with (training/step.py)."""

    course: Course
    batch: Arrays
    """On the devices; on the host where runs train side by side."""
    numbers: NDArray[np.float32]
    seeds: NDArray[np.uint32]


Said = Callable[[], StepMetrics]
"""What a step says about itself, fetched from the device when it is asked for."""


class Course:
    """A run that is being trained by this process."""

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
        packed: int,
    ) -> None:
        self.run, self.checkpoints, self.metrics, self.report = run, checkpoints, metrics, report
        self.folder, self.trunk, self.fence = folder, trunk, fence
        self.examples = Examples.of(run, store)
        self.heldout = heldout(run, store)
        self.parts = list(self.examples.kind.parts(run.objective))
        self.sharding = batch_sharding(mesh)
        self.at_once = sequences_at_once(run)
        self.teacher = load_teacher(run)
        self.packed = packed
        state, self.progress = self._begin()
        self.state: Callable[[], TrainState] = lambda: state
        """Whoever drives the course says where its state is after the steps that it has taken."""
        self.put: Callable[[Any], Any] = partial(
            jax.make_array_from_process_local_data, batch_sharding(mesh)
        ) if packed == 1 else lambda x: x
        self.started = time.perf_counter() - self.progress.seconds
        self.saved = time.monotonic()
        self.window: list[Said] = []

    def _begin(self) -> tuple[TrainState, Progress]:
        """Where the run stands: at its newest checkpoint, at its trunk's, or nowhere yet."""
        state = init_state(self.run)
        if (restored := self.checkpoints.restore(state)) is not None:
            return restored
        if self.trunk is not None and (step := word_of_leader(self.trunk.nearest(self.run))):
            with Checkpoints(self.trunk.path, to_read=True) as left:
                restored = left.restore(state, step)  # None if damaged: the run trains by itself
                if restored is not None:
                    return self._branched(restored, left.origin(step))
        return state, Progress(0, [], 0.0)

    def _branched(
        self, restored: tuple[TrainState, Progress], origin: dict[str, Any]
    ) -> tuple[TrainState, Progress]:
        """Begin where the trunk stood, with its metrics up to there."""
        state, progress = restored
        for line in origin["metrics"]:
            self._write(line)
        branch = {"run_id": origin["run_id"], "step": progress.step}
        return state, progress._replace(seconds=0.0, branch=branch)

    def turns(self, asked_to_stop: Callable[[], object]) -> Generator[Turn, Said, Outcome | None]:
        """Train, evaluate, and say how it ended; None if it was stopped on the way."""
        steps = self.run.steps
        clock = (self.progress.step, time.perf_counter())
        batches = Ahead(self._batch, self.progress.step, steps)
        waited = 0.0
        accord = Accord()
        for done, batch in enumerate(batches, self.progress.step + 1):
            step = done - 1
            rate = self._rate(step)
            numbers = hyperparameters(self.run.optimizer, rate)
            self.window.append((yield Turn(self, batch, numbers, step_seeds(self.run, step))))
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

    def _rate(self, step: int) -> float:
        peak = self.run.optimizer.learning_rate
        return float(np.float32(learning_rate(self.run.schedule, peak, step, self.run.steps)))

    def _batch(self, step: int) -> Arrays:
        mine = self.examples.at(step, jax.process_index(), jax.process_count())
        arrays: Arrays = jax.tree.map(self.put, mine)
        return arrays

    def _pending(self) -> list[dict[str, float]]:
        """Losses since the last line, those of this process fetched from the devices."""
        return self.progress.pending + [
            {part: float(said().losses[part]) for part in self.parts} for said in self.window]

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
            **_beside("loss", losses),
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
        """Leave the state for the runs that begin to cool down here."""
        self._settle()
        lines = [line for line in self.folder.metrics() if line["step"] <= self.progress.step]
        origin = {"run_id": self.folder.path.name, "metrics": lines}
        self.fence()
        try:
            with Checkpoints(trunk.path, kept=None) as left:
                left.save(self.state(), self.progress, origin)
        except (OSError, ValueError) as error:  # another sweep has cleared the trunk, for one
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            _log.warning("%s: step %d could not be left for other runs, which train it themselves "
                         "(%s)", trunk.path, self.progress.step, error)

    def _settle(self) -> None:
        """Bring the progress up to the state."""
        self.progress = self.progress._replace(pending=self._pending(), seconds=self._seconds())
        self.window = []

    def _evaluate(self) -> dict[str, Heldout]:
        """The held-out loss of each part, also written down."""
        scores = evaluate(self.state().model, self.run.objective, self.heldout,
                          self.at_once * batch_shares(), self.sharding, self.teacher)
        first = scores[self.parts[0]]
        self._write({
            "step": self.progress.step, "eval_loss": first.loss, "eval_loss_se": first.error,
            **_beside("eval_loss", {part: score.loss for part, score in scores.items()}),
        })
        return scores

    def _outcome(self, status: str, scores: dict[str, Heldout]) -> Outcome:
        return Outcome(
            status, scores, target_entropy(self.heldout), self.progress.step, self._seconds(),
            len(self.heldout["ids"]), self.progress.branch, self.packed,
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
