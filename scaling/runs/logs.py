"""The parts of worker logs that are about a run.

    runs/logs/NAME.ROLE.worker-ID.log          of the local launcher, and of other packages
    runs/logs/NAME.ROLE.slurm/*_log.out        of Slurm jobs

A line that begins with a run's identity and a colon begins a part about this run, which ends at the
next such line. Logs are only shown to the user: the state of a run is read from its folder.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from scaling.errors import UserError
from scaling.files import open_regular

_LONGEST_LINE = 2**16
"""Bytes to which a line is cut."""
_LARGEST_LOG = 64 * 2**20
"""Bytes at the end of a log that are read."""
_MAX_LINES = 100_000
"""Largest number of new lines that are kept, the last ones."""
_LOGS = ("*.worker-*.log", "*.slurm/*_log.out")
_RUN_LINE = re.compile(rb"([0-9a-f]{16}): ")


def log_files(logs: Path) -> list[Path]:
    """All worker logs, oldest first."""
    found = []
    for path in (path for pattern in _LOGS for path in logs.glob(pattern)):
        with suppress(OSError):  # removed meanwhile, or a broken link
            found.append((path.stat().st_mtime_ns, path.name, path))
    return [path for *_, path in sorted(found)]


def newest_log_by_run(logs: Path) -> dict[str, Path]:
    """The newest log that has lines about a run, by run identity. Unreadable logs are left out."""
    found: dict[str, Path] = {}
    for path in log_files(logs):
        with suppress(OSError, UserError), open_regular(path) as file:
            file.seek(max(0, _size(file) - _LARGEST_LOG))
            for line, _ in _lines(file, complete=False):
                if match := _RUN_LINE.match(line):
                    found[match[1].decode()] = path
    return found


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _lines(file: BinaryIO, *, complete: bool) -> Iterator[tuple[bytes, int]]:
    """Each line of a file from its current position, cut to _LONGEST_LINE, and the offset after it.

    Args:
        file: a log.
        complete: leave out the last line if it has no end, since it is still being written.
    """
    offset = file.tell()
    while line := file.readline(_LONGEST_LINE):
        offset += len(line)
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE)
            offset += len(rest)
        if rest or not complete:
            yield line, offset


@dataclass
class RunLog:
    """Reads the log lines about one run incrementally."""

    logs: Path
    run_id: str
    _offsets: dict[Path, tuple[int, bool]] = field(default_factory=dict)
    """For each log, the offset up to which it has been read, and whether that is inside a part
    about the run."""

    def new_lines(self, max_lines: int = _MAX_LINES) -> list[tuple[Path, str]]:
        """The lines since the last call, or all lines at the first call, each with its log; at most
        the last `max_lines`."""
        found: deque[tuple[Path, str]] = deque(maxlen=max_lines)
        for path in log_files(self.logs):
            offset, in_run = self._offsets.get(path, (0, False))
            with suppress(OSError, UserError), open_regular(path) as file:
                file.seek(max(offset, _size(file) - _LARGEST_LOG))
                for line, next_offset in _lines(file, complete=True):
                    if match := _RUN_LINE.match(line):
                        in_run = match[1].decode() == self.run_id
                    if in_run:
                        found.append((path, line.rstrip(b"\r\n").decode("utf-8", "replace")))
                    offset = next_offset
            self._offsets[path] = (offset, in_run)
        return list(found)
