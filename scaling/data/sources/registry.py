"""Every source that can be read, and how a source string is looked up among them."""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
from dataclasses import replace
from typing import cast

from scaling.data.sources import chitchat
from scaling.data.sources.base import POLICIES, Known, Policy, Source
from scaling.data.sources.files import find_jsonl, find_text
from scaling.data.sources.parquet import find_parquet
from scaling.data.sources.python import find_packages, find_stdlib, stdlib_bytes
from scaling.data.sources.wheels import known_wheels
from scaling.errors import UserError

MIX = "mix:"


def _tfds(source: str) -> Source:
    from scaling.data.sources.tfds import find_tfds

    return find_tfds(source)


def _seqio(source: str) -> Source:
    from scaling.data.sources.seqio import find_seqio

    return find_seqio(source)


def _mix(source: str) -> Source:
    raise UserError(f"{source}: a mix of several sources, where one is expected; take one of them")


KNOWN = (
    Known("wheel:chitchat-dataset", "chitchat", chitchat.find_chitchat,
          "7,168 conversations between two people, in English", "MIT",
          lambda: chitchat.TEXT_BYTES),
    *known_wheels(),
    Known("stdlib", "stdlib", find_stdlib,
          "the source code of this Python's standard library", "PSF-2.0", stdlib_bytes),
    Known("python-packages", "python-packages", find_packages,
          "the source code of the packages that are installed here", "MIT, BSD, Apache-2.0, ..."),
    Known("text:GLOB", "", find_text, "your UTF-8 files, one document each", "yours"),
    Known("jsonl:GLOB#FIELD", "", find_jsonl, "your JSON lines, one document each", "yours"),
    Known("parquet:GLOB#FIELD", "", find_parquet, "your Parquet files, a row a document",
          "yours"),
    Known("tfds:NAME", "", _tfds, "a data set of TensorFlow Datasets", "its own"),
    Known("seqio:TASK", "", _seqio, "the text of a seqio task or mixture", "its own"),
    Known("mix:WEIGHT*SOURCE + WEIGHT*SOURCE", "", _mix,
          "several sources; the weights are shares of the bytes of text", "theirs"),
)
"""Every source, best first; those without a corpus name take what the user fills in."""


def find(source: str, policy: str = "refuse") -> Source:
    """The corpus that a source string names; what is published is fetched unless it is here.

    Args:
        source: one of KNOWN's patterns, filled in.
        policy: what happens to text that is not UTF-8, one of POLICIES.

    Raises:
        UserError: no such source or policy, a mix, it cannot be had, or a glob matches no file.
    """
    if policy not in POLICIES:
        raise UserError(f"{policy!r}: what happens to text that is not UTF-8 is one of "
                        f"{', '.join(POLICIES)}")
    if not source.isascii() and source != source.encode("utf-8", "replace").decode():
        raise UserError(f"{source!a}: a name that is no UTF-8 text; rename the file or folder")
    for known in KNOWN:
        kind, colon, _ = known.pattern.partition(":")
        if source == known.pattern or (known.corpus == "" and source.startswith(kind + colon)):
            if known.fetch is not None:
                known.fetch()
            found = known.find(source)
            if policy == "refuse":
                return found
            return replace(found, policy=cast(Policy, policy),
                           reading=f"{found.reading}, {policy} what is not UTF-8")
    raise UserError(f"{source}: no source known by that name; {_nearest(source)}known are "
                    f"{', '.join(known.pattern for known in KNOWN)}")


def find_mix(source: str, policy: str = "refuse") -> list[tuple[float, Source]]:
    """The sources of a mix with their weights, which add up to one; see `find`.

    `mix:3*wheel:chitchat-dataset + 1*stdlib` is three parts of the one by bytes of text, and
    one of the other. A source that is no mix is all of its own.

    Raises:
        UserError: a term is not WEIGHT*SOURCE, a source is named twice, or what `find` raises.
    """
    if not source.startswith(MIX):
        return [(1.0, find(source, policy))]
    weights: dict[str, float] = {}
    for term in source.removeprefix(MIX).split(" + "):
        written = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\*(.+?)\s*", term)
        weight = _number(written[1]) if written else 0.0
        if written is None or not 0 < weight < math.inf or written[2].startswith(MIX):
            raise UserError(f"{source}: {term!r} is not WEIGHT*SOURCE; write for example "
                            "mix:3*wheel:chitchat-dataset + 1*stdlib, with weights above 0")
        if written[2] in weights:
            raise UserError(f"{source}: {written[2]} is there twice; name it once, with the sum "
                            "of its weights")
        weights[written[2]] = weight
    total = math.fsum(weights.values())
    return [(weight / total, find(name, policy)) for name, weight in weights.items()]


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return math.nan


def _nearest(source: str) -> str:
    if glob.glob(os.path.expanduser(source), recursive=True):
        return f"did you mean text:{source}? "
    names = {word: known.pattern for known in KNOWN
             for word in (known.pattern, known.pattern.partition(":")[0], known.corpus) if word}
    near = difflib.get_close_matches(source, names, n=3, cutoff=0.5)
    patterns = list(dict.fromkeys(names[word] for word in near))
    return f"did you mean {' or '.join(patterns)}? " if patterns else ""
