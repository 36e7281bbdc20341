"""A launcher and a source of text as another package would add them by entry points.

The launcher starts plain processes that go on without the command, and knows only whether they
live. The source reads text files, slowly enough for a test to see and to kill who reads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scaling.config import Config
from scaling.data.sources import Decode, Part, Reader, Source, SourceKind
from scaling.data.sources.files import find_text
from scaling.launch.launcher import LauncherKind, WorkerGroup, WorkerStatus

SECONDS = "TOY_SECONDS"
"""Environment variable with the time that a document takes; 0.03 by default."""

_children: dict[int, subprocess.Popen[bytes]] = {}


class ToyOptions(Config):
    mark: str = "none"
    """Set as TOY_MARK in the environment of the workers."""


@dataclass(frozen=True)
class ToyLauncher:
    options: ToyOptions
    detached, requeues = True, False
    poll_seconds = 0.2

    def count_workers(self, requested: int | None, jobs: int) -> int:
        return min(requested or 2, jobs)

    def submit(self, group: WorkerGroup, count: int, total: int) -> list[WorkerStatus]:
        pids = []
        for _ in range(count):
            with (group.logs / f"{group.name}.worker-toy.log").open("ab") as log:
                process = subprocess.Popen(
                    group.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, env=os.environ | {"TOY_MARK": self.options.mark})
            _children[process.pid] = process
            pids.append(process.pid)
        path = group.logs / f"{group.name}.toy.json"
        path.write_text(json.dumps([*self._pids(group), *pids]))
        return [self._status(group, pid, "queued") for pid in pids]

    def status(self, group: WorkerGroup, *, others: bool = False) -> list[WorkerStatus]:
        return [self._status(group, pid, "running") for pid in self._pids(group)]

    def cancel(self, group: WorkerGroup, *, others: bool = False) -> list[str]:
        pids = self._pids(group)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        return [f"toy {pid}" for pid in pids]

    def _pids(self, group: WorkerGroup) -> list[int]:
        path = group.logs / f"{group.name}.toy.json"
        return [pid for pid in json.loads(path.read_text()) if _lives(pid)] if path.exists() else []

    def _status(self, group: WorkerGroup, pid: int, state: str) -> WorkerStatus:
        return WorkerStatus(str(pid), state, group.logs / f"{group.name}.worker-toy.log")


def _lives(pid: int) -> bool:
    if pid in _children:
        return _children[pid].poll() is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


LAUNCHER = LauncherKind("toy", "plain processes", ToyOptions, ToyLauncher)


def find_slow(source: str) -> Source:
    text = find_text(source.replace("slow:", "text:", 1))
    return replace(text, name=source, reader=partial(_read, text.reader))


def _read(reader: Reader, part: Part, decode: Decode) -> Iterator[str | None]:
    for text in reader(part, decode):
        time.sleep(float(os.environ.get(SECONDS, "0.03")))
        yield text


SOURCE = SourceKind("slow:GLOB", "", find_slow, "text files, slowly", "yours")


def register(folder: Path) -> None:
    """Write what pip would: the entry points of this file."""
    (folder / "toy-1.0.dist-info").mkdir()
    (folder / "toy-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy\n"
                                                       "Version: 1.0\n")
    (folder / "toy-1.0.dist-info/entry_points.txt").write_text(
        "[scaling.launchers]\ntoy = toy_plugin:LAUNCHER\n\n"
        "[scaling.sources]\nslow = toy_plugin:SOURCE\n")
