"""Items are prefetched in order, at most DEPTH in advance, with errors raised at their item."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from scaling.data.prefetch import DEPTH, Prefetcher

PATIENCE = 30
"""Timeout in seconds for a thread that should have finished."""


def test_items_are_yielded_once_and_in_order():
    assert list(Prefetcher(lambda step: 10 * step, 3, 9)) == [30, 40, 50, 60, 70, 80]
    assert list(Prefetcher(lambda step: step, 4, 4)) == []


def test_items_are_prepared_while_another_is_in_use():
    """The consumer keeps the first item until the next ones have been prepared."""
    made = [threading.Event() for _ in range(20)]

    def make(step):
        made[step].set()
        return step

    items = iter(Prefetcher(make, 0, 20))
    for step in range(20 - DEPTH):
        assert next(items) == step
        for behind in range(step + 1, step + 1 + DEPTH):
            assert made[behind].wait(PATIENCE), f"{behind} was not made while {step} was in use"


def test_no_more_than_depth_items_are_prepared():
    asked: Future[None] = Future()
    made = []

    def make(step):
        made.append(step)
        if step == DEPTH - 1:
            asked.set_result(None)
        return step

    items = iter(Prefetcher(make, 0, 100))
    assert next(items) == 0
    asked.result(PATIENCE)
    items.close()
    assert len(made) <= 1 + DEPTH


def test_an_error_is_raised_at_its_item():
    def make(step):
        if step == 2:
            raise OSError("a shard is gone")
        return step

    items = iter(Prefetcher(make, 0, 9))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="shard is gone"):
        next(items)


def test_only_waiting_counts_as_waiting():
    """Waiting for a late item is measured by an independent clock; a prepared item costs nothing
    comparable."""
    release = threading.Event()

    def make(step):
        if step == 0:
            release.wait(PATIENCE)
        return step

    batches = Prefetcher(make, 0, 3)
    held_back = 0.2
    threading.Timer(held_back, release.set).start()
    items = iter(batches)
    next(items)
    first = batches.waited
    assert first >= held_back / 2
    assert list(items) == [1, 2]
    assert batches.waited - first < first
