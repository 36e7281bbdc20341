"""The second and third look at the text: the documents of a piece with what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.data.prepare.pieces import Piece
from scaling.data.prepare.workers import PieceProgress
from scaling.errors import UserError


@dataclass(frozen=True)
class Chosen:
    """A piece, and where the fates of its documents are."""

    piece: Piece
    fates: Path
    first: int
    """Place of the first document's fate."""
    documents: int

    def texts(self, progress: PieceProgress) -> Iterator[tuple[int, str, int]]:
        """Every document of the piece: its fate, its text, and the UTF-8 bytes of it.

        Raises:
            UserError: there are other documents than before.
        """
        fates = np.fromfile(self.fates, np.uint8, self.documents, offset=self.first).tobytes()
        texts = self.piece.texts()
        for fate in fates:
            text = next(texts, None)
            if text is None:
                raise changed(self.piece.source.name)
            size = len(text.encode())
            progress.read(size)
            yield fate, text, size
        if next(texts, None) is not None:
            raise changed(self.piece.source.name)
        progress.end()


def changed(source: str) -> UserError:
    """What is said when a source is not what it was a moment before."""
    return UserError(f"{source}: its files changed while they were read; prepare again when "
                     "nothing writes to them")
