"""The first pass: how large each document is, and what it is known by."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.contamination import document_runs
from scaling.data.deduplicate import BANDS, band_hashes, sorted_keys
from scaling.data.manifest import Options
from scaling.data.prepare.pieces import Piece
from scaling.data.prepare.work import Step
from scaling.data.prepare.workers import PieceProgress, Tell
from scaling.data.sources import NOT_UTF8
from scaling.data.words import WordHashes

DIGEST_BYTES = 16
"""Two different documents among 2**32 have the same hash with odds of 3e-20."""

# What bounds the memory of a block: its documents, and the runs of words of those to be tested.
_DOCUMENTS, _RUNS = 2**18, 2**22


@dataclass(frozen=True)
class ScanTask:
    """A piece to be scanned."""

    piece: Piece
    options: Options
    step: Step


def digest(content: bytes) -> bytes:
    """What a document is known by: its first 8 bytes choose the split."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def split_bounds(options: Options) -> NDArray[np.uint64]:
    """Where the validation part of the hashes ends, and the test part; shape [2]."""
    ends = options.validation_fraction, options.validation_fraction + options.test_fraction
    # The next whole number: comparing with it is comparing with the fraction itself.
    return np.array([-int(-end * 2**64 // 1) for end in ends], np.uint64)


def scan(task: ScanTask, tell: Tell) -> dict[str, Any]:
    """Read a piece; write sizes, sorted hashes and what the options ask for.

    A block of documents is held at a time: some 0.1 GB, and with near-duplicates 0.25 GB.

    Files of the step for each block, whose number follows their name: `sizes` [documents]; `keys`
    [2, documents] and `places` [documents], as `later_ones` wants them; for near-duplicates `bands`
    and `band_places` [BANDS, documents]; for contamination `runs` [n], ascending, and `run_places`
    [n], the runs of the documents of the test split.

    Returns:
        `documents`: how many each block has; and `not_utf8`.
    """
    problems: Counter[str] = Counter()
    progress = PieceProgress(task.piece.size, tell)
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
    """What is known of the next documents, up to a block of them."""
    sizes, digests = array("Q"), bytearray()
    test_from, test_to = split_bounds(options)
    test_runs: list[NDArray[np.uint64]] = []
    run_places: list[NDArray[np.uint32]] = []

    def some() -> Iterator[str]:
        held = 0
        for text in texts:
            content = text.encode()
            found = digest(content)
            if options.contamination != "off":
                place = int.from_bytes(found[:8], "big")
                if test_from <= place < test_to:
                    test_runs.append(document_runs(text, words))
                    run_places.append(np.full(len(test_runs[-1]), len(sizes), np.uint32))
                    held += len(test_runs[-1])
            sizes.append(len(content))
            digests.extend(found)
            progress.read(len(content))
            yield text
            if len(sizes) >= _DOCUMENTS or held >= _RUNS:
                return

    arrays: dict[str, NDArray[Any]] = {}
    if options.deduplicate == "near":
        bands = np.concatenate([np.zeros((BANDS, 0), np.uint64), *band_hashes(some(), words)],
                               axis=1)
        places = np.empty(bands.shape, np.uint32)
        for band in range(BANDS):
            bands[band:band + 1], places[band] = sorted_keys(bands[band:band + 1])
        arrays |= {"bands": bands, "band_places": places}
    else:
        for _ in some():
            pass
    keys = np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).T.astype(np.uint64)
    arrays["keys"], arrays["places"] = sorted_keys(keys)
    arrays["sizes"] = np.frombuffer(sizes, np.uint64)
    if options.contamination != "off":
        runs = np.concatenate([np.zeros(0, np.uint64), *test_runs])
        order = np.argsort(runs)
        arrays["runs"] = runs[order]
        arrays["run_places"] = np.concatenate([np.zeros(0, np.uint32), *run_places])[order]
    return arrays
