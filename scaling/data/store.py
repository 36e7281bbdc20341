"""Token stores: a folder with a corpus as token ids, opened for reading.

    manifest.json             options, and the sizes and hashes of the files below
    train-00000.bin ...       token ids, raw little-endian uint16 or uint32
    train.index.npy           uint64: the start of each document of the split, and the end
    validation-..., test-...  the same for the other splits
    tokenizer.json            unless the tokenizer needs no file

Reading token ids needs numpy alone.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.config import validate
from scaling.data import sources
from scaling.data.manifest import (
    MANIFEST_FILE,
    SPLITS,
    STORE_LAYOUT,
    TRAINED_TOKENIZERS,
    Manifest,
    Split,
)
from scaling.data.splits import LanguageSplit, StoredSplit, TokenSplit, damaged, open_index
from scaling.data.statistics import unigram_counts
from scaling.data.tokenizers import TOKENIZER_FILE, Tokenizer, load_tokenizer
from scaling.data.tokenizers.special import SpecialTokens
from scaling.errors import UserError
from scaling.files import blame, open_regular, parse_json, read_bytes

_LARGEST_MANIFEST = 64 * 2**20
"""Largest size of a manifest in bytes: a shard needs 200, and there are a few hundred shards."""


@dataclass(frozen=True)
class TokenStore:
    """An opened token store."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, verify: bool = False, options: str = "") -> TokenStore:
        """Open a store, and check its files against its manifest.

        Args:
            path: Folder of the store.
            verify: Also read every file, to check its SHA-256, the order of documents and that all
                ids are in the vocabulary; in bounded memory.
            options: Options of `scaling data prepare` to suggest in the message if there is no
                store.

        Raises:
            UserError: There is no store, or it is damaged; the message names the file.
            OSError: A file cannot be read; the error has its name.
        """
        path = Path(path)
        store = cls(path, _read_manifest(path, options))
        for name, split in store.manifest.splits().items():
            _check_split(path, split, store.dtype, verify)
            if verify:
                store._stored(name, split).check()
        if store.manifest.tokenizer not in (None, "byte"):
            _size(path, TOKENIZER_FILE)
        if verify:
            store._check_origin()
        return store

    def _check_origin(self) -> None:
        """Check the tokenizer, or the entropy of the language, against the manifest."""
        language, recorded = self.manifest.language, self.manifest.entropy
        if language is None:
            self.tokenizer()
        elif recorded is not None and not np.allclose(recorded, language.entropy(), rtol=1e-6):
            raise damaged(self.path / MANIFEST_FILE,
                          f"entropy: is {recorded.rate:.6f} nats per token, but its language has "
                          f"{language.entropy().rate:.6f}")

    @cached_property
    def hash(self) -> str:
        """Hash of the tokens, independent of the location of the folder."""
        return self.manifest.hash

    @property
    def corpus(self) -> str:
        """Short name of the corpus, for tables."""
        return self.manifest.corpus

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        return self.manifest.vocab_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the ids on disk: little-endian uint16 or uint32."""
        return np.dtype(self.manifest.dtype).newbyteorder("<")

    @property
    def special(self) -> SpecialTokens:
        """Ids of the special tokens, by role."""
        return self.manifest.special

    def split(self, name: str) -> TokenSplit:
        """The ids of "train", "validation" or "test".

        Raises:
            UserError: The store has no such split.
        """
        stored = self.manifest.splits()
        if name in stored:
            return self._stored(name, stored[name])
        if self.manifest.language is not None and name in SPLITS:
            return LanguageSplit(self.manifest.language, name, self.dtype)
        hint = "; prepare it again with a --test-fraction" if name == "test" else ""
        raise UserError(f"{self.path}: has no {name} split, only "
                        f"{', '.join(stored or SPLITS)}{hint}")

    def _stored(self, name: str, record: Split) -> StoredSplit:
        return StoredSplit(self.path, name, record, self.dtype, self.vocab_size)

    def splits(self) -> tuple[str, ...]:
        """Names of the existing splits."""
        return tuple(self.manifest.splits()) or SPLITS

    def bytes_per_token(self, split: str) -> float:
        """Mean UTF-8 bytes of text per token, with ends of documents as tokens of zero bytes.

        A loss in nats per token divided by it is in nats per byte. NaN for a language, which has
        no bytes.

        Raises:
            UserError: The store has no such split.
        """
        self.split(split)
        if self.manifest.language is not None:
            return math.nan
        record = self.manifest.split(split)
        return record.bytes / record.tokens

    @cached_property
    def token_bytes(self) -> NDArray[np.float64] | None:
        """UTF-8 bytes of text per id, shape [vocab_size], 0 for special tokens; None for a
        language, which has no bytes.

        Exact for bytes and byte-level BPE. For lossy tokenizers (WordPiece, Unigram,
        SentencePiece), the lengths of the tokens are scaled such that the tokens of the validation
        split sum to its bytes (estimated on a sample if the split is large).

        Raises:
            UserError: The tokenizer's file or the split is damaged.
        """
        if self.manifest.language is not None:
            return None
        tokenizer, record = self.tokenizer(), self.manifest.split("validation")
        sizes = tokenizer.token_bytes().astype(np.float64)
        if tokenizer.keeps_bytes or not record.tokens:
            return sizes
        sizes[list(self.special.ids())] = 0
        counts = unigram_counts(self.split("validation"), self.vocab_size)
        nominal_bytes = float(counts @ sizes)
        text_bytes = self.bytes_per_token("validation") * float(counts.sum())
        sizes *= text_bytes / max(nominal_bytes, 1.0)
        return sizes

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the store.

        Raises:
            UserError: Its file is damaged or does not match the manifest, or the store is that of
                a language.
        """
        if self.manifest.tokenizer is None:
            raise UserError(f"{self.path}: is a synthetic language, which has no text and no "
                            "tokenizer; choose a store of text")
        tokenizer = load_tokenizer(self.manifest.tokenizer, self.path, self.special)
        if tokenizer.vocab_size != self.vocab_size:
            raise damaged(self.path / MANIFEST_FILE,
                          f"vocab_size: is {self.vocab_size:,}, but its tokenizer has "
                          f"{tokenizer.vocab_size:,} ids")
        if tokenizer.hash != self.manifest.tokenizer_hash:
            raise damaged(self.path / TOKENIZER_FILE, "not the tokenizer of the manifest")
        return tokenizer


def default_folder(corpus: str, tokenizer: str, vocab_size: int | None) -> Path:
    """Default folder of a store: stores/chitchat-byte, stores/chitchat-bpe-4096,
    stores/chitchat-gpt2 for the file gpt2.tiktoken."""
    size = f"-{vocab_size}" if tokenizer in TRAINED_TOKENIZERS else ""
    return Path("stores", f"{corpus}-{Path(tokenizer).stem}{size}")


def language_folder(source: str) -> Path:
    """Default folder of the store of a language: stores/markov-vocab-512-seed-1."""
    _, _, language = source.partition(":")
    return Path("stores", re.sub(r"[^A-Za-z0-9.]+", "-", language).strip("-"))


def prepare_command(path: Path, needed: str = "") -> str:
    """A command that prepares a store at this path, with the corpus and tokenizer inferred from
    its name.

    Args:
        path: Path of the store.
        needed: Further options.
    """
    name = re.fullmatch(rf"(.+)-(?:byte|({'|'.join(TRAINED_TOKENIZERS)})-(\d+))", path.name)
    corpus, kind, size = name.groups() if name else ("", None, None)
    corpus = corpus or path.name.partition("-")[0]
    source = next((known.pattern for known in sources.known_sources()
                   if corpus and known.corpus == corpus), "SOURCE")
    options = f" --tokenizer {kind} --vocab-size {size}" if kind else ""
    options += f" {needed}" if needed else ""
    return f"scaling data prepare {source}{options} --out {shlex.quote(str(path))}"


def _read_manifest(path: Path, options: str) -> Manifest:
    file = path / MANIFEST_FILE
    try:
        content = parse_json(read_bytes(file, _LARGEST_MANIFEST), str(file))
    except FileNotFoundError:
        problem = ("has no manifest, so it is not a token store" if path.exists()
                   else "no such store")
        raise UserError(f"{path}: {problem}; prepare one with: "
                        f"{prepare_command(path, options)}") from None
    except NotADirectoryError:
        raise UserError(f"{path}: is a file, but the folder of a token store is expected"
                        ) from None
    except UserError as error:
        raise UserError(f"{error}; the store is damaged: move {path} away and prepare it again"
                        ) from None
    layout = content.get("layout") if isinstance(content, dict) else None
    if layout != STORE_LAYOUT:
        shown = repr(layout) if isinstance(layout, int | str | None) else "another kind"
        raise UserError(
            f"{file}: is a store of layout {shown[:20]}, but this version of scaling reads layout "
            f"{STORE_LAYOUT}; prepare it again in another folder"
        )
    return validate(Manifest, content, str(file))


def _check_split(folder: Path, split: Split, dtype: np.dtype[Any], verify: bool) -> None:
    for shard in split.shards:
        size, expected = _size(folder, shard.file), shard.tokens * dtype.itemsize
        if size != expected:
            raise damaged(folder / shard.file,
                          f"has {size:,} bytes, {'fewer' if size < expected else 'more'} than the "
                          f"{expected:,} in the manifest")
    _size(folder, split.index_file)
    open_index(folder / split.index_file, split)
    if verify:
        _check_sha256(folder / split.index_file, split.index_sha256)
        for shard in split.shards:
            _check_sha256(folder / shard.file, shard.sha256)


def _size(folder: Path, name: str) -> int:
    """Size in bytes of a file of the store, after a check that it is a file within the folder."""
    path = folder / name
    try:
        status = path.stat()
    except FileNotFoundError:
        raise damaged(path, "missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "is a folder, a pipe or a device, but a file is expected")
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise damaged(path, "is a link to a file outside of the store")
    return status.st_size


def _check_sha256(path: Path, expected: str) -> None:
    with blame(path), open_regular(path) as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise damaged(path, f"its content has changed: SHA-256 {found}, expected {expected}")
