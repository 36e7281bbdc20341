"""Untrusted files are read as text, or refused with one message, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import sys
import tracemalloc
import types
import zlib
from collections import Counter
from pathlib import Path

import pytest

from scaling.data import sources
from scaling.data.sources import compressed, files, jsonl
from scaling.errors import UserError

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read

ROW = json.dumps({"text": "zip é"}).encode() + b"\n"


def frame(content: bytes) -> bytes:
    """A zstd frame of raw blocks (RFC 8878)."""
    blocks = [content[i:i + 2**16] for i in range(0, len(content), 2**16)] or [b""]
    body = b"".join(((len(block) << 3) | (place == len(blocks) - 1)).to_bytes(3, "little") + block
                    for place, block in enumerate(blocks))
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content)) + body


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_decompressed(tmp_path, suffix):
    compress = COMPRESS[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    padding = b"\0" * 8 if suffix != ".bz2" else b""
    path.write_bytes(compress(ROW * 3) + compress(b"") + compress(ROW[:-1]) + padding)
    source = f"jsonl:{path}#text"
    assert list(sources.documents(source)) == ["zip é"] * 4
    assert len(sources.find(source).parts(1)) == 1
    large = bytes(range(32, 127)) * 20_000
    (tmp_path / f"a.txt{suffix}").write_bytes(compress(large))
    assert list(sources.documents(f"text:{tmp_path}/*.txt{suffix}")) == [large.decode()]


@pytest.mark.parametrize("suffix", [".xz", ".bz2"])
@pytest.mark.parametrize("padding", [0, 8])
def test_a_stream_may_end_where_a_read_does(tmp_path, monkeypatch, suffix, padding):
    """Or the zeros after it; the next stream begins with the next read."""
    first = COMPRESS[suffix](ROW) + bytes(padding)
    monkeypatch.setattr(compressed, "_BUFFER", len(first))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(first + COMPRESS[suffix](ROW * 2))
    assert list(sources.documents(f"jsonl:{tmp_path}/a.jsonl{suffix}#text")) == ["zip é"] * 3


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", [
    lambda whole: whole[:-5], lambda whole: whole[:len(whole) // 2], lambda whole: whole[:3],
    lambda whole: b"no such file", lambda whole: whole + b"more",
    lambda whole: whole[:40] + bytes(64) + whole[104:],
])
def test_damaged_files_are_named(tmp_path, suffix, damage):
    content = b"".join(b'{"text": "%d"}\n' % (i * 7919) for i in range(2000))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damage(COMPRESS[suffix](content)))
    for source in (f"text:{path}", f"jsonl:{path}#text"):
        with pytest.raises(UserError,
                           match=rf"a{suffix}: not a complete [a-z0-9]+ file; download") as e:
            list(sources.documents(source))
        assert "\n" not in str(e.value)


def test_without_a_zstd_library_the_message_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    (tmp_path / "a.jsonl.zst").write_bytes(frame(ROW))
    with pytest.raises(UserError, match=r"pip install 'scaling\[zstd\]'$"):
        list(sources.documents(f"jsonl:{tmp_path}/a.jsonl.zst#text"))


def zstd_libraries() -> list[str]:
    return [name for name in ("compression.zstd", "zstandard") if _there(name)]


def _there(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


@pytest.mark.skipif(not zstd_libraries(), reason="needs Python 3.14 or zstandard")
def test_zstd_files(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip"
    path.write_bytes(frame(ROW * 3) + skippable + frame(ROW * 20_000) + frame(b"") + frame(ROW))
    assert len(list(sources.documents(f"jsonl:{path}#text"))) == 20_004
    for damaged in (frame(ROW * 3)[:-2], frame(ROW)[:4], b"none", frame(ROW) + b"more"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a complete zstd file"):
            list(sources.documents(f"jsonl:{path}#text"))
    # A window of 2 GB, declared in the header.
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\0\0")
    with pytest.raises(UserError, match="of memory to decompress"):
        list(sources.documents(f"jsonl:{path}#text"))


class _Frame:
    """A stub of a `zstandard` decompressor: one frame of known size."""

    eof, unused_data = False, b""

    def decompress(self, data: bytes) -> bytes:
        taken = 9 + 3 + len(ROW)
        self._got = getattr(self, "_got", b"") + data
        if len(self._got) < taken:
            return b""
        self.eof, self.unused_data = True, self._got[taken:]
        return self._got[12:taken]


def test_zstd_by_a_library_without_limits(tmp_path, monkeypatch):
    library = types.SimpleNamespace(ZstdDecompressor=lambda max_window_size: types.SimpleNamespace(
        decompressobj=_Frame))
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", library)
    (tmp_path / "a.jsonl.zst").write_bytes(frame(ROW) * 200)
    assert len(list(sources.documents(f"jsonl:{tmp_path}/a.jsonl.zst#text"))) == 200
    (tmp_path / "a.jsonl.zst").write_bytes(frame(ROW) * 200 + frame(ROW)[:-1])
    with pytest.raises(UserError, match="not a complete zstd file"):
        list(sources.documents(f"jsonl:{tmp_path}/a.jsonl.zst#text"))


def test_an_xz_file_that_needs_much_memory_is_refused(tmp_path, monkeypatch):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**26}]
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"text", filters=filters))
    assert list(sources.documents(f"text:{tmp_path}/a.xz")) == ["text"]
    monkeypatch.setattr(compressed, "_MEMORY_BYTES", 2**24)
    with pytest.raises(UserError, match=r"a\.xz: needs more than 17 MB of memory"):
        list(sources.documents(f"text:{tmp_path}/a.xz"))


@pytest.mark.parametrize("suffix", ["", *COMPRESS])
def test_a_line_or_a_file_can_be_too_long(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 10**6)
    monkeypatch.setattr(files, "LARGEST_TEXT", 10**6)
    content = ROW + b'{"text": "' + b"a" * 10**7 + b'"}\n'
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS.get(suffix, bytes)(content))
    found = sources.find(f"jsonl:{path}#text")
    for size in (10**9, 2 * 10**6):
        with pytest.raises(UserError, match=rf"a{suffix}:2: a line of more than 1 MB, .* split"):
            [list(found.read(part)) for part in found.parts(size)]
    # From a part that starts in the middle of the line.
    if not suffix:
        with pytest.raises(UserError, match="a line of more than 1 MB"):
            list(found.read(found.parts(10**6)[3]))
    with pytest.raises(UserError, match=rf"a{suffix}: contains more than 1 MB of text"):
        list(sources.documents(f"text:{path}"))
    path.write_bytes(COMPRESS.get(suffix, bytes)(bytes(10**7)))
    for source in (f"text:{path}", f"jsonl:{path}#text"):
        with pytest.raises(UserError, match=r"seems to be binary data"):
            list(sources.documents(source))


@pytest.mark.parametrize("suffix", ["", *COMPRESS])
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_overlong_content_is_refused_in_bounded_memory(tmp_path, monkeypatch, suffix, kind):
    """However large the content of a small compressed file is."""
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 10**5)
    monkeypatch.setattr(files, "LARGEST_TEXT", 10**5)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS.get(suffix, bytes)(b'{"text": "' + b"a" * 3 * 10**7 + b'"}\n'))
    source = f"text:{path}" if kind == "text" else f"jsonl:{path}#text"
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 0 MB"):
            list(sources.documents(source))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 10**7


def test_limits_are_far_above_real_documents():
    assert jsonl.LONGEST_LINE >= 64e6
    assert files.LARGEST_TEXT >= 256e6


@pytest.mark.parametrize(("content", "expected"), [
    (b"\xef\xbb\xbf" + ROW + ROW, ["zip é", "zip é"]),
    (ROW[:-1] + b"\r\n\r\n" + ROW[:-1] + b"\r\n", ["zip é", "zip é"]),
    (b'{"text": "a\\r\\nb\\u00e9"}', ["a\r\nb\u00e9"]),
    (b"\xef\xbb\xbf", None),
    (b"\n \n\t\r\n", None),
    (b"", None),
])
def test_line_endings_and_byte_order_marks(tmp_path, content, expected):
    (tmp_path / "a.jsonl").write_bytes(content)
    source = f"jsonl:{tmp_path}/a.jsonl#text"
    if expected is None:
        with pytest.raises(UserError, match="there is no text in its 1 file"):
            list(sources.documents(source))
    else:
        assert list(sources.documents(source)) == expected
        found = sources.find(source)
        assert [text for part in found.parts(7) for text in found.read(part)] == expected


def test_text_keeps_line_endings_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\r".encode())
    assert list(sources.documents(f"text:{tmp_path}/a.txt")) == ["one\r\ntwo\r"]


@pytest.mark.parametrize(("row", "field", "expected"), [
    ({"doc": {"text": "a"}}, "doc.text", "a"),
    ({"doc.text": "b", "doc": {"text": "a"}}, "doc.text", "b"),
    ({"doc": {"a.b": "c"}}, "doc.a.b", "c"),
    ({"a": {"b": {"c": {"d": "e"}}}}, "a.b.c.d", "e"),
    ({"": {"": "f"}}, ".", "f"),
    ({"a": {"b": 1}}, "a.b", "'a.b' is a number, but text is expected"),
    ({"a": {"txt": "x"}}, "a.text", "has no field 'a.text'; did you mean 'txt'?"),
    ({"a": "x"}, "a.text", "'a' is text, but an object with the field 'text' is expected"),
    ({"a": ["x"]}, "a.0", "'a' is a list, but an object with the field '0' is expected"),
    ({"b": "x"}, "a.text", "has no field 'a.text'; it has b"),
])
def test_nested_fields(tmp_path, row, field, expected):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    source = f"jsonl:{tmp_path}/a.jsonl#{field}"
    if len(expected) == 1:
        assert list(sources.documents(source)) == [expected]
    else:
        with pytest.raises(UserError) as error:
            list(sources.documents(source))
        assert expected in str(error.value)


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0"
BINARY = {
    "png": (PNG, "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document, .*; extract"),
    "gzip": (gzip.compress(b"text"), "a gzip file, .*ends in .gz"),
    "xz": (lzma.compress(b"text"), "an xz file, .*ends in .xz"),
    "bzip2": (bz2.compress(b"text"), "a bzip2 file, .*ends in .bz2"),
    "zstd": (frame(b"text"), "a zstd file, .*ends in .zst"),
    "parquet": (b"PAR1\x15\x04\x15\x80\0\0PAR1", "a Parquet file, .*; read it with parquet:"),
    "zip": (b"PK\x03\x04\x14\0\0\0\x08\0\xff", "a zip archive"),
    "tar": (b"a.txt".ljust(257, b"\0") + b"ustar\0" + b"0" * 200, "a tar archive, .*; unpack"),
    "utf-16": ("text é\n".encode("utf-16"), "text in UTF-16, .*iconv -f UTF-16 "),
    "utf-16-le": ("some text\n".encode("utf-16-le"),
                  "text in UTF-16 without its mark, or an array .*iconv -f UTF-16LE"),
    "utf-16-be": ("some text\n".encode("utf-16-be"),
                  "text in UTF-16 without its mark, or an array .*iconv -f UTF-16BE"),
    "ids": (b"t\0o\0k\0e\0n\0s\0\1\1",
            "text in UTF-16 .*, or an array of numbers, .*if not, leave it out"),
    "utf-32": ("some text\n".encode("utf-32"), "text in UTF-32"),
    "zeros": (bytes(1000), "binary data, .*; leave it out"),
    "noise": (zlib.compress(bytes(10)) + bytes(range(256)), "binary data, .*; leave it out"),
    "program": (b"\x7fELF\2\1\1\0\0\0", "a program"),
    "sqlite": (b"SQLite format 3\0\x10", "an SQLite database"),
}


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("policy", ["refuse", "replace", "skip"])
def test_binary_data_is_refused_or_skipped(tmp_path, kind, policy):
    content, message = BINARY[kind]
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(b"text")
    source = sources.find(f"text:{tmp_path}/*.txt", policy)
    if policy == "skip":
        problems = Counter()
        assert list(source.documents(problems)) == ["text"]
        assert problems == {"not_utf8": 1}
        return
    for each in (source, sources.find(f"jsonl:{tmp_path}/a.txt#text", policy)):
        with pytest.raises(UserError, match=rf"a\.txt(:1)?: seems to be {message}") as error:
            list(each.documents())
        assert "replace" not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_stray_nul_is_reported_as_such(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text " * 20 + b"\0.")
    with pytest.raises(UserError,
                       match=r"a\.txt: NUL at byte 100, which text must not contain; convert"):
        list(sources.documents(f"text:{tmp_path}/a.txt"))
    source = sources.find(f"text:{tmp_path}/a.txt", "replace")
    assert list(source.documents()) == ["text " * 20 + "\ufffd."]


def test_pipes_devices_and_broken_links_are_not_opened(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "folder.txt").mkdir()
    assert list(sources.documents(f"text:{tmp_path}/*")) == ["a"]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, message in (("pipe", "a pipe or device"), ("zero", "a pipe or device"),
                          ("gone", "a broken link"), ("loop", "a broken link"),
                          ("*", "a pipe or device|a link to")):
        for kind in (f"text:{tmp_path}/{name}", f"jsonl:{tmp_path}/{name}#text"):
            with pytest.raises(UserError, match=message):
                sources.find(kind)
    # A file that is replaced by one after it was found.
    source = sources.find(f"text:{tmp_path}/a.txt")
    (tmp_path / "a.txt").unlink()
    for read in (source.sha256, source.size, source.stamp, lambda: list(source.documents()),
                 lambda: source.parts(1)):
        with pytest.raises(UserError, match="its files changed while they were read"):
            read()
    os.mkfifo(tmp_path / "a.txt")
    for read in (source.sha256, lambda: list(source.documents())):
        with pytest.raises(UserError, match=r"a\.txt: is a pipe or device"):
            read()
    monkeypatch.setattr(files, "MOST_FILES", 3)
    for i in range(4):
        (tmp_path / f"{i}.md").write_text("x")
    with pytest.raises(UserError, match=r"matches more than 3 files; put .*jsonl:GLOB#FIELD"):
        sources.find(f"text:{tmp_path}/*.md")


def test_deep_nesting_is_named(tmp_path):
    path = Path(tmp_path, "a.jsonl")
    path.write_text('{"text": ' + "[" * 10**6)
    with pytest.raises(UserError, match="nested too deeply"):
        list(sources.documents(f"jsonl:{path}#text"))
