"""Claim a run of a plan, or several of one shape as a pack: hold the lease, train, and record the
outcome. JAX is imported here; workers import this once they are set up."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import nullcontext
from typing import Literal

import jax
from jax.sharding import Mesh

from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import DISK_FULL
from scaling.launch.jobs import Job
from scaling.launch.packing import shape_of
from scaling.parallel import make_mesh
from scaling.parallel.process import broadcast_from_leader, is_leader
from scaling.runs.lease import LeaseLost
from scaling.runs.state import error_text, record_failure
from scaling.training.loop import Stopped, drive, train_steps
from scaling.training.packed import drive_together
from scaling.training.session import Metrics, StepRequest

Outcome = Literal["trained", "passed", "stopped", "again", "left out"]
"""Outcome of an attempt to claim a run. One that is over or that another process holds is passed;
one that could not train in a pack is to be claimed again; one in whose folder this user may not
write is left out."""


def train(
    job: Job, others: Sequence[Job], slots: dict[Hashable, int], asked_to_stop: Callable[[], bool],
    ended: Callable[[], None],
) -> Outcome:
    """Train a run unless it is over or held by another process; if its shape has several slots,
    together with the other runs of that shape, as they become ready.

    Args:
        job: a job that can begin.
        others: the other jobs, in the order in which they are to be claimed.
        slots: number of slots by shape (scaling/launch/packing.py). It is set to one if a step of
            several runs fails on the device.
        asked_to_stop: asked after every step.
        ended: called whenever a run is over.

    Returns:
        The outcome for the job; "stopped" if any run was.
    """
    if broadcast_from_leader(job.over()):  # as most are that follow others of their shape
        return "passed"
    shape = shape_of(job.run)
    if slots[shape] == 1:
        outcome = drive(_held(job, asked_to_stop))
        if outcome == "trained":
            ended()
        return outcome
    alike = [other for other in others if shape_of(other.run) == shape and other is not job]
    try:
        return _train_together([job, *alike], slots[shape], asked_to_stop, ended)
    except OSError:  # no room on the disk
        raise
    except Exception as error:  # the runs are at their newest checkpoints
        print(f"{slots[shape]} runs side by side: {error}\nNow one by one.", flush=True)
        slots[shape] = 1
        return "again"


def _train_together(
    jobs: Sequence[Job], width: int, asked_to_stop: Callable[[], bool], ended: Callable[[], None]
) -> Outcome:
    seen: set[str] = set()
    outcomes: dict[str, Outcome] = {}
    mesh = make_mesh(jobs[0].run.execution.mesh)

    def next_run() -> Generator[StepRequest, Metrics, tuple[str, Outcome]] | None:
        for job in () if asked_to_stop() else jobs:
            if job.name in seen:
                continue
            if job.over():
                seen.add(job.name)
            elif job.ready():
                seen.add(job.name)
                return _named(job.name, _held(job, asked_to_stop, mesh, width))
        return None

    def over(named: tuple[str, Outcome]) -> None:
        outcomes.update([named])
        if named[1] == "trained":
            ended()

    with jax.set_mesh(mesh):
        drive_together(width, next_run, over)
    return "stopped" if "stopped" in outcomes.values() else outcomes.get(jobs[0].name, "passed")


def _named(
    name: str, steps: Generator[StepRequest, Metrics, Outcome]
) -> Generator[StepRequest, Metrics, tuple[str, Outcome]]:
    return name, (yield from steps)


def _held(
    job: Job, asked_to_stop: Callable[[], bool], mesh: Mesh | None = None, packed: int = 1
) -> Generator[StepRequest, Metrics, Outcome]:
    """The steps of a run under its lease. An error of the run is recorded as its failure."""
    try:
        return (yield from _under_lease(job, asked_to_stop, mesh, packed))
    except (UserError, OSError) as error:
        if jax.process_count() > 1 or (isinstance(error, OSError) and error.errno in DISK_FULL):
            raise
        print(f"{job.name}: left out: {error_text(error)}", flush=True)
        return "left out"


def _under_lease(
    job: Job, asked_to_stop: Callable[[], bool], mesh: Mesh | None, packed: int
) -> Generator[StepRequest, Metrics, Outcome]:
    folder = job.folder
    with folder.lock() if is_leader() else nullcontext() as lease:
        if not broadcast_from_leader(lease is not None and not job.over()):
            return "passed"
        fence = lease.check if lease is not None else lambda: None
        try:
            store = TokenStore.open(job.run.data.store)
            print(f"{job.name}: {job.run.trained_tokens:,} tokens", flush=True)
            outcome = yield from train_steps(
                job.run, store, folder.path, mesh=mesh, packed=packed, trunk=job.trunk,
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
