"""A file lock, under which one process at a time reads and replaces a file or those of a folder.

Like files.py, this module is below every package; of the package it imports errors.py alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaling.errors import UserError

WAIT_SECONDS = 60.0
"""Time to wait for another process, which holds the lock for a few seconds at most."""
_POLL_SECONDS = 0.05


@contextmanager
def file_lock(path: Path, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock of a file in the body of the `with`. The kernel releases the lock of a process
    that dies. On a file system without locks, the body runs without one.

    Args:
        path: an existing file.
        seconds: time to wait for another process.

    Raises:
        UserError: another process holds the lock for longer.
    """
    deadline = time.monotonic() + seconds
    handle = _open(path)
    try:
        while not _acquire(handle, path):
            if time.monotonic() > deadline:
                raise UserError(f"{path.parent}: another process has been writing there for "
                                f"{seconds:.0f} s; run the command again when it has ended")
            time.sleep(_POLL_SECONDS)
            os.close(handle)
            handle = _open(path)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS does not lock read-only files
    except PermissionError:  # a file of another user in a shared folder
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _acquire(handle: int, path: Path) -> bool:
    """Try to lock the file; False if another process holds the lock, or if another file has taken
    its name since it was opened."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return os.path.samestat(os.fstat(handle), os.stat(path))
