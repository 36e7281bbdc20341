"""Parsers of the formats inside published archives: the bytes of one member to its documents.

The archives are pinned by hash, so their content cannot change and is not validated again.
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
    """Plain text; CR LF becomes LF and a byte order mark is removed."""
    yield content.decode("utf-8-sig").replace("\r\n", "\n")


def wikipedia_extracts(content: bytes) -> Iterator[str]:
    """JSON, {title: {"extract": text}}: a document per article."""
    return (article["extract"] for article in json.loads(content).values())


def glosses(content: bytes) -> Iterator[str]:
    """Gzipped lines of a lemma, a tab, and definitions separated by bars: a document per line."""
    for line in gzip.decompress(content).decode().splitlines():
        lemma, _, definitions = line.partition("\t")
        yield "\n".join([lemma, *definitions.split(" | ")])


def dictionary_entries(content: bytes) -> Iterator[str]:
    """SQLite with a row per sense; the senses of a headword form one document."""
    with closing(_database(content)) as database:
        rows = database.execute("SELECT word, definition FROM entries ORDER BY rowid")
        for word, senses in groupby(rows, itemgetter(0)):
            yield "\n".join([word or "", *(" ".join((sense or "").split()) for _, sense in senses)])


def bible_chapters(content: bytes) -> Iterator[str]:
    """SQLite with a row per verse: a document per chapter, a line per verse."""
    with closing(_database(content)) as database:
        yield from _chapters(database.execute(
            "SELECT book_id, chapter_number, text FROM verses "
            "ORDER BY book_id, chapter_number, verse_number"
        ))


def bible_table(content: bytes) -> Iterator[str]:
    """Gzipped CSV of id, book, chapter, verse and text: a document per chapter.

    The translators' notes, in braces, are removed.
    """
    rows = csv.reader(io.StringIO(gzip.decompress(content).decode(), newline=""))
    next(rows)  # the header
    return _chapters((book, chapter, " ".join(_NOTE.sub("", text).split()))
                     for _, book, chapter, _, text in rows)


def boolq_passages(content: bytes) -> Iterator[str]:
    """JSON lines. Passages without a label belong to the benchmark's test set and are skipped."""
    rows = map(json.loads, content.decode().splitlines())
    return (row["passage"] for row in rows if "label" in row)


def footnotes(field: str, content: bytes) -> Iterator[str]:
    """JSON, {table: [{field: text}]}: a document per footnote."""
    for notes in json.loads(content).values():
        for note in notes:
            yield strip_html(note[field] or "")


def conllu_sentences(content: bytes) -> Iterator[str]:
    """CoNLL-U: the sentences in its `# text =` comments, a document each."""
    return (line.partition("=")[2].strip() for line in content.decode().split("\n")
            if line.startswith("# text ="))


def botocore_service(content: bytes) -> Iterator[str]:
    """Gzipped JSON: a document for a service's overview, and one per operation and shape."""
    service = json.loads(gzip.decompress(content))
    yield strip_html(service.get("documentation") or "")
    for name, operation in service["operations"].items():
        yield _entry(name, operation.get("documentation"), {})
    for name, shape in service["shapes"].items():
        members = {member: info.get("documentation")
                   for member, info in (shape.get("members") or {}).items()}
        yield _entry(name, shape.get("documentation"), members)


def google_api(content: bytes) -> Iterator[str]:
    """JSON: a document for an API's overview, and one per method and schema."""
    api = json.loads(content)
    yield strip_html(api.get("description") or "")
    for method in _methods(api):
        yield _entry(method["id"], method.get("description"),
                     _descriptions(method.get("parameters")))
    for name, schema in api.get("schemas", {}).items():
        yield _entry(name, schema.get("description"), _descriptions(schema.get("properties")))


def strip_html(text: str) -> str:
    """Remove HTML tags and entities; a paragraph or list item becomes a line."""
    text = _INLINE.sub("", _BLOCK.sub("\n", text))
    return _BREAKS.sub("\n", _SPACES.sub(" ", html.unescape(text))).strip()


def _methods(api: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from api.get("methods", {}).values()
    for resource in api.get("resources", {}).values():
        yield from _methods(resource)


def _descriptions(parts: dict[str, Any] | None) -> dict[str, str | None]:
    return {name: part.get("description") for name, part in (parts or {}).items()}


def _entry(name: str, text: str | None, members: dict[str, str | None]) -> str:
    """A name with its description and those of its members; "" if there is no description."""
    described = [(member, strip_html(info)) for member, info in members.items() if info]
    lines = [strip_html(text or ""), *(f"{member}: {info}" for member, info in described)]
    return "\n".join([name, *filter(None, lines)]) if any(lines) else ""


def _chapters(verses: Iterable[tuple[Any, Any, str]]) -> Iterator[str]:
    for _, chapter in groupby(verses, itemgetter(0, 1)):
        yield "\n".join(text for _, _, text in chapter)


def _database(content: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.deserialize(content)
    return database
