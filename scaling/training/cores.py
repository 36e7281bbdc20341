"""A CPU as several devices, one for each core."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence

import jax

from scaling.accounting import count_parameters
from scaling.config import RunConfig

_ONE_THREAD_A_DEVICE = "--xla_cpu_multi_thread_eigen=false"
_STATE_BYTES = 16  # a parameter, its gradient and two moments, in float32
_MOST_BYTES = 4 * 2**30  # of copies of that state, in all


def divide_cores(
    runs: Sequence[RunConfig], cores: int | None = None, processes: int = 1
) -> None:
    """Make each core that this process may use a device, for runs that will train on a CPU.

    By default it may use those that it is bound to; a scheduler that binds nothing grants fewer.
    `processes` train each run together, each on as many devices.

    Each device then works through its own sequences by itself, and they meet once a batch. XLA's
    own way, one device whose every operation is shared out among the cores, makes them wait for
    each other hundreds of times a step (benchmarks/train_step.py has the figures).

    To be called before JAX first computes; a process that has computed keeps the devices it has,
    and so does one whose user has set JAX_NUM_CPU_DEVICES. Accelerators are not concerned.
    """
    if jax.config.jax_num_cpu_devices > 0:
        return
    devices = cpu_devices(runs, cores or available_cores(), processes)
    with contextlib.suppress(RuntimeError):  # this process has computed
        jax.config.update("jax_num_cpu_devices", devices)
    if devices > 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {_ONE_THREAD_A_DEVICE}".strip()


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_devices(runs: Sequence[RunConfig], cores: int, processes: int = 1) -> int:
    """Devices of each process that serve runs of one mesh on so many cores: those that the mesh
    asks for if there are cores for them, or else as many as share out every batch evenly and whose
    copies of the parameters are no burden."""
    mesh = runs[0].execution.mesh
    inner = mesh.fsdp * mesh.tensor
    if mesh.data is not None:
        return min(mesh.data * inner // processes, cores)
    largest = max(count_parameters(run.model).total for run in runs)
    most = min(cores // inner, _MOST_BYTES * inner // (_STATE_BYTES * largest))
    batch = math.gcd(*(run.batch_sequences for run in runs)) // (mesh.fsdp * processes)
    return max((inner * n for n in range(1, most + 1) if batch % n == 0), default=1)
