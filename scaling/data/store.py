"""A token store: a folder with a corpus as token ids, and a manifest that says what they are.

    manifest.json                                what follows, with sizes and hashes
    train.bin, validation.bin                    token ids, raw little-endian uint16 or uint32
    train.index.npy, validation.index.npy        uint64: where each document starts, and the end
    tokenizer.json                               for a BPE

Reading one takes numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from scaling.config import Config, content_hash, validate
from scaling.config.base import Count, Fraction, Index
from scaling.data import sources
from scaling.data.tokenizers import (
    SMALLEST_VOCABULARY,
    TOKENIZER_FILE,
    DType,
    Kind,
    Tokenizer,
    load_tokenizer,
)
from scaling.errors import UserError

LAYOUT = 1
"""Raised when a folder written today could no longer be read by yesterday's code."""

MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "validation")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z.]*$")]


class Options(Config):
    """What the user chose; together with the text of the corpus it determines every token."""

    tokenizer: Kind
    vocab_size: Count | None = None
    """Ids of a BPE, the end of a document counted in; bytes have 257."""
    validation_fraction: Annotated[Fraction, Field(gt=0, lt=1)] = 0.05
    """Share of the documents that is held out."""
    max_bytes: Count | None = None
    """UTF-8 bytes of text at most, over both splits; by default the whole corpus."""

    @model_validator(mode="after")
    def _vocabulary_is_chosen(self) -> Options:
        if self.tokenizer == "byte" and self.vocab_size is not None:
            raise ValueError(f"vocab_size = {self.vocab_size}, and bytes have "
                             f"{SMALLEST_VOCABULARY}; leave it out, or choose the tokenizer bpe")
        if self.tokenizer == "bpe" and (self.vocab_size or 0) < SMALLEST_VOCABULARY:
            given = "missing" if self.vocab_size is None else f"{self.vocab_size}"
            raise ValueError(f"vocab_size is {given}; a BPE needs one of at least "
                             f"{SMALLEST_VOCABULARY}, for example 4096 (--vocab-size 4096)")
        return self


class Split(Config):
    """One split: its files and its counts."""

    file: FileName
    sha256: Sha256
    index_file: FileName
    index_sha256: Sha256
    documents: Count
    tokens: Count
    """Ids in the file; one for each document is the end of it."""
    bytes: Count
    """UTF-8 bytes of the text."""


class Manifest(Config):
    """What a token store holds, and where it came from."""

    layout: Count = LAYOUT
    source: str
    """The source string as the user wrote it."""
    corpus: str
    """Short name, for tables."""
    reading: str
    """How the files of the corpus become documents."""
    corpus_sha256: Sha256
    """Of the file of the corpus, or of the list of the SHA-256 of its files."""
    options: Options
    tokenizer: Kind
    tokenizer_hash: Sha256
    vocab_size: Count
    dtype: DType
    train: Split
    validation: Split
    duplicates: Index
    """Documents dropped because one with the same text had come before."""

    def split(self, name: str) -> Split:
        """The split "train" or "validation"; another name is a KeyError."""
        return {"train": self.train, "validation": self.validation}[name]

    @property
    def hash(self) -> str:
        """SHA-256 of what determines the tokens, and nothing else: no path, source name or time.
        """
        return content_hash({
            "splits": {name: self.split(name).sha256 for name in SPLITS},
            "tokenizer": self.tokenizer_hash,
            "dtype": self.dtype,
        })


@dataclass(frozen=True)
class TokenStore:
    """An opened token store."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, verify: bool = False) -> TokenStore:
        """Open a store, and see that its files are those of its manifest.

        Args:
            path: the folder.
            verify: also read every file and compare its SHA-256.

        Raises:
            UserError: there is no store, or it is damaged; the message names the file.
        """
        path = Path(path)
        store = cls(path, _read_manifest(path))
        for name in SPLITS:
            _check_split(path, store.manifest.split(name), store.dtype, verify)
        if store.manifest.tokenizer == "bpe" and not (path / TOKENIZER_FILE).is_file():
            raise _damaged(path / TOKENIZER_FILE, "missing")
        if verify:
            store.tokenizer()
        return store

    @property
    def hash(self) -> str:
        """Identity of the tokens: equal for equal tokens, wherever the folder is."""
        return self.manifest.hash

    @property
    def corpus(self) -> str:
        """Short name of the corpus, for tables."""
        return self.manifest.corpus

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the end of a document counted in."""
        return self.manifest.vocab_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids on disk: little-endian uint16 or uint32."""
        return np.dtype(self.manifest.dtype).newbyteorder("<")

    def tokens(self, split: str) -> np.memmap[Any, Any]:
        """The ids of "train" or "validation", read-only, shape [tokens]."""
        record = self.manifest.split(split)
        return np.memmap(self.path / record.file, self.dtype, mode="r", shape=(record.tokens,))

    def offsets(self, split: str) -> NDArray[np.uint64]:
        """Where documents lie: document i is `tokens[offsets[i] : offsets[i + 1]]`, its end of
        document last; shape [documents + 1]."""
        path = self.path / self.manifest.split(split).index_file
        index: NDArray[np.uint64] = np.load(path, mmap_mode="r", allow_pickle=False)
        return index

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes of text for each token (ends of documents are tokens of no bytes): what
        divides a loss in nats per token to make it nats per byte."""
        record = self.manifest.split(split)
        return record.bytes / record.tokens

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made these tokens.

        Raises:
            UserError: its file is damaged.
        """
        tokenizer = load_tokenizer(self.manifest.tokenizer, self.path)
        if tokenizer.hash != self.manifest.tokenizer_hash:
            raise _damaged(self.path / TOKENIZER_FILE, "not the tokenizer of the manifest")
        return tokenizer


def default_folder(corpus: str, tokenizer: str, vocab_size: int | None) -> Path:
    """Where a store goes if nobody says where: stores/chitchat-byte, stores/chitchat-bpe-4096."""
    size = f"-{vocab_size}" if tokenizer == "bpe" else ""
    return Path("stores", f"{corpus}-{tokenizer}{size}")


def prepare_command(path: Path) -> str:
    """The command that makes a store at this path, as far as its name tells."""
    name = re.fullmatch(r"(.+)-(byte|bpe-(\d+))", path.name)
    corpus, size = (name[1], name[3]) if name else ("", None)
    source = next((known.pattern for known in sources.KNOWN if corpus and known.corpus == corpus),
                  "SOURCE")
    options = f" --tokenizer bpe --vocab-size {size}" if size else ""
    return f"scaling data prepare {source}{options} --out {shlex.quote(str(path))}"


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        problem = "holds no manifest, so it is no token store" if path.exists() else "no such store"
        raise UserError(f"{path}: {problem}; make one with: {prepare_command(path)}") from None
    except NotADirectoryError:
        raise UserError(f"{path}: a file, where the folder of a token store is expected") from None
    except ValueError as error:
        raise _damaged(file, f"not JSON ({error})") from None
    layout = content.get("layout") if isinstance(content, dict) else None
    if layout != LAYOUT:
        raise UserError(
            f"{file}: a store of layout {layout!r}, and this version of scaling reads layout "
            f"{LAYOUT}; prepare it again in another folder"
        )
    return validate(Manifest, content, str(file))


def _check_split(folder: Path, split: Split, dtype: np.dtype[Any], verify: bool) -> None:
    path, index_path = folder / split.file, folder / split.index_file
    for needed in (path, index_path):
        if not needed.is_file():
            raise _damaged(needed, "missing")
    size, expected = path.stat().st_size, split.tokens * dtype.itemsize
    if size != expected:
        raise _damaged(path, f"{size:,} bytes, {'less' if size < expected else 'more'} than the "
                             f"{expected:,} of the manifest")
    try:
        index = np.load(index_path, mmap_mode="r", allow_pickle=False)
        whole = (index.dtype == np.uint64 and index.shape == (split.documents + 1,)
                 and index[0] == 0 and index[-1] == split.tokens)
    except (ValueError, EOFError):
        whole = False
    if not whole:
        raise _damaged(index_path, f"not the index of {split.documents:,} documents")
    if verify:
        for wanted, file in ((split.sha256, path), (split.index_sha256, index_path)):
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != wanted:
                raise _damaged(file, f"its content has changed: SHA-256 {found}, expected {wanted}")


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(f"{file}: {problem}; the store is damaged: delete {file.parent} and prepare "
                     "it again")

