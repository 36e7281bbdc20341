"""The training texts of the tokenizer, and the pass that tokenizes documents into shards."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from scaling.data.manifest import SPLITS
from scaling.data.prepare.scan import digest
from scaling.data.prepare.selected import SelectedPiece
from scaling.data.prepare.work import STORE, WorkStep, open_atomic
from scaling.data.prepare.workers import PieceProgress, ReportBytes
from scaling.data.tokenizers import TokenIds, Tokenizer, TokenizerKind, load_tokenizer, token_dtype
from scaling.data.tokenizers.special import SpecialTokens

SAMPLE_BYTES = 10**9
"""Limit on the UTF-8 bytes of the train split that a tokenizer is trained on."""

_BATCH_BYTES = 2**22  # of text tokenized at a time, which bounds the memory
_BATCH_DOCUMENTS = 2**12
_BLOCK = 2**20  # document lengths in memory at a time


@dataclass(frozen=True)
class TokenizeTask:
    """A piece to tokenize."""

    selected: SelectedPiece
    step: WorkStep
    kind: TokenizerKind
    tokenizer: Path
    """Folder in which the tokenizer is saved."""
    special: SpecialTokens


def training_texts(
    pieces: Sequence[SelectedPiece], train_bytes: int, report_bytes: ReportBytes
) -> Iterator[str]:
    """Yield the train split in order, subsampled by hash to about `SAMPLE_BYTES` if larger."""
    share = min(SAMPLE_BYTES / max(train_bytes, 1), 1.0) * 2**32
    for selected in pieces:
        for decision, text, _ in selected.texts(PieceProgress(selected.piece.size, report_bytes)):
            if decision != SPLITS.index("train"):
                continue
            # The last bits of the hash, which splits and mixes do not use.
            if share == 2**32 or int.from_bytes(digest(text.encode())[-4:], "big") < share:
                yield text


def tokenize(task: TokenizeTask, report_bytes: ReportBytes) -> dict[str, Any]:
    """Write the shard of each split for a piece, and the lengths of its documents.

    Returns:
        For each split with documents of this piece: `file`, `sha256`, `tokens`, `documents`,
        `bytes` and `lengths`, the files with the number of tokens of each document.
    """
    tokenizer = _load(task.kind, task.tokenizer, task.special)
    eos = np.array(tokenizer.eos, token_dtype(tokenizer.vocab_size)).tobytes()
    names = [f"{name}-{task.selected.piece.number:05}.bin" for name in SPLITS]
    paths = [task.step.work / STORE / name for name in names]
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomic(path, task.step.out)) for path in paths]
        writers = [_ShardWriter(file, eos, name, task.step)
                   for name, file in zip(SPLITS, files, strict=True)]
        progress = PieceProgress(task.selected.piece.size, report_bytes)
        for batch in _batches(task.selected.texts(progress)):
            encoded = tokenizer.encode_batch([text for _, text, _ in batch])
            for (split, _, size), ids in zip(batch, encoded, strict=True):
                writers[split].add(ids, size)
    result: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for name, path, shard in zip(SPLITS, paths, writers, strict=True):
        if not shard.documents:
            path.unlink(missing_ok=True)  # another worker may have had the same piece
            continue
        shard.write_lengths()
        hashes |= shard.lengths_sha256
        hashes[f"{STORE}/{path.name}"] = shard.sha256.hexdigest()
        result[name] = {
            "file": path.name, "sha256": shard.sha256.hexdigest(), "tokens": shard.tokens,
            "documents": shard.documents, "bytes": shard.bytes, "lengths": shard.lengths_files,
        }
    return task.step.finish(result, hashes)


class _ShardWriter:
    """Writes a file of token ids."""

    def __init__(self, file: IO[bytes], eos: bytes, split: str, step: WorkStep) -> None:
        self._file, self._eos, self._split, self._step = file, eos, split, step
        self._lengths = array("Q")
        self.sha256 = hashlib.sha256()
        self.documents = self.tokens = self.bytes = 0
        self.lengths_files: list[str] = []
        self.lengths_sha256: dict[str, str] = {}

    def add(self, ids: TokenIds, size: int) -> None:
        """Append the ids of a document and its end; `size` is its text in bytes."""
        content = ids.tobytes() + self._eos
        self.sha256.update(content)
        self._file.write(content)
        self._lengths.append(len(ids) + 1)
        self.documents += 1
        self.tokens += len(ids) + 1
        self.bytes += size
        if len(self._lengths) >= _BLOCK:
            self.write_lengths()

    def write_lengths(self) -> None:
        """Write the lengths of the documents added since the last call, if any."""
        if self._lengths:
            kind = f"{self._split}.lengths-{len(self.lengths_files)}"
            self.lengths_sha256 |= self._step.save(**{kind: np.array(self._lengths, np.uint64)})
            self.lengths_files.append(kind)
            self._lengths = array("Q")


@lru_cache(maxsize=1)
def _load(kind: TokenizerKind, folder: Path, special: SpecialTokens) -> Tokenizer:
    return load_tokenizer(kind, folder, special)


def _batches(documents: Iterator[tuple[int, str, int]]) -> Iterator[list[tuple[int, str, int]]]:
    """Group the documents that belong to a split into batches."""
    batch: list[tuple[int, str, int]] = []
    batch_bytes = 0
    for document in documents:
        if document[0] >= len(SPLITS):
            continue
        batch.append(document)
        batch_bytes += document[2]
        if batch_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
