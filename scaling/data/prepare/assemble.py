"""The last step: the document index of each split, and its record for the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.manifest import Shard, Split
from scaling.data.prepare.work import STORE, WorkStep, npy_header, open_atomic


def assemble(
    name: str, tokenized: Sequence[tuple[WorkStep, dict[str, Any]]], work: Path, out: Path
) -> Split | None:
    """Write the index of a split and return its record; None if it has no documents.

    Args:
        name: Name of the split.
        tokenized: For each piece, in order, the step and the result of `tokenize`.
        work: The work folder.
        out: The final folder of the store.
    """
    parts = [(step, result[name]) for step, result in tokenized if name in result]
    if not parts:
        return None
    shards = tuple(Shard(file=part["file"], sha256=part["sha256"], tokens=part["tokens"])
                   for _, part in parts)
    documents = sum(part["documents"] for _, part in parts)
    index_file = f"{name}.index.npy"
    index_sha256 = hashlib.sha256()
    with open_atomic(work / STORE / index_file, out) as file:
        def write(content: bytes) -> None:
            index_sha256.update(content)
            file.write(content)

        write(npy_header(np.dtype("<u8"), (documents + 1,)))
        write(np.zeros(1, "<u8").tobytes())
        end = np.uint64(0)
        for step, part in parts:
            for lengths in part["lengths"]:
                offsets = end + np.cumsum(step.load(lengths), dtype="<u8")
                write(offsets.astype("<u8").tobytes())
                end = offsets[-1]
    return Split(
        shards=shards,
        sha256=_sha256([work / STORE / shard.file for shard in shards], shards[0].sha256),
        index_file=index_file,
        index_sha256=index_sha256.hexdigest(),
        documents=documents,
        tokens=sum(shard.tokens for shard in shards),
        bytes=sum(part["bytes"] for _, part in parts),
    )


def _sha256(paths: Sequence[Path], first: str) -> str:
    """SHA-256 of the concatenated files; `first` is that of the first file."""
    if len(paths) == 1:
        return first
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while content := file.read(2**20):
                digest.update(content)
    return digest.hexdigest()
