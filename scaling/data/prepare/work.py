"""The work folder of a store, in which finished steps survive interruptions.

Every step writes its files, then a JSON note with their SHA-256. A step is skipped if its note
exists and its files match it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.files import blame, parse_json, read_bytes, remove_below, write_atomically

WORK_LAYOUT = 3
"""Version of the files in a work folder; work of another version is not resumed."""

STORE = "store"
"""Subfolder of a work folder that becomes the store."""

DECISIONS, TEST_FILTER = "decisions", "wanted"
"""Name of the file with the decisions about all documents, and of the step of the filter of
13-grams."""

_COMPLETE = "complete"
"""Name of that subfolder once no more files may be added to it."""

_MARK, _MARKED = "made-by", "scaling data prepare\n"
"""Name and content of a file that marks work folders; no other folder is written to or removed."""


def work_folder(out: Path, recipe: str) -> Path:
    """Path of a work folder: next to the store, with the hash of its recipe in the name."""
    return out.parent / f".{out.name}.work-{recipe}"


def store_of(work: Path) -> Path:
    """The folder of the store that a work folder is for; see `work_folder`.

    Raises:
        UserError: It is not a work folder.
    """
    match = re.fullmatch(r"\.(.+)\.work-[0-9a-f]{16}", work.name)
    if match is None or not _is_marked(work):
        raise UserError(f"{work}: is not a work folder of `scaling data prepare`")
    return work.parent / match[1]


def begin(work: Path, out: Path) -> None:
    """Create a work folder, or resume the one of an earlier process.

    Raises:
        UserError: The path exists and is not a work folder.
        OSError: It cannot be created; the error has the name `out`.
    """
    with blame(out):
        work.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            work.mkdir()
        # A process may have been killed before it could mark the folder.
        if _is_folder(work) and not any(work.iterdir()):
            write_atomically(work / _MARK, _MARKED)
        if _is_marked(work):
            # A process may have been killed before it could move the complete folder to `out`.
            with suppress(FileNotFoundError):
                os.rename(work / _COMPLETE, work / STORE)
            with suppress(FileExistsError):
                (work / STORE).mkdir()
    if not _is_marked(work) or not _is_folder(work / STORE):
        raise UserError(f"{work}: was not made by `scaling data prepare`, which needs this path; "
                        "move it away, or choose another --out")


def seal(work: Path, files: Collection[str]) -> Path:
    """Rename the store's subfolder, and remove everything but `files` from it.

    A killed process may have left partial files, and its orphaned workers may still write; they do
    not find the subfolder under its new name.

    Returns:
        The path of the renamed subfolder.
    """
    complete = work / _COMPLETE
    os.rename(work / STORE, complete)
    for path in complete.iterdir():
        if path.name not in files:
            path.unlink()
    return complete


def remove(work: Path) -> None:
    """Remove a work folder; anything else is left alone."""
    if _is_marked(work):
        with suppress(OSError, UserError):  # a leftover is harmless and only takes space
            remove_below(work.parent, work)


def remove_all(out: Path) -> None:
    """Remove all work folders of a store, whatever their options. The lock must be held."""
    prefix = work_folder(out, "").name
    for path in out.parent.iterdir():
        if path.name.startswith(prefix) and re.fullmatch("[0-9a-f]{16}",
                                                         path.name.removeprefix(prefix)):
            remove(path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_marked(work: Path) -> bool:
    if not _is_folder(work):
        return False
    try:
        return read_bytes(work / _MARK, len(_MARKED)) == _MARKED.encode()
    except (UserError, FileNotFoundError):
        return False


@dataclass(frozen=True)
class WorkStep:
    """A step of building the store `out`, with its files in the folder `work`."""

    work: Path
    out: Path
    name: str

    def load_result(self) -> dict[str, Any] | None:
        """The result of the step; None unless it is finished and its files are intact."""
        try:
            note = parse_json(read_bytes(self._note), str(self._note))
            for name, sha256 in note["files"].items():
                with (self.work / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return None
            result = note["result"]
        except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return result if isinstance(result, dict) else None

    def finish(self, result: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
        """Mark the step as finished, and return its result.

        Args:
            result: The result, as JSON-serialisable data.
            files: SHA-256 of each file, by name in the work folder.
        """
        with blame(self.out):
            write_atomically(self._note, json.dumps({"result": result, "files": files}))
        return result

    def path(self, kind: str) -> Path:
        """Path of a file of this step."""
        return self.work / f"{self.name}.{kind}"

    def save(self, **arrays: NDArray[Any]) -> dict[str, str]:
        """Write arrays to the paths `path(name)` + ".npy"; return their SHA-256 by file name."""
        files = {}
        for kind, values in arrays.items():
            digest = hashlib.sha256()
            # Not np.save, whose error on a full disk has no errno.
            with open_atomic(path := self.path(f"{kind}.npy"), self.out) as file:
                for content in (npy_header(values.dtype, values.shape),
                                np.ascontiguousarray(values).reshape(-1).view(np.uint8).data):
                    digest.update(content)
                    file.write(content)
            files[path.name] = digest.hexdigest()
        return files

    def load(self, kind: str) -> NDArray[Any]:
        """An array written by `save`, memory-mapped."""
        values: NDArray[Any] = np.load(self.path(f"{kind}.npy"), "r", allow_pickle=False)
        return values

    def noted(self) -> bool:
        """Whether the step has been marked as finished; its files are not read."""
        return self._note.exists()

    def discard(self) -> None:
        """Remove the mark of an earlier attempt, whose files are no longer intact."""
        with blame(self.out):
            self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.path("json")


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                 "shape": shape}
    )
    return header.getvalue()


@contextmanager
def open_atomic(path: Path, out: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its final name when the `with` statement succeeds.

    Until then its name is random, so another process that writes the same file, such as an orphaned
    one or one of another machine, does no harm.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        handle = os.open(temporary, flags, 0o666)
        try:
            with os.fdopen(handle, "wb", buffering=2**20) as file:
                yield file
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # its folder may have been renamed, by `seal`
                temporary.unlink()
            raise
    except OSError as error:
        # Errors of reading the source inside the `with` statement keep their own file name.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(out), None
        raise
