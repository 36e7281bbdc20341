"""Packing: the number of runs of one shape that are trained side by side
(scaling/training/packed.py)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from scaling.accounting import run_flops_per_token
from scaling.accounting.run_memory import estimate_run_bytes
from scaling.config import RunConfig

BUSY_FLOPS = 1e12
"""FLOPs of a step, forward and backward, whose time on an accelerator exceeds that of launching its
operations: some hundreds at some microseconds each, at some 10^14 FLOP/s. A pack is filled up to
this. An estimate; benchmarks/gpu.py measures the gain of packs."""

MEMORY_SHARE = 0.8
"""Largest share of the memory available to JAX that a pack may take by estimate."""


def shape_of(run: RunConfig) -> Hashable:
    """A key that is equal for runs with the same compiled programs."""
    return (run.model, run.objective, run.optimizer.kind, run.trainable, run.batch_sequences,
            run.precision, run.execution)


def slots_by_shape(
    runs: Iterable[RunConfig], asked: str | int, workers: int, processes: int = 1
) -> dict[Hashable, int]:
    """Number of slots for runs of each shape; 1 if they are trained one by one.

    It depends on all runs of a plan, not on those that are left, so that an interrupted sweep
    continues with the same programs.

    Args:
        runs: the resolved runs of a plan.
        asked: SweepConfig.pack.
        workers: number of workers that share the runs.
        processes: number of processes that train each run together.
    """
    alike: dict[Hashable, list[RunConfig]] = {}
    for run in runs:
        alike.setdefault(shape_of(run), []).append(run)
    return {shape: 1 if processes > 1 else slots_of(group[0], len(group), asked, workers)
            for shape, group in alike.items()}


def slots_of(run: RunConfig, alike: int, asked: str | int, workers: int) -> int:
    """Number of slots for runs of one shape, of which there are `alike`."""
    mesh = run.execution.mesh
    if asked == 1 or alike == 1 or mesh.fsdp * mesh.tensor * (mesh.data or 1) > 1:
        return 1
    import jax

    if jax.local_device_count() > 1 and mesh.data is None:
        return 1
    if isinstance(asked, int):
        return min(asked, alike)
    device = jax.local_devices()[0]
    limit = None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return 1  # packs are slower on a CPU (experiments/LOG.md)
    worth = math.ceil(BUSY_FLOPS / (run_flops_per_token(run) * run.batch_tokens))
    fits = int(MEMORY_SHARE * limit / estimate_run_bytes(run))
    return max(1, min(-(-alike // workers), worth, fits))
