"""How many runs of one shape train side by side (scaling/training/pack.py)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from scaling.accounting import run_flops_per_token
from scaling.config import RunConfig
from scaling.sweeps.planning.memory import bytes_of

BUSY_FLOPS = 1e12
"""Work of a step, forward and backward, that an accelerator spends more time on than on starting
its operations: some hundreds of them at some microseconds each, against some 10^14 FLOPs a second.
A pack is filled up to this. An estimate; benchmarks/gpu.py measures what packs gain."""

MEMORY_SHARE = 0.8
"""Of the memory that JAX may use, what the estimated needs of a pack may fill."""


def shape_of(run: RunConfig) -> Hashable:
    """Equal for runs that the same compiled programs train."""
    return run.model, run.objective, run.batch_sequences, run.precision, run.execution


def seats_by_shape(
    runs: Iterable[RunConfig], asked: str | int, workers: int, processes: int = 1
) -> dict[Hashable, int]:
    """Seats for runs of each shape, 1 where they train one by one.

    They depend on all runs of a plan, not on those that are left, so that a sweep that was
    interrupted goes on with the same programs.

    Args:
        runs: of a plan, resolved.
        asked: SweepConfig.pack.
        workers: that share the runs.
        processes: that train each run together.
    """
    alike: dict[Hashable, list[RunConfig]] = {}
    for run in runs:
        alike.setdefault(shape_of(run), []).append(run)
    return {shape: 1 if processes > 1 else seats(group[0], len(group), asked, workers)
            for shape, group in alike.items()}


def seats(run: RunConfig, alike: int, asked: str | int, workers: int) -> int:
    """Seats for runs of one shape, of which there are so many."""
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
        return 1  # a CPU has nothing to start: packs are slower there (experiments/LOG.md)
    worth = math.ceil(BUSY_FLOPS / (run_flops_per_token(run) * run.batch_tokens))
    fits = int(MEMORY_SHARE * limit / bytes_of(run))
    return max(1, min(-(-alike // workers), worth, fits))
