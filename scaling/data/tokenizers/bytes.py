"""The byte tokenizer: ids 0 to 255 are UTF-8 bytes, followed by the special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.data.tokenizers.base import (
    BYTES,
    SENTENCE_ENDS,
    WHITE,
    TokenIds,
    TokenizerKind,
    token_dtype,
    without_special,
)
from scaling.data.tokenizers.special import SpecialTokens, recognise_special, spellings

_END = SpecialTokens(eos=BYTES)


@dataclass(frozen=True)
class ByteTokenizer:
    """The 256 bytes and the special tokens, by default only the end of a document: 257 ids."""

    kind: ClassVar[TokenizerKind] = "byte"
    special: SpecialTokens = _END

    @classmethod
    def of_roles(cls, roles: Iterable[str], sentinels: int) -> ByteTokenizer:
        """A tokenizer with `eos`, the special tokens of these roles, and sentinels."""
        names = spellings(("eos", *roles), sentinels)
        ids = {name: BYTES + k for k, name in enumerate(names)}
        return cls(SpecialTokens(**recognise_special(ids)))

    @property
    def vocab_size(self) -> int:
        return BYTES + len(self.special.ids())

    @property
    def eos(self) -> int:
        return self.special.eos

    @property
    def hash(self) -> str:
        return content_hash({"kind": self.kind, **self.special.model_dump(exclude_defaults=True)})

    def encode(self, text: str) -> TokenIds:
        dtype = token_dtype(self.vocab_size)
        return np.frombuffer(text.encode(), np.uint8).astype(dtype)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        known = without_special(ids, self.vocab_size, self.special.ids())
        return known.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def word_starts(self) -> NDArray[np.bool_]:
        starts = np.zeros(self.vocab_size, np.bool_)
        starts[[*WHITE, *self.special.ids()]] = True
        return starts

    def sentence_ends(self) -> NDArray[np.bool_]:
        ends = np.zeros(self.vocab_size, np.bool_)
        ends[[*SENTENCE_ENDS.encode(), self.eos]] = True
        return ends

    @property
    def keeps_bytes(self) -> bool:
        return True

    def token_bytes(self) -> NDArray[np.int64]:
        return (np.arange(self.vocab_size) < BYTES).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write nothing: no file is needed."""
