"""The folder in which a store is made: what is finished in it stays finished.

Every step of the work writes its files, then a note of them with their SHA-256. A step whose note
is there and whose files are those of the note is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scaling.files import blame, write_atomically

LAYOUT = 2
"""Of the files in it: work of another layout is not gone on with."""

STORE = "store"
"""Folder inside a work folder that becomes the store."""


@dataclass(frozen=True)
class Step:
    """One step of the work on the store `out`, in the folder `work`."""

    work: Path
    out: Path
    name: str

    def finished(self) -> dict[str, Any] | None:
        """What the step came to, if it is finished and its files are whole."""
        try:
            note = json.loads(self._note.read_bytes())
            for name, sha256 in note["files"].items():
                with (self.work / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        result: dict[str, Any] = note["result"]
        return result

    def finish(self, result: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
        """Note that the step is done.

        Args:
            result: what it came to, of plain data.
            files: SHA-256 of each file, by its name in the work folder.
        """
        with blame(self.out):
            write_atomically(self._note, json.dumps({"result": result, "files": files}))
        return result

    def path(self, kind: str) -> Path:
        """A file of this step."""
        return self.work / f"{self.name}.{kind}"

    def save(self, **arrays: NDArray[Any]) -> dict[str, str]:
        """Write arrays as `path(name)` + ".npy"; return their SHA-256 by name of the file."""
        files = {}
        for kind, values in arrays.items():
            digest = hashlib.sha256()
            # Not by numpy, which turns a full disk into an error without a number.
            with written(path := self.path(f"{kind}.npy"), self.out) as file:
                for content in (npy_header(values.dtype, values.shape),
                                np.ascontiguousarray(values).reshape(-1).view(np.uint8).data):
                    digest.update(content)
                    file.write(content)
            files[path.name] = digest.hexdigest()
        return files

    def load(self, kind: str) -> NDArray[Any]:
        """An array that `save` wrote, mapped into memory."""
        values: NDArray[Any] = np.load(self.path(f"{kind}.npy"), "r", allow_pickle=False)
        return values

    @property
    def _note(self) -> Path:
        return self.path("json")


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What numpy's files have before the values of an array."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                 "shape": shape}
    )
    return header.getvalue()


@contextmanager
def written(path: Path, out: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when the body of the `with` ends well.

    Until then its name is this process's own: one that was orphaned and still writes the same
    file does no harm.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb", buffering=2**20) as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        # Not that of a source whose reading failed inside the `with`: it names its own file.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(out), None
        raise
