"""Where text comes from: a source string in, documents out, in an order that never changes."""

from __future__ import annotations

from collections.abc import Iterator

from scaling.data.sources.base import (
    NOT_UTF8,
    POLICIES,
    Decode,
    Divide,
    Known,
    Part,
    Policy,
    Reader,
    Source,
    by_file,
    sha256_of,
)
from scaling.data.sources.registry import KNOWN, find, find_mix

__all__ = [
    "KNOWN",
    "NOT_UTF8",
    "POLICIES",
    "Decode",
    "Divide",
    "Known",
    "Part",
    "Policy",
    "Reader",
    "Source",
    "by_file",
    "documents",
    "find",
    "find_mix",
    "sha256_of",
]


def documents(source: str) -> Iterator[str]:
    """The documents of a source, one by one, always in the same order.

    Raises:
        UserError: no such source, it cannot be had, it is empty, or a file of it is damaged.
    """
    return find(source).documents()
