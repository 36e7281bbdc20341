"""What a token store says of itself: the options it was prepared with, its shards, its counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from scaling.config import Config, content_hash
from scaling.config.base import Count, Fraction, Index, field_error
from scaling.data.special import Special
from scaling.data.synthetic import AnyLanguage, Entropy
from scaling.data.tokenizers import (
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    DType,
    Kind,
    dtype_name,
)

LAYOUT = 2
"""Raised when a folder written today could no longer be read by yesterday's code."""

SPLITS = ("train", "validation", "test")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]*$")]

Learnt = ("bpe", "wordpiece", "unigram")
"""Kinds of tokenizer that are learnt from the corpus."""


class Options(Config):
    """What the user chose; together with the text of the corpus it determines every token."""

    tokenizer: Literal["byte", "bpe", "wordpiece", "unigram", "file", "none"]
    """How text becomes ids: "file" for a published tokenizer, "none" for a language that is made
    up and has no text."""
    vocab_size: Count | None = None
    """Ids of a tokenizer that is learnt, special tokens counted in; bytes have 257, and as many
    more as there are special tokens."""
    tokenizer_sha256: Sha256 | None = None
    """Of the published file that the tokenizer was read from."""
    special: tuple[str, ...] = ()
    """Roles of special tokens beside the end of a document: pad, cls, sep, mask, unk."""
    sentinels: Index = 0
    """Special tokens that stand for spans: `<extra_id_0>` and so on."""
    validation_fraction: Annotated[Fraction, Field(gt=0, lt=1)] = 0.05
    """Share of the documents that is held out for choosing."""
    test_fraction: Annotated[Fraction, Field(lt=1)] = 0.02
    """Share of the documents that is held out for the last word."""
    max_bytes: Count | None = None
    """UTF-8 bytes of text at most, over all splits; by default the whole corpus."""
    deduplicate: Literal["exact", "near", "none"] = "exact"
    """Whether documents are dropped that repeat an earlier one, or nearly do."""
    contamination: Literal["off", "report", "drop"] = "off"
    """What is done about test documents that share 13 words in a row with the train split."""
    not_utf8: Literal["refuse", "skip", "replace"] = "refuse"
    """What is done about text that is not UTF-8."""

    @model_validator(mode="after")
    def _vocabulary_is_chosen(self) -> Options:
        if self.tokenizer == "byte" and self.vocab_size is not None:
            raise ValueError(f"vocab_size = {self.vocab_size}, and bytes have "
                             f"{SMALLEST_VOCABULARY}; leave it out, or choose the tokenizer bpe")
        if self.tokenizer in ("file", "none") and self.vocab_size is not None:
            raise field_error("vocab_size", f"is {self.vocab_size}, and the vocabulary is given "
                              "by the tokenizer's file, or by the language; leave it out")
        smallest = SMALLEST_VOCABULARY if self.tokenizer == "bpe" else 1
        if self.tokenizer in Learnt and not (
            smallest <= (self.vocab_size or 0) <= LARGEST_VOCABULARY
        ):
            given = "missing" if self.vocab_size is None else f"{self.vocab_size}"
            raise ValueError(f"vocab_size is {given}; a {self.tokenizer.replace('bpe', 'BPE')} "
                             f"needs one of at least {smallest} and at most {LARGEST_VOCABULARY}, "
                             "for example 4096 (--vocab-size 4096)")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Options:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise field_error("test_fraction", f"is {self.test_fraction:g}, and with "
                              f"validation_fraction {self.validation_fraction:g} leaves nothing "
                              "to train on; their sum has to be below 1")
        return self


class Shard(Config):
    """One file of token ids."""

    file: FileName
    sha256: Sha256
    tokens: Count


class Split(Config):
    """One split: its files and its counts."""

    shards: tuple[Shard, ...]
    """In the order in which they follow each other; a document may not go over their ends."""
    sha256: Sha256
    """Of the ids of all shards, one after the other."""
    index_file: FileName
    index_sha256: Sha256
    documents: Count
    tokens: Count
    """Ids in the shards; one for each document is the end of it."""
    bytes: Count
    """UTF-8 bytes of the text."""

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        held = sum(shard.tokens for shard in self.shards)
        if held != self.tokens:
            raise field_error("tokens", f"is {self.tokens:,}, and its shards have {held:,}")
        return self


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
    language: AnyLanguage | None = None
    """The language whose sequences are made up when they are read; None for text."""
    entropy: Entropy | None = None
    """Entropy rate of the language, nats per token, and bounds on it."""
    tokenizer: Kind | None
    """None for a language, which has no text."""
    tokenizer_hash: Sha256 | None
    tokenizer_bytes: Index = 0
    """UTF-8 bytes of the train split that the tokenizer was learnt from; 0 if it was not."""
    special: Special
    vocab_size: Count
    dtype: DType
    train: Split | None
    """None for a language, as the other splits are: nothing of it is stored."""
    validation: Split | None
    test: Split | None
    """None as well if no document came to be in it."""
    duplicates: Index
    """Documents dropped because one with the same text had come before."""
    near_duplicates: Index = 0
    """Documents dropped because one with nearly the same words had come before."""
    contaminated: Index | None = None
    """Test documents that share 13 words in a row with the train split; None if nobody looked."""
    not_utf8: Index = 0
    """Documents that were not UTF-8, and were skipped or mended as the options say."""

    @model_validator(mode="after")
    def _text_or_language(self) -> Manifest:
        stored = self.train is not None and self.validation is not None
        if stored == (self.language is not None) or stored != (self.tokenizer_hash is not None):
            raise field_error("language", "expected are either a language, or the train and "
                              "validation splits and their tokenizer")
        if self.dtype != dtype_name(self.vocab_size):
            raise field_error("dtype", f"is {self.dtype}, and {self.vocab_size:,} ids take "
                              f"{dtype_name(self.vocab_size)}")
        return self

    def split(self, name: str) -> Split:
        """The split of this name; one that the store does not have is a KeyError."""
        return self.splits()[name]

    def splits(self) -> dict[str, Split]:
        """The splits that are stored, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def files(self) -> set[str]:
        """Names of the files that belong to the splits."""
        return {name for split in self.splits().values()
                for name in (split.index_file, *(shard.file for shard in split.shards))}

    @property
    def hash(self) -> str:
        """SHA-256 of what determines the tokens, and nothing else: no path, source name or time.
        """
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
