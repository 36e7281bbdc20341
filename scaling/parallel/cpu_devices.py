"""The cores of a CPU as JAX devices."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence

import jax

from scaling.accounting import count_parameters
from scaling.config import RunConfig

_ONE_THREAD_A_DEVICE = "--xla_cpu_multi_thread_eigen=false"
_STATE_BYTES = 16  # bytes per parameter: its value, gradient and two moments in float32
_MAX_BYTES = 4 * 2**30  # of all copies of that state together


def divide_cores(
    runs: Sequence[RunConfig], cores: int | None = None, processes: int = 1
) -> None:
    """Make each core that this process may use a JAX device, for runs that train on a CPU.

    Each device then computes its own sequences, and devices synchronise once per batch. By default
    XLA has one device and divides every operation among the cores, which then wait for each other
    hundreds of times per step (measured in benchmarks/train_step.py).

    It must be called before JAX first computes; afterwards it has no effect. It also has no effect
    if JAX_NUM_CPU_DEVICES is set. Accelerators are not affected.

    Args:
        runs: the runs that the process will train.
        cores: number of cores; by default those that the process is bound to. A scheduler that does
            not bind processes may grant fewer.
        processes: number of processes that train each run together, with equally many devices.
    """
    if jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return
    devices = cpu_devices(runs, cores or available_cores(), processes)
    with contextlib.suppress(RuntimeError):  # this process has computed
        jax.config.update("jax_num_cpu_devices", devices)
    if devices > 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {_ONE_THREAD_A_DEVICE}".strip()


def available_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_devices(runs: Sequence[RunConfig], cores: int, processes: int = 1) -> int:
    """Number of devices of each process for runs that have the same mesh.

    If the mesh sets its data axis, this is the number that it needs, but at most `cores`. Otherwise
    it is the largest number that divides every batch evenly and whose copies of the training state
    take at most 4 GiB.
    """
    mesh = runs[0].execution.mesh
    inner = mesh.fsdp * mesh.tensor
    if mesh.data is not None:
        return min(mesh.data * inner // processes, cores)
    largest = max(count_parameters(run.model).total for run in runs)
    max_copies = min(cores // inner, _MAX_BYTES * inner // (_STATE_BYTES * largest))
    batch = math.gcd(*(run.batch_sequences for run in runs)) // (mesh.fsdp * processes)
    return max((inner * n for n in range(1, max_copies + 1) if batch % n == 0), default=1)
