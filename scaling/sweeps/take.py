"""Take a run of a plan, or several of one shape side by side: hold the lease, train, and put down
what came of it. JAX is imported here; workers import this once they are set up."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import jax
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.data.store import TokenStore
from scaling.parallel import make_mesh
from scaling.parallel.process import leads, word_of_leader
from scaling.sweeps.ledger import record_failure
from scaling.sweeps.packing import shape_of
from scaling.sweeps.units import Unit
from scaling.training.course import Said, Turn
from scaling.training.lease import LeaseLost
from scaling.training.loop import Stopped, drive, turns
from scaling.training.pack import drive_together

Came = Literal["trained", "passed", "stopped", "again"]
"""What came of a look at a run. One that is over or somebody else's is passed; one that could not
train beside others is to be taken again."""


@dataclass(frozen=True)
class Job:
    """A run of a plan."""

    unit: Unit
    run: RunConfig
    """Its configuration."""

    @property
    def name(self) -> str:
        """Its identity."""
        return self.unit.folder.path.name


def train(
    job: Job, others: Sequence[Job], seats: dict[Hashable, int], asked_to_stop: Callable[[], bool],
    ended: Callable[[], None],
) -> Came:
    """Train a run unless it is over or somebody else's; where its shape has several seats, with
    the others of that shape, as they become ready.

    Args:
        job: that can begin.
        others: in the order in which they are to be taken.
        seats: by shape (scaling/sweeps/packing.py). Where the device does not take a step of so
            many runs, they become one.
        asked_to_stop: asked after every step.
        ended: called whenever a run is over.

    Returns:
        What came of the job; "stopped" if any run was.
    """
    if word_of_leader(job.unit.over()):  # most are, where others of the shape came before it
        return "passed"
    shape = shape_of(job.run)
    if seats[shape] == 1:
        came = drive(_held(job, asked_to_stop))
        if came == "trained":
            ended()
        return came
    alike = [other for other in others if shape_of(other.run) == shape and other is not job]
    try:
        return _train_together([job, *alike], seats[shape], asked_to_stop, ended)
    except OSError:  # no room on the disk
        raise
    except Exception as error:  # no run is to blame: each is as it was at its newest checkpoint
        print(f"{seats[shape]} runs side by side: {error}\nNow one by one.", flush=True)
        seats[shape] = 1
        return "again"


def _train_together(
    jobs: Sequence[Job], width: int, asked_to_stop: Callable[[], bool], ended: Callable[[], None]
) -> Came:
    seen: set[str] = set()
    came: dict[str, Came] = {}
    mesh = make_mesh(jobs[0].run.execution.mesh)

    def next_course() -> Generator[Turn, Said, tuple[str, Came]] | None:
        for job in () if asked_to_stop() else jobs:
            if job.name in seen:
                continue
            if job.unit.over():
                seen.add(job.name)
            elif job.unit.ready():
                seen.add(job.name)
                return _named(job.name, _held(job, asked_to_stop, mesh, width))
        return None

    def over(named: tuple[str, Came]) -> None:
        came.update([named])
        if named[1] == "trained":
            ended()

    with jax.set_mesh(mesh):
        drive_together(width, next_course, over)
    return "stopped" if "stopped" in came.values() else came.get(jobs[0].name, "passed")


def _named(
    name: str, course: Generator[Turn, Said, Came]
) -> Generator[Turn, Said, tuple[str, Came]]:
    return name, (yield from course)


def _held(
    job: Job, asked_to_stop: Callable[[], bool], mesh: Mesh | None = None, packed: int = 1
) -> Generator[Turn, Said, Came]:
    """The steps of a run under its lease. What ends it early is put down as its failure."""
    unit, folder = job.unit, job.unit.folder
    with folder.lock() if leads() else nullcontext() as lease:
        if not word_of_leader(lease is not None and not unit.over()):
            return "passed"
        fence = lease.check if lease is not None else lambda: None
        try:
            store = TokenStore.open(job.run.data.store)
            print(f"{job.name}: {job.run.trained_tokens:,} tokens", flush=True)
            outcome = yield from turns(
                job.run, store, folder.path, mesh=mesh, packed=packed, trunk=unit.trunk,
                fence=fence, asked_to_stop=asked_to_stop)
        except Exception as error:
            try:
                fence()
            except LeaseLost as lost:
                print(lost, flush=True)
                return "passed"
            record_failure(folder, error)
            print(f"{job.name}: failed: {error}", flush=True)
            if jax.process_count() > 1:
                raise
            return "trained"
        if isinstance(outcome, Stopped):
            return "stopped"
        print(f"{job.name}: {outcome['status']} {outcome['loss']}", flush=True)
    return "trained"
