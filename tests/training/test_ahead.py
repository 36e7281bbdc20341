"""What is made ahead comes in order, no further ahead than said, and errors in their turn."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from scaling.training.ahead import DEPTH, Ahead

PATIENCE = 30
"""Seconds after which a thread that should have come is missing."""


def test_everything_comes_once_and_in_order():
    assert list(Ahead(lambda step: 10 * step, 3, 9)) == [30, 40, 50, 60, 70, 80]
    assert list(Ahead(lambda step: step, 4, 4)) == []


def test_the_next_ones_are_made_while_one_is_in_use():
    """The consumer holds the first item until the items behind it have been made."""
    made = [threading.Event() for _ in range(20)]

    def make(step):
        made[step].set()
        return step

    items = iter(Ahead(make, 0, 20))
    for step in range(20 - DEPTH):
        assert next(items) == step
        for behind in range(step + 1, step + 1 + DEPTH):
            assert made[behind].wait(PATIENCE), f"{behind} was not made while {step} was in use"


def test_no_more_is_made_than_lies_ready():
    asked: Future[None] = Future()
    made = []

    def make(step):
        made.append(step)
        if step == DEPTH - 1:
            asked.set_result(None)
        return step

    items = iter(Ahead(make, 0, 100))
    assert next(items) == 0
    asked.result(PATIENCE)
    items.close()
    assert len(made) <= 1 + DEPTH


def test_an_error_is_raised_in_its_turn():
    def make(step):
        if step == 2:
            raise OSError("a shard is gone")
        return step

    items = iter(Ahead(make, 0, 9))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="shard is gone"):
        next(items)


def test_only_waiting_counts_as_waiting():
    """An item held back for as long as a clock of our own says; one that lies ready costs
    nothing of that size."""
    release = threading.Event()

    def make(step):
        if step == 0:
            release.wait(PATIENCE)
        return step

    batches = Ahead(make, 0, 3)
    held_back = 0.2
    threading.Timer(held_back, release.set).start()
    items = iter(batches)
    next(items)
    first = batches.waited
    assert first >= held_back / 2
    assert list(items) == [1, 2]
    assert batches.waited - first < first
