"""Whether a run fits on the device that is to train it."""

from __future__ import annotations

import os
import subprocess

from scaling.accounting import training_memory
from scaling.accounting.hardware import MEMORY_BYTES, accelerator_named
from scaling.config import RunConfig

_MIB = 2**20


def bytes_of(run: RunConfig) -> int:
    """Bytes that a resolved run's step takes of one device, estimated (accounting/memory.py): its
    mesh divides the state over `fsdp` and `tensor`, and the batch over `data` and `fsdp`."""
    mesh = run.execution.mesh
    parts = training_memory(
        run.model,
        sequences=-(-run.batch_sequences // ((mesh.data or 1) * mesh.fsdp)),
        precision=run.precision,
        remat=run.execution.remat,
        microbatch=run.execution.microbatch_sequences,
    )
    activations = parts.pop("activations")
    return sum(parts.values()) // (mesh.fsdp * mesh.tensor) + activations


def device_bytes(gpu: str | None, local_gpu: str | None, workers: int) -> float | None:
    """Memory of the device that runs are planned for.

    Args:
        gpu: an accelerator by name (accounting/hardware.py), or None for what is here.
        local_gpu: the GPU here, as CUDA_VISIBLE_DEVICES names it; None for the CPU.
        workers: processes that share the memory of a CPU.

    Returns:
        Bytes, or None where the driver does not say.

    Raises:
        UserError: no accelerator is known by the name.
    """
    if gpu is not None:
        return MEMORY_BYTES[accelerator_named(gpu)]
    if local_gpu is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / workers
    command = ["nvidia-smi", "-i", local_gpu, "--query-gpu=memory.total",
               "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.check_output(command, text=True, timeout=30)) * _MIB
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
