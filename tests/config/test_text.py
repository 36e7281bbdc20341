"""Untrusted YAML gives plain data or one message, in bounded time and memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaling.config import RunConfig, load
from scaling.config import text as text_module
from scaling.config.text import LARGEST_TEXT, parse_yaml, read_yaml
from scaling.errors import UserError
from tests.fuzz.limits import at_most, little_memory

pytestmark = pytest.mark.usefixtures("ends")  # some of the inputs are pipes and devices

GOOD = (Path(__file__).parents[2] / "configs/runs/gpt_tiny.yaml").read_text()


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(("text", "words"), [
    pytest.param("a: " + "[" * 100_000, ["nested too deeply"], id="brackets"),
    pytest.param("{a: " * 5_000, ["nested too deeply"], id="braces"),
    pytest.param("a: &a [*a]", ["nested too deeply"], id="cycle"),
    pytest.param("\n".join(" " * n + "a:" for n in range(60)), ["nested too deeply"], id="blocks"),
    pytest.param(laughs(20), [":1:", "100,000 values", "aliases"], id="billion laughs"),
    pytest.param("a:\n" * 210_000, ["100,000 values"], id="many", marks=pytest.mark.slow),
    ("a: &a {b: 1}\nc: {<<: *a}", [":2:5", "merge keys (<<)", "anchor"]),
    ("a: " + "9" * 5_000, [":1:4", "a number of 5,000 characters"]),
    ("a: 1." + "9" * 5_000, ["a number of 5,002 characters"]),
    ("a: 1" + "0" * 400, ["a number of 401 characters"]),
    ("a: 010", [":1:4", "010 begins with zero", "write 10"]),
    ("a: !!python/object/apply:os.system [echo]",
     ["!!python/object/apply:os.system is not supported"]),
    ("a: !!python/name:os.system", ["!!python/name:os.system is not supported"]),
    ("a: !!timestamp 2001-01-01", ["the tag !!timestamp is not supported"]),
    ("a: !!binary aGVsbG8=", ["the tag !!binary"]),
    ("a: !!set {a, b}", ["the tag !!set"]),
    ("a: !mine 3", ["the tag !mine"]),
    ("1: 2", ["key 1 is not a name"]),
    ("null: 2", ["key null is not a name"]),
    ("yes: 2", ["key yes is not a name"]),
    ("? [a]\n: 3", ["key a list or mapping is not a name"]),
    ("? ", ["key (empty) is not a name"]),
    ("a: 1\na: 2", [":2:1", "'a' occurs twice"]),
    ("a:\n\tb: 1", [":2:1", "a tab, where spaces are expected"]),
    ("a: [1", ["not valid YAML"]),
    ("a: *b", ["undefined alias"]),
    ("a: 1\n---\nb: 1", ["another document"]),
    ('a: "\\UFFFFFFFF"', ["not valid YAML"]),
    ('a: "\\ud800"', ["half a surrogate pair"]),
    ("a: \x00", ["control character"]),
    ("%YAML " + "9" * 5_000 + ".1\n---\na: 1", ["not valid YAML"]),
    pytest.param("a: " + "x" * LARGEST_TEXT, ["longer than"], id="long"),
])
def test_what_is_refused_in_one_message(text, words):
    with pytest.raises(UserError) as caught, at_most(30), little_memory(1):
        parse_yaml(text, "f.yaml")
    message = str(caught.value)
    assert message.startswith("f.yaml")
    assert "\n" not in message
    assert len(message) < 300
    for word in words:
        assert word in message


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 1e-3), ("3e6", 3e6), (".5", 0.5), ("16_384", 16384), ("0x10", 16), ("0o17", 15),
    ("0b11", 3), ("-7", -7), ("0", 0), ("yes", True), ("Off", False), ("~", None), ("", None),
    ("on", True), ("ON", True), ("True", True), ("no", False), ("FALSE", False), ("y", "y"),
    ("Null", None), ("+.inf", float("inf")), ("+5", 5), ("tRue", "tRue"),
    (".inf", float("inf")), ("-.INF", float("-inf")), ("1e400", float("inf")),
    ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("'010'", "010"), ("=", "="),
    ("1.2.3", "1.2.3"), ("!!str 5", "5"), ("|\n  5", "5"), ("é", "é"), ("9" * 400, int("9" * 400)),
])
def test_what_a_value_is(text, value):
    found = parse_yaml(f"a: {text}", "f")["a"]
    assert found == value
    assert type(found) is type(value)


def test_both_limits_on_the_number_of_values(monkeypatch):
    """While the text is read, and with what aliases repeat."""
    monkeypatch.setattr(text_module, "_MAX_VALUES", 20)
    assert len(parse_yaml(f"[{'1, ' * 19}]", "f")) == 19
    for count, words in ((20, "20 values, including those"), (39, "20 values, including those"),
                         (41, "20 values; give a smaller")):
        with pytest.raises(UserError, match=f"more than {words}"):
            parse_yaml(f"[{'1, ' * count}]", "f")


def test_an_anchor_gives_copies():
    content = parse_yaml("a: &a {b: [1]}\nc: *a", "f")
    assert content == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert content["a"] is not content["c"]


@pytest.mark.parametrize("bytes_", [
    b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode(),
], ids=["byte order mark", "carriage returns"])
def test_what_other_editors_write_is_read(tmp_path, bytes_):
    (tmp_path / "run.yaml").write_bytes(bytes_)
    assert load(RunConfig, tmp_path / "run.yaml").model.d_model == 64


@pytest.mark.parametrize(("content", "words"), [
    (GOOD.encode("utf-16"), ["is not UTF-8 text"]),
    (b"# \xe9\n" + GOOD.encode(), ["is not UTF-8 text (byte 2)"]),
    (b"", ["contains nothing"]), (b"- 1", ["contains a list"]),
    (b"hello", ["contains a single value"]),
])
def test_a_file_that_holds_no_configuration(tmp_path, content, words):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_pipes_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(300 * 10**6)
    for path, word in ((tmp_path / "pipe.yaml", "pipe or device"), (Path("/dev/zero"), "pipe"),
                       (tmp_path, "is a folder"), (tmp_path / "large.yaml", "larger than 1 MB")):
        with pytest.raises(UserError, match=word):
            read_yaml(path)
