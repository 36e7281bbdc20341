"""Inconsistent GGUF files give one message, in bounded time and memory."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop.gguf import from_gguf
from scaling.interop.gguf_file import read_gguf
from tests.fuzz.limits import little_memory
from tests.interop.test_gguf import random_tensors, write

pytestmark = pytest.mark.usefixtures("ends")  # some of the inputs are pipes and devices

HUGE = 2**60


def text(content: str | bytes, length: int | None = None) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content) if length is None else length) + content


def setting(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, start: int = 0) -> bytes:
    return (text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            + struct.pack("<IQ", kind, start))


def gguf_file(*settings: bytes, tensors: tuple[bytes, ...] = (), data: bytes = b"",
              magic: bytes = b"GGUF", version: int = 3, n_tensors: int | None = None,
              n_settings: int | None = None) -> bytes:
    head = magic + struct.pack(
        "<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
        len(settings) if n_settings is None else n_settings) + b"".join(settings + tensors)
    return head + bytes(-len(head) % 32) + data


def test_a_small_file_is_read(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "a.gguf").write_bytes(gguf_file(
        setting("a", 4, struct.pack("<I", 7)), setting("b", 8, text("é")),
        setting("c", 9, array(8, 2, text("x") + text(""))), setting("d", 7, b"\1"),
        setting("e", 9, array(9, 2, array(0, 2, b"\1\2") + array(0, 0))),
        setting("f", 12, struct.pack("<d", 0.5)), setting("general.alignment", 4, b"\x20\0\0\0"),
        tensors=(tensor("t", (4, 3)), tensor("u", (2,), start=64)),
        data=values.tobytes() + bytes(16) + values[0, 1:3].tobytes()))
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    assert fields == {"a": 7, "b": "é", "c": ["x", ""], "d": True, "e": [[1, 2], []], "f": 0.5,
                      "general.alignment": 32}
    np.testing.assert_array_equal(tensors["t"], values)
    np.testing.assert_array_equal(tensors["u"], [1, 2])


@pytest.mark.parametrize(("kind", "letter", "value"), [
    (0, "B", 200), (1, "b", -100), (2, "H", 60_000), (3, "h", -30_000), (4, "I", 4 * 10**9),
    (5, "i", -2 * 10**9), (6, "f", 0.5), (7, "?", True), (10, "Q", 2**63), (11, "q", -2**62),
    (12, "d", 0.1),
])
def test_numbers_of_every_kind_are_read(tmp_path, kind, letter, value):
    """The numbers of the kinds are those of the format's description, alone and in lists."""
    packed = struct.pack(f"<{letter}", value)
    (tmp_path / "a.gguf").write_bytes(gguf_file(
        setting("a", kind, packed), setting("b", 9, array(kind, 3, packed * 3)),
        setting("c", 8, text("after"))))
    assert read_gguf(tmp_path / "a.gguf")[0] == {"a": value, "b": [value] * 3, "c": "after"}


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_begin_where_the_alignment_says(tmp_path, version):
    values = np.arange(4, dtype=np.float32)
    head = gguf_file(setting("general.alignment", 4, struct.pack("<I", 256)),
                     tensors=(tensor("t"), tensor("u", start=256)), version=version)
    assert len(head) < 256
    data = (values.tobytes() + bytes(240) + (values + 7).tobytes())
    (tmp_path / "a.gguf").write_bytes(head + bytes(256 - len(head)) + data)
    _, tensors = read_gguf(tmp_path / "a.gguf")
    np.testing.assert_array_equal(tensors["t"], values)
    np.testing.assert_array_equal(tensors["u"], values + 7)


FOUR = bytes(16)
LIES = {
    "empty": b"",
    "another format": gguf_file(magic=b"GGML"),
    "version 1": gguf_file(version=1),
    "cut in the midst of a number": gguf_file()[:10],
    "another order of bytes": gguf_file(version=3 << 24),
    "2**60 tensors": gguf_file(n_tensors=HUGE),
    "2**60 settings": gguf_file(n_settings=HUGE),
    "2**64 - 1 of both": gguf_file(n_tensors=2**64 - 1, n_settings=2**64 - 1),
    "a million tensors": gguf_file(n_tensors=10**6, data=bytes(10**6)),
    "a name of 2**60": gguf_file(text("a", HUGE) + bytes(99)),
    "a string of 2**60": gguf_file(setting("a", 8, text("b", HUGE))),
    "a string of 2**64 - 1": gguf_file(setting("a", 8, text("b", 2**64 - 1))),
    "a string that is not UTF-8": gguf_file(setting("a", 8, text(b"\xff"))),
    "2**60 numbers": gguf_file(setting("a", 9, array(0, HUGE))),
    "2**60 strings": gguf_file(setting("a", 9, array(8, HUGE))),
    "2**60 lists": gguf_file(setting("a", 9, array(9, HUGE))),
    "deep": gguf_file(setting("a", 9, array(9, 1) * 10_000)),
    "an unknown setting": gguf_file(setting("a", 99, bytes(99))),
    "a list of unknown things": gguf_file(setting("a", 9, array(99, 1, bytes(99)))),
    "twice": gguf_file(setting("a", 7, b"\0"), setting("a", 7, b"\0")),
    "alignment 0": gguf_file(setting("general.alignment", 4, bytes(4))),
    "alignment 3": gguf_file(setting("general.alignment", 4, b"\3\0\0\0")),
    "alignment 2**31": gguf_file(setting("general.alignment", 4, b"\0\0\0\x80")),
    "alignment of text": gguf_file(setting("general.alignment", 8, text("32"))),
    "an unknown type": gguf_file(tensors=(tensor(kind=999),), data=FOUR),
    "2**60 numbers in a tensor": gguf_file(tensors=(tensor(shape=(HUGE,)),), data=FOUR),
    "2**120 numbers": gguf_file(tensors=(tensor(shape=(HUGE, HUGE)),), data=FOUR),
    "nothing times much": gguf_file(tensors=(tensor(shape=(0, HUGE)),), data=FOUR),
    "2**32 - 1 axes": gguf_file(text("t") + b"\xff\xff\xff\xff", n_settings=0, n_tensors=1),
    "beyond the end": gguf_file(tensors=(tensor(start=32),), data=FOUR),
    "far beyond the end": gguf_file(tensors=(tensor(start=HUGE),), data=FOUR),
    "between places": gguf_file(tensors=(tensor(start=4),), data=FOUR * 9),
    "overlapping": gguf_file(tensors=(tensor("a"), tensor("b")), data=FOUR),
    "two of one name": gguf_file(tensors=(tensor(), tensor(start=32)), data=FOUR * 9),
    "half a block": gguf_file(tensors=(tensor(shape=(33,), kind=8),), data=FOUR * 9),
    "too short": gguf_file(tensors=(tensor(),), data=bytes(15)),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_inconsistent_file_is_one_message(tmp_path, lie):
    path = tmp_path / "a.gguf"
    path.write_bytes(LIES[lie])
    with pytest.raises(UserError, match=r"a\.gguf: ") as error, little_memory(1):
        read_gguf(path)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_pipe_or_a_folder_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").mkdir()
    for name in ("a.gguf", "b.gguf"):
        with pytest.raises(UserError, match="where a file is expected"):
            from_gguf(tmp_path / name)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("add_block_count", 2**31, "llama.block_count is"),
    ("add_block_count", 9_999, "has 9,999 layers, and its weights have"),
    ("add_embedding_length", 2**30, "only a part of each head"),
    ("add_head_count", 0, "head_count is 0"),
    ("add_head_count", [4, 4], "head_count is"),
    ("add_head_count", 5, "only a part of each head"),
    ("add_layer_norm_rms_eps", float("nan"), "epsilon is nan"),
    ("add_rope_freq_base", float("inf"), "freq_base is inf"),
    ("add_head_count_kv", 2**30, "which is not that of 1,073,741,824 heads"),
    ("add_feed_forward_length", 2**24, "its configuration gives"),
    ("add_context_length", 0, "context_length is 0"),
    ("add_token_merges", ["t h", "no such"], "do not belong together"),
    ("add_token_merges", ["th"], "do not belong together"),
    ("add_token_types", [], None),
    ("add_bos_token_id", 10**6, "do not belong together"),
])
def test_a_setting_that_is_wrong_is_named(tmp_path, monkeypatch, name, value, message):
    import gguf

    real = getattr(gguf.GGUFWriter, name)
    monkeypatch.setattr(gguf.GGUFWriter, name, lambda writer, _: real(writer, value))
    more = {"add_bos_token_id": 0, "add_add_bos_token": True}
    path = write(tmp_path / "m.gguf", random_tensors(True), **more)
    if message is None:
        from_gguf(path)
        return
    with pytest.raises(UserError, match=message) as error, little_memory():
        from_gguf(path)
    assert str(path) in str(error.value)
