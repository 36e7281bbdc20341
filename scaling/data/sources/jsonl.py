"""JSON lines: every line is an object, and one of its fields a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from scaling.data.sources.base import Decode, Part, Source, refuse_binary
from scaling.data.sources.binary import BINARY_HEAD
from scaling.data.sources.compressed import is_compressed, open_decompressed
from scaling.data.sources.files import (
    BYTE_ORDER_MARK,
    corpus_name,
    match_files,
    split_field,
    suggest_field,
)
from scaling.errors import UserError

LONGEST_LINE = 64 * 2**20
"""Largest length of a line in bytes. Its parsed JSON can need 25 times as much memory."""

_NUMBERING_BYTES = 2**20  # block size for counting the lines before an error

_TYPE_NAMES = {dict: "an object", list: "a list", bool: "true or false", int: "a number",
               float: "a number", type(None): "null", str: "text"}


def find_jsonl(source: str) -> Source:
    """`jsonl:GLOB#FIELD`: a document per line, decompressed if the file's name ends in .gz, .xz,
    .bz2 or .zst.

    `#doc.text` is the field `text` of the object `doc`, unless there is a field `doc.text`. Lines
    end in LF or CR LF; blank ones are skipped.
    """
    pattern, field = split_field(source)
    return Source(source, corpus_name(pattern, "jsonl"), f"jsonl#{field}",
                  match_files(pattern, source), partial(_documents, field), _by_bytes)


def _by_bytes(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    parts = []
    for path in files:
        size = path.stat().st_size
        count = 1 if is_compressed(path) else max(1, round(size / target_bytes))
        cuts = [size * place // count for place in range(count + 1)]
        parts += [Part(path, *cut) for cut in zip(cuts, [*cuts[1:-1], None], strict=False)]
    return parts


def _documents(field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The documents of the lines whose first byte lies in the part."""
    with open_decompressed(part.path) as file:
        position = part.start
        if position:
            file.seek(position - 1)
            position += len(_read_line(file, _Location(part.path, position))) - 1
        while part.stop is None or position < part.stop:
            where = _Location(part.path, position)
            line = _read_line(file, where)
            if not line:
                return
            content = line if position else line.removeprefix(BYTE_ORDER_MARK)
            if content.strip():
                yield _field(content, field, where, decode)
            position += len(line)


class _Location(NamedTuple):
    """A line of a file, printed as PATH:LINE; the line number is only counted when printed."""

    path: Path
    position: int
    """Offset of the line in decompressed bytes."""

    def __str__(self) -> str:
        number, left = 1, self.position
        with open_decompressed(self.path) as file:
            while left and (content := file.read(min(left, _NUMBERING_BYTES))):
                number += content.count(b"\n")
                left -= len(content)
        return f"{self.path}:{number}"


def _read_line(file: BinaryIO, where: _Location) -> bytes:
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        refuse_binary(line[:BINARY_HEAD], where, is_utf8=True)
        raise UserError(f"{where}: a line of more than {LONGEST_LINE / 1e6:,.0f} MB, which is too "
                        "long for one document; split it into several lines")
    return line


def _field(line: bytes, field: str, where: _Location, decode: Decode) -> str | None:
    decoded = decode(line, where)
    if decoded is None:
        return None
    content = _parsed(decoded, where)
    if not isinstance(content, dict):
        raise UserError(f"{where}: is {_TYPE_NAMES[type(content)]}, but a JSON object with the "
                        f"field {field!r} is expected")
    text = _value(content, field, where)
    if not isinstance(text, str):
        raise UserError(f"{where}: {field!r} is {_TYPE_NAMES[type(text)]}, but text is expected; "
                        "remove the line, or name another field")
    # Only an escape can produce NUL, or a lone surrogate, which UTF-8 cannot encode.
    return decode(text, where) if b"\\u" in line else text


def _parsed(line: str, where: _Location) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1:,}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError:
        problem = "a number of more than 4,300 digits"
    if where.position == 0:
        refuse_binary(line.encode(), where, is_utf8=False)
    raise UserError(f"{where}: not a line of JSON ({problem}); every line must be one JSON object "
                    "with the field that contains the text")


def _value(content: dict[str, Any], field: str, where: _Location) -> Any:
    """The value of a field, given by its own name or by a dotted path."""
    inside, rest = content, field
    while rest not in inside:
        name, dot, rest = rest.partition(".")
        if not dot or name not in inside:
            raise UserError(f"{where}: has no field {field!r}; "
                            f"{suggest_field(name, list(inside))}")
        if not isinstance(inside[name], dict):
            raise UserError(f"{where}: {name!r} is {_TYPE_NAMES[type(inside[name])]}, but an "
                            f"object with the field {rest!r} is expected")
        inside = inside[name]
    return inside[rest]
