"""A folder that appears whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` in one move when the body of the `with` ends well.

    It lies beside `out`, and is gone if the body raises. What processes that were killed have
    left there is removed first. Where another process has put a folder at `out` in the meantime,
    that one stays, and this one goes.

    Raises:
        OSError: naming `out`: the folder cannot be made or moved.
    """
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    with blame(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out, host)
        # Not tempfile.mkdtemp: its folders are for their owner's eyes only.
        folder = out.parent / f".{out.name}.tmp-{host}-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
    try:
        yield folder
        with blame(out):
            _put_in_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Name `path` in an error of the file system: it may name no file (a full disk), or one in a
    temporary folder, of which the user knows nothing."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _sweep(out: Path, host: str) -> None:
    """Remove what processes of this host that are no more left when they wrote `out`."""
    name = re.compile(re.escape(f".{out.name}.tmp-{host}-") + r"(\d+)-[0-9a-f]{8}")
    for path in out.parent.iterdir():
        match = name.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _put_in_place(folder: Path, out: Path) -> None:
    """Move a finished folder to `out`, on disk for certain."""
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
