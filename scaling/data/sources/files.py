"""The user's own files: text, JSON lines and Parquet."""

from __future__ import annotations

import difflib
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from scaling.data.sources.base import Decode, Part, Source, runs
from scaling.errors import UserError

_NUMBERING_BYTES = 2**20  # read at a time when the lines before an error are counted


def find_text(source: str) -> Source:
    """`text:GLOB`: every file a document, gzipped where its name ends in .gz."""
    pattern = source.removeprefix("text:")
    return of_files(source, corpus_name(pattern, "text"), "text", match(pattern, source))


def find_jsonl(source: str) -> Source:
    """`jsonl:GLOB#FIELD`: every line a document, gzipped where the file's name ends in .gz."""
    pattern, field = field_of(source)
    return Source(source, corpus_name(pattern, "jsonl"), f"jsonl#{field}", match(pattern, source),
                  partial(_lines, field), _by_bytes)


def of_files(name: str, corpus: str, reading: str, files: tuple[Path, ...],
             note: str = "") -> Source:
    """A source whose documents are whole files; a part is a run of them."""
    return Source(name, corpus, reading, files, partial(_whole, files), _by_files, note=note)


def field_of(source: str) -> tuple[str, str]:
    """The glob and the field of KIND:GLOB#FIELD."""
    kind, _, rest = source.partition(":")
    pattern, mark, field = rest.rpartition("#")
    if not mark or not field:
        raise UserError(f"{source}: which field holds the text? Write {kind}:GLOB#FIELD, for "
                        f"example {source.rstrip('#')}#text")
    return pattern, field


def match(pattern: str, source: str) -> tuple[Path, ...]:
    """The files that a glob stands for, in the order of their names."""
    matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    files = tuple(Path(found) for found in matches if os.path.isfile(found))
    if not files:
        folders = f", only folders ({matches[0]})" if matches else ""
        raise UserError(f"{source}: no file matches {pattern!r}{folders}; seen from {Path.cwd()}")
    return files


def corpus_name(pattern: str, otherwise: str) -> str:
    """The last part of a glob that is no pattern: `books/*.txt` is called books."""
    for part in reversed(Path(pattern).parts):
        name = re.sub(r"[^A-Za-z0-9]+", "-", part.split(".")[0]).strip("-")
        if name and not glob.has_magic(part):
            return name
    return otherwise


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


# Whole files.

def _by_files(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    sizes = (path.stat().st_size for path in files)
    return [Part(files[start], start, stop) for start, stop in runs(sizes, target_bytes)]


def _whole(files: tuple[Path, ...], part: Part, decode: Decode) -> Iterator[str | None]:
    for path in files[part.start:part.stop]:
        try:
            with _open(path) as file:
                content = file.read()
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _damaged(path, error) from None
        yield decode(content, str(path))


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a whole gzip file ({error}); fetch or compress it again")


# JSON lines.

def _by_bytes(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    parts = []
    for path in files:
        size = path.stat().st_size
        # A gzip file can only be read from its start.
        count = 1 if path.suffix == ".gz" else max(1, round(size / target_bytes))
        cuts = [size * place // count for place in range(count + 1)]
        parts += [Part(path, *cut) for cut in zip(cuts, [*cuts[1:-1], None], strict=False)]
    return parts


def _lines(field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The lines whose first byte lies in the part."""
    try:
        with _open(part.path) as file:
            position = part.start
            if position:
                file.seek(position - 1)
                position += len(file.readline()) - 1
            for line in file:
                if part.stop is not None and position >= part.stop:
                    return
                if not line.isspace():
                    yield _field(line, field, _Line(part.path, position), decode)
                position += len(line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(part.path, error) from None


class _Line(NamedTuple):
    """A line, named with its number, which nobody counts before it is printed."""

    path: Path
    position: int
    """Bytes of the file before it, decompressed."""

    def __str__(self) -> str:
        number, left = 1, self.position
        with _open(self.path) as file:
            while left and (content := file.read(min(left, _NUMBERING_BYTES))):
                number += content.count(b"\n")
                left -= len(content)
        return f"{self.path}:{number}"


def _field(line: bytes, field: str, where: _Line, decode: Decode) -> str | None:
    decoded = decode(line, where)
    if decoded is None:
        return None
    try:
        content: Any = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}, where a JSON object with the "
                        f"field {field!r} is expected")
    if field not in content:
        raise UserError(f"{where}: has no field {field!r}; {nearest_field(field, list(content))}")
    text = content[field]
    if not isinstance(text, str):
        raise UserError(f"{where}: {field!r} is {text!r:.40}, where text is expected")
    # Only an escape can bring in half a surrogate pair, which no UTF-8 holds.
    return text if text.isascii() or b"\\u" not in line else decode(text, where)


def nearest_field(field: str, there: list[str]) -> str:
    """What to say about a field that is not there."""
    near = difflib.get_close_matches(field, there, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(there) or 'none'}"
