"""File access: bounded reads of untrusted files, atomic writes, and the cache folder.

Like errors.py, this module is below every package; of the package it imports errors.py alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from scaling.errors import UserError

LARGEST_BYTES = 256 * 2**20
"""Largest file that is read into memory: far above any configuration, record or law."""

_CHUNK_BYTES = 2**16

_NOT_A_FILE = {errno.ENXIO: "pipe or device", errno.ELOOP: "link that leads to itself"}
"""Errors of opening something other than a file, and its kind."""

ABANDONED_SECONDS = 60.0
"""Age at which a half-written file is taken to be left by a dead process: a write takes
milliseconds."""

DISK_FULL = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space of your quota there",
    errno.EFBIG: "lift the limit on the size of files (ulimit -f)",
}
"""Errors of a full disk, quota or size limit, and how to fix each."""

FIXES = DISK_FULL | {
    errno.EACCES: "ask its owner for access, or choose another place",
    errno.EPERM: "ask its owner for access, or choose another place",
    errno.EROFS: "choose a place that is not read-only",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check its disk or file server",
    errno.ESTALE: "check its file server",
    errno.ENOMEM: "free some memory",
}
"""How to fix each error of the file system."""


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Set the file name of an OSError raised in the body to `path`: the error may name no file (a
    full disk), or one in a temporary folder that means nothing to the user."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Prefix a UserError raised in the body with `path`, for readers that only know the content."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it.

    A reader sees the old file or the new one, never a part of it, and a crash loses neither.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with blame(path):
        _write_atomically(path, data)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    handle = _create(temporary)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _create(path: Path) -> int:
    # The kernel applies the umask; O_EXCL fails on a link that another user placed there.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def write_new(path: Path, content: str) -> None:
    """Write a new file.

    Raises:
        FileExistsError: the name is in use, even by a dangling link.
        OSError: it cannot be written; the error names the file.
    """
    with blame(path), os.fdopen(_create(path), "w", encoding="utf-8") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_no_follow(path: str | Path, flags: int) -> int:
    """Open a file that is written in place, such as a log or a lock: an `opener` for `open`.

    Links, pipes and devices are refused: other users may have placed them there.

    Raises:
        UserError: it is not a regular file.
        OSError: it cannot be opened; the error names it.
    """
    fix = "remove it, and run the command again"
    with blame(Path(path)):
        try:
            handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _NOT_A_FILE:
                raise
            kind = "link" if error.errno == errno.ELOOP else _NOT_A_FILE[error.errno]
            raise UserError(f"{path}: is a {kind} and is not written to; {fix}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path}: is not a regular file and is not written to; {fix}")
    return handle


def remove_below(root: Path, path: Path) -> None:
    """Remove a file, or a folder with its content, that is below a root folder.

    No link between the root and the path is followed, not even one created meanwhile, and none in
    the folder. A path that no longer exists is no error.

    Args:
        root: a folder; a link to it is followed, since the user named it.
        path: a path below the root that begins with it.

    Raises:
        UserError: the path leads elsewhere, or through a link.
        OSError: something cannot be removed; the error names the path.
    """
    parts = path.parts[len(root.parts):]
    if not path.is_relative_to(root) or not parts or ".." in parts:
        raise UserError(f"{path}: is not below {root} and is not removed")
    with blame(path), suppress(FileNotFoundError):
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
                os.close(handle)
                handle = inner
            mode = os.stat(parts[-1], dir_fd=handle, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, "")
            if stat.S_ISDIR(mode):
                shutil.rmtree(parts[-1], dir_fd=handle)
            else:
                os.unlink(parts[-1], dir_fd=handle)
        except OSError as error:
            # Linux reports ENOTDIR for a link opened as a folder; rmtree sets no errno if a link
            # has just replaced the folder.
            if error.errno in (errno.ELOOP, errno.ENOTDIR, None):
                raise UserError(f"{path}: leads through a link and is not removed; check where it "
                                "leads, and remove it by hand") from None
            raise
        finally:
            os.close(handle)


def open_regular(path: Path) -> BufferedReader:
    """Open an untrusted regular file for reading; a link is followed.

    A pipe or a device is refused without waiting for it.

    Raises:
        UserError: it is not a regular file.
        OSError: it does not exist or cannot be read; the error names it.
    """
    with blame(path):
        try:
            # Without O_NONBLOCK, opening a pipe without a writer would block for ever.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NOT_A_FILE:
                raise
            raise UserError(
                f"{path}: is a {_NOT_A_FILE[error.errno]}, where a file is expected"
            ) from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    kind = "folder" if stat.S_ISDIR(mode) else "pipe or device"
    raise UserError(f"{path}: is a {kind}, where a file is expected")


def read_bytes(path: Path, largest: int = LARGEST_BYTES) -> bytes:
    """The content of an untrusted file of bounded size.

    Args:
        path: the file; a link is followed.
        largest: the most bytes that are read.

    Raises:
        UserError: it is not a regular file, or it is larger.
        OSError: it does not exist or cannot be read; the error names it.
    """
    chunks, total = [], 0
    with open_regular(path) as file, blame(path):
        large = os.fstat(file.fileno()).st_size > largest
        # In chunks: allocating `largest` bytes takes longer than reading a small file.
        while not large and (chunk := file.read(_CHUNK_BYTES)):
            chunks.append(chunk)
            total += len(chunk)
            large = total > largest
    if large:
        raise UserError(
            f"{path}: is larger than {largest / 1e6:,.0f} MB, the limit for such a file")
    return b"".join(chunks)


def read_text(path: Path, largest: int = LARGEST_BYTES) -> str:
    """The content of a UTF-8 text file, without the byte order mark that some editors write.

    Raises:
        UserError: it is not UTF-8; and as `read_bytes`.
        OSError: as `read_bytes`.
    """
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start:,}); save it as UTF-8"
                        ) from None


def parse_json(text: str | bytes, source: str, *, unique_keys: bool = False) -> Any:
    """Parse JSON text from an untrusted source.

    Args:
        text: the JSON.
        source: its name in messages.
        unique_keys: refuse an object with a repeated key, instead of keeping the last value.

    Raises:
        UserError: it is not JSON, or it is nested deeper than Python can parse; the message
            begins with `source`.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_dict if unique_keys else None)
    except RecursionError:
        raise UserError(f"{source}: not readable as JSON (nested too deeply)") from None
    except ValueError as error:  # also raised for bytes that are not text
        reason = "a number of thousands of digits" if "digits" in str(error) else error
        raise UserError(f"{source}: not readable as JSON ({reason})") from None


def _unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r:.80} occurs twice in one object")
    return content


def read_json(
    path: Path, fix: str = "move it away to have it written again", largest: int = LARGEST_BYTES
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        fix: the end of the error message, which tells how to fix the file.
        largest: the most bytes that are read.

    Raises:
        UserError: it is not a JSON object, or a dangling link; the message names the file.
        OSError: as `read_bytes`.
    """
    try:
        content = parse_json(read_bytes(path, largest), str(path))
    except UserError as error:
        raise UserError(f"{error}; {fix}") from None
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path}: is a dangling link; {fix}") from None
        raise
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected; {fix}")
    return content


def clear_half_written(path: Path) -> None:
    """Remove temporary files that killed processes left next to a file.

    Call it after the file has been written: its modification time is the file system's present
    time, and a temporary file that is much older belongs to no process.
    """
    for temporary in path.parent.iterdir():
        if not temporary.name.startswith(f".{path.name}."):
            continue
        with suppress(FileNotFoundError):  # another process has removed or renamed it
            status = temporary.lstat()
            old = path.stat().st_mtime - status.st_mtime > ABANDONED_SECONDS
            if old and stat.S_ISREG(status.st_mode):
                temporary.unlink()


def cache_folder() -> Path:
    """The folder that keeps compiled programs and measured step times between processes:
    `$SCALING_CACHE`, else `scaling` in `$XDG_CACHE_HOME` or `~/.cache`.

    Only its user may access it, because compiled programs are run without further checks.

    Raises:
        UserError: every user may write there.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("SCALING_CACHE") or Path(home) / "scaling")
    with suppress(OSError):  # a later write reports the problem
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            raise UserError(f"{folder}: every user may write to this cache, and so run programs as "
                            "you; chmod o-w it, or set SCALING_CACHE to another folder")
    return folder
