"""What one process needs before JAX computes, and how several decide as one.

Importing this module changes nothing; `start_process` is called once, at the start of a command.
"""

from __future__ import annotations

import ctypes
import sys
import time

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from scaling.files import cache_folder

# glibc's mallopt(3): numbers of the parameters, and the values given to them.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1
_GROW_BYTES = 64 * 2**20

_AGREE_SECONDS = 1.0  # how often the processes of a run compare notes


def start_process() -> None:
    """Set up this process for training: see the two functions below."""
    keep_freed_memory()
    cache_compilations()


def keep_freed_memory() -> None:
    """Let the C allocator keep what is freed instead of giving it back to the kernel.

    XLA's CPU client allocates a step's scratch memory anew at every step. By default glibc maps
    and unmaps it each time, and the kernel then zeroes every page again: up to a third of the CPU
    time of a single-threaded worker with a small model, next to nothing for large steps
    (experiments/LOG.md). Elsewhere than on Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TOP_PAD, _GROW_BYTES)


def cache_compilations() -> None:
    """Keep every compiled program on disk: a sweep's processes compile each shape once between
    them. JAX alone would keep only those that took more than a second to compile."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Make this process one of several that train one run together. Before JAX first computes.

    Only when asked for: variables that a scheduler leaves in a shell are no reason to wait for
    other processes.

    Args:
        coordinator: HOST:PORT at which process 0 can be reached.
        count: how many processes there are.
        index: which one this is, from 0.
    """
    # JAX's own watch for SIGTERM would replace the handler of whoever calls this.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator, num_processes=count, process_id=index)


def leads() -> bool:
    """Whether this process is the one that holds locks and writes files."""
    return jax.process_index() == 0


def word_of_leader(number: int) -> int:
    """The number, or flag, of process 0. All processes have to ask."""
    return int(broadcast_one_to_all(np.int32(number)))


def any_process(flag: bool) -> bool:
    """Whether the flag of some process is set. All processes have to ask."""
    return bool(np.any(process_allgather(np.int32(flag))))


class Accord:
    """Lets all processes of a run stop, or save, after the same step, though signals and clocks
    reach them at different ones. Comparing notes makes each wait for the others, so it is not done
    after every step but about once a second, by the clock of process 0. A process that is alone has
    nobody to ask."""

    def __init__(self) -> None:
        self._left, self._pause = 0, 1
        self._asked = time.monotonic()

    def __call__(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """What all do after this step: stop if any has been asked to, save if process 0 says so."""
        if jax.process_count() == 1:
            return stop, save
        if self._left:
            self._left -= 1
            return False, False
        seconds = max(time.monotonic() - self._asked, 1e-6)
        # At most twice as many steps as before: the first of them are slow, being compiled.
        pause = max(1, min(2 * self._pause, int(self._pause * _AGREE_SECONDS / seconds)))
        notes = process_allgather(np.array([stop, save, pause], np.int32))
        self._pause = int(notes[0, 2])
        self._left, self._asked = self._pause - 1, time.monotonic()
        return bool(notes[:, 0].any()), bool(notes[0, 1])
