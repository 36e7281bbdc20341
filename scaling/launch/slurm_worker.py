"""The worker of a Slurm job: saves its run when the job is to end, and has the job requeued.

Slurm sends signals to jobs: SIGUSR2 some time before the end of the wall time (`sbatch --signal`),
SIGTERM at pre-emption, `scontrol requeue` and `scancel`. submitit has handlers of both: that of
SIGUSR2 exits at once, that of SIGTERM does nothing. Here both are replaced by one that records the
signal, which training reads after each step. Once the run is saved, submitit's handler of SIGUSR2
is called: it has the job requeued, and the requeued job continues from the checkpoint.

JAX is imported inside functions only: it reads environment variables when it is imported, which
are set here first.
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

from scaling.files import DISK_FULL
from scaling.launch.worker import escape_output, set_up_xla, work

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ASKED_TO_GO = (signal.SIGUSR2, signal.SIGTERM)
FIRST_PORT, PORTS = 61000, 4000
"""Ports at which the processes of multi-node runs connect, above Linux's ephemeral ports."""
QUEUE_SECONDS = 60.0
"""Timeout of Slurm's commands."""


@dataclass(frozen=True)
class SlurmWorker:
    """The callable that submitit runs in a job. It is pickled at submission, as its name and
    fields."""

    plan: str
    """The plan file; see `scaling.launch.worker_plan.write_plan`."""
    cores: int
    """Cores granted on each node; not every cluster binds a job to them."""
    on_gpu: bool
    nodes: int = 1
    """Nodes that train each run together, with one process each."""

    def __call__(self) -> None:
        """Train the runs of the plan, or save and have the job requeued."""
        received: list[int] = []

        def record(number: int, frame: FrameType | None) -> None:
            received.append(number)

        requeue = signal.getsignal(signal.SIGUSR2)
        if not callable(requeue):
            raise RuntimeError("submitit has set no handler of SIGUSR2; call this in its job")
        for number in ASKED_TO_GO:
            signal.signal(number, record)
        set_up_xla(self.cores, on_gpu=self.on_gpu)
        escape_output()
        try:
            if self.nodes > 1:
                _join(self.nodes)
            if not work(Path(self.plan), lambda: bool(received), self.cores, self.nodes):
                return
        except Exception as error:
            if self.nodes == 1 or (isinstance(error, OSError) and error.errno in DISK_FULL):
                raise
            # The failure of the run is recorded. The processes may be out of step, so the job is
            # requeued for the other runs. Only the first process can do that; it ends the others.
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
        """The callable of the requeued job: the same. Checkpoints are in the run folders."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _join(nodes: int) -> None:
    """Connect to the processes of the job's other nodes, at Slurm's address of the first node: node
    names need not resolve."""
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
    """Whether this job still runs after SIGTERM: then the signal was the warning before a
    pre-emption, or `scancel --signal`. A job that is being requeued or cancelled is completing
    already, and requeueing it would restart a cancelled job."""
    from submitit import JobEnvironment

    job = JobEnvironment().job_id  # SLURM_JOB_ID would select the whole array
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=QUEUE_SECONDS
    )
    return answer.stdout.strip() == "RUNNING"
