"""The manifest of a token store: its options, shards, hashes and counts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from scaling.config import Config, content_hash
from scaling.config.base import Count, Fraction, NonNegativeInt, field_error
from scaling.data.synthetic import AnyLanguage, Entropy
from scaling.data.tokenizers import (
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    TOKENIZER_FILE,
    DType,
    TokenizerKind,
    dtype_name,
)
from scaling.data.tokenizers.special import MOST_SENTINELS, SpecialTokens

STORE_LAYOUT = 2
"""Version of the store format; incremented when older code could not read new stores."""

MANIFEST_FILE = "manifest.json"

RESERVED = (MANIFEST_FILE, TOKENIZER_FILE)
"""File names that no split may use."""

SPLITS = ("train", "validation", "test")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CorpusName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
FileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
"""Plain name of a file in the folder of the store."""

StoredCount = Annotated[Count, Field(le=2**50)]
"""Number of items that are stored on disk."""

_LARGEST_VOCABULARY = 2**24
"""Largest vocabulary of any tokenizer: sixteen times those in use, and an array of this length is
small."""

TRAINED_TOKENIZERS = ("bpe", "wordpiece", "unigram")
"""Kinds of tokenizer that are trained on the corpus."""


class Options(Config):
    """The user's options; together with the text of the corpus they determine every token."""

    tokenizer: Literal["byte", "bpe", "wordpiece", "unigram", "file", "none"]
    """Kind of tokenizer: "file" for a published tokenizer, "none" for a synthetic language, which
    has no text."""
    vocab_size: Count | None = None
    """Number of ids of a trained tokenizer, special tokens included. A byte tokenizer has 257 and
    one for each further special token."""
    tokenizer_sha256: Sha256 | None = None
    """SHA-256 of the file of a published tokenizer."""
    special: tuple[str, ...] = ()
    """Roles of special tokens in addition to the end of a document: pad, cls, sep, mask, unk."""
    sentinels: Annotated[NonNegativeInt, Field(le=MOST_SENTINELS)] = 0
    """Number of sentinels, which stand for spans: `<extra_id_0>` and so on."""
    validation_fraction: Annotated[Fraction, Field(gt=0, lt=1)] = 0.05
    """Fraction of the documents in the validation split, for model selection."""
    test_fraction: Annotated[Fraction, Field(lt=1)] = 0.02
    """Fraction of the documents in the test split, for the final evaluation."""
    max_bytes: Count | None = None
    """Limit on the UTF-8 bytes of text, over all splits; by default the whole corpus."""
    deduplicate: Literal["exact", "near", "none"] = "exact"
    """Whether documents are dropped that are exact, or also near, duplicates of an earlier one."""
    contamination: Literal["off", "report", "drop"] = "off"
    """Treatment of test documents that share 13 words in a row with the train split."""
    not_utf8: Literal["refuse", "skip", "replace"] = "refuse"
    """Treatment of text that is not UTF-8."""

    @model_validator(mode="after")
    def _vocabulary_is_chosen(self) -> Options:
        if self.tokenizer == "byte" and self.vocab_size is not None:
            raise ValueError(f"vocab_size = {self.vocab_size}, but a byte tokenizer has "
                             f"{SMALLEST_VOCABULARY} ids; leave it out, or choose the tokenizer "
                             "bpe")
        if self.tokenizer in ("file", "none") and self.vocab_size is not None:
            raise field_error("vocab_size", f"is {self.vocab_size}, but the tokenizer file or the "
                              "language determines the vocabulary; leave it out")
        smallest = SMALLEST_VOCABULARY if self.tokenizer == "bpe" else 1
        if self.tokenizer in TRAINED_TOKENIZERS and not (
            smallest <= (self.vocab_size or 0) <= LARGEST_VOCABULARY
        ):
            given = "missing" if self.vocab_size is None else f"{self.vocab_size}"
            raise ValueError(f"vocab_size is {given}; a {self.tokenizer.replace('bpe', 'BPE')} "
                             f"tokenizer needs one from {smallest} to {LARGEST_VOCABULARY}, for "
                             "example 4096 (--vocab-size 4096)")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Options:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise field_error("test_fraction", f"is {self.test_fraction:g}, which together with "
                              f"validation_fraction {self.validation_fraction:g} leaves nothing "
                              "to train on; their sum must be below 1")
        return self


class Shard(Config):
    """One file of token ids."""

    file: FileName
    sha256: Sha256
    tokens: StoredCount


class Split(Config):
    """The files and counts of one split."""

    shards: tuple[Shard, ...]
    """Shards in order; a document does not extend over two of them."""
    sha256: Sha256
    """SHA-256 of the ids of all shards, concatenated."""
    index_file: FileName
    index_sha256: Sha256
    documents: StoredCount
    tokens: StoredCount
    """Number of ids in the shards, including one end per document."""
    bytes: StoredCount
    """UTF-8 bytes of the text."""

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        total = sum(shard.tokens for shard in self.shards)
        if total != self.tokens:
            raise field_error("tokens", f"is {self.tokens:,}, but its shards have {total:,}")
        if self.documents > self.tokens:
            raise field_error("documents", f"is {self.documents:,}, more than the "
                              f"{self.tokens:,} tokens, but each document has at least one")
        return self


class Component(Config):
    """One source of a mix."""

    source: str
    """The source string as written by the user."""
    share: Fraction
    """Share of the bytes of text, from the weights."""
    bytes: NonNegativeInt
    """UTF-8 bytes of its text that are in the store."""
    available: Count
    """UTF-8 bytes of its text without duplicates."""


class Manifest(Config):
    """Content and origin of a token store."""

    layout: Count = STORE_LAYOUT
    source: str
    """The source string as written by the user."""
    corpus: CorpusName
    """Short name, for tables."""
    reading: str
    """Description of how the files of the corpus become documents."""
    corpus_sha256: Sha256
    """SHA-256 of the file of the corpus, or of the list of the SHA-256 of its files."""
    options: Options
    language: AnyLanguage | None = None
    """The synthetic language, whose sequences are generated when they are read; None for text."""
    entropy: Entropy | None = None
    """Entropy rate of the language in nats per token, with bounds."""
    tokenizer: TokenizerKind | None
    """None for a language, which has no text."""
    tokenizer_hash: Sha256 | None
    tokenizer_bytes: NonNegativeInt = 0
    """UTF-8 bytes of the train split that the tokenizer was trained on; 0 if it was not trained."""
    special: SpecialTokens
    vocab_size: Annotated[Count, Field(le=_LARGEST_VOCABULARY)]
    dtype: DType
    train: Split | None
    """None for a language, as are the other splits: nothing of it is stored."""
    validation: Split | None
    test: Split | None
    """None also if it has no documents."""
    duplicates: NonNegativeInt
    """Number of documents dropped because an earlier one has the same text."""
    near_duplicates: NonNegativeInt = 0
    """Number of documents dropped because an earlier one has nearly the same words."""
    contaminated: NonNegativeInt | None = None
    """Number of test documents that share 13 words in a row with the train split; None if this was
    not checked."""
    not_utf8: NonNegativeInt = 0
    """Number of documents that were not UTF-8, and were skipped or repaired."""
    mixture: tuple[Component, ...] = ()
    """The bytes of each source of a mix; empty for a single source."""

    @model_serializer(mode="wrap")
    def _without_an_empty_mixture(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit an empty mixture, as in manifests older than the field."""
        content: dict[str, Any] = dump(self)
        return content if self.mixture else {
            name: value for name, value in content.items() if name != "mixture"}

    @model_validator(mode="after")
    def _text_or_language(self) -> Manifest:
        stored = self.train is not None and self.validation is not None
        if stored == (self.language is not None) or stored != (self.tokenizer_hash is not None):
            raise field_error("language", "either a language is expected, or the train and "
                              "validation splits and their tokenizer")
        if self.dtype != dtype_name(self.vocab_size):
            raise field_error("dtype", f"is {self.dtype}, but {self.vocab_size:,} ids need "
                              f"{dtype_name(self.vocab_size)}")
        return self

    @model_validator(mode="after")
    def _vocabulary_holds_every_id(self) -> Manifest:
        if self.special.ids()[-1] >= self.vocab_size:
            raise field_error("special", f"has the id {self.special.ids()[-1]:,}, but the "
                              f"vocabulary has {self.vocab_size:,} ids")
        if self.language is not None and self.language.vocab_size > self.vocab_size:
            raise field_error("vocab_size", f"is {self.vocab_size:,}, but the language has "
                              f"{self.language.vocab_size:,} ids")
        return self

    @model_validator(mode="after")
    def _entropy_is_a_number(self) -> Manifest:
        if self.entropy is not None and not (
            0 <= self.entropy.low <= self.entropy.rate <= self.entropy.high < math.inf
        ):
            raise field_error("entropy", "a finite rate in nats per token between two finite "
                              "bounds is expected")
        return self

    @model_validator(mode="after")
    def _files_differ(self) -> Manifest:
        names = Counter(name for split in self.splits().values()
                        for name in (split.index_file, *(shard.file for shard in split.shards)))
        names.update(RESERVED)
        twice = [name for name, times in names.items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]}: used for two files of the store")
        return self

    def split(self, name: str) -> Split:
        """The split of this name.

        Raises:
            KeyError: The store does not have it.
        """
        return self.splits()[name]

    def splits(self) -> dict[str, Split]:
        """The stored splits by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def files(self) -> set[str]:
        """File names of the splits."""
        return {name for split in self.splits().values()
                for name in (split.index_file, *(shard.file for shard in split.shards))}

    @property
    def hash(self) -> str:
        """SHA-256 of exactly what determines the tokens: no path, source name or time enters it."""
        if self.language is not None:
            return content_hash({
                "language": self.language.model_dump(mode="json"),
                "special": self.special.model_dump(mode="json"),
            })
        content: dict[str, Any] = {
            "splits": {name: split.sha256 for name, split in self.splits().items()},
            "tokenizer": self.tokenizer_hash,
            "dtype": self.dtype,
        }
        return content_hash(content)
