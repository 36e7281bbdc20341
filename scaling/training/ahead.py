"""Make what will be needed next while what was made is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

DEPTH = 2
"""Batches that lie ready: one may take longer than a step, if the next one takes less."""


def ahead(make: Callable[[int], T], first: int, stop: int) -> Iterator[T]:
    """make(first), make(first + 1) ... make(stop - 1), made in a thread, in this order, up to DEPTH
    before they are asked for. What `make` raises is raised here in its turn."""
    steps = iter(range(first, stop))
    with ThreadPoolExecutor(1, "batches") as thread:
        waiting: deque[Future[T]] = deque(
            thread.submit(make, step) for step in islice(steps, DEPTH))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(thread.submit(make, step) for step in islice(steps, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()
