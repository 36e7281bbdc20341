"""Sources give every document once, in one order, and say what is wrong with a file and where."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaling.data import sources
from scaling.errors import UserError


def lines(folder: Path, *rows: object, name: str = "a.jsonl") -> str:
    content = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    return f"jsonl:{folder}/{name}#text"


def test_chitchat_is_its_conversations():
    # The file itself, read in another way than the source does.
    spec = find_spec("chitchat_dataset")
    path = Path(spec.submodule_search_locations[0]) / "dataset.json"
    expected = []
    for conversation in json.loads(path.read_text()).values():
        said = [message["text"] for turn in conversation["messages"] for message in turn]
        expected.append("".join(f"{text}\n" for text in said if not text.isspace() and text)[:-1])
    imported = "chitchat_dataset" in sys.modules
    found = list(sources.documents("wheel:chitchat-dataset"))
    assert ("chitchat_dataset" in sys.modules) == imported  # none of its code has run
    assert found == expected
    assert len(found) == 7168
    known = next(known for known in sources.KNOWN if known.corpus == "chitchat")
    assert known.text_bytes() == sum(len(text.encode()) for text in found)
    source = sources.find("wheel:chitchat-dataset")
    assert source.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_chitchat_has_to_be_the_published_one(monkeypatch, tmp_path):
    name = "wheel:chitchat-dataset"
    distribution = importlib.metadata.distribution("chitchat-dataset")
    (tmp_path / "dataset.json").write_text('{"a": {"messages": [[{"txt": 1}]]}}')
    monkeypatch.setattr(type(distribution), "locate_file",
                        lambda self, path: tmp_path / Path(path).name)
    with pytest.raises(UserError, match=r"not the published file .* --force-reinstall"):
        sources.find(name).sha256()
    with pytest.raises(UserError, match=r"not a chitchat dataset \(KeyError"):
        list(sources.documents(name))
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json: missing"):
        sources.find(name)
    monkeypatch.setattr(sources, "CHITCHAT_VERSION", "1.2.3")
    with pytest.raises(UserError, match=r"0\.9\.0 is installed.*pip install .*==1\.2\.3$"):
        sources.find(name)
    monkeypatch.setattr(sources, "CHITCHAT", "chitchat-data-not-there")
    with pytest.raises(UserError, match="is not installed; install it with: pip install chitchat"):
        sources.find(name)


def test_stdlib_is_python_source_without_its_tests():
    source = sources.find("stdlib")
    names = [path.as_posix() for path in source.files]
    assert len(names) > 300
    assert len(set(names)) == len(names)
    assert any(name.endswith("/json/decoder.py") for name in names)
    root = Path(json.__file__).parents[1]
    for path in source.files:
        assert not {"test", "tests", "idlelib", "site-packages"} & set(
            path.relative_to(root).parts
        )
    decoder = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
    assert decoder in set(sources.documents("stdlib"))


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path):
    (tmp_path / "inner").mkdir()
    for name, text in {"b.txt": "zwei\r\n", "a.txt": "eins", "inner/c.txt": "drei é",
                       "blank.txt": " \n", "empty.txt": "", "a.md": "no"}.items():
        (tmp_path / name).write_bytes(text.encode())
    found = list(sources.documents(f"text:{tmp_path}/**/*.txt"))
    assert found == ["eins", "zwei\r\n", "drei é"]  # byte for byte, blank ones left out


def test_json_lines_are_documents(tmp_path):
    source = lines(tmp_path, {"text": "one\ntwo", "n": 1}, "", {"text": "  "}, {"text": "é\\u00e9"})
    assert list(sources.documents(source)) == ["one\ntwo", "é\\u00e9"]
    two = lines(tmp_path, {"text": "three"}, name="b.jsonl").replace("b.jsonl", "*.jsonl")
    assert list(sources.documents(two))[-1] == "three"


def test_progress_goes_up_to_the_size_of_the_files(tmp_path):
    lines(tmp_path, {"text": "one"}, {"text": "two"})
    lines(tmp_path, {"text": "three"}, name="b.jsonl")
    for name in (f"jsonl:{tmp_path}/*.jsonl#text", f"text:{tmp_path}/*", "wheel:chitchat-dataset"):
        source = sources.find(name)
        positions = [position for _, position in source.documents()]
        assert positions == sorted(positions)
        assert positions[-1] == source.size()


def test_the_hash_is_of_contents_and_order(tmp_path):
    hashes = []
    for folder, names, texts in (
        ("a", "xy", ("1", "2")), ("b", "pq", ("1", "2")), ("c", "xy", ("2", "1")),
        ("d", "x", ("12",)), ("e", "xy", ("12", "")),
    ):
        (tmp_path / folder).mkdir()
        for name, text in zip(names, texts, strict=True):
            (tmp_path / folder / name).write_text(text)
        hashes.append(sources.find(f"text:{tmp_path}/{folder}/*").sha256())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(("pattern", "corpus"), [
    ("text:{}/books/*.txt", "books"), ("text:{}/books/one.txt", "one"),
    ("text:{}/my notes/**/*.txt", "my-notes"),
])
def test_a_corpus_is_called_after_its_files(tmp_path, pattern, corpus):
    for folder in ("books", "my notes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("1")
    assert sources.find(pattern.format(tmp_path)).corpus == corpus


@pytest.mark.parametrize(("row", "message"), [
    ('{"text": ', "not a line of JSON"),
    ("[" * 100_000, "not a line of JSON"),
    ("7", "holds a int, where a JSON object with the field 'text' is expected"),
    ({"txt": "a"}, "has no field 'text'; did you mean 'txt'"),
    ({"body": "a", "id": 1}, "has no field 'text'; it has body, id"),
    ({}, "has no field 'text'; it has none"),
    ({"text": None}, "'text' is None, where text is expected"),
    ('{"text": "a\\ud800"}', "'text' has half a surrogate pair at character 1"),
])
def test_a_bad_line_is_named_with_its_number(tmp_path, row, message):
    source = lines(tmp_path, {"text": "good"}, "", row)
    with pytest.raises(UserError) as error:
        list(sources.documents(source))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl:3: {message}")


def test_text_that_is_no_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt: not UTF-8 text \(byte 3 is 0xe9\)"):
        list(sources.documents(f"text:{tmp_path}/*.txt"))
    with pytest.raises(UserError, match=r"b\.txt:1: not UTF-8 text"):
        list(sources.documents(f"jsonl:{tmp_path}/b.txt#text"))


@pytest.mark.parametrize(("source", "message"), [
    ("chitchat", "did you mean wheel:chitchat-dataset[?]"),
    ("wheel:chitchat_dataset", "did you mean wheel:chitchat-dataset[?]"),
    ("stdlb", "did you mean stdlib[?]"),
    ("json:a#text", "did you mean .* or jsonl:GLOB#FIELD[?]"),
    ("?", "known are wheel:chitchat-dataset, stdlib, text:GLOB, jsonl:GLOB#FIELD"),
    ("{}/a.txt", "did you mean text:.*/a.txt[?]"),
    ("text:{}/*.md", "no file matches"),
    ("text:", "no file matches ''"),
    ("text:caf\udce9/*", "caf.udce9/.*: a name that is no UTF-8 text"),
    ("text:{}", "no file matches .*only folders"),
    ("text:{}/blank.txt", "there is no text in its 1 file$"),
    ("jsonl:{}/a.txt", "Write jsonl:GLOB#FIELD, for example jsonl:.*/a.txt#text$"),
    ("jsonl:{}/a.txt#", "which field holds the text"),
])
def test_what_is_no_source_is_refused(tmp_path, source, message):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(UserError, match=message) as error:
        list(sources.documents(source.format(tmp_path)))
    assert "\n" not in str(error.value)
