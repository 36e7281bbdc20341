"""A token store: a folder with a corpus as token ids, and a manifest that says what they are.

    manifest.json             what follows, with sizes and hashes
    train-00000.bin ...       token ids, raw little-endian uint16 or uint32
    train.index.npy           uint64: where each document of the split starts, and the end
    validation-..., test-...  the same for these
    tokenizer.json            for a tokenizer that needs a file

Reading one takes numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import validate
from scaling.data import sources
from scaling.data.manifest import LAYOUT, SPLITS, Learnt, Manifest, Split
from scaling.data.special import Special
from scaling.data.splits import LanguageSplit, StoredSplit, TokenSplit
from scaling.data.tokenizers import TOKENIZER_FILE, Tokenizer, load_tokenizer
from scaling.errors import UserError

MANIFEST_FILE = "manifest.json"

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
        for split in store.manifest.splits().values():
            _check_split(path, split, store.dtype, verify)
        if store.manifest.tokenizer not in (None, "byte") and not (path / TOKENIZER_FILE).is_file():
            raise _damaged(path / TOKENIZER_FILE, "missing")
        if verify and store.manifest.tokenizer is not None:
            store.tokenizer()
        return store

    @cached_property
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

    @property
    def special(self) -> Special:
        """Ids of the special tokens, by role."""
        return self.manifest.special

    def split(self, name: str) -> TokenSplit:
        """The ids of "train", "validation" or "test".

        Raises:
            UserError: the store has no such split.
        """
        stored = self.manifest.splits()
        if name in stored:
            return StoredSplit(self.path, stored[name], self.dtype)
        if self.manifest.language is not None and name in SPLITS:
            return LanguageSplit(self.manifest.language, name, self.dtype)
        hint = "; prepare it again with a --test-fraction" if name == "test" else ""
        raise UserError(f"{self.path}: has no {name} split, only "
                        f"{', '.join(stored or SPLITS)}{hint}")

    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are."""
        return tuple(self.manifest.splits()) or SPLITS

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes of text for each token (ends of documents are tokens of no bytes): what
        divides a loss in nats per token to make it nats per byte. NaN for a language, which has
        no bytes.

        Raises:
            UserError: the store has no such split.
        """
        self.split(split)
        if self.manifest.language is not None:
            return math.nan
        record = self.manifest.split(split)
        return record.bytes / record.tokens

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made these tokens.

        Raises:
            UserError: its file is damaged, or the store is one of a language.
        """
        if self.manifest.tokenizer is None:
            raise UserError(f"{self.path}: holds a synthetic language, which has no text and no "
                            "tokenizer; choose a store of text")
        tokenizer = load_tokenizer(self.manifest.tokenizer, self.path, self.special)
        if tokenizer.hash != self.manifest.tokenizer_hash:
            raise _damaged(self.path / TOKENIZER_FILE, "not the tokenizer of the manifest")
        return tokenizer


def default_folder(corpus: str, tokenizer: str, vocab_size: int | None) -> Path:
    """Where a store goes if nobody says where: stores/chitchat-byte, stores/chitchat-bpe-4096,
    stores/chitchat-gpt2 for the file gpt2.tiktoken."""
    size = f"-{vocab_size}" if tokenizer in Learnt else ""
    return Path("stores", f"{corpus}-{Path(tokenizer).stem}{size}")


def language_folder(source: str) -> Path:
    """Where the store of a language goes if nobody says where: stores/markov-vocab-512-seed-1."""
    _, _, language = source.partition(":")
    return Path("stores", re.sub(r"[^A-Za-z0-9.]+", "-", language).strip("-"))


def prepare_command(path: Path) -> str:
    """The command that makes a store at this path, as far as its name tells."""
    name = re.fullmatch(rf"(.+)-(?:byte|({'|'.join(Learnt)})-(\d+))", path.name)
    corpus, kind, size = name.groups() if name else ("", None, None)
    source = next((known.pattern for known in sources.KNOWN if corpus and known.corpus == corpus),
                  "SOURCE")
    options = f" --tokenizer {kind} --vocab-size {size}" if kind else ""
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
    for shard in split.shards:
        path, expected = folder / shard.file, shard.tokens * dtype.itemsize
        if (size := _size(path)) != expected:
            raise _damaged(path, f"{size:,} bytes, {'less' if size < expected else 'more'} than "
                                 f"the {expected:,} of the manifest")
    path = folder / split.index_file
    _size(path)
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = (index.dtype == np.uint64 and index.shape == (split.documents + 1,)
                 and index[0] == 0 and index[-1] == split.tokens)
    except (ValueError, EOFError):
        whole = False
    if not whole:
        raise _damaged(path, f"not the index of {split.documents:,} documents")
    if verify:
        _check_sha256(path, split.index_sha256)
        for shard in split.shards:
            _check_sha256(folder / shard.file, shard.sha256)


def _size(path: Path) -> int:
    if not path.is_file():
        raise _damaged(path, "missing")
    return path.stat().st_size


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise _damaged(path, f"its content has changed: SHA-256 {found}, expected {expected}")


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(f"{file}: {problem}; the store is damaged: delete {file.parent} and prepare "
                     "it again")

