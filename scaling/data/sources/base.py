"""What a source of text is: files, and how they become documents."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from scaling.config import content_hash
from scaling.errors import UserError

Policy = Literal["refuse", "skip", "replace"]
"""What happens to text that is not UTF-8: the work stops, the document is left out, or U+FFFD
stands for what cannot be read."""

POLICIES: tuple[str, ...] = get_args(Policy)
NOT_UTF8 = "not_utf8"
"""The problem under which such documents are counted."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Part:
    """A piece of a corpus that one worker reads on its own."""

    path: Path
    """The file that it lies in, or begins with."""
    start: int = 0
    """Where it begins, in the unit of the format: bytes of JSON lines, row groups of Parquet,
    files of a source whose documents are files, members of an archive, records of a TFDS split."""
    stop: int | None = None
    """Where it ends; None is the end of the file."""


Decode = Callable[[bytes | str, object], str | None]
"""Bytes (or a string that may hold half a surrogate pair) and where they stand, as a message is
to print it, to text; None for a document that is left out."""

Reader = Callable[[Part, Decode], Iterator[str | None]]
"""The documents of a part; None for those that are left out."""

Divide = Callable[[tuple[Path, ...], int], list[Part]]
"""The files of a source and a number of bytes to its parts, in the order of reading."""


def by_file(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    """One part for each file, for formats that are read whole."""
    return [Part(path) for path in files]


def runs(sizes: Iterable[int], target_bytes: int) -> list[tuple[int, int]]:
    """Neighbours put together until they have `target_bytes`: (start, stop) of each run."""
    cuts, size, stop = [0], 0, 0
    for stop, more in enumerate(sizes, 1):
        size += more
        if size >= target_bytes:
            cuts.append(stop)
            size = 0
    if cuts[-1] != stop:
        cuts.append(stop)
    return list(pairwise(cuts))


@dataclass(frozen=True)
class Source:
    """A corpus that is here: the files that hold it, and how they are read.

    It can be pickled when `reader` and `divide` can: functions of a module, or `partial` of them.
    """

    name: str
    """The source string, as the user wrote it."""
    corpus: str
    """Short name, for tables and folders."""
    reading: str
    """How files become documents; with `sha256` it determines them."""
    files: tuple[Path, ...]
    reader: Reader
    divide: Divide = by_file
    policy: Policy = "refuse"
    pinned_sha256: str | None = None
    """What `sha256` has to be, where the corpus is a published one."""
    mend: str = ""
    """What to do when it is not."""
    note: str = ""
    """What the user should know about what was found."""

    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.files)

    def stamp(self) -> list[tuple[int, int]]:
        """Size and time of change of each file: other values mean that somebody wrote to it."""
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, self.files)]

    def sha256(self) -> str:
        """SHA-256 of the file, or of the list of the files' SHA-256 where there are several.

        Names and folders are no part of it.

        Raises:
            UserError: a published corpus is not the one that was published.
        """
        digests = [sha256_of(path) for path in self.files]
        digest = digests[0] if len(digests) == 1 else content_hash(digests)
        if self.pinned_sha256 not in (None, digest):
            raise UserError(f"{self.files[0]}: not the published file (SHA-256 {digest}, expected "
                            f"{self.pinned_sha256}); {self.mend}")
        return digest

    def parts(self, target_bytes: int) -> list[Part]:
        """The corpus in pieces of about `target_bytes` of its files, in the order of reading.

        Files and `target_bytes` alone decide where the cuts lie. A format that can only be read
        from its start has a part for each file.
        """
        return self.divide(self.files, target_bytes)

    def read(self, part: Part, problems: Counter[str] | None = None) -> Iterator[str]:
        """The documents of a part that have a visible character, in order.

        Args:
            part: one of `parts`.
            problems: counts "not_utf8", the documents that were left out or mended for it.

        Raises:
            UserError: a file cannot be read as this kind of source.
        """
        decode = partial(_decode, policy=self.policy,
                         problems=Counter() if problems is None else problems)
        for text in self.reader(part, decode):
            if text and not text.isspace():
                yield text

    def documents(self, problems: Counter[str] | None = None) -> Iterator[str]:
        """Every document of the corpus, in order; see `read`.

        Raises:
            UserError: a file cannot be read as this kind of source, or no document was found.
        """
        found = False
        for part in self.parts(_PART_BYTES):
            for text in self.read(part, problems):
                found = True
                yield text
        if not found:
            raise UserError(f"{self.name}: there is no text in its {_files(len(self.files))}")


@dataclass(frozen=True)
class Known:
    """A kind of source that this package can read."""

    pattern: str
    """How it is written; capitals stand for what the user fills in."""
    corpus: str
    """Short name; empty for a kind that the user fills in."""
    find: Callable[[str], Source]
    """The source, where it is on this machine; a UserError says how it gets there."""
    text: str
    licence: str
    text_bytes: Callable[[], int] | None = None
    """UTF-8 bytes of its text."""
    fetch: Callable[[], object] | None = None
    """Brings it to this machine, unless it is there."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PART_BYTES = 2**26  # at a time, where one process reads all; documents do not depend on it


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _decode(
    content: bytes | str, where: object, policy: Policy, problems: Counter[str]
) -> str | None:
    try:
        if isinstance(content, bytes):
            return content.decode("utf-8")
        content.encode("utf-8")
        return content
    except UnicodeError as error:
        if policy == "refuse":
            raise UserError(f"{where}: {_not_utf8(error)}; convert it, leave it out, or choose "
                            "what happens to such text (skip or replace)") from None
    problems[NOT_UTF8] += 1
    if policy == "skip":
        return None
    if isinstance(content, bytes):
        return content.decode("utf-8", "replace")
    return _SURROGATE.sub("\ufffd", content)


def _not_utf8(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start:,} is 0x{error.object[error.start]:02x})"
    assert isinstance(error, UnicodeEncodeError)
    return f"half a surrogate pair at character {error.start:,}, which is no text"
