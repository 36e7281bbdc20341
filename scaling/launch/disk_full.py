"""Workers whose disk is full. The worker stops, no run is recorded as failed, and its launcher
reports the reason; once there is space, each run continues from its checkpoint."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scaling.errors import UserError
from scaling.files import DISK_FULL

STATUS = 4
"""Exit status of a worker whose disk is full."""


@contextmanager
def exit_if_disk_full() -> Iterator[None]:
    """Exit with STATUS and a message if the body of the `with` finds no space on the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        from scaling.runs.state import error_text

        with suppress(OSError):  # the log may be on the same disk
            print(f"stopped: {error_text(error)}; {DISK_FULL[error.errno]}", file=sys.stderr,
                  flush=True)
        # Buffered output may not be writable either, and must not change the exit status.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        sys.exit(STATUS)


def disk_full_error(runs: Path, log: Path) -> UserError:
    """The error of a launcher whose worker has exited with STATUS.

    Args:
        runs: the folder of the runs.
        log: the log of the worker.
    """
    free = shutil.disk_usage(runs).free / 1e9
    return UserError(
        f"{runs}: a worker could not write there, and stopped; the disk has {free:.1f} GB free. "
        "Free some space, or have your quota or the limit on the size of files (ulimit -f) raised; "
        "then run the same command again: each run continues from its newest checkpoint, and "
        f"nothing has to be retried. See the worker's log, {log}"
    )
