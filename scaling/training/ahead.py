"""Make what will be needed next while what was made is in use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Batches that lie ready: one may take longer than a step, if the next one takes less."""


class Ahead(Generic[T]):
    """make(first), make(first + 1) ... make(stop - 1), made in a thread, in this order, up to DEPTH
    before they are asked for. What `make` raises is raised here in its turn."""

    def __init__(self, make: Callable[[int], T], first: int, stop: int) -> None:
        self._make, self._steps = make, iter(range(first, stop))
        self.waited = 0.0
        """Seconds for which whoever iterates has waited so far, the first item's included."""

    def __iter__(self) -> Iterator[T]:
        with ThreadPoolExecutor(1, "batches") as thread:
            waiting: deque[Future[T]] = deque()

            def submit(count: int) -> None:
                waiting.extend(
                    thread.submit(self._make, step) for step in islice(self._steps, count))

            submit(DEPTH)
            try:
                while waiting:
                    asked = time.perf_counter()
                    made = waiting.popleft().result()
                    self.waited += time.perf_counter() - asked
                    submit(1)
                    yield made
            finally:
                for future in waiting:
                    future.cancel()
