"""Ctrl-C and SIGTERM ask a run to stop; it then saves and exits."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Within the `with`, a call tells which signal has asked to stop, or None.

    A second signal takes effect at once, as it would have without this. Main thread only.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in ASKED}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in ASKED:
        signal.signal(number, handle)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
