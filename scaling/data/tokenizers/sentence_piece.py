"""A SentencePiece `.model` file, cut by the sentencepiece library (Kudo and Richardson 2018).

The file is a protocol buffer of which only the list of pieces is read here: field 1 of the model,
whose fields are 1 the piece, 2 its score and 3 its type.
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
from scaling.data.special import Special
from scaling.data.tokenizers.base import (
    METASPACE,
    SENTENCE_ENDS,
    TOKENIZER_FILE,
    WHITE_PIECES,
    Ids,
    Kind,
    library,
    text_ids,
    token_dtype,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Types of pieces. Text that spells a control piece is not encoded to it; text that spells a
user-defined one is."""

NO_TEXT = (UNKNOWN, CONTROL, USER_DEFINED)
"""Types of the pieces that may play a role."""

NEEDS = ("sentencepiece", "a .model file", "sentencepiece")
"""Arguments of `library`."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    type: int
    type_at: int | None
    """Where in the file its type is, one byte; None where the file leaves it at `NORMAL`."""


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """The pieces of a file, and special tokens that were added after them."""

    kind: ClassVar[Kind] = "sentencepiece"
    model: bytes = field(repr=False)
    """The content of the file."""
    pieces: tuple[Piece, ...] = field(repr=False)
    """What `parse_pieces` finds in it, by id."""
    special: Special

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

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        dtype = token_dtype(self.vocab_size)
        # The switch of the tokenizers library is ours for both.
        alone = os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "off", "no")
        encoded = self._processor.encode(list(texts), num_threads=1 if alone else -1)
        return [np.array(ids, dtype) for ids in encoded]

    def decode(self, ids: ArrayLike) -> str:
        no_text = [number for number in self.special.ids() if number != self.special.unk]
        return str(self._processor.decode(text_ids(ids, self.vocab_size, no_text).tolist()))

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

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json: the file in base64."""
        content = {"type": self.kind, "model": base64.b64encode(self.model).decode("ascii")}
        (folder / TOKENIZER_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @cached_property
    def _processor(self) -> Any:
        model = bytearray(self.model)
        for number in self.special.ids():
            piece = self.pieces[number] if number < len(self.pieces) else None
            if piece and piece.type == USER_DEFINED and piece.type_at is not None:
                model[piece.type_at] = CONTROL
        return library(*NEEDS).SentencePieceProcessor(model_proto=bytes(model))


def parse_pieces(model: bytes) -> tuple[Piece, ...]:
    """The pieces of a file, in the order of their ids.

    Raises:
        ValueError: it is no SentencePiece model.
    """
    pieces = tuple(_pieces(model))
    if not pieces:
        raise ValueError("it has no piece")
    return pieces


def _pieces(model: bytes) -> Iterator[Piece]:
    for outer, start, stop in _fields(model, 0, len(model)):
        if outer != 1:
            continue
        text, kind, kind_at = None, NORMAL, None
        for inner, first, last in _fields(model, start, stop):
            if inner == 1:
                text = model[first:last].decode("utf-8")
            elif inner == 3:
                kind, kind_at = model[first], first
        if text is None:
            raise ValueError(f"the piece at byte {start} has no text")
        yield Piece(text, kind, kind_at)


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, and first and last byte, of each field of a message."""
    while at < stop:
        key, at = _varint(data, at, stop)
        wire = key & 7
        if wire == _VARINT:
            _, end = _varint(data, at, stop)
        elif wire == _LENGTH:
            length, at = _varint(data, at, stop)
            end = at + length
        elif wire in (_FIXED32, _FIXED64):
            end = at + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"the field at byte {at} has the unknown wire type {wire}")
        if end > stop:
            raise ValueError(f"the field at byte {at} goes on after its end")
        yield key >> 3, at, end
        at = end


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"it ends in the middle of a number, at byte {at}")
