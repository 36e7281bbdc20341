"""A lock for building a folder, and moving the finished folder into place atomically."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scaling.errors import UserError
from scaling.files import blame, open_no_follow, sync


@contextmanager
def folder_lock(out: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `out`, among the processes of this machine.

    The lock is a file next to `out`, and is released when the process ends in any way.

    Args:
        out: A folder, which need not exist.
        waiting: Called once before waiting if another process has the lock.

    Raises:
        UserError: The lock's file name is used by something else, such as a link.
        OSError: The lock cannot be created; the error has the name `out`.
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
        # The file will be removed, so it must not be another program's.
        handle = open_no_follow(path, os.O_RDWR | os.O_CREAT)
        if os.fstat(handle).st_size:
            os.close(handle)
            raise UserError(f"{path}: is needed as a lock, but was created by something else; move "
                            "it away, or choose another place")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Its previous owner may have removed the file, in which case the lock has no effect.
        try:
            if os.path.samestat(os.fstat(handle), path.lstat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def move_in_place(folder: Path, out: Path) -> None:
    """Sync a finished folder to disk and rename it to `out`, unless `out` is a non-empty folder."""
    for path in (*folder.iterdir(), folder):
        sync(path)
    try:
        os.replace(folder, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(out.parent)
