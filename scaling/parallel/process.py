"""What one process needs before JAX computes: a compile cache, and memory that is kept.

Called once, at the start of a command; importing this module changes nothing.
"""

from __future__ import annotations

import ctypes
import sys

import jax

from scaling.files import cache_folder

# glibc's mallopt(3): numbers of the parameters, and the values given to them.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1
_GROW_BYTES = 64 * 2**20


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
