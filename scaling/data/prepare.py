"""A corpus in, a token store out: split, deduplicate, tokenize, and put in place in one move."""

from __future__ import annotations

import hashlib
import io
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from scaling.config import canonical_json, validate
from scaling.data import sources
from scaling.data.folders import blame, whole_folder
from scaling.data.store import MANIFEST_FILE, SPLITS, Manifest, Options, Split, TokenStore
from scaling.data.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    Ids,
    Tokenizer,
    dtype_name,
    token_dtype,
)
from scaling.errors import UserError

Progress = Callable[[str, float], None]
"""Called now and then with a stage of the work and the share of it that is done, 0 to 1."""

_BATCH_BYTES = 2**22  # of text tokenized at once: what bounds the memory
_BATCH_DOCUMENTS = 2**12


class Document(NamedTuple):
    """A document of the corpus, and where it belongs."""

    text: str
    size: int
    """UTF-8 bytes."""
    split: str | None
    """None for a document that repeats an earlier one."""
    done: float
    """Share of the corpus that is read by now."""


def prepare(
    source: str,
    tokenizer_kind: str,
    vocab_size: int | None,
    out: Path,
    validation_fraction: float = 0.05,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> TokenStore:
    """Make the token store of a corpus, or find it made.

    A folder that already holds exactly this store is left as it is. Otherwise the store is
    written beside `out` and moved into place when it is whole, so that there is never half a
    store, whatever interrupts the work.

    Args:
        source: a source string (`scaling.data.sources`).
        tokenizer_kind: "byte" or "bpe"; a BPE is learnt from the train split.
        vocab_size: ids of a BPE, the end of a document counted in; None for bytes.
        out: folder of the store.
        validation_fraction: share of the documents that is held out. A document's text alone
            decides its split, so that it stays there when the corpus grows.
        max_bytes: take documents from the start of the corpus up to so many UTF-8 bytes.
        progress: told how far the work is.

    Raises:
        UserError: an option, the source or a file of it is wrong, the corpus is too small to be
            split, or `out` holds something else. Nothing is overwritten or left behind.
        OSError: reading or writing failed; its file name is the source's or `out`.
    """
    report: Progress = progress or (lambda stage, done: None)
    options = validate(Options, {
        "tokenizer": tokenizer_kind,
        "vocab_size": vocab_size,
        "validation_fraction": validation_fraction,
        "max_bytes": max_bytes,
    }, "prepare")
    source_found = sources.find(source)
    report("hashing", 0.0)
    stamp, corpus_sha256 = source_found.stamp(), source_found.sha256()
    recipe = _recipe(source_found.reading, corpus_sha256, options)
    if (store := _already_prepared(out, recipe)) is not None:
        return store
    with whole_folder(out) as folder:
        tokenizer = _tokenizer(source_found, options, report)
        splits, duplicates = _write_splits(folder, out, source_found, options, tokenizer, report)
        if source_found.stamp() != stamp:
            raise UserError(f"{source}: its files changed while they were read; prepare again "
                            "when nothing writes to them")
        manifest = Manifest(
            source=source,
            corpus=source_found.corpus,
            reading=source_found.reading,
            corpus_sha256=corpus_sha256,
            options=options,
            tokenizer=options.tokenizer,
            tokenizer_hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype_name(tokenizer.vocab_size),
            train=splits["train"],
            validation=splits["validation"],
            duplicates=duplicates,
        )
        with blame(out):
            tokenizer.save(folder)
            text = manifest.model_dump_json(indent=2) + "\n"
            (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    # Where another process was quicker, this is its store, if it is the same.
    store = _already_prepared(out, recipe)
    assert store is not None
    return store


def split_of(digest: bytes, validation_fraction: float) -> str:
    """The split of a document, by the hash of its text and nothing else."""
    held_out = int.from_bytes(digest[:8], "big") < validation_fraction * 2**64
    return "validation" if held_out else "train"


def split_documents(source: sources.Source, options: Options) -> Iterator[Document]:
    """The documents of a corpus with their splits, up to `max_bytes`; repeated ones marked.

    Holds a hash of 16 bytes for each document, and one document. Two different documents among
    2**32 have the same hash with odds of 3e-20.
    """
    seen: set[bytes] = set()
    kept, size = 0, source.size()
    for text, position in source.documents():
        content = text.encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        done = position / size
        if digest in seen:
            yield Document(text, len(content), None, done)
            continue
        if options.max_bytes is not None:
            if kept + len(content) > options.max_bytes:
                return
            done = max(done, kept / options.max_bytes)
        seen.add(digest)
        kept += len(content)
        split = split_of(digest, options.validation_fraction)
        yield Document(text, len(content), split, done)


def _recipe(reading: str, corpus_sha256: str, options: Options) -> str:
    """All that determines the tokens of a store, but for the code of this package."""
    return canonical_json([reading, corpus_sha256, options.model_dump()])


def _already_prepared(out: Path, recipe: str) -> TokenStore | None:
    """The store at `out` if it is the wanted one, None if nothing stands there."""
    if not os.path.lexists(out):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is no token store, and is not overwritten; choose "
                        "another --out, or remove it")
    store = TokenStore.open(out)
    there = store.manifest
    if _recipe(there.reading, there.corpus_sha256, there.options) != recipe:
        options = ", ".join(f"{name} {value}" for name, value in there.options if value is not None)
        raise UserError(
            f"{out}: holds another store, and is not overwritten; it was prepared from "
            f"{there.source} (SHA-256 {there.corpus_sha256[:12]}) with {options}; choose another "
            "--out, or remove it"
        )
    return store


def _tokenizer(source: sources.Source, options: Options, report: Progress) -> Tokenizer:
    if options.tokenizer == "byte" or options.vocab_size is None:
        return ByteTokenizer()

    def train_texts() -> Iterator[str]:
        told = 0.0
        for document in split_documents(source, options):
            if document.done - told >= 0.01:
                told = document.done
                report("reading for the BPE", told)
            if document.split == "train":
                yield document.text
        report("learning merges", 0.0)

    return BPETokenizer.train(train_texts(), options.vocab_size)


def _write_splits(
    folder: Path,
    out: Path,
    source: sources.Source,
    options: Options,
    tokenizer: Tokenizer,
    report: Progress,
) -> tuple[dict[str, Split], int]:
    """Write the files of both splits; return what they hold, and the count of repetitions."""
    duplicates = 0
    with ExitStack() as stack:
        eos = np.array(tokenizer.eos, token_dtype(tokenizer.vocab_size)).tobytes()
        writers = {
            name: stack.enter_context(_SplitWriter(folder, name, eos, out)) for name in SPLITS
        }
        for batch in _batches(split_documents(source, options)):
            kept = [(document, document.split) for document in batch if document.split is not None]
            duplicates += len(batch) - len(kept)
            encoded = tokenizer.encode_batch([document.text for document, _ in kept])
            for (document, split), ids in zip(kept, encoded, strict=True):
                writers[split].add(ids, document.size)
            report("tokenizing", batch[-1].done)
        documents = {name: writer.documents for name, writer in writers.items()}
        for name, count in documents.items():
            if not count:
                raise UserError(
                    f"{source.name}: the {name} split would be empty: of "
                    f"{sum(documents.values()):,} documents each goes to validation with a chance "
                    f"of {options.validation_fraction:g}; take more documents, or change "
                    "--validation-fraction" + (" or --max-bytes" if options.max_bytes else "")
                )
        return {name: writer.finish() for name, writer in writers.items()}, duplicates


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _SplitWriter:
    """The files of one split while they are written."""

    def __init__(self, folder: Path, name: str, eos: bytes, out: Path) -> None:
        self._path, self._index_path = folder / f"{name}.bin", folder / f"{name}.index.npy"
        self._eos, self._out = eos, out
        self._sha256 = hashlib.sha256()
        self._offsets = array("Q", [0])
        self._bytes = 0

    def __enter__(self) -> _SplitWriter:
        with blame(self._out):
            self._file = self._path.open("wb", buffering=2**20)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # `finish` closed it already, unless something else is failing.
        with suppress(OSError):
            self._file.close()

    @property
    def documents(self) -> int:
        return len(self._offsets) - 1

    def add(self, ids: Ids, size: int) -> None:
        """Append the ids of one document and its end; `size` is the bytes of its text."""
        content = ids.tobytes() + self._eos
        self._sha256.update(content)
        with blame(self._out):
            self._file.write(content)
        self._offsets.append(self._offsets[-1] + len(ids) + 1)
        self._bytes += size

    def finish(self) -> Split:
        """Close the file and write the index."""
        # Into memory first: numpy's own writing turns a full disk into an error without a number.
        index = io.BytesIO()
        offsets = np.frombuffer(self._offsets, np.uint64).astype("<u8")
        np.save(index, offsets, allow_pickle=False)
        with blame(self._out):
            self._file.close()
            self._index_path.write_bytes(index.getvalue())
        return Split(
            file=self._path.name,
            sha256=self._sha256.hexdigest(),
            index_file=self._index_path.name,
            index_sha256=hashlib.sha256(index.getvalue()).hexdigest(),
            documents=self.documents,
            tokens=self._offsets[-1],
            bytes=self._bytes,
        )
