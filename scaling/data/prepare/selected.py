"""Passes over the text after the first: the documents of a piece with their decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.data.prepare.pieces import Piece
from scaling.data.prepare.workers import PieceProgress
from scaling.data.sources import source_changed


@dataclass(frozen=True)
class SelectedPiece:
    """A scanned piece, and the location of its documents' decisions (see `select`)."""

    piece: Piece
    decisions: Path
    first: int
    """Index of the first document in the file of decisions."""
    documents: int

    def texts(self, progress: PieceProgress) -> Iterator[tuple[int, str, int]]:
        """Yield (decision, text, UTF-8 bytes of text) of every document of the piece.

        Raises:
            UserError: The number of documents has changed since the scan.
        """
        decisions = np.fromfile(
            self.decisions, np.uint8, self.documents, offset=self.first).tobytes()
        texts = self.piece.texts()
        for decision in decisions:
            text = next(texts, None)
            if text is None:
                raise source_changed(self.piece.source.name)
            size = len(text.encode())
            progress.read(size)
            yield decision, text, size
        if next(texts, None) is not None:
            raise source_changed(self.piece.source.name)
        progress.end()
