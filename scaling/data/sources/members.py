"""The formats inside published archives: the bytes of one member to its documents.

The archives are pinned by hash, so that what is found here is what was there when these were
written: nothing is checked again.
"""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Any

_BLOCK = re.compile(r"</?(?:p|li|ul|ol|dl|dt|dd|note|important|br|div|tr|table|h\d)\b[^>]*>")
_INLINE = re.compile(
    r"</?(?:code|a|i|b|em|strong|span|sup|sub|pre|tt|fullname|replaceable|function|parameter"
    r"|literal|option|value|filename|userinput|caution|zonbook|xhtml|th|td|thead"
    r"|tbody|para|title|term)\b[^>]*>"
)
_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r"\s*\n\s*")
_NOTE = re.compile(r"\{[^}]*\}")


def plain(content: bytes) -> Iterator[str]:
    """A text file, with the line ends of Unix and no byte order mark."""
    yield content.decode("utf-8-sig").replace("\r\n", "\n")


def wikipedia_extracts(content: bytes) -> Iterator[str]:
    """{title: {"extract": text}}"""
    return (article["extract"] for article in json.loads(content).values())


def glosses(content: bytes) -> Iterator[str]:
    """A lemma, a tab and its definitions between bars on every line, gzipped."""
    for line in gzip.decompress(content).decode().splitlines():
        lemma, _, definitions = line.partition("\t")
        yield "\n".join([lemma, *definitions.split(" | ")])


def dictionary_entries(content: bytes) -> Iterator[str]:
    """SQLite, a row for each sense; a headword's senses are one document."""
    with closing(_database(content)) as database:
        rows = database.execute("SELECT word, definition FROM entries ORDER BY rowid")
        for word, senses in groupby(rows, itemgetter(0)):
            yield "\n".join([word or "", *(" ".join((sense or "").split()) for _, sense in senses)])


def bible_chapters(content: bytes) -> Iterator[str]:
    """SQLite, a row for each verse; a chapter is a document, a verse a line."""
    with closing(_database(content)) as database:
        yield from _chapters(database.execute(
            "SELECT book_id, chapter_number, text FROM verses "
            "ORDER BY book_id, chapter_number, verse_number"
        ))


def bible_table(content: bytes) -> Iterator[str]:
    """CSV, gzipped: id, book, chapter, verse and text, with the translators' notes in braces."""
    rows = csv.reader(io.StringIO(gzip.decompress(content).decode(), newline=""))
    next(rows)  # the head
    return _chapters((book, chapter, " ".join(_NOTE.sub("", text).split()))
                     for _, book, chapter, _, text in rows)


def boolq_passages(content: bytes) -> Iterator[str]:
    """JSON lines. Passages without a label are those of the benchmark's test, and left out."""
    rows = map(json.loads, content.decode().splitlines())
    return (row["passage"] for row in rows if "label" in row)


def footnotes(field: str, content: bytes) -> Iterator[str]:
    """{table: [{field: text}]}"""
    for notes in json.loads(content).values():
        for note in notes:
            yield markup_free(note[field] or "")


def conllu_sentences(content: bytes) -> Iterator[str]:
    """CoNLL-U: the sentences as their comments give them."""
    return (line.partition("=")[2].strip() for line in content.decode().split("\n")
            if line.startswith("# text ="))


def botocore_service(content: bytes) -> Iterator[str]:
    """A service's overview, and a document for each of its operations and shapes, gzipped."""
    service = json.loads(gzip.decompress(content))
    yield markup_free(service.get("documentation") or "")
    for name, operation in service["operations"].items():
        yield _described(name, operation.get("documentation"), {})
    for name, shape in service["shapes"].items():
        members = {member: about.get("documentation")
                   for member, about in (shape.get("members") or {}).items()}
        yield _described(name, shape.get("documentation"), members)


def google_api(content: bytes) -> Iterator[str]:
    """An API's overview, and a document for each of its methods and schemas."""
    api = json.loads(content)
    yield markup_free(api.get("description") or "")
    for method in _methods(api):
        yield _described(method["id"], method.get("description"),
                         _descriptions(method.get("parameters")))
    for name, schema in api.get("schemas", {}).items():
        yield _described(name, schema.get("description"), _descriptions(schema.get("properties")))


def markup_free(text: str) -> str:
    """Without HTML's tags and entities: a paragraph or an item of a list is a line."""
    text = _INLINE.sub("", _BLOCK.sub("\n", text))
    return _BREAKS.sub("\n", _SPACES.sub(" ", html.unescape(text))).strip()


def _methods(api: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from api.get("methods", {}).values()
    for resource in api.get("resources", {}).values():
        yield from _methods(resource)


def _descriptions(parts: dict[str, Any] | None) -> dict[str, str | None]:
    return {name: about.get("description") for name, about in (parts or {}).items()}


def _described(name: str, text: str | None, members: dict[str, str | None]) -> str:
    """A name, what is said about it, and what is said about its members; "" if nothing is."""
    described = [(member, markup_free(about)) for member, about in members.items() if about]
    lines = [markup_free(text or ""), *(f"{member}: {about}" for member, about in described)]
    return "\n".join([name, *filter(None, lines)]) if any(lines) else ""


def _chapters(verses: Iterable[tuple[Any, Any, str]]) -> Iterator[str]:
    for _, chapter in groupby(verses, itemgetter(0, 1)):
        yield "\n".join(text for _, _, text in chapter)


def _database(content: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.deserialize(content)
    return database
