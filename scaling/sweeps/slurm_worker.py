"""What a Slurm job of a sweep runs: a worker that saves when it has to go, and comes back.

Slurm speaks to jobs by signals. SIGUSR2 comes a while before the wall time is over (`sbatch
--signal`), SIGTERM with pre-emption, `scontrol requeue` and `scancel`. submitit has handlers for
both: that of SIGUSR2 leaves in the middle of whatever the process does, that of SIGTERM ignores it.
Here both only leave a note, which training reads after each step. Once the run is saved, submitit's
handler of SIGUSR2 is called by hand: it has the job requeued, and the requeued job goes on from the
checkpoint.

Nothing but the standard library is imported above the functions: JAX reads its environment
variables when it is imported, and they are set here first.
"""

from __future__ import annotations

import signal
import subprocess
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from scaling.files import NO_ROOM
from scaling.sweeps.worker import set_up_xla, work

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ASKED_TO_GO = (signal.SIGUSR2, signal.SIGTERM)
FIRST_PORT, PORTS = 61000, 4000
"""Ports at which the processes of multi-node runs meet, above those that Linux hands out."""
QUEUE_SECONDS = 60.0
"""The longest that a question to Slurm may take."""


@dataclass(frozen=True)
class SlurmWorker:
    """A worker as submitit calls it in a job. submitit keeps it between submission and job in a
    pickle of its own, as a name and these fields."""

    plan: str
    """The plan file; see `scaling.sweeps.local.write_plan`."""
    cores: int
    """Cores granted on each node. Not every cluster binds a job to them, so it is said here."""
    on_gpu: bool
    nodes: int = 1
    """Nodes that train a run together, with one process each."""

    def __call__(self) -> None:
        """Train what there is to train, or save and have the job requeued."""
        received: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            received.append(number)

        requeue = signal.getsignal(signal.SIGUSR2)
        if not callable(requeue):
            raise RuntimeError("submitit has set no handler of SIGUSR2; start this in its job")
        for number in ASKED_TO_GO:
            signal.signal(number, note)
        set_up_xla(self.cores, on_gpu=self.on_gpu)
        try:
            if self.nodes > 1:
                _join(self.nodes)
            if not work(Path(self.plan), lambda: bool(received), self.cores, self.nodes):
                return
        except Exception as error:
            if self.nodes == 1 or (isinstance(error, OSError) and error.errno in NO_ROOM):
                raise
            # The run has its failure on record. The processes may be out of step: come back as new
            # ones, for the other runs. Only the first can ask for that, and it ends the others.
            traceback.print_exc()
            requeue(signal.SIGUSR2, None)
            time.sleep(QUEUE_SECONDS)
            raise
        names = ", ".join(signal.Signals(number).name for number in received)
        if signal.SIGUSR2 not in received and not _stays():
            print(f"{names}: saved; Slurm ends this job, or requeues it by itself", flush=True)
            return
        print(f"{names}: saved; the job asks to be requeued", flush=True)
        requeue(signal.SIGUSR2, None)

    def checkpoint(self) -> DelayedSubmission:
        """What the requeued job is to call: the same. The checkpoints are in the run folders."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _join(nodes: int) -> None:
    """Meet the processes of the job's other nodes, at the address by which Slurm knows the first
    one: node names need not resolve."""
    from submitit import JobEnvironment

    from scaling.parallel.process import join_processes

    environment = JobEnvironment()
    command = ["scontrol", "--oneliner", "show", "node", environment.hostnames[0]]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=QUEUE_SECONDS
    )
    words = dict(word.partition("=")[::2] for word in answer.stdout.split())
    # Jobs that share a node need ports of their own.
    port = FIRST_PORT + int(environment.raw_job_id) % PORTS
    join_processes(f"{words['NodeAddr']}:{port}", nodes, environment.global_rank)


def _stays() -> bool:
    """Whether Slurm takes this job for a running one, though it was sent SIGTERM: then it was the
    warning before a pre-emption, or `scancel --signal`. A job that is being requeued or cancelled
    is completing already, and asking for more would bring a cancelled job back to life."""
    from submitit import JobEnvironment

    job = JobEnvironment().job_id  # not SLURM_JOB_ID, which for one of an array means all of it
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=QUEUE_SECONDS
    )
    return answer.stdout.strip() == "RUNNING"
