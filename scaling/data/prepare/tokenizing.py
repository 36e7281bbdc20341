"""The tokenizer of a store, and the pass that writes the shards with it."""

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
from scaling.data.prepare.reading import Chosen
from scaling.data.prepare.scan import digest
from scaling.data.prepare.work import STORE, Step, written
from scaling.data.prepare.workers import PieceProgress, Tell
from scaling.data.special import Special
from scaling.data.tokenizers import Ids, Kind, Tokenizer, load_tokenizer, token_dtype

SAMPLE_BYTES = 10**9
"""UTF-8 bytes of the train split that a tokenizer is learnt from at most."""

_BATCH_BYTES = 2**22  # of text tokenized at once: what bounds the memory
_BATCH_DOCUMENTS = 2**12
_BLOCK = 2**20  # lengths of documents that are held


@dataclass(frozen=True)
class TokenizeTask:
    """A piece to be tokenized."""

    chosen: Chosen
    step: Step
    kind: Kind
    tokenizer: Path
    """Folder that the tokenizer was saved in."""
    special: Special


def training_texts(
    pieces: Sequence[Chosen], train_bytes: int, tell: Tell
) -> Iterator[str]:
    """The train split in order; of a larger one than `SAMPLE_BYTES` a share, by the hash."""
    share = min(SAMPLE_BYTES / max(train_bytes, 1), 1.0) * 2**32
    for chosen in pieces:
        for fate, text, _ in chosen.texts(PieceProgress(chosen.piece.size, tell)):
            if fate != SPLITS.index("train"):
                continue
            # The last bits of the hash: splits and mixes are chosen by the others.
            if share == 2**32 or int.from_bytes(digest(text.encode())[-4:], "big") < share:
                yield text


def tokenize(task: TokenizeTask, tell: Tell) -> dict[str, Any]:
    """Write a piece's shard of each split, and the lengths of its documents.

    Returns:
        For each split that has documents of the piece: `file`, `sha256`, `tokens`, `documents`,
        `bytes` and `lengths`, the files with the tokens of each document.
    """
    tokenizer = _load(task.kind, task.tokenizer, task.special)
    eos = np.array(tokenizer.eos, token_dtype(tokenizer.vocab_size)).tobytes()
    names = [f"{name}-{task.chosen.piece.number:05}.bin" for name in SPLITS]
    paths = [task.step.work / STORE / name for name in names]
    with ExitStack() as stack:
        files = [stack.enter_context(written(path, task.step.out)) for path in paths]
        writers = [_Shard(file, eos, name, task.step)
                   for name, file in zip(SPLITS, files, strict=True)]
        progress = PieceProgress(task.chosen.piece.size, tell)
        for batch in _batches(task.chosen.texts(progress)):
            encoded = tokenizer.encode_batch([text for _, text, _ in batch])
            for (split, _, size), ids in zip(batch, encoded, strict=True):
                writers[split].add(ids, size)
    result: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for name, path, shard in zip(SPLITS, paths, writers, strict=True):
        if not shard.documents:
            path.unlink()
            continue
        shard.write_lengths()
        hashes |= shard.lengths_sha256
        hashes[f"{STORE}/{path.name}"] = shard.sha256.hexdigest()
        result[name] = {
            "file": path.name, "sha256": shard.sha256.hexdigest(), "tokens": shard.tokens,
            "documents": shard.documents, "bytes": shard.bytes, "lengths": shard.lengths_files,
        }
    return task.step.finish(result, hashes)


class _Shard:
    """One file of ids while it is written."""

    def __init__(self, file: IO[bytes], eos: bytes, split: str, step: Step) -> None:
        self._file, self._eos, self._split, self._step = file, eos, split, step
        self._lengths = array("Q")
        self.sha256 = hashlib.sha256()
        self.documents = self.tokens = self.bytes = 0
        self.lengths_files: list[str] = []
        self.lengths_sha256: dict[str, str] = {}

    def add(self, ids: Ids, size: int) -> None:
        """Append the ids of one document and its end; `size` is the bytes of its text."""
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
        """Write the tokens of the documents that were added since the last call, if any were."""
        if self._lengths:
            kind = f"{self._split}.lengths-{len(self.lengths_files)}"
            self.lengths_sha256 |= self._step.save(**{kind: np.array(self._lengths, np.uint64)})
            self.lengths_files.append(kind)
            self._lengths = array("Q")


@lru_cache(maxsize=1)
def _load(kind: Kind, folder: Path, special: Special) -> Tokenizer:
    return load_tokenizer(kind, folder, special)


def _batches(documents: Iterator[tuple[int, str, int]]) -> Iterator[list[tuple[int, str, int]]]:
    """The documents that go to some split, many at a time."""
    batch: list[tuple[int, str, int]] = []
    held = 0
    for document in documents:
        if document[0] >= len(SPLITS):
            continue
        batch.append(document)
        held += document[2]
        if held >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
