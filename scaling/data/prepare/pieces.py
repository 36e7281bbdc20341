"""A corpus in pieces of work, each of them read by one process from start to end."""

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
    """One source, or several with their shares of the text."""

    name: str
    """The source string, as the user wrote it."""
    sources: tuple[Source, ...]
    shares: tuple[float, ...]
    """Of the text of the store, one for each source; their sum is one."""

    @property
    def is_mix(self) -> bool:
        return len(self.sources) > 1

    @property
    def short_name(self) -> str:
        """For tables and folders."""
        return "-".join(dict.fromkeys(source.corpus for source in self.sources))

    @property
    def reading(self) -> str:
        """How files become documents, and documents the corpus."""
        if not self.is_mix:
            return self.sources[0].reading
        return canonical_json([[share, source.reading] for share, source in
                               zip(self.shares, self.sources, strict=True)])

    def sha256(self) -> str:
        """SHA-256 of the source, or of the list of the SHA-256 of the sources of a mix."""
        digests = [source.sha256() for source in self.sources]
        return content_hash(digests) if self.is_mix else digests[0]

    def stamp(self) -> list[object]:
        """Another value means that somebody wrote to a file."""
        return [source.stamp() for source in self.sources]

    def pieces(self) -> list[Piece]:
        """The division of the corpus, which depends on its files alone."""
        target = sum(source.size() for source in self.sources) // _PIECES
        target = min(max(target, _SMALLEST_PIECE), _LARGEST_PIECE)
        pieces: list[Piece] = []
        for place, source in enumerate(self.sources):
            parts = source.parts(target)
            # Parts may be files far smaller than the target.
            together = max(1, target * len(parts) // max(source.size(), 1))
            for first in range(0, len(parts), together):
                taken = tuple(parts[first:first + together])
                size = source.size() * len(taken) / len(parts)
                pieces.append(Piece(len(pieces), place, source, taken, size))
        return pieces


@dataclass(frozen=True)
class Piece:
    """Parts of one source that follow each other."""

    number: int
    """Place among the pieces of the corpus."""
    source_number: int
    source: Source
    parts: tuple[Part, ...]
    size: float
    """Bytes of files, nearly: for progress."""

    def texts(self, problems: Counter[str] | None = None) -> Iterator[str]:
        """The documents, in order; see `Source.read`."""
        for part in self.parts:
            yield from self.source.read(part, problems)


def find_corpus(source: str, options: Options) -> Corpus:
    """The corpus of a source string.

    Raises:
        UserError: no such source, it is not installed, or its glob matches no file.
    """
    weighted = sources.find_mix(source, options.not_utf8)
    return Corpus(source, tuple(found for _, found in weighted),
                  tuple(weight for weight, _ in weighted))
