"""Detection of damaged checkpoints: a list of their files, and the meaning of read errors.

    checkpoints/100/files.json      size and CRC-32 of every other file below the folder
    checkpoints/damaged-100.1/      a checkpoint that was found damaged, unchanged

A checkpoint is damaged if its content provably differs from what was written. An error of the file
system, of memory, or of a library is no proof: the files may be intact, and readable later.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import UserError
from scaling.files import blame, open_regular, parse_json, read_bytes, write_atomically

FILE_LIST = "files.json"
"""Name of the file list in the folder of a checkpoint."""

_CHUNK_BYTES = 2**20

_MAX_MESSAGE = 300
"""Largest number of characters of a library's error that are shown; TensorStore appends its whole
configuration."""

_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors that mean that a file is missing, rather than unreadable at the moment."""

_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
"""The system's error number in TensorStore's messages (the payload of absl::Status)."""

_NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|bad_alloc|out of memory", re.IGNORECASE)

_NOT_DECODED = re.compile(r"^(?:DATA_LOSS|FAILED_PRECONDITION|NOT_FOUND|OUT_OF_RANGE):")
"""TensorStore's status codes for data that is missing or is not what it wrote."""


class DamagedCheckpoint(Exception):
    """A checkpoint does not contain what was saved; the message has the evidence."""


def check_metadata_files(folder: Path) -> None:
    """Check that the metadata of every checkpoint is a file, since Orbax reads them all at once and
    would block on a pipe.

    Raises:
        UserError: one is not a file; the message names it.
    """
    for path in folder.glob("[0-9]*/_CHECKPOINT_METADATA"):
        if not path.is_file():
            raise UserError(f"{path}: is not a file, so this is not an Orbax checkpoint; move "
                            f"{path.parent} away")


def write_file_list(folder: Path) -> None:
    """Write the file list of a checkpoint that has just been written.

    Raises:
        OSError: a file cannot be read, or the list cannot be written.
    """
    listed = {str(path.relative_to(folder)): _size_and_checksum(path) for path in _files(folder)}
    write_atomically(folder / FILE_LIST, json.dumps(listed, indent=0, sort_keys=True) + "\n")


def verify_file_list(folder: Path) -> bool:
    """Read the files of a checkpoint and compare them with its file list.

    Returns:
        Whether there is a list: there is none if several processes wrote the checkpoint, or if the
        process that wrote it was killed before it wrote the list.

    Raises:
        DamagedCheckpoint: a file is missing or changed, or there are links, pipes or devices, which
            do not belong in a checkpoint: Orbax would follow them or block on them.
        OSError: a file cannot be read; the error names it.
    """
    if not os.path.lexists(folder):
        raise DamagedCheckpoint("it is missing")
    names = {str(path.relative_to(folder)) for path in _files(folder)}
    path = folder / FILE_LIST
    try:
        listed = parse_json(read_bytes(path), FILE_LIST)
        if not isinstance(listed, dict):
            raise DamagedCheckpoint(f"{FILE_LIST} is not a list of files")
    except FileNotFoundError:
        return False
    except UserError as error:
        raise DamagedCheckpoint(str(error)) from None
    for name, expected in listed.items():
        if name not in names:  # so no file outside the folder is read
            raise DamagedCheckpoint(f"{ascii(name)[1:-1][:_MAX_MESSAGE]} is missing")
        try:
            found = _size_and_checksum(folder / name)
        except OSError as error:
            if error.errno not in (*_MISSING_ERRNOS, errno.ENAMETOOLONG):
                raise
            raise DamagedCheckpoint(f"{ascii(name)[1:-1][:_MAX_MESSAGE]} is missing") from None
        except UserError:
            raise DamagedCheckpoint(f"{name} is no longer a file") from None
        except ValueError:  # an impossible file name
            raise DamagedCheckpoint(f"{ascii(name)[1:-1][:_MAX_MESSAGE]} is missing") from None
        if found != expected:
            same_size = isinstance(expected, list) and found[:1] == expected[:1]
            what = "content" if same_size else "size"
            raise DamagedCheckpoint(f"{name} has another {what} than when it was written")
    return True


def explain_read_error(error: Exception, folder: Path, proven: bool) -> Exception:
    """Convert an error in reading a checkpoint to an exception to raise: DamagedCheckpoint, or an
    OSError or UserError that users understand.

    Args:
        error: an error of Orbax or the libraries that it uses.
        folder: the checkpoint's folder.
        proven: whether its files are known to be those that were written.

    Raises:
        OSError: a file cannot be read; the error names it.
    """
    number = system_errno(error)
    if number is not None:
        named = isinstance(error, OSError) and error.errno == number and error.filename is not None
        return error if named else OSError(number, os.strerror(number), str(folder))
    *_, first = _causes(error)
    message = (str(first).splitlines() or [type(first).__name__])[0][:_MAX_MESSAGE]
    if not proven and _shows_damage(error, folder):
        return DamagedCheckpoint(message)
    return UserError(
        f"{folder}: cannot be read ({message}), but there is no proof that it is damaged, so it "
        "was kept; read it with the versions in environment.json, or move it away to continue from "
        "the previous checkpoint")


def _shows_damage(error: Exception, folder: Path) -> bool:
    """Whether the error shows that a file is missing or changed, although all files can be read."""
    for path in _files(folder):
        _size_and_checksum(path)
    return any(
        isinstance(each, json.JSONDecodeError | UnicodeDecodeError | FileNotFoundError
                   | NotADirectoryError | IsADirectoryError)
        or _NOT_DECODED.match(str(each)) for each in _causes(error))


def system_errno(error: BaseException) -> int | None:
    """The errno of the system error that caused an error; None if there is none. Missing files do
    not count."""
    for each in _causes(error):
        if isinstance(each, MemoryError):
            return errno.ENOMEM
        if isinstance(each, OSError) and each.errno and each.errno not in _MISSING_ERRNOS:
            return each.errno
        message = str(each)
        numbers = [int(number) for number in _SYSTEM_ERROR.findall(message)]
        if found := next((number for number in numbers if number not in _MISSING_ERRNOS), None):
            return found
        if _NO_MEMORY.search(message):
            return errno.ENOMEM
    return None


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it is not used. It is kept until the user, or `scaling
    sweep prune`, removes it.

    Returns:
        The new path.
    """
    for number in itertools.count(1):
        path = folder.with_name(f"damaged-{folder.name}.{number}")
        if not path.exists():
            break
    with blame(folder):
        folder.rename(path)
    return path


def _size_and_checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size = checksum = 0
    with blame(path), open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a checkpoint's folder, except the file list.

    Raises:
        DamagedCheckpoint: something is neither a file nor a folder.
        OSError: a folder cannot be read.
    """
    def stop(error: OSError) -> None:  # by default os.walk skips folders that it cannot read
        raise error

    if folder.is_symlink():
        raise DamagedCheckpoint("it is a link")
    for root, folders, names in os.walk(folder, onerror=stop):
        for path in (Path(root, name) for name in sorted([*folders, *names])):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise DamagedCheckpoint(f"{path.relative_to(folder)} is a link, a pipe or a device")
            if stat.S_ISREG(mode) and path.name != FILE_LIST:
                yield path


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        yield each
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        waiting += [*inner, *([each.__cause__] if each.__cause__ is not None else [])]
