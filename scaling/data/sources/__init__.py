"""Sources of text: a source string in, documents out, always in the same order."""

from __future__ import annotations

from collections.abc import Iterator

from scaling.data.sources.base import (
    NOT_UTF8,
    POLICIES,
    Decode,
    Divide,
    Part,
    Policy,
    Reader,
    Source,
    SourceKind,
    one_part_per_file,
    sha256_of,
    source_changed,
)
from scaling.data.sources.registry import (
    check_source,
    corpus_of,
    find,
    find_mix,
    known_sources,
)

__all__ = [
    "NOT_UTF8",
    "POLICIES",
    "Decode",
    "Divide",
    "Part",
    "Policy",
    "Reader",
    "Source",
    "SourceKind",
    "check_source",
    "corpus_of",
    "documents",
    "find",
    "find_mix",
    "known_sources",
    "one_part_per_file",
    "sha256_of",
    "source_changed",
]


def documents(source: str) -> Iterator[str]:
    """Yield the documents of a source, always in the same order.

    Raises:
        UserError: The source is unknown, unavailable or empty, or one of its files is damaged.
    """
    return find(source).documents()
