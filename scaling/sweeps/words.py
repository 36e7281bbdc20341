"""What workers said of a run: the parts of their logs that are about it.

    runs/logs/NAME.ROLE.worker-0.log           of the local launcher
    runs/logs/NAME.ROLE.slurm/*_log.out        of Slurm's jobs

A line that begins with a run's identity and a colon begins a part about this run, which goes on to
the next such line. Nothing but these words is taken from logs: where a run stands, its folder says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_LOGS = ("*.worker-*.log", "*.slurm/*_log.out")
_ABOUT = re.compile(rb"^([0-9a-f]{16}): ", re.MULTILINE)


def log_files(logs: Path) -> list[Path]:
    """All logs of workers, the oldest first."""
    found = [path for pattern in _LOGS for path in logs.glob(pattern)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def logs_of_runs(logs: Path) -> dict[str, Path]:
    """The newest log that has words about a run, by its identity."""
    return {found.decode(): path for path in log_files(logs)
            for found in _ABOUT.findall(path.read_bytes())}


@dataclass
class Words:
    """The words about one run, as they come."""

    logs: Path
    run_id: str
    _places: dict[Path, tuple[int, bool]] = field(default_factory=dict)
    """By log, how far it is read, and whether that is within a part about the run."""

    def more(self) -> list[tuple[Path, str]]:
        """(log, line) of each line that has come since the last call, or ever."""
        found: list[tuple[Path, str]] = []
        for path in log_files(self.logs):
            place, about = self._places.get(path, (0, False))
            with path.open("rb") as file:
                file.seek(place)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the rest of the last line is still to come
            for line in whole.splitlines():
                if match := _ABOUT.match(line):
                    about = match[1].decode() == self.run_id
                if about:
                    found.append((path, line.decode("utf-8", "replace")))
            self._places[path] = (place + len(whole), about)
        return found
