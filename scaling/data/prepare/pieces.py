"""A corpus divided into pieces of work, each read by one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from scaling.config import canonical_json, content_hash
from scaling.data import sources
from scaling.data.manifest import Options
from scaling.data.sources import Part, Source

_PIECES = 128
_SMALLEST_PIECE, _LARGEST_PIECE = 2**24, 2**28  # bytes of files


@dataclass(frozen=True)
class Corpus:
    """One source, or a mix of several with their shares of the text."""

    name: str
    """The source string as written by the user."""
    sources: tuple[Source, ...]
    shares: tuple[float, ...]
    """Share of each source in the text of the store; they sum to one."""

    @property
    def is_mix(self) -> bool:
        return len(self.sources) > 1

    @property
    def short_name(self) -> str:
        """Corpus name for tables and folders."""
        return sources.corpus_of(self.sources)

    @property
    def reading(self) -> str:
        """Description of how files become documents, and of the mix."""
        if not self.is_mix:
            return self.sources[0].reading
        return canonical_json([[share, source.reading] for share, source in
                               zip(self.shares, self.sources, strict=True)])

    def sha256(self) -> str:
        """SHA-256 of the source, or of the list of the SHA-256 of the sources of a mix."""
        digests = [source.sha256() for source in self.sources]
        return content_hash(digests) if self.is_mix else digests[0]

    def stamp(self) -> list[object]:
        """Sizes and modification times of the files; they change when a file is written to."""
        return [source.stamp() for source in self.sources]

    def pieces(self) -> list[Piece]:
        """Divide the corpus into pieces; the division depends on its files only."""
        target = sum(source.size() for source in self.sources) // _PIECES
        target = min(max(target, _SMALLEST_PIECE), _LARGEST_PIECE)
        pieces: list[Piece] = []
        for place, source in enumerate(self.sources):
            parts = source.parts(target)
            # Parts may be files far smaller than the target size.
            per_piece = max(1, target * len(parts) // max(source.size(), 1))
            for first in range(0, len(parts), per_piece):
                group = tuple(parts[first:first + per_piece])
                size = source.size() * len(group) / len(parts)
                pieces.append(Piece(len(pieces), place, source, group, size))
        return pieces


@dataclass(frozen=True)
class Piece:
    """Consecutive parts of one source."""

    number: int
    """Index among the pieces of the corpus."""
    source_number: int
    source: Source
    parts: tuple[Part, ...]
    size: float
    """Approximate bytes of files, for progress reports."""

    def texts(self, problems: Counter[str] | None = None) -> Iterator[str]:
        """Yield the documents in order; see `Source.read`."""
        for part in self.parts:
            yield from self.source.read(part, problems)


def find_corpus(source: str, options: Options) -> Corpus:
    """The corpus of a source string.

    Raises:
        UserError: The source is unknown or not installed, or its glob matches no file.
    """
    weighted = sources.find_mix(source, options.not_utf8)
    return Corpus(source, tuple(found for _, found in weighted),
                  tuple(weight for weight, _ in weighted))
