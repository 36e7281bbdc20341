"""Progress of the pieces of a corpus: in bytes of their files, whatever the size of their text."""

from __future__ import annotations

import os

import pytest

from scaling.data.prepare.workers import PieceProgress, default_workers

MEGABYTES = 2**20


@pytest.mark.parametrize(("size", "texts", "reported"), [
    (10, [3, 3, 3], [10]),  # all of it at the end
    (5 * MEGABYTES, [MEGABYTES] * 5, [2 * MEGABYTES, 2 * MEGABYTES, MEGABYTES]),
    (3 * MEGABYTES, [MEGABYTES] * 8, [2 * MEGABYTES, MEGABYTES, 0, 0, 0]),  # compressed
    (9 * MEGABYTES, [2 * MEGABYTES - 1, 1], [2 * MEGABYTES, 7 * MEGABYTES]),
])
def test_a_piece_reports_every_two_megabytes_and_the_rest_at_its_end(size, texts, reported):
    found: list[float] = []
    progress = PieceProgress(size, found.append)
    for text in texts:
        progress.read(text)
    progress.end()
    assert found == reported
    assert sum(found) == size


def test_there_is_a_worker_for_each_core_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9})
    assert default_workers() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert default_workers() == 7
