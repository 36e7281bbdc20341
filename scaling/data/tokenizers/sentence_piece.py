"""SentencePiece `.model` files, encoded by the sentencepiece library (Kudo and Richardson 2018).

The file is a protocol buffer. Only the list of pieces is parsed here: field 1 of the model, with
the fields 1 (piece), 2 (score) and 3 (type).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.data.tokenizers.base import (
    LONGEST_TOKEN,
    METASPACE,
    SENTENCE_ENDS,
    TOKENIZER_FILE,
    WHITE_PIECES,
    TokenIds,
    TokenizerKind,
    import_library,
    library_errors,
    piece_bytes,
    silenced_stderr,
    token_dtype,
    without_special,
)
from scaling.data.tokenizers.special import SpecialTokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Types of pieces. Text that spells a control piece is not encoded to it; text that spells a
user-defined one is."""

SPECIAL_TYPES = (UNKNOWN, CONTROL, USER_DEFINED)
"""Types of pieces that can be special tokens."""

NEEDS = ("sentencepiece", "a .model file", "sentencepiece")
"""Arguments of `import_library`."""

_LIBRARY = NEEDS[0]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_VARINT_BYTES = 10  # longest encoding of 64 bits


@dataclass(frozen=True)
class VocabularyPiece:
    """One entry of the vocabulary."""

    text: str
    type: int
    type_offset: int | None
    """Offset of its type, one byte, in the file; None if absent, which means `NORMAL`."""


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """The vocabulary of a `.model` file, and special tokens added after its pieces."""

    kind: ClassVar[TokenizerKind] = "sentencepiece"
    keeps_bytes: ClassVar[bool] = False  # spaces and characters are normalised
    model: bytes = field(repr=False)
    """Content of the file."""
    pieces: tuple[VocabularyPiece, ...] = field(repr=False)
    """Its pieces by id, as returned by `parse_pieces`."""
    special: SpecialTokens
    source: str = "this model"
    """The file of the model, for messages."""

    @cached_property
    def vocab_size(self) -> int:
        return max(len(self.pieces), self.special.ids()[-1] + 1)

    @property
    def eos(self) -> int:
        return self.special.eos

    @cached_property
    def hash(self) -> str:
        special = self.special.model_dump(exclude_none=True)
        model = sha256(self.model).hexdigest()
        return content_hash({"kind": self.kind, "model": model, "special": special})

    def encode(self, text: str) -> TokenIds:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        dtype = token_dtype(self.vocab_size)
        # The environment variable of the tokenizers library is used for both libraries.
        serial = os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "off", "no")
        processor = self._processor
        with library_errors(_LIBRARY, self.source):
            encoded = processor.encode(list(texts), num_threads=1 if serial else -1)
        return [np.array(ids, dtype) for ids in encoded]

    def decode(self, ids: ArrayLike) -> str:
        special = [number for number in self.special.ids() if number != self.special.unk]
        text_ids = without_special(ids, self.vocab_size, special).tolist()
        processor = self._processor
        with library_errors(_LIBRARY, self.source):
            return str(processor.decode(text_ids))

    def word_starts(self) -> NDArray[np.bool_]:
        starts = np.zeros(self.vocab_size, np.bool_)
        starts[: len(self.pieces)] = [
            piece.text.startswith(METASPACE) or piece.text[:1].isspace()
            or piece.text in WHITE_PIECES for piece in self.pieces
        ]
        starts[list(self.special.ids())] = True
        return starts

    def sentence_ends(self) -> NDArray[np.bool_]:
        ends = np.zeros(self.vocab_size, np.bool_)
        ends[: len(self.pieces)] = [piece.text.endswith(tuple(SENTENCE_ENDS))
                                    for piece in self.pieces]
        ends[self.eos] = True
        return ends

    def token_bytes(self) -> NDArray[np.int64]:
        sizes = np.zeros(self.vocab_size, np.int64)
        sizes[: len(self.pieces)] = [piece_bytes(piece.text) for piece in self.pieces]
        sizes[list(self.special.ids())] = 0
        return sizes

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json, with the file in base64."""
        content = {"type": self.kind, "model": base64.b64encode(self.model).decode("ascii")}
        (folder / TOKENIZER_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @cached_property
    def _processor(self) -> Any:
        model = bytearray(self.model)
        for number in self.special.ids():
            piece = self.pieces[number] if number < len(self.pieces) else None
            if piece and piece.type == USER_DEFINED and piece.type_offset is not None:
                model[piece.type_offset] = CONTROL
        sentencepiece = import_library(*NEEDS)
        with library_errors(_LIBRARY, self.source), silenced_stderr():
            return sentencepiece.SentencePieceProcessor(model_proto=bytes(model))


def parse_pieces(model: bytes) -> tuple[VocabularyPiece, ...]:
    """The pieces of a file, in the order of their ids.

    Raises:
        ValueError: It is not a SentencePiece model.
    """
    pieces = tuple(_pieces(model))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces


def _pieces(model: bytes) -> Iterator[VocabularyPiece]:
    for outer, start, stop in _fields(model, 0, len(model)):
        if outer != 1:
            continue
        text, kind, kind_offset = None, NORMAL, None
        for inner, first, last in _fields(model, start, stop):
            if inner == 1:
                text = model[first:last].decode("utf-8")
            elif inner == 3:
                if first == last:
                    raise ValueError(f"the piece at byte {start} has an empty type")
                kind, kind_offset = model[first], first
        if text is None:
            raise ValueError(f"the piece at byte {start} has no text")
        if len(text) > LONGEST_TOKEN:
            raise ValueError(f"the piece at byte {start} has more than {LONGEST_TOKEN:,} "
                             "characters")
        yield VocabularyPiece(text, kind, kind_offset)


def _fields(data: bytes, offset: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, stop) of each field of a message in data[offset:stop]."""
    while offset < stop:
        key, offset = _varint(data, offset, stop)
        wire = key & 7
        if wire == _VARINT:
            _, end = _varint(data, offset, stop)
        elif wire == _LENGTH:
            length, offset = _varint(data, offset, stop)
            end = offset + length
        elif wire in (_FIXED32, _FIXED64):
            end = offset + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"the field at byte {offset} has the unknown wire type {wire}")
        if end > stop:
            raise ValueError(f"the field at byte {offset} extends beyond its message")
        yield key >> 3, offset, end
        offset = end


def _varint(data: bytes, offset: int, stop: int) -> tuple[int, int]:
    """The integer at an offset, and the offset after it."""
    value = shift = 0
    first = offset
    while offset < min(stop, first + _VARINT_BYTES):
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset
    raise ValueError(f"the integer at byte {first} is not terminated")
