"""Text to token ids and back: the 256 bytes, or a byte-level BPE learnt from the corpus.

Both have one more token, `eos`, which follows every document. No text encodes to it, not even
text that spells it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.errors import UserError

Kind = Literal["byte", "bpe"]
DType = Literal["uint16", "uint32"]
Ids = NDArray[np.uint16] | NDArray[np.uint32]

BYTES = 256
SMALLEST_VOCABULARY = BYTES + 1
"""Every byte, and the end of a document."""

TOKENIZER_FILE = "tokenizer.json"

_EOS = "<eos>"


class Tokenizer(Protocol):
    """What both kinds have."""

    kind: ClassVar[Kind]

    @property
    def vocab_size(self) -> int:
        """Number of ids, `eos` counted in."""

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
        """The text of ids; `eos` is no text, and bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is not in the vocabulary.
        """

    def save(self, folder: Path) -> None:
        """Write what `load` needs, if it needs anything."""


def dtype_name(vocab_size: int) -> DType:
    """The smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """`dtype_name` as a numpy type, little-endian as on disk."""
    return np.dtype(dtype_name(vocab_size)).newbyteorder("<")


def load_tokenizer(kind: Kind, folder: Path) -> Tokenizer:
    """The tokenizer that was saved in a folder.

    Raises:
        UserError: its file is damaged.
    """
    return ByteTokenizer() if kind == "byte" else BPETokenizer.load(folder)


@dataclass(frozen=True)
class ByteTokenizer:
    """A token is a byte of UTF-8; 257 ids."""

    kind: ClassVar[Kind] = "byte"
    eos: ClassVar[int] = BYTES
    vocab_size: ClassVar[int] = SMALLEST_VOCABULARY

    @property
    def hash(self) -> str:
        return content_hash({"kind": self.kind, "eos": self.eos})

    def encode(self, text: str) -> Ids:
        dtype = token_dtype(self.vocab_size)
        return np.frombuffer(text.encode(), np.uint8).astype(dtype)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        known = _without_eos(ids, self)
        return known.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Bytes need no file."""


@dataclass(frozen=True)
class BPETokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019, section 2.2).

    Text is first cut as GPT-2 cuts it, into letters, digits, other characters and white space
    (with a space in front belonging to what follows), so that no token spans two of them.
    """

    kind: ClassVar[Kind] = "bpe"
    vocab: dict[str, int]
    """Id of each token; bytes are written as the visible characters that GPT-2 gives them."""
    merges: tuple[tuple[str, str], ...]
    """Pairs of tokens that become one, the first to be merged first."""

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn the merges of a corpus; the same corpus gives the same ones.

        Args:
            texts: read once, never held together.
            vocab_size: at least 257: the bytes, `eos`, and the merges.

        Raises:
            UserError: the tokenizers library is missing, or the corpus has too few merges.
        """
        library = _library()
        engine = _engine(library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[_EOS],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        engine.train_from_iterator(texts, trainer)
        learnt = cls._parse(engine.to_str())
        if learnt.vocab_size != vocab_size:
            raise UserError(
                f"vocab_size {vocab_size:,}: this corpus gives a BPE of no more than "
                f"{learnt.vocab_size:,} tokens; ask for that or less, or take more text"
            )
        return learnt

    @classmethod
    def load(cls, folder: Path) -> BPETokenizer:
        """The tokenizer in `folder`/tokenizer.json; the library is not needed before encoding.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = folder / TOKENIZER_FILE
        try:
            return cls._parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: missing, so this folder has no BPE tokenizer") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a BPE tokenizer ({type(error).__name__}: {error})"
                            ) from None

    @classmethod
    def _parse(cls, text: str) -> BPETokenizer:
        model = json.loads(text)["model"]
        vocab = {str(token): int(number) for token, number in model["vocab"].items()}
        if sorted(vocab.values()) != list(range(len(vocab))) or _EOS not in vocab:
            raise ValueError(f"its ids are not 0 to {len(vocab) - 1}, with {_EOS} among them")
        return cls(vocab, tuple((str(left), str(right)) for left, right in model["merges"]))

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @property
    def eos(self) -> int:
        return self.vocab[_EOS]

    @cached_property
    def hash(self) -> str:
        return content_hash({"kind": self.kind, "vocab": self.vocab, "merges": self.merges})

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        dtype = token_dtype(self.vocab_size)
        encoded = self._trained_engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype) for one in encoded]

    def decode(self, ids: ArrayLike) -> str:
        known = _without_eos(ids, self).tolist()
        return str(self._trained_engine.decode(known, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json, in the format of the tokenizers library."""
        text = self._trained_engine.to_str(pretty=True)
        (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")

    @cached_property
    def _trained_engine(self) -> Any:
        # From vocabulary and merges alone, so that `hash` covers all that encodes.
        engine = _engine(_library().models.BPE(vocab=self.vocab, merges=list(self.merges)))
        engine.add_special_tokens([_EOS])
        engine.encode_special_tokens = True  # as the text that it is in a document
        return engine


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "a BPE needs the tokenizers library; install it with: pip install 'scaling[bpe]'"
        ) from None
    return tokenizers


def _engine(model: Any) -> Any:
    library = _library()
    engine = library.Tokenizer(model)
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    engine.decoder = library.decoders.ByteLevel()
    return engine


def _without_eos(ids: ArrayLike, tokenizer: Tokenizer) -> NDArray[Any]:
    array = np.asarray(ids).reshape(-1)
    if array.size and not (array.min() >= 0 and array.max() < tokenizer.vocab_size):
        raise ValueError(f"ids {array.min()} to {array.max()} are not all in the vocabulary of "
                         f"{tokenizer.vocab_size}")
    kept: NDArray[Any] = array[array != tokenizer.eos]
    return kept
