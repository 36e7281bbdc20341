"""The first pass over the text: size and hashes of every document."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.manifest import Options
from scaling.data.prepare.minhash import BANDS, band_hashes, sort_keys
from scaling.data.prepare.ngram_filter import document_ngrams
from scaling.data.prepare.pieces import Piece
from scaling.data.prepare.shingles import WordHashes
from scaling.data.prepare.work import WorkStep
from scaling.data.prepare.workers import PieceProgress, ReportBytes
from scaling.data.sources import NOT_UTF8

DIGEST_BYTES = 16
"""The probability that any two of 2**32 different documents collide is 3e-20."""

# These bound the memory of a block: its documents, and the n-grams of its test documents.
_DOCUMENTS, _NGRAMS = 2**18, 2**22


@dataclass(frozen=True)
class ScanTask:
    """A piece to scan."""

    piece: Piece
    options: Options
    step: WorkStep


def digest(content: bytes) -> bytes:
    """The hash that identifies a document; its first 8 bytes determine the split."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def split_bounds(options: Options) -> NDArray[np.uint64]:
    """Exclusive upper bounds of the hashes of the validation and the test split; shape [2]."""
    ends = options.validation_fraction, options.validation_fraction + options.test_fraction
    # Rounded up, so that comparing integers is equivalent to comparing with the exact fraction.
    return np.array([-int(-end * 2**64 // 1) for end in ends], np.uint64)


def scan(task: ScanTask, report_bytes: ReportBytes) -> dict[str, Any]:
    """Read a piece, and write the sizes, sorted hashes and optional n-grams of its documents.

    One block of documents is in memory at a time: about 0.1 GB, 0.25 GB with near-duplicates.

    Files of the step, with the number of the block appended to their names: `sizes` [documents];
    `keys` [2, documents] and `places` [documents], as required by `later_duplicates`; for
    near-duplicates `bands` and `band_places` [BANDS, documents]; for contamination `runs` [n],
    ascending, and `run_places` [n], the n-grams of the documents of the test split.

    Returns:
        `documents`, the number of documents of each block, and `not_utf8`.
    """
    problems: Counter[str] = Counter()
    progress = PieceProgress(task.piece.size, report_bytes)
    texts, words = task.piece.texts(problems), WordHashes()
    documents: list[int] = []
    files: dict[str, str] = {}
    while len((arrays := _block(texts, task.options, words, progress))["sizes"]):
        files |= task.step.save(**{f"{kind}-{len(documents)}": values
                                   for kind, values in arrays.items()})
        documents.append(len(arrays["sizes"]))
    progress.end()
    return task.step.finish({"documents": documents, "not_utf8": problems[NOT_UTF8]}, files)


def _block(
    texts: Iterator[str], options: Options, words: WordHashes, progress: PieceProgress
) -> dict[str, NDArray[Any]]:
    """The arrays of the next block of documents; empty ones at the end of the texts."""
    sizes, digests = array("Q"), bytearray()
    test_start, test_stop = split_bounds(options)
    test_ngrams: list[NDArray[np.uint64]] = []
    ngram_places: list[NDArray[np.uint32]] = []

    def block_texts() -> Iterator[str]:
        n_ngrams = 0
        for text in texts:
            content = text.encode()
            content_digest = digest(content)
            if options.contamination != "off":
                split_hash = int.from_bytes(content_digest[:8], "big")
                if test_start <= split_hash < test_stop:
                    test_ngrams.append(document_ngrams(text, words))
                    ngram_places.append(np.full(len(test_ngrams[-1]), len(sizes), np.uint32))
                    n_ngrams += len(test_ngrams[-1])
            sizes.append(len(content))
            digests.extend(content_digest)
            progress.read(len(content))
            yield text
            if len(sizes) >= _DOCUMENTS or n_ngrams >= _NGRAMS:
                return

    arrays: dict[str, NDArray[Any]] = {}
    if options.deduplicate == "near":
        hashes = band_hashes(block_texts(), words)
        bands = np.concatenate([np.zeros((BANDS, 0), np.uint64), *hashes], axis=1)
        places = np.empty(bands.shape, np.uint32)
        for band in range(BANDS):
            bands[band:band + 1], places[band] = sort_keys(bands[band:band + 1])
        arrays |= {"bands": bands, "band_places": places}
    else:
        for _ in block_texts():
            pass
    keys = np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).T.astype(np.uint64)
    arrays["keys"], arrays["places"] = sort_keys(keys)
    arrays["sizes"] = np.frombuffer(sizes, np.uint64)
    if options.contamination != "off":
        ngrams = np.concatenate([np.zeros(0, np.uint64), *test_ngrams])
        order = np.argsort(ngrams)
        arrays["runs"] = ngrams[order]
        arrays["run_places"] = np.concatenate([np.zeros(0, np.uint32), *ngram_places])[order]
    return arrays
