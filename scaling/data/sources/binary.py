"""Detection of common binary formats by their first bytes, for error messages."""

from __future__ import annotations

from typing import NamedTuple

_ELSE = "leave it out of the source"
_UNPACK = "unpack it, and name the files in it"

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "text in UTF-32", "convert it with: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32", "convert it with: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "convert it with: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "convert it with: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "a gzip file", "give it a name that ends in .gz"),
    (b"\xfd7zXZ\0", "an xz file", "give it a name that ends in .xz"),
    (b"BZh", "a bzip2 file", "give it a name that ends in .bz2"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "give it a name that ends in .zst"),
    (b"PAR1", "a Parquet file", "read it with parquet:GLOB#FIELD"),
    (b"PK\x03\x04", "a zip archive (or an office document or wheel, which are zip archives)",
     _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a rar archive", _UNPACK),
    (b"ARROW1", "an Arrow file", "convert it to Parquet or JSON lines"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet or JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "export its text as JSON lines"),
    (b"\x89PNG", "a PNG image", _ELSE),
    (b"\xff\xd8\xff", "a JPEG image", _ELSE),
    (b"GIF8", "a GIF image", _ELSE),
    (b"RIFF", "a WebP image, a WAV or an AVI file", _ELSE),
    (b"%PDF", "a PDF document", "extract its text first"),
    (b"\xd0\xcf\x11\xe0", "an old office document", "extract its text first"),
    (b"\x7fELF", "a program", _ELSE),
    (b"\x93NUMPY", "a numpy array", _ELSE),
    (b"\x89HDF", "an HDF5 file", _ELSE),
    (b"GGUF", "a GGUF model", _ELSE),
    (b"\x80\x04\x95", "a pickle", _ELSE),
)
BINARY_HEAD = 4096
"""Number of leading bytes that are inspected."""
# Control characters that occur in text: backspace to carriage return, and escape (terminal logs).
_ALLOWED = bytes([*range(8, 14), 27])
_CONTROL = bytes(set(range(32)) - set(_ALLOWED))


class BinaryFormat(NamedTuple):
    """A detected format, and advice for the user."""

    kind: str
    fix: str


def detect_binary(content: bytes, *, is_utf8: bool) -> BinaryFormat | None:
    """The binary format of some content; None if it may be text in another encoding, or text with a
    few damaged characters.

    Args:
        content: The bytes from the start of the file.
        is_utf8: Whether they decode as UTF-8, which NUL and other control characters do.
    """
    if not is_utf8 or b"\0" in content[:BINARY_HEAD]:
        for start, kind, fix in _MAGIC:
            if content.startswith(start):
                return BinaryFormat(kind, fix)
    if content[257:262] == b"ustar":
        return BinaryFormat("a tar archive", _UNPACK)
    head = content[:BINARY_HEAD]
    controls = len(head) - len(head.translate(None, _CONTROL))
    if controls > len(head) // 10 or (b"\0" in content and not is_utf8):
        half = len(head) // 2
        sides = head[0::2].count(0), head[1::2].count(0)
        if max(sides) > half // 2 and min(sides) <= half // 50:
            # An array of small numbers, such as token ids, looks the same.
            order = "LE" if sides[1] > sides[0] else "BE"
            return BinaryFormat("text in UTF-16 without its mark, or an array of numbers",
                          f"if it is text, convert it with: iconv -f UTF-16{order} -t UTF-8; if "
                          f"not, {_ELSE}")
        return BinaryFormat("binary data", _ELSE)
    return None
