"""Prefetching: the next batches are prepared in a thread while the current one is in use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Number of batches prepared in advance: one may take longer than a step if the next takes less."""


class Prefetcher(Generic[T]):
    """Iterates over make(first), make(first + 1) ... make(stop - 1), computed in order in a thread,
    up to DEPTH items in advance. Exceptions of `make` are raised at the item concerned."""

    def __init__(self, make: Callable[[int], T], first: int, stop: int) -> None:
        self._make, self._steps = make, iter(range(first, stop))
        self.waited = 0.0
        """Total seconds that the consumer has waited for items, including the first one."""

    def __iter__(self) -> Iterator[T]:
        with ThreadPoolExecutor(1, "batches") as thread:
            pending: deque[Future[T]] = deque()

            def submit(count: int) -> None:
                pending.extend(
                    thread.submit(self._make, step) for step in islice(self._steps, count))

            submit(DEPTH)
            try:
                while pending:
                    start = time.perf_counter()
                    item = pending.popleft().result()
                    self.waited += time.perf_counter() - start
                    submit(1)
                    yield item
            finally:
                for future in pending:
                    future.cancel()
