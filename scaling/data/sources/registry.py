"""The registry of sources: a source string to its `Source`."""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import PurePath
from typing import cast

from scaling.data.sources import chitchat
from scaling.data.sources.base import POLICIES, Policy, Source, SourceKind
from scaling.data.sources.files import clean_name, find_text
from scaling.data.sources.jsonl import find_jsonl
from scaling.data.sources.parquet import find_parquet
from scaling.data.sources.python import find_packages, find_stdlib, stdlib_bytes
from scaling.data.sources.wheels import known_wheels
from scaling.errors import UserError
from scaling.plugins import load_entry_point

GROUP = "scaling.sources"
"""Entry-point group through which other packages add sources."""

MIX = "mix:"
LARGEST_WEIGHT = 1_000_000_000
"""Largest weight of a source in a mix."""


def _tfds(source: str) -> Source:
    from scaling.data.sources.tfds import find_tfds

    return find_tfds(source)


def _mix(source: str) -> Source:
    raise UserError(f"{source}: is a mix, but a single source is expected; name one of its sources")


_BUILT_IN = (
    SourceKind("wheel:chitchat-dataset", "chitchat", chitchat.find_chitchat,
               "7,168 conversations between two people, in English", "MIT",
               lambda: chitchat.TEXT_BYTES),
    *known_wheels(),
    SourceKind("stdlib", "stdlib", find_stdlib,
               "the source code of this Python's standard library", "PSF-2.0", stdlib_bytes),
    SourceKind("python-packages", "python-packages", find_packages,
               "the source code of the packages that are installed here",
               "MIT, BSD, Apache-2.0, ..."),
    SourceKind("text:GLOB", "", find_text,
               "your UTF-8 files, one document each; also .gz, .xz, .bz2 and .zst", "yours"),
    SourceKind("jsonl:GLOB#FIELD", "", find_jsonl,
               "your JSON lines, one document each, where #a.b is the field b of a; also "
               "compressed", "yours"),
    SourceKind("parquet:GLOB#FIELD", "", find_parquet, "your Parquet files, one document per row",
               "yours", package="pyarrow", extra="parquet"),
    SourceKind("tfds:NAME", "", _tfds, "a dataset of TensorFlow Datasets", "its own",
               package="tensorflow_datasets", extra="prepare"),
)

_MIX = SourceKind("mix:WEIGHT*SOURCE + WEIGHT*SOURCE", "", _mix,
                  "several sources; the weights are shares of the bytes of text", "theirs")


@cache
def known_sources() -> tuple[SourceKind, ...]:
    """All sources that can be read, in order of preference.

    Another package adds one by an entry point of the group `scaling.sources` whose value is a
    `SourceKind`.

    Raises:
        UserError: The entry point of a package cannot be loaded, or its pattern is taken.
    """
    kinds = {known.pattern: known for known in _BUILT_IN}
    for entry in entry_points(group=GROUP):
        known = load_entry_point(entry, SourceKind, "source")
        if known.pattern in kinds or known.pattern == _MIX.pattern:
            raise UserError(f"the source {entry.name} ({entry.value}): another source has the "
                            f"pattern {known.pattern} too; remove one of their packages")
        kinds[known.pattern] = known
    return (*kinds.values(), _MIX)


def _in_order() -> Iterator[SourceKind]:
    """All sources; those of other packages are loaded only when the built-in ones are used up, so
    that a broken package does not stop the others."""
    yield from (*_BUILT_IN, _MIX)
    yield from known_sources()



def find(source: str, policy: str = "refuse") -> Source:
    """The `Source` of a source string; a published corpus is downloaded on first use.

    Args:
        source: One of the patterns of `known_sources`, filled in.
        policy: Treatment of text that is not UTF-8, one of POLICIES.

    Raises:
        UserError: The source or policy is unknown, the source is a mix or unavailable, or a glob
            matches no file.
    """
    if policy not in POLICIES:
        raise UserError(f"{policy!r}: the treatment of text that is not UTF-8 is one of "
                        f"{', '.join(POLICIES)}")
    check_source(source)
    for known in _in_order():
        kind, colon, _ = known.pattern.partition(":")
        if source == known.pattern or (known.corpus == "" and source.startswith(kind + colon)):
            if known.fetch is not None:
                known.fetch()
            found = known.find(source)
            if policy == "refuse":
                return found
            return replace(found, policy=cast(Policy, policy),
                           reading=f"{found.reading}, {policy} what is not UTF-8")
    raise UserError(f"{source}: unknown source; {_nearest(source)}known are "
                    f"{', '.join(known.pattern for known in known_sources())}")


def check_source(source: str) -> None:
    """Check that a source string can be written to manifests and tables.

    Raises:
        UserError: It is not UTF-8, or contains control characters.
    """
    if not source.isascii() and source != source.encode("utf-8", "replace").decode():
        raise UserError(f"{source!a}: the name is not valid UTF-8; rename the file or folder")
    if any(unicodedata.category(c) == "Cc" for c in source):
        raise UserError(f"{source!a}: the name has control characters; rename the file or folder")


def find_mix(source: str, policy: str = "refuse") -> list[tuple[float, Source]]:
    """The (weight, source) pairs of a mix, with weights normalised to sum to one; see `find`.

    `mix:3*wheel:chitchat-dataset + 1*stdlib` is three parts of the first to one part of the
    second, by bytes of text. A single source has weight one.

    Raises:
        UserError: A term is not WEIGHT*SOURCE, a file occurs twice, or see `find`.
    """
    if not source.startswith(MIX):
        return [(1.0, find(source, policy))]
    weights: dict[str, float] = {}
    for term in source.removeprefix(MIX).split(" + "):
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\*(.+?)\s*", term)
        weight = _number(match[1]) if match else 0.0
        if match is None or not 0 < weight <= LARGEST_WEIGHT or match[2].startswith(MIX):
            raise UserError(f"{source}: {term!r} is not WEIGHT*SOURCE; write for example "
                            "mix:3*wheel:chitchat-dataset + 1*stdlib, with weights above 0 and up "
                            f"to {LARGEST_WEIGHT:,}")
        if match[2] in weights:
            raise UserError(f"{source}: {match[2]} occurs twice; name it once, with the sum of "
                            "its weights")
        weights[match[2]] = weight
    total = math.fsum(weights.values())
    found = [(weight / total, find(name, policy)) for name, weight in weights.items()]
    _check_apart(source, [each for _, each in found])
    return found


def corpus_of(sources: Iterable[Source]) -> str:
    """Short name of a mix, for tables and folders."""
    names = dict.fromkeys(source.corpus for source in sources)
    return clean_name("-".join(names), "._") if len(names) > 1 else next(iter(names))


def _check_apart(mix: str, sources: list[Source]) -> None:
    """Check that no two sources of a mix read the same file in the same way: its documents would
    be dropped as duplicates from the second source, which would change that source's share."""
    seen: dict[tuple[str, int, int], Source] = {}
    for source in sources:
        for path in source.files:
            status = path.stat()
            other = seen.setdefault((source.reading, status.st_dev, status.st_ino), source)
            if other is not source:
                raise UserError(f"{mix}: {other.name} and {source.name} both contain {path}; name "
                                "every file in one of them only")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _nearest(source: str) -> str:
    if glob.glob(os.path.expanduser(source), recursive=True):
        kinds = [s for s in PurePath(source).suffixes if s in (".jsonl", ".parquet")]
        read_as = f"{kinds[0][1:]}:{source}#text" if kinds else f"text:{source}"
        return f"did you mean {read_as}? "
    names = {word: known.pattern for known in known_sources()
             for word in (known.pattern, known.pattern.partition(":")[0], known.corpus) if word}
    near = difflib.get_close_matches(source, names, n=3, cutoff=0.5)
    patterns = list(dict.fromkeys(names[word] for word in near))
    return f"did you mean {' or '.join(patterns)}? " if patterns else ""
