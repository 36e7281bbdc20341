"""The folder of one run: the only truth about it. Everything else is derived from it.

    config.json        the resolved configuration and what the losses depend on
    environment.json   versions, commit and devices of the last process that trained it
    metrics.jsonl      one line every few steps, append-only
    checkpoints/       parameters, optimizer and step (Orbax)
    record.json        written last, and whole or not at all: the run is over
    lease.NUMBER.json  who trains the run, or did last (lease.py)
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from scaling.config import RunConfig, run_identity, semantic
from scaling.config.run import NOT_SEMANTIC
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import blame, write_atomically
from scaling.training.lease import Lease, is_alive, is_free, is_held, take

ENDED = ("done", "diverged")
"""What the record of a run may say of its end."""

_TAIL_BYTES = 4096
_MEND = "move it away to have it made again"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files, and how they are read and written."""

    path: Path

    @property
    def config_path(self) -> Path:
        """What the run is."""
        return self.path / "config.json"

    @property
    def record_path(self) -> Path:
        """There exactly if the run is over."""
        return self.path / "record.json"

    @property
    def checkpoints(self) -> Path:
        """Orbax's folder."""
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    def claim(self, run: RunConfig, store: TokenStore) -> None:
        """Make the folder this run's, or see that it is already.

        Raises:
            UserError: another run lives here; the message names what differs.
        """
        content = {
            "run_id": run_identity(run, store.hash),
            "semantic": semantic(run, store.hash),
            "config": run.model_dump(mode="json"),
        }
        path = self.config_path
        if not path.exists():
            write_atomically(path, json.dumps(content, indent=2) + "\n")
            return
        there = read_json(path)
        if there.get("run_id") != content["run_id"]:
            differences = differing_runs(there.get("config"), content["config"])
            if "data" in differing(there.get("semantic"), content["semantic"]):
                differences.append("data")
            raise UserError(
                f"{self.path}: holds another run ({there.get('run_id')}), which differs in "
                f"{listed(differences) or 'its layout'}; choose another folder with --out"
            )

    def record(self) -> dict[str, Any] | None:
        """The record of a run that is over, or None.

        Raises:
            UserError: there is one, and it cannot be read, or is none of a run.
        """
        try:
            record = read_json(self.record_path)
        except FileNotFoundError:
            return None
        kinds = {"status": str, "steps": int, "loss": float | int | None}
        wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key, ()), kind)]
        if wrong or record["status"] not in ENDED:
            raise UserError(
                f"{self.record_path}: is no record of this version ({', '.join(wrong) or 'status'} "
                f"is missing or not understood); {_MEND}"
            )
        return record

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl by step. A run that was killed and resumed wrote some steps
        twice, with the same numbers: the later line counts. A line torn by a crash is left out."""
        with suppress(FileNotFoundError):
            lines = {(line["step"], "eval_loss" in line): line
                     for line in _whole_lines(self.metrics_path.read_bytes().splitlines())}
            return [lines[key] for key in sorted(lines)]
        return []

    def last_metrics(self) -> dict[str, Any] | None:
        """The last whole line of metrics.jsonl, without reading those before it."""
        return next(self.newest_metrics(), None)

    def newest_metrics(self) -> Iterator[dict[str, Any]]:
        """The whole lines among the last few thousand characters of metrics.jsonl, as they are,
        from the last one backwards."""
        with suppress(FileNotFoundError), self.metrics_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            yield from _whole_lines(reversed(file.read().splitlines()))

    @contextmanager
    def metrics_writer(self) -> Iterator[TextIO]:
        """metrics.jsonl, open at its end, on a line of its own. An error in writing names it."""
        torn = False
        if self.metrics_path.exists():
            content = self.metrics_path.read_bytes()
            torn = bool(content) and not content.endswith(b"\n")
        raw = io.BufferedWriter(_Named(self.metrics_path, "a"))
        with io.TextIOWrapper(raw, encoding="utf-8", line_buffering=True) as file:
            if torn:
                file.write("\n")
            yield file

    @contextmanager
    def lock(self) -> Iterator[Lease | None]:
        """Hold the run's lease for the body of the `with`; None if another process holds it."""
        lease = take(self.path)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    def locked(self) -> bool:
        """Whether some process holds the lease now, as far as one look tells."""
        return is_held(self.path)

    def free(self) -> bool:
        """Whether the lease can be taken now."""
        return is_free(self.path)

    def alive(self) -> bool:
        """Whether there is proof that whoever holds the lease works on the run."""
        return is_alive(self.path)

    def sweep_leftovers(self) -> None:
        """Remove half-written files of a process that was killed. Call it with the lock held."""
        for path in self.path.glob(".*.json.*"):
            path.unlink(missing_ok=True)


def _whole_lines(texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The metrics of each line, less those of lines that a crash tore, or filled with zeros."""
    for text in texts:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line


class _Named(io.FileIO):
    """A file that is named by an error in writing it, which of itself names none."""

    def write(self, data: Any, /) -> int | None:
        with blame(Path(str(self.name))):
            return super().write(data)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: it holds none; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {_MEND}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, and a file is expected; {_MEND}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected; {_MEND}")
    return content


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a message, the first of them where there are many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def differing_runs(left: Any, right: Any) -> list[str]:
    """Dotted paths at which two runs' configurations differ, but for what no loss depends on."""
    return differing(_semantic_only(left), _semantic_only(right))


def _semantic_only(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {key: value for key, value in config.items() if NOT_SEMANTIC.get(key) is not True}
    for key, inner in NOT_SEMANTIC.items():
        if isinstance(inner, dict) and isinstance(kept.get(key), dict):
            kept[key] = {k: v for k, v in kept[key].items() if k not in inner}
    return kept


def differing(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted paths at which two plain contents differ."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right else [prefix]
    found = []
    for key in sorted(left.keys() | right.keys()):
        path = f"{prefix}.{key}" if prefix else key
        found += differing(left.get(key), right.get(key), path)
    return found


