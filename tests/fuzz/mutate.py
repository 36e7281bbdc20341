"""Valid files, changed as a crash, a slip or an attacker would change them.

`mutated(valid, draw)` draws bytes near those of a valid file: pieces cut, doubled, moved or
replaced. Where it knows the format by its content, it also changes what the format means:

    JSON, JSON lines    values replaced, removed, renamed, repeated, scaled, or put elsewhere
    CSV                 the same of cells, rows and columns
    binary              little-endian numbers that may be lengths or counts replaced by lies
    safetensors         its JSON header, with a length that fits or does not
    numpy               its header, with other types and shapes
    gzip                what is in it, compressed again
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

DEEP = 100_000
LITERALS = [
    "null", "true", "-1", "0", "1", "1.5", "1e400", "-1e400", "1e308", "-1e308", "5e-324", "NaN",
    "Infinity", "9" * 5_000, "1" + "0" * 400, "9223372036854775807", "9223372036854775808",
    "1000000000000000", "1e18", "300", '""', '"a"', '"1"', '"1.7"', '"../victim"',
    '"/etc/passwd"', '"=1+1"', r'"\u001b[2J"', r'"\ud800"', r'"\u0000"', r'"\u202e"',
    '"' + "x" * 20_000 + '"', "[]", "{}", "[[]]", "[null]", '["a"]', "[1]", "[[1, 2], [3]]",
    "[" * DEEP, '{"a":' * DEEP, "[" * 500 + "]" * 500, '{"a": ' * 500 + "1" + "}" * 500,
    '[1, "a", null]', '{"a": 1}', '{"type": "a", "content": 1}', '{"kind": "wsd"}', "2024-01-01",
]
"""What may stand where a value of a document is expected, as text: some of it is no JSON."""

KEYS = ["x", "../x", "__class__", "\u202ex", "", "a.b", "type", "kind", "layout", "run_id"]
"""What a key may be called that is added, or renamed."""

CELLS = ["", "nan", "inf", "-inf", "1e400", "-1", "0", "1e-308", "1e308", "9" * 5000, "=1+1", "1,5",
         '"', '""', "\x1b[2J", "true", "None", "1_000", " 1 ", "x", "2024-01-01", "\u202ex", "1e5"]
"""What may stand in a cell of a table."""

PIECES = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b'"', b"'", b"{", b"[", b"}",
    b"]", b",", b":", b"\t", b" ", b"-", b"=", b"#", b"|", b"\x1b[2J", b"1e999", b"NaN", b"null",
    b"true", b"9" * 30, b"9" * 5000, b"../..", b"\x00" * 64, b"\xff" * 64, b"[" * 5000, b"&a *a",
    b"!!python/object:os.system", b"<<: *a", b"? ", b"- ", b"%YAML 1.1", b"\x80\x04\x95",
    b"PK\x03\x04", b"\x1f\x8b", b'{"step": 1}', b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\ud800",
]
"""What may be put between the bytes of a file."""

LIES = [0, 1, 2, 3, 7, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**48,
        2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]
"""What a number in a binary file may be replaced by, cut to its width."""

_HOLE = "\u0000hole{}\u0000"
_SCALES = (-1, 0, 1e-300, 1e300, 1e6, 0.1)
_HEAD = 2**14
"""Bytes at the beginning of a file, which mean most in a binary one."""
_NPY = re.compile(rb"\x93NUMPY\x01\0..(\{[^\n]*\n)", re.DOTALL)
_DESCR = ["'<u8'", "'>u8'", "'<u4'", "'<f8'", "'<i8'", "'|O'", "'|V8'", "[('a', '<u8')]", "3"]
_SHAPE = ["()", "(0,)", "(1,)", "(-1,)", "(3, 7)", "(4611686018427387904,)", "(2, " * 9,
          "(18446744073709551616,)", "(True,)", "(" * 500, "(1,) * 9**9", "None"]

_LARGEST = 10**6
"""Characters that a list may take when it is repeated."""

Change = Callable[[random.Random], bytes]


def mutated(valid: bytes, draw: random.Random) -> bytes:
    """Bytes near those of a valid file."""
    changes = _changes(valid)
    # As often by its bytes alone as by what they mean.
    if not changes or draw.random() < 0.4:
        return _edited(valid, draw)
    content = draw.choice(changes)(draw)
    return _edited(content, draw) if draw.random() < 0.1 else content


@lru_cache(maxsize=8)
def _changes(valid: bytes) -> list[Change]:
    """What can be done to a file by its format."""
    if (inner := _unzipped(valid)) is not None:
        return [lambda draw: gzip.compress(mutated(inner, draw), 1, mtime=0)]
    if _is_json(valid):
        return [lambda draw: _document(json.loads(valid), draw)]
    if header := _NPY.match(valid):
        return [lambda draw: _npy(valid, header, draw), lambda draw: _lied(valid, draw)]
    length = int.from_bytes(valid[:8], "little")
    if len(valid) > 8 and _is_json(valid[8:8 + length]):
        return [lambda draw: _safetensors(valid, length, draw), lambda draw: _lied(valid, draw)]
    if b"\0" in valid:
        counts = _counts(valid)
        return [lambda draw: _lied(valid, draw), lambda draw: _lied(valid, draw, counts)]
    lines = valid.split(b"\n")
    if all(_is_json(line) for line in lines if line):
        return [lambda draw: _lines(lines, draw)]
    rows = [line.split(b",") for line in lines if line]
    if len(rows) > 1 and len(rows[0]) > 2 and all(len(row) == len(rows[0]) for row in rows):
        return [lambda draw: _table([[*row] for row in rows], draw)]
    return []


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict | list)
    except ValueError:
        return False


def _unzipped(content: bytes) -> bytes | None:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else None


def _edited(content: bytes, draw: random.Random) -> bytes:
    """One to four pieces of the file changed."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        stop = len(content) if draw.random() < 0.5 else min(len(content), _HEAD)
        first, second = sorted(draw.randint(0, stop) for _ in range(2))
        near = first + draw.choice((0, 0, 1, 1, 5, 12, 40))
        piece = draw.choice(PIECES) if draw.random() < 0.7 else draw.randbytes(draw.randint(1, 12))
        match draw.choice(("cut", "keep", "double", "move", "insert", "replace", "write", "flip")):
            case "cut":
                content = content[:first] + content[draw.choice((second, near)):]
            case "keep":
                content = content[:second]
            case "double":
                content = content[:second] + content[first:]
            case "move":
                taken = content[first:near]
                content = content[:first] + content[near:]
                place = draw.randint(0, len(content))
                content = content[:place] + taken + content[place:]
            case "insert":
                content = content[:first] + piece + content[first:]
            case "replace":
                content = content[:first] + piece + content[near:]
            case "write":
                content = content[:first] + piece + content[first + len(piece):]
            case "flip" if first < len(content):
                bit = content[first] ^ (1 << draw.randrange(8))
                content = content[:first] + bytes([bit]) + content[first + 1:]
    return content


def _document(content: Any, draw: random.Random) -> bytes:
    """A JSON document with one to four of its values changed."""
    holes: dict[str, str] = {}
    for _ in range(draw.choice((1, 1, 2, 4))):
        places = list(_places(content))
        if not places or draw.random() < 0.01:
            return draw.choice(LITERALS).encode()
        holder, key = draw.choice(places)
        value = holder[key]
        change = draw.choice(("replace", "replace", "remove", "add", "scale", "move", "swap",
                              "rename", "repeat", "wrap"))
        if change == "remove":
            del holder[key]
        elif change == "scale" and isinstance(value, int | float):
            scale = draw.choice(_SCALES)
            holder[key] = value * scale if abs(value) < 2**1000 else scale
        elif change == "move":  # a copy, which may be of what it then lies in
            other, at = draw.choice(places)
            holder[key] = json.loads(json.dumps(draw.choice([other[at], content])))
        elif change == "swap":
            other, at = draw.choice(places)
            if not (_within(value, other) or _within(other[at], holder)):
                holder[key], other[at] = other[at], value
        elif change == "rename" and isinstance(holder, dict):
            holder[draw.choice([*KEYS, f"{key}s", key.upper()])] = holder.pop(key)
        elif change == "repeat" and isinstance(value, list):
            most = _LARGEST // (len(json.dumps(value)) + 1)
            holder[key] = value * min(draw.choice((2, 2, 2000)), most)
            break  # a change of one of them would be one of all
        elif change == "wrap":
            holder[key] = draw.choice(([value], {str(key): value}, str(value)))
        else:
            hole = _HOLE.format(len(holes))
            holes[json.dumps(hole)] = draw.choice(LITERALS)
            if change == "add" and isinstance(holder, dict):
                key = draw.choice(KEYS)
            holder[key] = hole
    text = json.dumps(content, indent=draw.choice((None, None, 1)))
    for hole, literal in holes.items():
        text = text.replace(hole, literal, 1).replace(hole, "null")  # it may have been copied
    return text.encode("utf-8", "surrogatepass")


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key or index) of a document; of long lists their beginning and end."""
    keys: list[Any] = []
    if isinstance(content, dict):
        keys = [*content] if len(content) < 100 else [*content][:50]
    elif isinstance(content, list):
        keys = [*range(min(len(content), 3)), *range(max(3, len(content) - 1), len(content))]
    for key in keys:
        yield content, key
        yield from _places(content[key])


def _within(content: Any, holder: Any) -> bool:
    """Whether a holder is part of a content, so that the one cannot be put into the other."""
    return content is holder or any(_within(inner[key], holder) for inner, key in _places(content))


def _lines(lines: list[bytes], draw: random.Random) -> bytes:
    """JSON lines with one of them changed, or in another order."""
    lines = [*lines]
    place = draw.randrange(len(lines))
    change = draw.choice(("value", "value", "value", "order", "double", "join"))
    if change == "order":
        draw.shuffle(lines)
    elif change == "double":
        lines.insert(draw.randrange(len(lines)), lines[place])
    elif change == "join":
        lines[place:place + 2] = [b"".join(lines[place:place + 2])]
    elif lines[place]:
        lines[place] = _document(json.loads(lines[place]), draw)
    return b"\n".join(lines)


def _table(rows: list[list[bytes]], draw: random.Random) -> bytes:
    """A CSV table with cells, rows or columns changed."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        row, column = draw.randrange(len(rows)), draw.randrange(len(rows[0]))
        change = draw.choice(("cell", "cell", "cell", "move", "column", "swap", "row", "name"))
        if change == "move":
            other = draw.choice(rows)
            rows[row][column:column + 1] = [draw.choice(other or [b""])]
        elif change == "column":
            for each in rows:
                each[column:column + 1] = draw.choice(([], [draw.choice(CELLS).encode()]))
        elif change == "swap":
            for each in rows:
                each.insert(draw.randrange(len(each) + 1), each[column] if column < len(each)
                            else b"")
        elif change == "row":
            rows[row:row] = [[*rows[row]]] * draw.choice((1, 3))
        elif change == "name" and rows[0]:
            rows[0][column % len(rows[0])] = draw.choice(rows[0])
        else:
            rows[row][column:column + 1] = [draw.choice(CELLS).encode()]
        if not rows[0]:
            break
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def _lied(content: bytes, draw: random.Random, places: list[int] | None = None) -> bytes:
    """Little-endian numbers at one to three places replaced by lies, or by their neighbours."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(places) if places else draw.randrange(min(len(content), _HEAD))
        width = 8 if places else draw.choice((1, 2, 4, 8))
        old = int.from_bytes(changed[at:at + width], "little")
        new = draw.choice([*LIES, old + 1, old - 1, old * 2, len(content)]) % 2**(8 * width)
        changed[at:at + width] = new.to_bytes(width, "little")
    return bytes(changed)


def _counts(content: bytes) -> list[int]:
    """Where 8 bytes may be a length: a number below that of the file's bytes."""
    head = content[:_HEAD]
    return [at for at in range(len(head) - 8)
            if 0 < struct.unpack_from("<Q", head, at)[0] < len(content)]


def _safetensors(content: bytes, length: int, draw: random.Random) -> bytes:
    header = _document(json.loads(content[8:8 + length]), draw)
    length_field = len(header) if draw.random() < 0.9 else draw.choice(LIES)
    return length_field.to_bytes(8, "little") + header + content[8 + length:]


def _npy(content: bytes, header: re.Match[bytes], draw: random.Random) -> bytes:
    text = (f"{{'descr': {draw.choice(_DESCR)}, 'fortran_order': {draw.choice(['False', 'True'])}, "
            f"'shape': {draw.choice(_SHAPE)}, }}")
    if draw.random() < 0.3:  # the size of the header does not change what the file is
        text = header[1].decode("latin-1").rstrip()
    text = text.ljust(draw.choice((len(header[1]) - 1, len(header[1]), 5000)))
    body = f"{text}\n".encode("latin-1")
    return content[:8] + struct.pack("<H", len(body) % 2**16) + body + content[header.end():]
