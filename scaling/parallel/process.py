"""Set-up of a process before JAX computes, and agreement between the processes of a run.

Importing this module has no side effects; `start_process` is called once, at the start of a
command.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import time
from contextlib import suppress

import jax
import jaxlib
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from scaling.errors import UserError
from scaling.files import cache_folder, write_atomically

# Parameter numbers of glibc's mallopt(3), and the values that are set.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1
_GROW_BYTES = 64 * 2**20

_SYNC_SECONDS = 1.0  # between the synchronisations of the processes of a run


def start_process() -> None:
    """Set up this process for training: the allocator, the compilation cache and XLA's flags."""
    keep_freed_memory()
    cache_compilations()
    check_xla_flags()


def check_xla_flags() -> None:
    """Check that XLA accepts the flags in XLA_FLAGS, since it aborts a process with unknown flags.

    A child process tries them. If they are accepted, this is recorded in the cache folder.

    Raises:
        UserError: XLA does not accept the flags.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags:
        return
    accepted = cache_folder() / "xla_flags" / hashlib.sha256(
        f"{jaxlib.version.__version__}\n{flags}".encode(errors="surrogateescape")).hexdigest()[:16]
    if os.path.exists(accepted):  # also False if the cache cannot be read
        return
    trial = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], capture_output=True, text=True,
        errors="replace", check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    if trial.returncode:
        logged = re.search(r"^[EF][0-9]{4} .*?\] (.{,200})", trial.stderr, re.MULTILINE)
        reason = logged[1].strip() if logged else f"it ends with status {trial.returncode}"
        raise UserError(f"XLA_FLAGS={flags:.200}: XLA does not accept these flags ({reason}); "
                        "correct or unset them")
    with suppress(OSError):  # then the next process tries them again
        write_atomically(accepted, flags.encode(errors="surrogateescape"))


def keep_freed_memory() -> None:
    """Make the C allocator keep freed memory instead of returning it to the kernel.

    XLA's CPU client allocates scratch memory again at every step. By default glibc maps and unmaps
    it each time, and the kernel zeroes every page again: up to a third of the CPU time of a
    single-threaded worker with a small model, and next to nothing for large steps
    (experiments/LOG.md). On systems other than Linux with glibc this has no effect.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TOP_PAD, _GROW_BYTES)


def cache_compilations() -> None:
    """Cache every compiled program on disk, so that the processes of a sweep compile each shape
    once. By default JAX caches only programs that take more than a second to compile."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def find_devices() -> None:
    """Initialise JAX's devices. Call it after their number is set and other processes have joined.

    Raises:
        UserError: there is no device of a platform in JAX_PLATFORMS.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts if only CUDA was requested
        platforms = os.environ.get("JAX_PLATFORMS")
        if not platforms:
            raise
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".") or "it gives no reason"
        raise UserError(f"JAX_PLATFORMS={platforms}: JAX finds no such device ({reason}); unset "
                        "it, or install JAX for that device") from None


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Join the other processes that train one run together. Call it before JAX first computes.

    It is called only on request: environment variables of a scheduler alone do not make a process
    wait for others.

    Args:
        coordinator: HOST:PORT at which process 0 can be reached; it listens on that address only,
            not on every address of its machine.
        count: number of processes.
        index: index of this process, from 0.
    """
    # JAX's own SIGTERM handler would replace that of the caller.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator, num_processes=count, process_id=index,
                               coordinator_bind_address=coordinator)


def is_leader() -> bool:
    """Whether this process is the leader, which holds locks and writes files."""
    return jax.process_index() == 0


def broadcast_from_leader(number: int) -> int:
    """The number, or flag, of process 0. All processes must call it."""
    return int(broadcast_one_to_all(np.int32(number)))


def any_process(flag: bool) -> bool:
    """Whether the flag of any process is set. All processes must call it."""
    return bool(np.any(process_allgather(np.int32(flag))))


class SyncPoint:
    """Makes all processes of a run stop, or save, after the same step, although signals and clocks
    reach them at different steps. Since processes wait for each other to synchronise, they do so
    about once a second by the clock of process 0, not after every step. A single process never
    waits."""

    def __init__(self) -> None:
        self._steps_left, self._interval = 0, 1
        self._synced = time.monotonic()

    def __call__(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether all processes stop, and save, after this step: they stop if any process has been
        asked to, and save if process 0 does."""
        if jax.process_count() == 1:
            return stop, save
        if self._steps_left:
            self._steps_left -= 1
            return False, False
        seconds = max(time.monotonic() - self._synced, 1e-6)
        # At most twice as many steps as before: the first steps are slow because of compilation.
        interval = max(1, min(2 * self._interval, int(self._interval * _SYNC_SECONDS / seconds)))
        flags = process_allgather(np.array([stop, save, interval], np.int32))
        self._interval = int(flags[0, 2])
        self._steps_left, self._synced = self._interval - 1, time.monotonic()
        return bool(flags[:, 0].any()), bool(flags[0, 1])
