"""A token is a byte of UTF-8; the special tokens follow the 256 of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.data.special import Special, recognised, spellings
from scaling.data.tokenizers.base import (
    BYTES,
    SENTENCE_ENDS,
    WHITE,
    Ids,
    Kind,
    text_ids,
    token_dtype,
)

_END = Special(eos=BYTES)


@dataclass(frozen=True)
class ByteTokenizer:
    """The 256 bytes and, unless asked for more, the end of a document: 257 ids."""

    kind: ClassVar[Kind] = "byte"
    special: Special = _END

    @classmethod
    def of_roles(cls, roles: Iterable[str], sentinels: int) -> ByteTokenizer:
        """With `eos` and the special tokens of these roles."""
        names = spellings(("eos", *roles), sentinels)
        return cls(Special(**recognised({name: BYTES + k for k, name in enumerate(names)})))

    @property
    def vocab_size(self) -> int:
        return BYTES + len(self.special.ids())

    @property
    def eos(self) -> int:
        return self.special.eos

    @property
    def hash(self) -> str:
        return content_hash({"kind": self.kind, **self.special.model_dump(exclude_defaults=True)})

    def encode(self, text: str) -> Ids:
        dtype = token_dtype(self.vocab_size)
        return np.frombuffer(text.encode(), np.uint8).astype(dtype)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        known = text_ids(ids, self.vocab_size, self.special.ids())
        return known.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def word_starts(self) -> NDArray[np.bool_]:
        starts = np.zeros(self.vocab_size, np.bool_)
        starts[[*WHITE, *self.special.ids()]] = True
        return starts

    def sentence_ends(self) -> NDArray[np.bool_]:
        ends = np.zeros(self.vocab_size, np.bool_)
        ends[[*SENTENCE_ENDS.encode(), self.eos]] = True
        return ends

    def save(self, folder: Path) -> None:
        """Bytes need no file."""
