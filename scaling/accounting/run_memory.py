"""Memory that a run needs on one device, and the memory of that device."""

from __future__ import annotations

import os
import subprocess

from scaling.accounting import training_memory
from scaling.accounting.hardware import accelerator_named
from scaling.config import RunConfig

_MIB = 2**20


def estimate_run_bytes(run: RunConfig) -> int:
    """Estimated bytes that a training step of a run with a known vocabulary size needs on one
    device (accounting/memory.py). The mesh divides the state over `fsdp` and `tensor`, and the
    batch over `data` and `fsdp`."""
    mesh = run.execution.mesh
    bytes_by_part = training_memory(
        run.model,
        sequences=-(-run.batch_sequences // ((mesh.data or 1) * mesh.fsdp)),
        precision=run.precision,
        remat=run.execution.remat,
        microbatch=run.execution.microbatch_sequences,
        moments=run.optimizer.moments,
        attention=run.execution.attention,
        cross_entropy=run.execution.cross_entropy,
        trainable=run.trainable,
    )
    activations = bytes_by_part.pop("activations")
    return sum(bytes_by_part.values()) // (mesh.fsdp * mesh.tensor) + activations


def device_bytes(gpu: str | None, local_gpu: str | None, workers: int) -> float | None:
    """Memory of the device that runs are planned for.

    Args:
        gpu: name of an accelerator (accounting/hardware.py), or None for the local device.
        local_gpu: the local GPU, as CUDA_VISIBLE_DEVICES names it; None for the CPU.
        workers: number of processes that share the memory of a CPU.

    Returns:
        Bytes, or None if the driver does not report them.

    Raises:
        UserError: no accelerator has this name.
    """
    if gpu is not None:
        return accelerator_named(gpu).memory_bytes
    if local_gpu is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / workers
    command = ["nvidia-smi", "-i", local_gpu, "--query-gpu=memory.total",
               "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.check_output(command, text=True, timeout=30)) * _MIB
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
