"""Run leases: a lock with a heartbeat, on any file system that the machines share.

    lease.000001.json     written by the first process that acquired the run
    lease.000002.json     written by the process that took it over, and so on

The lease belongs to the process that created the file with the highest number. It is created with a
hard link, which fails for all processes but one. The holder touches the file every few seconds.
Other processes may take the run over when the holder has released it, when the holder is a process
of this machine that no longer exists, or when they have seen the file untouched for longer than the
holder's timeout, at most LONGEST. They measure this with their own monotonic clock, so the clocks
of machines and file servers do not matter.

The content of a lease is not trusted. A lease that is invalid, or that names a process that does
not use it, counts as untouched: it holds the run for its timeout and no longer.

A holder that was suspended and resumes finds a higher number and stops writing. What it was
writing equals what the other process writes: a run gives the same bits on any process.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import stat
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from scaling.errors import UserError
from scaling.files import blame, parse_json, read_bytes, write_new

SECONDS = 60.0
"""Default timeout: seconds without heartbeat after which a run may be taken over. The environment
variable SCALING_LEASE_SECONDS overrides it."""
SHORTEST, LONGEST = 1.0, 3600.0
"""Smallest and largest timeout in seconds."""
BEATS = 6
"""Heartbeats per timeout."""

_NAME = re.compile(r"lease\.([0-9]{6}|[1-9][0-9]{6,11})\.json")
_MAX_NUMBER = 10**12 - 1
"""Largest number of a lease."""
_LARGEST_BYTES = 4096
_LARGEST_PID = 2**31 - 1


class LeaseLost(Exception):
    """Another process has taken the run over; this one must not write any more."""


@dataclass(frozen=True)
class Holder:
    """The content of a lease: the process that holds it."""

    machine: str | None
    """Identifies the boot of a machine and the namespace of its process numbers; None if they are
    not known."""
    host: str
    pid: int
    started: str | None
    """Start time of the process, in the kernel's units."""
    seconds: float
    """Timeout of the lease."""
    released: bool = False


class Lease:
    """The lease of a run that this process holds. Created by `acquire`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self._holder = path, holder
        self._done = threading.Event()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._done.wait(self._holder.seconds / BEATS):
            with suppress(OSError):  # taken over, or the file server is unavailable
                os.utime(self.path, follow_symlinks=False)

    def check(self) -> None:
        """Check that this process still holds the lease. Call it before writing anything.

        Raises:
            LeaseLost: another process has taken the run over.
        """
        if _newest(self.path.parent) != self.path:
            raise LeaseLost(f"{self.path.parent}: another process has taken this run over")

    def release(self) -> None:
        """Release the lease, so that others can acquire it at once."""
        self._done.set()
        with suppress(LeaseLost, OSError):
            self.check()
            _replace(self.path, replace(self._holder, released=True))


def acquire(folder: Path) -> Lease | None:
    """Acquire the lease of a run's folder; None if another process holds it.

    Raises:
        UserError: SCALING_LEASE_SECONDS is invalid, or the folder's leases have run out of numbers.
        OSError: the folder cannot be created or written; the error names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder)
    if newest is not None and not _is_abandoned(newest):
        return None
    number = _number(newest) + 1 if newest else 1
    if number > _MAX_NUMBER:
        raise UserError(f"{newest}: has the highest number that a lease can have; remove it if no "
                        "process trains this run")
    path = folder / f"lease.{number:06}.json"
    holder = _own_holder()
    temporary = folder / f".lease.json.{uuid.uuid4().hex}"
    try:
        with blame(path):
            write_new(temporary, _json(holder))
            os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):  # another process was faster
        return None
    finally:
        temporary.unlink(missing_ok=True)
    for earlier in _leases(folder):
        if _number(earlier) < number:
            with suppress(OSError):  # removed by another process, or a folder with that name
                earlier.unlink()
    return Lease(path, holder)


def holder_of(folder: Path) -> str:
    """The lease file of a run's folder, and the process and host that hold it, for messages."""
    newest = _newest(folder)
    if newest is None:
        return str(folder)
    holder = _read_holder(newest)
    where = f" by process {holder.pid} on {holder.host}" if holder else ""
    return f"{newest}{where}"


def invalid_leases(folder: Path) -> list[Path]:
    """Paths with the name of a lease that are not valid leases: folders, pipes, and a lease with
    the highest number. While they exist the run cannot be acquired."""
    found = []
    for path in _leases(folder):
        with suppress(FileNotFoundError):  # the run has just been taken over
            if not stat.S_ISREG(path.lstat().st_mode) or _number(path) == _MAX_NUMBER:
                found.append(path)
    return found


def is_free(folder: Path) -> bool:
    """Whether the lease can be acquired now. An untouched lease of another machine becomes free
    when this process has called this for longer than its timeout."""
    newest = _newest(folder)
    return newest is None or _is_abandoned(newest)


def is_held(folder: Path) -> bool:
    """Whether a run's folder is held, from a single check: by an existing process of this machine,
    or by another one whose last heartbeat is recent by this machine's clock."""
    newest = _newest(folder)
    holder = _read_holder(newest) if newest else None
    if newest is None or holder is None or holder.released:
        return False
    if _is_local(holder):  # the process may be stopped
        return _process_state(holder) is not None and _touched_within(newest, LONGEST)
    return _touched_within(newest, holder.seconds)


def is_alive(folder: Path) -> bool:
    """Whether there is proof that the holder of a run is working on it: it is a process of this
    machine that is not stopped and has touched its lease, or there was a heartbeat since this
    process first checked."""
    newest = _newest(folder)
    holder = _read_holder(newest) if newest else None
    if newest is None or holder is None or holder.released:
        return False
    if _is_local(holder):
        if _process_state(holder) in (None, "T", "t"):
            return False
        if _touched_within(newest, holder.seconds):
            return True
    before = _seen.get(newest)
    if _seconds_untouched(newest) is None or before is None:
        return False
    return before[0] != _seen[newest][0]


def lease_seconds() -> float:
    """The timeout of this process's leases, in seconds. Commands that train call it at the start,
    so that a mistake is reported once and not by each worker.

    Raises:
        UserError: SCALING_LEASE_SECONDS is not a number in the allowed range.
    """
    text = os.environ.get("SCALING_LEASE_SECONDS") or str(SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not SHORTEST <= seconds <= LONGEST:
        raise UserError(f"SCALING_LEASE_SECONDS={text}: a number of seconds from {SHORTEST:g} to "
                        f"{LONGEST:g} is expected; unset it for the default of {SECONDS:g}")
    return seconds


_seen: dict[Path, tuple[int, float]] = {}
"""For each lease, the last modification time seen, and when it was first seen by this process's
monotonic clock."""


def _seconds_untouched(path: Path) -> float | None:
    """Seconds for which this process has seen a lease untouched; None if it no longer exists."""
    try:
        touched = path.lstat().st_mtime_ns
    except FileNotFoundError:
        return None
    now = time.monotonic()
    if path not in _seen or _seen[path][0] != touched:
        _seen[path] = (touched, now)
    return now - _seen[path][1]


def _touched_within(path: Path, seconds: float) -> bool:
    """Whether the last heartbeat is at most `seconds` old by this machine's clock. The clock of the
    file server may be ahead, by less than LONGEST."""
    with suppress(FileNotFoundError):
        return -LONGEST < time.time() - path.lstat().st_mtime < seconds
    return False


def _is_abandoned(path: Path) -> bool:
    holder = _read_holder(path)
    if holder is not None:
        if holder.released:
            return True
        if _is_local(holder) and not _process_state(holder):
            return True
    silence = _seconds_untouched(path)
    return silence is not None and silence > (holder.seconds if holder else lease_seconds())


def _leases(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    return []


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _read_holder(path: Path) -> Holder | None:
    """The holder in a lease; None if the file is missing or invalid."""
    try:
        content = parse_json(read_bytes(path, _LARGEST_BYTES), str(path))
        holder = Holder(**content)
    except (OSError, UserError, TypeError):
        return None
    texts = (holder.host, holder.machine or "", holder.started or "")
    if not all(isinstance(text, str) for text in texts):
        return None
    if type(holder.pid) is not int or not 0 < holder.pid <= _LARGEST_PID:
        return None
    if type(holder.seconds) not in (int, float) or not 0 < holder.seconds < math.inf:
        return None
    seconds = min(max(holder.seconds, SHORTEST), LONGEST)
    return replace(holder, seconds=float(seconds), released=holder.released is True)


def _json(holder: Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


def _replace(path: Path, holder: Holder) -> None:
    temporary = path.with_name(f".lease.json.{uuid.uuid4().hex}")
    try:
        write_new(temporary, _json(holder))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _own_holder() -> Holder:
    pid = os.getpid()
    return Holder(_machine_id(), socket.gethostname(), pid, _process_stat(pid)[1], lease_seconds())


@cache
def _machine_id() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_local(holder: Holder) -> bool:
    return holder.machine is not None and holder.machine == _machine_id()


def _process_state(holder: Holder) -> str | None:
    """The state of the holder's process on this machine, as the kernel's letter; None if it no
    longer exists. Another process may have its number by now, but not its start time as well."""
    state, started = _process_stat(holder.pid)
    return state if started == holder.started and state not in ("Z", "X") else None


def _process_stat(pid: int) -> tuple[str | None, str | None]:
    """State and start time of a process (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None, None
    fields = text.rpartition(")")[2].split()  # the name before it may have any characters
    return (fields[0], fields[19]) if len(fields) > 19 else (None, None)
