"""Workers whose disk is full. That is no fault of a run, so none is said to have failed: the worker
ends, its launcher says why, and when there is room again each run goes on from its checkpoint."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scaling.errors import UserError
from scaling.files import NO_ROOM

STATUS = 4
"""Exit status of a worker that could not write."""


@contextmanager
def ends_without_room() -> Iterator[None]:
    """End this process with STATUS, and a sentence, where the body of the `with` finds no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        from scaling.sweeps.ledger import said

        with suppress(OSError):  # the log may be on the same disk
            print(f"stopped: {said(error)}; {NO_ROOM[error.errno]}", file=sys.stderr, flush=True)
        # What waits to be printed has no place either, and must not decide how the process ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        sys.exit(STATUS)


def no_room(runs: Path, log: Path) -> UserError:
    """What a launcher says when a worker has ended with STATUS.

    Args:
        runs: the folder of the runs.
        log: the worker's.
    """
    free = shutil.disk_usage(runs).free / 1e9
    return UserError(
        f"{runs}: a worker could not write there, and stopped; the disk has {free:.1f} GB free. "
        "Free some space, or have your quota or the limit on the size of files (ulimit -f) raised; "
        "then run the same command again: each run goes on from its newest checkpoint, and "
        f"nothing has to be retried. The worker's words are in {log}"
    )
