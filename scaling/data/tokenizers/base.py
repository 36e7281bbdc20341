"""What every tokenizer has, and the numbers that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.data.special import Special
from scaling.errors import UserError

Kind = Literal["byte", "bpe", "wordpiece", "unigram", "sentencepiece"]
TITLES: dict[Kind, str] = {"byte": "byte", "bpe": "BPE", "wordpiece": "WordPiece",
                           "unigram": "Unigram", "sentencepiece": "SentencePiece"}
"""How messages call each kind."""

DType = Literal["uint16", "uint32"]
Ids = NDArray[np.uint16] | NDArray[np.uint32]

BYTES = 256
SMALLEST_VOCABULARY = BYTES + 1
"""Every byte, and the end of a document."""

LARGEST_VOCABULARY = 2**20
"""Of a tokenizer that is learnt, and of a synthetic language: far above what is in use, and well
below what would exhaust the memory or the ids."""

TOKENIZER_FILE = "tokenizer.json"
"""Where `save` puts every kind but bytes, which need no file."""

WHITE = b" \t\n\v\f\r"
"""Bytes of white space."""

SENTENCE_ENDS = ".!?\n"
"""Characters that end a sentence."""

METASPACE = "\u2581"
"""What SentencePiece writes for a space (Kudo and Richardson 2018, section 3.1)."""


WHITE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in WHITE)
"""What it writes for those bytes where it has no piece for the character."""


class Tokenizer(Protocol):
    """What every kind has."""

    @property
    def kind(self) -> Kind:
        """Which kind it is; with `special`, all that `load_tokenizer` wants to know."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens counted in."""

    @property
    def special(self) -> Special:
        """The ids that stand for no text."""

    @property
    def eos(self) -> int:
        """The id that follows every document."""

    @property
    def hash(self) -> str:
        """SHA-256 of all that decides which ids a text has."""

    def encode(self, text: str) -> Ids:
        """The ids of a text, without `eos`; shape [tokens], of `token_dtype(vocab_size)`."""

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids. Special tokens are no text, save that `unk` shows that some is
        missing, and bytes that are no UTF-8 become U+FFFD.

        Bytes and byte-level BPE give back just what was encoded. The others keep what their
        normalisation keeps: WordPiece the words in lower case without accents (BERT's uncased
        ones), with a space around each mark; Unigram the NFKC form; a published file whatever
        it says.

        Raises:
            ValueError: an id is not in the vocabulary.
        """

    def word_starts(self) -> NDArray[np.bool_]:
        """Which tokens begin a word, shape [vocab_size].

        Those whose text begins with white space (so a space belongs to the word that it
        precedes, and a byte of white space begins one), WordPiece's without `##`, and the special
        ones. The first token of a text begins a word as well, whatever is said here: whoever cuts
        texts into words adds that. Numpy and JSON are enough for it.

        Raises:
            UserError: the vocabulary marks the ends of words instead.
        """

    def sentence_ends(self) -> NDArray[np.bool_]:
        """Which tokens end a sentence, shape [vocab_size]: those whose text ends with a full stop,
        a question mark, an exclamation mark or a line, and the end of a document. Numpy and JSON
        are enough for it."""

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` needs, if it needs anything."""


def dtype_name(vocab_size: int) -> DType:
    """The smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """`dtype_name` as a numpy type, little-endian as on disk."""
    return np.dtype(dtype_name(vocab_size)).newbyteorder("<")


def text_ids(ids: ArrayLike, vocab_size: int, no_text: Sequence[int]) -> NDArray[Any]:
    """The ids without those that stand for no text.

    Raises:
        ValueError: an id is not in the vocabulary.
    """
    array = np.asarray(ids).reshape(-1)
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        raise ValueError(f"ids {array.min()} to {array.max()} are not all in the vocabulary of "
                         f"{vocab_size}")
    kept: NDArray[Any] = array[~np.isin(array, no_text)]
    return kept


def library(name: str, needed_for: str, install: str) -> Any:
    """An optional library, imported where it is used.

    Raises:
        UserError: it is missing; `install` is what pip is to install.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"{needed_for} needs the {name} library; install it with: pip install {install}"
        ) from None
