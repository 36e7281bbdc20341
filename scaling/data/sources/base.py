"""The `Source` of a corpus: its files, and the functions that turn them into documents."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from scaling.config import content_hash
from scaling.data.sources.binary import detect_binary
from scaling.errors import UserError
from scaling.files import blame, open_regular

Policy = Literal["refuse", "skip", "replace"]
"""Treatment of text that is not UTF-8 or contains NUL: raise an error, skip the document, or
replace invalid bytes by U+FFFD. Binary data is skipped under "skip" and is an error otherwise."""

POLICIES: tuple[str, ...] = get_args(Policy)
NOT_UTF8 = "not_utf8"
"""Key under which such documents are counted."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Part:
    """A contiguous range of a corpus, read by one worker."""

    path: Path
    """The file that contains the range, or its first file."""
    start: int = 0
    """First unit of the range; the unit depends on the format: bytes of JSON lines, row groups of
    Parquet, files of a source of whole files, members of an archive, records of a TFDS split."""
    stop: int | None = None
    """One past the last unit; None means the end of the file."""


Decode = Callable[[bytes | str, object], str | None]
"""Maps (content, location) to text; None for a skipped document. The content is bytes, or a string
that may contain a lone surrogate; the location is printed in error messages."""

Reader = Callable[[Part, Decode], Iterator[str | None]]
"""Yields the documents of a part; None for a skipped one."""

Divide = Callable[[tuple[Path, ...], int], list[Part]]
"""Maps (files of a source, target bytes per part) to its parts, in reading order."""


def one_part_per_file(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    """One part per file, for formats that can only be read whole."""
    return [Part(path) for path in files]


def group_by_size(sizes: Iterable[int], target_bytes: int) -> list[tuple[int, int]]:
    """Group consecutive items into ranges of at least `target_bytes`: (start, stop) of each."""
    cuts, total, stop = [0], 0, 0
    for stop, size in enumerate(sizes, 1):
        total += size
        if total >= target_bytes:
            cuts.append(stop)
            total = 0
    if cuts[-1] != stop:
        cuts.append(stop)
    return list(pairwise(cuts))


@dataclass(frozen=True)
class Source:
    """A corpus on this machine: its files, and the functions that read them.

    Picklable if `reader` and `divide` are: module-level functions, or `partial` objects of them.
    """

    name: str
    """The source string as written by the user."""
    corpus: str
    """Short name, for tables and folders."""
    reading: str
    """Description of how files become documents; together with `sha256` it determines them."""
    files: tuple[Path, ...]
    reader: Reader
    divide: Divide = one_part_per_file
    policy: Policy = "refuse"
    pinned_sha256: str | None = None
    """Expected value of `sha256`, for a published corpus."""
    fix: str = ""
    """Advice for the user if it differs."""
    note: str = ""
    """Remark for the user about the files that were found."""

    def size(self) -> int:
        """Total size of the files in bytes."""
        with _changed_if_missing(self.name):
            return sum(path.stat().st_size for path in self.files)

    def stamp(self) -> list[tuple[int, int]]:
        """Size and modification time of each file; they change when a file is written to."""
        with _changed_if_missing(self.name):
            return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, self.files)]

    def sha256(self) -> str:
        """SHA-256 of the file, or of the list of the files' SHA-256 if there are several.

        File and folder names do not enter it.

        Raises:
            UserError: A published corpus differs from its pinned hash.
        """
        with _changed_if_missing(self.name):
            digests = [sha256_of(path) for path in self.files]
        digest = digests[0] if len(digests) == 1 else content_hash(digests)
        if self.pinned_sha256 not in (None, digest):
            raise UserError(f"{self.files[0]}: not the published file (SHA-256 {digest}, expected "
                            f"{self.pinned_sha256}); {self.fix}")
        return digest

    def parts(self, target_bytes: int) -> list[Part]:
        """The corpus divided into parts of about `target_bytes` of its files, in reading order.

        The division depends on the files and `target_bytes` only. A format that can only be read
        from its start has one part per file.
        """
        with _changed_if_missing(self.name):
            return self.divide(self.files, target_bytes)

    def read(self, part: Part, problems: Counter[str] | None = None) -> Iterator[str]:
        """Yield the documents of a part in order, without empty and all-whitespace ones.

        Args:
            part: One of `parts`.
            problems: Incremented under "not_utf8" for each document that was skipped or repaired.

        Raises:
            UserError: A file cannot be read as this kind of source.
        """
        decode = partial(_decode, policy=self.policy,
                         problems=Counter() if problems is None else problems)
        with _changed_if_missing(self.name):
            for text in self.reader(part, decode):
                if text and not text.isspace():
                    yield text

    def documents(self, problems: Counter[str] | None = None) -> Iterator[str]:
        """Yield all documents of the corpus, in order; see `read`.

        Raises:
            UserError: A file cannot be read as this kind of source, or there is no document.
        """
        found = False
        for part in self.parts(_PART_BYTES):
            for text in self.read(part, problems):
                found = True
                yield text
        if not found:
            raise UserError(f"{self.name}: there is no text in its {_files(len(self.files))}")


@dataclass(frozen=True)
class SourceKind:
    """One entry of the list of sources: a published corpus, or a format of the user's own files."""

    pattern: str
    """Source string; words in capitals are placeholders for the user to fill in."""
    corpus: str
    """Short name; empty if the pattern has placeholders."""
    find: Callable[[str], Source]
    """Maps a source string to its `Source`; a UserError with the fix if it is not on this machine.
    """
    text: str
    """Description of the text, for the list of sources."""
    licence: str
    text_bytes: Callable[[], int] | None = None
    """Size of the text in UTF-8 bytes."""
    fetch: Callable[[], object] | None = None
    """Downloads the corpus if it is not on this machine yet."""
    package: str = ""
    """Import name of an optional package that reading it requires; empty in another package, which
    declares its own requirements."""
    extra: str = ""
    """Extra of this project that installs the optional package."""

    def missing(self) -> str | None:
        """Message that names the missing package and how to install it; None if none is missing."""
        if not self.package or importlib.util.find_spec(self.package):
            return None
        return f"needs {self.package}, which is not installed; pip install 'scaling[{self.extra}]'"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open_regular(path) as file, blame(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


_PART_BYTES = 2**26  # part size when one process reads everything; documents do not depend on it


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


@contextmanager
def _changed_if_missing(source: str) -> Iterator[None]:
    """Report a file that has disappeared since it was found as a change of the source."""
    try:
        yield
    except FileNotFoundError:
        raise source_changed(source) from None


def source_changed(source: str) -> UserError:
    """The error for a source whose files changed while they were read."""
    return UserError(f"{source}: its files changed while they were read; prepare again when "
                     "nothing writes to them")


def _decode(
    content: bytes | str, where: object, policy: Policy, problems: Counter[str]
) -> str | None:
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        if "\0" in text:
            place = (f"byte {content.index(0):,}" if isinstance(content, bytes)
                     else f"character {text.index(chr(0)) + 1:,}")
            raise UserError(f"NUL at {place}, which text must not contain")
        if isinstance(content, str):
            content.encode("utf-8")
        return text
    except (UnicodeError, UserError) as error:
        if policy != "skip" and isinstance(content, bytes):
            refuse_binary(content, where, is_utf8=isinstance(error, UserError))
        if policy == "refuse":
            raise UserError(f"{where}: {_not_utf8(error)}; convert it, leave it out, or choose "
                            "the treatment of such text (skip or replace)") from None
    problems[NOT_UTF8] += 1
    if policy == "skip":
        return None
    if isinstance(content, bytes):
        return content.decode("utf-8", "replace").replace("\0", "\ufffd")
    return _SURROGATE.sub("\ufffd", content).replace("\0", "\ufffd")


def refuse_binary(content: bytes, where: object, *, is_utf8: bool) -> None:
    """Refuse binary data, which no policy turns into a document.

    Damaged text, and text in another encoding, passes.

    Raises:
        UserError: The content is binary data.
    """
    found = detect_binary(content, is_utf8=is_utf8)
    if found is not None:
        raise UserError(f"{where}: seems to be {found.kind}, but UTF-8 text is expected; "
                        f"{found.fix}") from None


def _not_utf8(error: UnicodeError | UserError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start:,} is 0x{error.object[error.start]:02x})"
    if isinstance(error, UnicodeEncodeError):
        return f"lone surrogate at character {error.start:,}, which is not valid text"
    return str(error)
