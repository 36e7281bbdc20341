"""Who trains a run: a lease with a heartbeat, on any file system that the machines share.

    lease.000001.json     made by the first who took the run
    lease.000002.json     by the one who took it over, and so on

The lease belongs to whoever made the file with the highest number; making one is a hard link,
which fails for all but one. Its holder touches it every few seconds. Others may take the run over
when the holder has released it; when it is a process of this machine that is gone; or when they
have watched the file for longer than the holder allows itself, and nobody has touched it. They
watch by their own monotonic clock: what time it is, here or on the file server, plays no part.

A holder that was frozen and is woken finds a higher number and writes nothing any more. What it was
in the midst of writing is what the other writes too: a run gives the same bits whoever trains it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from scaling.files import blame

SECONDS = 60.0
"""Silence after which a run may be taken over; SCALING_LEASE_SECONDS says otherwise."""
BEATS = 6
"""Heartbeats in that time."""

_NAME = re.compile(r"lease\.(\d+)\.json")


class LeaseLost(Exception):
    """Another process has taken the run over; what this one knows of it is no longer wanted."""


@dataclass(frozen=True)
class Holder:
    """What a lease says of who holds it."""

    machine: str | None
    """Names the boot of a machine and the namespace of its process numbers; None where neither is
    known."""
    host: str
    pid: int
    started: str | None
    """When the process started, as the kernel counts."""
    seconds: float
    """The silence that the holder allows itself."""
    released: bool = False


class Lease:
    """A run that this process holds. Made by `take`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self._holder = path, holder
        self._done = threading.Event()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._done.wait(self._holder.seconds / BEATS):
            with suppress(OSError):  # taken over, or a file server that is away
                os.utime(self.path)

    def check(self) -> None:
        """To be called before anything is written.

        Raises:
            LeaseLost: the run is another's.
        """
        if _newest(self.path.parent) != self.path:
            raise LeaseLost(f"{self.path.parent}: another process has taken this run over")

    def release(self) -> None:
        """Let others have it at once."""
        self._done.set()
        with suppress(LeaseLost, OSError):
            self.check()
            _replace(self.path, _with_release(self._holder))


def take(folder: Path) -> Lease | None:
    """Take the lease of a run's folder; None if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder)
    if newest is not None and not _is_left(newest):
        return None
    number = _number(newest) + 1 if newest else 1
    path = folder / f"lease.{number:06}.json"
    holder = _this_process()
    written = folder / f".lease.json.{uuid.uuid4().hex}"
    try:
        with blame(path):
            written.write_text(_json(holder), encoding="utf-8")
            os.link(written, path)
    except (FileExistsError, FileNotFoundError):  # another one was quicker
        return None
    finally:
        written.unlink(missing_ok=True)
    for other in _leases(folder):
        if _number(other) < number:
            other.unlink(missing_ok=True)
    return Lease(path, holder)


def is_free(folder: Path) -> bool:
    """Whether the lease can be taken now. One that belongs to another machine, and is silent, can
    be when this process has asked for long enough."""
    newest = _newest(folder)
    return newest is None or _is_left(newest)


def is_held(folder: Path) -> bool:
    """Whether a run's folder is held, as far as one look tells: by a process of this machine that
    is there, or by one whose last heartbeat is not old by this machine's clock."""
    newest = _newest(folder)
    holder = _read(newest) if newest else None
    if newest is None or holder is None or holder.released:
        return False
    if holder.machine is not None and holder.machine == _machine():
        return _state_of(holder) is not None
    with suppress(FileNotFoundError):
        return time.time() - newest.stat().st_mtime < holder.seconds
    return False


def is_alive(folder: Path) -> bool:
    """Whether there is proof that whoever holds a run works on it: a process of this machine that
    is not stopped, or a heartbeat since this process first looked."""
    newest = _newest(folder)
    holder = _read(newest) if newest else None
    if newest is None or holder is None or holder.released:
        return False
    if holder.machine is not None and holder.machine == _machine():
        return _state_of(holder) not in (None, "T", "t")
    before = _seen.get(newest)
    return _watched(newest) is not None and before is not None and before[0] != _seen[newest][0]


_seen: dict[Path, tuple[int, float]] = {}
"""When each lease was touched last, and since when, by our own clock, that has been so."""


def _watched(path: Path) -> float | None:
    """Seconds for which this process has seen nobody touch a lease; None if it is gone."""
    try:
        touched = path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    now = time.monotonic()
    if path not in _seen or _seen[path][0] != touched:
        _seen[path] = (touched, now)
    return now - _seen[path][1]


def _is_left(path: Path) -> bool:
    holder = _read(path)
    if holder is not None:
        if holder.released:
            return True
        if holder.machine is not None and holder.machine == _machine() and not _state_of(holder):
            return True
    silence = _watched(path)
    return silence is not None and silence > (holder.seconds if holder else _seconds())


def _leases(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    return []


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _read(path: Path) -> Holder | None:
    """None where the file is gone or says nothing."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _json(holder: Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


def _with_release(holder: Holder) -> Holder:
    return Holder(**asdict(holder) | {"released": True})


def _replace(path: Path, holder: Holder) -> None:
    written = path.with_name(f".lease.json.{uuid.uuid4().hex}")
    try:
        written.write_text(_json(holder), encoding="utf-8")
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)


def _seconds() -> float:
    return float(os.environ.get("SCALING_LEASE_SECONDS") or SECONDS)


def _this_process() -> Holder:
    pid = os.getpid()
    return Holder(_machine(), socket.gethostname(), pid, _stat(pid)[1], _seconds())


@cache
def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _state_of(holder: Holder) -> str | None:
    """The state of a holder's process on this machine, by the kernel's letter; None if it is gone:
    its number may be another's by now, but not its start as well."""
    state, started = _stat(holder.pid)
    return state if started == holder.started and state not in ("Z", "X") else None


def _stat(pid: int) -> tuple[str | None, str | None]:
    """State and start of a process (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None, None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]
