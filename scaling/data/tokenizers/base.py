"""The `Tokenizer` protocol, and constants and helpers that all tokenizers share."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.data.tokenizers.special import SpecialTokens
from scaling.errors import UserError

TokenizerKind = Literal["byte", "bpe", "wordpiece", "unigram", "sentencepiece"]
TITLES: dict[TokenizerKind, str] = {"byte": "byte", "bpe": "BPE", "wordpiece": "WordPiece",
                           "unigram": "Unigram", "sentencepiece": "SentencePiece"}
"""Name of each kind in messages."""

DType = Literal["uint16", "uint32"]
TokenIds = NDArray[np.uint16] | NDArray[np.uint32]

BYTES = 256
SMALLEST_VOCABULARY = BYTES + 1
"""The 256 bytes and the end of a document."""

LARGEST_VOCABULARY = 2**20
"""Largest vocabulary of a trained tokenizer and of a synthetic language: far above those in use,
and well below what memory and ids allow."""

LARGEST_ID = 2**24
"""Exclusive upper bound of ids in any vocabulary: sixteen times those in use."""

LONGEST_TOKEN = 10_000
"""Largest length of a token in characters: published ones have a few hundred, and a thousand of
this length fit in memory."""

LARGEST_FILE = 128 * 2**20
"""Largest size of a tokenizer file in bytes: the largest published ones have a quarter of it."""

TOKENIZER_FILE = "tokenizer.json"
"""File that `save` writes; the byte tokenizer needs none."""

WHITE = b" \t\n\v\f\r"
"""Whitespace bytes."""

SENTENCE_ENDS = ".!?\n"
"""Characters that end a sentence."""

METASPACE = "\u2581"
"""SentencePiece's character for a space (Kudo and Richardson 2018, section 3.1)."""


_ERROR_CHARACTERS = 300
"""Number of characters of a library's error that are shown."""

WHITE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in WHITE)
"""SentencePiece's byte-fallback pieces for the whitespace bytes."""

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


@runtime_checkable
class Tokenizer(Protocol):
    """Maps text to token ids and back."""

    @property
    def kind(self) -> TokenizerKind:
        """The kind; together with `special`, the arguments that `load_tokenizer` needs."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""

    @property
    def special(self) -> SpecialTokens:
        """Ids of the special tokens."""

    @property
    def eos(self) -> int:
        """The id that ends every document."""

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines the ids of a text."""

    def encode(self, text: str) -> TokenIds:
        """The ids of a text, without `eos`; shape [tokens], dtype `token_dtype(vocab_size)`."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text."""

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids. Special tokens are dropped, except `unk`, which marks missing text;
        invalid UTF-8 becomes U+FFFD.

        Bytes and byte-level BPE are lossless. The others keep what their normalisation keeps:
        WordPiece the words in lower case without accents (for BERT's uncased vocabularies), with a
        space around each punctuation mark; Unigram the NFKC form; a published file as its
        normaliser specifies.

        Raises:
            ValueError: An id is not in the vocabulary.
        """

    def word_starts(self) -> NDArray[np.bool_]:
        """Mask of the tokens that begin a word, shape [vocab_size].

        Tokens whose text begins with whitespace (a space belongs to the word after it, and a
        whitespace byte begins a word), WordPiece tokens without `##`, and special tokens. The first
        token of a text also begins a word, whatever its entry; callers account for that. Needs no
        tokenizer library.

        Raises:
            UserError: The vocabulary marks the ends of words instead.
        """

    def sentence_ends(self) -> NDArray[np.bool_]:
        """Mask of the tokens that end a sentence, shape [vocab_size]: those whose text ends with a
        full stop, question mark, exclamation mark or line feed, and the end of a document. Needs no
        tokenizer library."""

    @property
    def keeps_bytes(self) -> bool:
        """Whether the tokens of a text reproduce its bytes exactly."""

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of text per id, shape [vocab_size]; 0 for special tokens. If tokens do not
        keep the bytes, the size of the token as in the vocabulary, with the space before or after
        it; the original text may have had more or fewer. Needs no tokenizer library."""

    def save(self, folder: Path) -> None:
        """Write the file that `load_tokenizer` needs, if any."""


def piece_bytes(piece: str) -> int:
    """UTF-8 bytes of a token of Unigram or SentencePiece; the metaspace counts one byte, and so
    does a byte-fallback piece."""
    if _BYTE_PIECE.fullmatch(piece):
        return 1
    return len(piece.replace(METASPACE, " ").encode("utf-8", "surrogatepass"))


def dtype_name(vocab_size: int) -> DType:
    """The smallest dtype that can represent every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """`dtype_name` as a numpy dtype, little-endian as on disk."""
    return np.dtype(dtype_name(vocab_size)).newbyteorder("<")


def without_special(ids: ArrayLike, vocab_size: int, special: Sequence[int]) -> NDArray[Any]:
    """Flatten the ids and drop those in `special`.

    Raises:
        ValueError: An id is not in the vocabulary.
    """
    array = np.asarray(ids).reshape(-1)
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        raise ValueError(f"ids {array.min()} to {array.max()} are not all in the vocabulary of "
                         f"{vocab_size}")
    kept: NDArray[Any] = array[~np.isin(array, special)]
    return kept


def import_library(name: str, needed_for: str, install: str) -> Any:
    """Import an optional library.

    Args:
        name: Import name of the library.
        needed_for: What needs it, for the message.
        install: Requirement to pass to pip.

    Raises:
        UserError: It is missing.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"{needed_for} needs the {name} library; install it with: pip install {install}"
        ) from None


@contextmanager
def library_errors(name: str, source: str) -> Iterator[None]:
    """Turn a library's errors about a vocabulary into UserErrors.

    A Rust library panics on errors that its authors did not anticipate. A panic is a
    BaseException in Python, which `except Exception` does not catch.

    Args:
        name: Name of the library.
        source: File of the vocabulary.

    Raises:
        UserError: The body of the `with` statement failed.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        message = (str(error).splitlines() or [type(error).__name__])[0][:_ERROR_CHARACTERS]
        raise UserError(f"the {name} library rejects {source} ({message}); use a file that it "
                        "wrote itself, or install its newest version") from None


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Discard what a library writes to file descriptor 2, bypassing Python, when it panics."""
    with _stderr_lock:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)


_stderr_lock = threading.Lock()
