"""Checks that a run fits in memory, before anything is allocated for it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import jax

from scaling.accounting import training_memory
from scaling.config import RunConfig
from scaling.data.run_data import sequences_of
from scaling.data.store import TokenStore
from scaling.errors import UserError

ESTIMATE_ERROR = 1.5
"""Factor within which the estimate of the activations is right (accounting/memory.py). A run is
refused only if it is too large even where the estimate is too high by that."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_ID_BYTES = 4
_ARRAYS = 3  # of ids in a batch: what is read, what is predicted, and its weights
_GB = 1e9


def check_memory(run: RunConfig, store: TokenStore) -> None:
    """Refuse a run that is sure to exceed the memory of this machine, or of one of its devices.

    Call it when JAX may compute.

    Args:
        run: a resolved run.
        store: its tokens.

    Raises:
        UserError: it does; the message has the estimate and what is there.
    """
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    host = host_bytes(run, store)
    _check("of token ids in batches", host, machine_bytes(), "this machine")
    needed, room = device_bytes_of(run, on_cpu=on_cpu, devices=jax.device_count()), None
    if on_cpu:
        needed, room = needed + host, machine_bytes()
    else:
        with suppress(Exception):  # a backend that does not say
            room = (device.memory_stats() or {}).get("bytes_limit")
    _check("for parameters, gradients, moments and activations", needed, room,
           "this machine" if on_cpu else f"a device ({device.device_kind})")


def device_bytes_of(run: RunConfig, *, on_cpu: bool, devices: int = 1) -> int:
    """The least that a step of a resolved run takes of one device; of a CPU, whose devices share
    its memory, of them all."""
    mesh = run.execution.mesh
    divided = mesh.fsdp * mesh.tensor
    data = mesh.data or max(1, devices // divided)
    share = max(1, run.batch_sequences // (data * mesh.fsdp))
    # On a CPU a batch is worked on in parts, of one sequence at least.
    at_once = min(run.execution.microbatch_sequences or (1 if on_cpu else share), share)
    parts = training_memory(
        run.model, sequences=at_once, precision=run.precision, remat=run.execution.remat,
        moments=run.optimizer.moments, attention=run.execution.attention,
        cross_entropy=run.execution.cross_entropy, trainable=run.trainable)
    activations = parts.pop("activations") / ESTIMATE_ERROR / mesh.tensor
    return round(sum(parts.values()) / (1 if on_cpu else divided) + activations)


def host_bytes(run: RunConfig, store: TokenStore) -> int:
    """What a batch and the held-out sequences take of the machine's memory."""
    model = run.model
    positions = model.context + (model.source_length if model.mode == "encoder-decoder" else 0)
    heldout = len(sequences_of(run, store.split("validation")))
    sequences = run.batch_sequences + min(run.evaluation.sequences, heldout)
    return sequences * positions * _ARRAYS * _ID_BYTES


def machine_bytes() -> int:
    """Memory that this process may use: the machine's, or what its container grants."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # there is none, or it grants everything ("max")
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)


def _said(size: float) -> str:
    gigabytes = size / _GB
    return f"{gigabytes:,.0f} GB" if gigabytes >= 100 else f"{gigabytes:.2g} GB"


def _check(of: str, needed: int, room: float | None, where: str) -> None:
    if room is not None and needed > room:
        raise UserError(
            f"the run needs at least {_said(needed)} {of}, and {where} has {_said(room)}; "
            "choose a smaller model (d_model, n_layers, context), "
            "batch_sequences or evaluation.sequences, or a mesh over more devices")
