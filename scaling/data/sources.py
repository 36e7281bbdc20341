"""Where text comes from: a source string in, documents out, in an order that never changes."""

from __future__ import annotations

import difflib
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scaling.config import content_hash
from scaling.errors import UserError

CHITCHAT = "chitchat-dataset"
CHITCHAT_VERSION = "0.9.0"
CHITCHAT_SHA256 = "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"

STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "site-packages"})
"""Folders of the standard library that are no part of the corpus."""


@dataclass(frozen=True)
class Source:
    """A corpus that is here: the files that hold it, and how they are read."""

    name: str
    """The source string, as the user wrote it."""
    corpus: str
    """Short name, for tables and folders."""
    reading: str
    """How files become documents; with `sha256` it determines them."""
    files: tuple[Path, ...]
    read: Callable[[Path], Iterator[tuple[str, int]]]
    """The documents of one file, each with the bytes of the file that are read by then."""
    pinned_sha256: str | None = None
    """What `sha256` has to be, where the corpus is a published one."""

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
        digests = []
        for path in self.files:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        digest = digests[0] if len(digests) == 1 else content_hash(digests)
        if self.pinned_sha256 not in (None, digest):
            raise UserError(
                f"{self.files[0]}: not the published file (SHA-256 {digest}, expected "
                f"{self.pinned_sha256}); {_install(force=True)}"
            )
        return digest

    def documents(self) -> Iterator[tuple[str, int]]:
        """Every document with a visible character in it, and the bytes of all files read so far.

        Raises:
            UserError: a file cannot be read as this kind of source, or no document was found.
        """
        before, found = 0, False
        for path in self.files:
            for text, position in self.read(path):
                if text and not text.isspace():
                    found = True
                    yield text, before + position
            before += path.stat().st_size
        if not found:
            raise UserError(f"{self.name}: there is no text in its {_files(len(self.files))}")


@dataclass(frozen=True)
class Known:
    """A kind of source that this package can read."""

    pattern: str
    """How it is written; capitals stand for what the user fills in."""
    corpus: str
    find: Callable[[str], Source]
    text: str
    licence: str
    text_bytes: Callable[[], int] | None = None
    """UTF-8 bytes of its text."""


def find(source: str) -> Source:
    """The corpus that a source string names.

    Raises:
        UserError: no such source, it is not installed, or its glob matches no file.
    """
    if not source.isascii() and source != source.encode("utf-8", "replace").decode():
        raise UserError(f"{source!a}: a name that is no UTF-8 text; rename the file or folder")
    for known in KNOWN:
        kind, colon, _ = known.pattern.partition(":")
        if source == known.pattern or (known.corpus == "" and source.startswith(kind + colon)):
            return known.find(source)
    raise UserError(f"{source}: no source known by that name; {_nearest(source)}known are "
                    f"{', '.join(known.pattern for known in KNOWN)}")


def documents(source: str) -> Iterator[str]:
    """The documents of a source, one by one, always in the same order.

    Raises:
        UserError: no such source, it is not installed, it is empty, or a file of it is damaged.
    """
    return (text for text, _ in find(source).documents())


def _nearest(source: str) -> str:
    if glob.glob(os.path.expanduser(source), recursive=True):
        return f"did you mean text:{source}? "
    names = {word: known.pattern for known in KNOWN
             for word in (known.pattern, known.pattern.partition(":")[0], known.corpus) if word}
    near = difflib.get_close_matches(source, names, n=3, cutoff=0.5)
    patterns = list(dict.fromkeys(names[word] for word in near))
    return f"did you mean {' or '.join(patterns)}? " if patterns else ""


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text (byte {error.start:,} is 0x{content[error.start]:02x}); "
            "convert it, or leave it out of the glob"
        ) from None


# One wheel, with 7,168 conversations between two people (MIT).

def _install(force: bool = False) -> str:
    again = "--force-reinstall " if force else ""
    return f"install it with: pip install {again}{CHITCHAT}=={CHITCHAT_VERSION}"


def _chitchat(source: str) -> Source:
    try:
        # Asking the distribution, not the package, runs none of the package's code.
        distribution = importlib.metadata.distribution(CHITCHAT)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{source}: {CHITCHAT} is not installed; {_install()}") from None
    if distribution.version != CHITCHAT_VERSION:
        raise UserError(f"{source}: {CHITCHAT} {distribution.version} is installed, and its text "
                        f"is not that of {CHITCHAT_VERSION}; {_install()}")
    path = Path(str(distribution.locate_file("chitchat_dataset/dataset.json")))
    if not path.is_file():
        raise UserError(f"{path}: missing from {CHITCHAT}; {_install(force=True)}")
    return Source(source, "chitchat", source, (path,), _conversations, CHITCHAT_SHA256)


def _conversations(path: Path) -> Iterator[tuple[str, int]]:
    content = path.read_bytes()
    try:
        conversations = json.loads(content)
        size, count = len(content), len(conversations)
        del content
        for place, conversation in enumerate(conversations.values(), 1):
            texts = (said["text"] for turn in conversation["messages"] for said in turn)
            yield "\n".join(text for text in texts if text.strip()), size * place // count
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a chitchat dataset ({type(error).__name__}: {error}); "
                        f"{_install(force=True)}") from None


# The source code of Python's standard library: always there, its size depends on the version.

def _stdlib(source: str) -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in STDLIB_LEFT_OUT]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise UserError(f"{root}: holds no .py file, so this Python came without the sources of "
                        "its standard library; use another source")
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    return Source(source, "stdlib", source, tuple(found), _whole)


def _whole(path: Path) -> Iterator[tuple[str, int]]:
    content = path.read_bytes()
    yield _decode(content, str(path)), len(content)


# The user's own files.

def _text(source: str) -> Source:
    pattern = source.removeprefix("text:")
    return Source(source, _corpus_name(pattern, "text"), "text", _match(pattern, source), _whole)


def _jsonl(source: str) -> Source:
    pattern, mark, field = source.removeprefix("jsonl:").rpartition("#")
    if not mark or not field:
        raise UserError(f"{source}: which field holds the text? Write jsonl:GLOB#FIELD, for "
                        f"example {source.rstrip('#')}#text")
    files = _match(pattern, source)
    return Source(source, _corpus_name(pattern, "jsonl"), f"jsonl#{field}", files,
                  partial(_lines, field))


def _match(pattern: str, source: str) -> tuple[Path, ...]:
    matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    files = tuple(Path(match) for match in matches if os.path.isfile(match))
    if not files:
        folders = f", only folders ({matches[0]})" if matches else ""
        raise UserError(f"{source}: no file matches {pattern!r}{folders}; seen from {Path.cwd()}")
    return files


def _corpus_name(pattern: str, otherwise: str) -> str:
    """The last part of a glob that is no pattern: `books/*.txt` is called books."""
    for part in reversed(Path(pattern).parts):
        name = re.sub(r"[^A-Za-z0-9]+", "-", part.split(".")[0]).strip("-")
        if name and not glob.has_magic(part):
            return name
    return otherwise


def _lines(field: str, path: Path) -> Iterator[tuple[str, int]]:
    position = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            position += len(line)
            if not line.isspace():
                yield _field(line, field, f"{path}:{number}"), position


def _field(line: bytes, field: str, where: str) -> str:
    try:
        content: Any = json.loads(_decode(line, where))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}, where a JSON object with the "
                        f"field {field!r} is expected")
    if field not in content:
        near = difflib.get_close_matches(field, content, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(content) or 'none'}"
        raise UserError(f"{where}: has no field {field!r}; {hint}")
    text = content[field]
    if not isinstance(text, str):
        raise UserError(f"{where}: {field!r} is {text!r:.40}, where text is expected")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {field!r} has half a surrogate pair at character "
                        f"{error.start:,}, which is no text") from None
    return text


KNOWN = (
    Known("wheel:chitchat-dataset", "chitchat", _chitchat,
          "7,168 conversations between two people, in English", "MIT",
          lambda: 12_737_727),
    Known("stdlib", "stdlib", _stdlib,
          "the source code of this Python's standard library", "PSF-2.0",
          lambda: _stdlib("stdlib").size()),
    Known("text:GLOB", "", _text, "your UTF-8 files, one document each", "yours"),
    Known("jsonl:GLOB#FIELD", "", _jsonl, "your JSON lines, one document each", "yours"),
)
"""Every source, best first; those without a corpus name take a glob."""
