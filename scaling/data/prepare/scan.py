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

    Files of the step: `sizes` [documents]; `keys` [2, documents] and `places` [documents], as
    `later_ones` wants them; for near-duplicates `bands` and `band_places` [BANDS, documents]; for
    contamination `runs` and `run_places` [n], the runs of the documents of the test split.
    """
    problems: Counter[str] = Counter()
    progress = PieceProgress(task.piece.size, tell)
    sizes, digests, total = array("Q"), bytearray(), 0
    words = WordHashes()
    test_from, test_to = split_bounds(task.options)
    test_runs: list[NDArray[np.uint64]] = []
    run_places: list[NDArray[np.uint32]] = []

    def texts() -> Iterator[str]:
        nonlocal total
        for text in task.piece.texts(problems):
            content = text.encode()
            found = digest(content)
            if task.options.contamination != "off":
                place = int.from_bytes(found[:8], "big")
                if test_from <= place < test_to:
                    test_runs.append(document_runs(text, words))
                    run_places.append(np.full(len(test_runs[-1]), len(sizes), np.uint32))
            sizes.append(len(content))
            digests.extend(found)
            total += len(content)
            progress.read(len(content))
            yield text

    arrays: dict[str, NDArray[Any]] = {}
    if task.options.deduplicate == "near":
        bands = np.concatenate([np.zeros((BANDS, 0), np.uint64), *band_hashes(texts())], axis=1)
        ordered = [sorted_keys(band[np.newaxis]) for band in bands]
        arrays["bands"] = np.concatenate([keys for keys, _ in ordered])
        arrays["band_places"] = np.stack([places for _, places in ordered])
    else:
        for _ in texts():
            pass
    keys = np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).T.astype(np.uint64)
    arrays["keys"], arrays["places"] = sorted_keys(keys)
    arrays["sizes"] = np.frombuffer(sizes, np.uint64)
    if task.options.contamination != "off":
        arrays["runs"] = np.concatenate([np.zeros(0, np.uint64), *test_runs])
        arrays["run_places"] = np.concatenate([np.zeros(0, np.uint32), *run_places])
    progress.end()
    result = {"documents": len(sizes), "bytes": total, "not_utf8": problems[NOT_UTF8]}
    return task.step.finish(result, task.step.save(**arrays))
