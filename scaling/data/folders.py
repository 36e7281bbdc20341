"""A folder that appears whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scaling.files import blame


@contextmanager
def locked(out: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only process of this machine that works on `out` during the body of the `with`.

    The lock is a file beside `out`, and ends with the process however that ends.

    Args:
        out: a folder, which need not exist.
        waiting: called once if another process has the lock, before waiting for it.

    Raises:
        OSError: naming `out`: the lock cannot be made.
    """
    path = out.parent / f".{out.name}.lock"
    with blame(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path, waiting)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, waiting: Callable[[], None]) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Its last owner removes the file: then this is the lock of nothing.
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def move_in_place(folder: Path, out: Path) -> None:
    """Move a finished folder to `out`, on disk for certain; a folder that is there stays."""
    for path in (*folder.iterdir(), folder):
        _sync(path)
    try:
        os.replace(folder, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _sync(out.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
