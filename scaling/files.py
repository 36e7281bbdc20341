"""Files that are there whole or not at all, and where things are kept between commands.

Like errors.py this stands below every room and imports nothing of ours.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_SECONDS = 60.0
"""Age at which a half-written file is taken for a dead process's: a write takes milliseconds."""

NO_ROOM = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space of your quota there",
    errno.EFBIG: "lift the limit on the size of files (ulimit -f)",
}
"""Errors of a place that takes no more, and how to mend each."""


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Name `path` in an error of the file system: it may name no file (a full disk), or one in a
    temporary folder, of which the user knows nothing."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under another name, make it durable, and give it its name.

    A reader sees the old file or the new one, never a part, and a crash loses neither.

    Raises:
        OSError: the file system does not take it; the error names the file.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with blame(path):
        _write_atomically(path, data)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are their owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def clear_half_written(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it.

    Call it after the file has been written: its time tells that of the file system, and what is
    much older is nobody's any more.
    """
    for other in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):  # somebody else has removed it, or given it its name
            if path.stat().st_mtime - other.stat().st_mtime > ABANDONED_SECONDS:
                other.unlink()


def write_if_changed(path: Path, content: str) -> None:
    """Write a file unless it holds just that: then its time stays, and what was made from it is
    still up to date."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        write_atomically(path, content)


def cache_folder() -> Path:
    """Where compiled programs and measured step times are kept between processes.

    SCALING_CACHE names another place.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SCALING_CACHE") or Path(home) / "scaling")
