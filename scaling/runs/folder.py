"""The folder of a run, which has all facts about it; everything else is derived from it.

    config.json        the resolved configuration, and what the losses depend on
    environment.json   versions, commit and devices of the last process that trained the run
    metrics.jsonl      one line every few steps, append-only
    checkpoints/       parameters, optimizer state and step (Orbax)
    record.json        written last and atomically, when the run is finished
    lease.NUMBER.json  the process that trains the run, or did so last (lease.py)
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, run_identity, semantic
from scaling.config.run import NOT_SEMANTIC
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.files import blame, open_no_follow, remove_below, write_atomically
from scaling.runs.files import newest_metrics, read_config, read_metrics, read_record
from scaling.runs.lease import Lease, acquire, holder_of, invalid_leases, is_alive, is_free, is_held

_HALF_WRITTEN = re.compile(r"\.(config|environment|record|failure|lease)\.json\.[0-9a-f]{8,32}")
_BEFORE_CONFIG = re.compile(r"\.?lease\..*|" + _HALF_WRITTEN.pattern)
"""Names of files that may exist before a run has a configuration."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files, and methods that read and write them."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The configuration of the run."""
        return self.path / "config.json"

    @property
    def environment_path(self) -> Path:
        """Versions, commit and devices of the last process that trained the run."""
        return self.path / "environment.json"

    @property
    def record_path(self) -> Path:
        """The record, which exists if and only if the run is finished."""
        return self.path / "record.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of Orbax checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """The metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    def claim(self, run: RunConfig, store: TokenStore) -> None:
        """Write the configuration of a run to the folder, or check that it is there already.

        Raises:
            UserError: the folder belongs to another run; the message lists the differences.
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
        run_id, config, losses_depend_on = read_config(path)
        if run_id != content["run_id"]:
            differences = differing_run_keys(config, content["config"])
            if "data" in differing_keys(losses_depend_on, content["semantic"]):
                differences.append("data")
            raise UserError(
                f"{self.path}: belongs to another run ({run_id}), which differs in "
                f"{join_names(differences) or 'its layout'}; choose another folder with --out"
            )

    def check_new(self) -> None:
        """Check that a folder without a configuration is empty, so that a run is not written among
        other files.

        Raises:
            UserError: it has other files; the message lists some of them.
        """
        if self.config_path.exists() or not self.path.is_dir():
            return
        present = sorted(path.name for path in self.path.iterdir()
                         if not _BEFORE_CONFIG.fullmatch(path.name))
        if present:
            raise UserError(f"{self.path}: is not the folder of a run, and contains "
                            f"{join_names(present)}; choose a new folder with --out, or move it "
                            "away")

    def check_place(self) -> None:
        """Check that the folder is a folder.

        Raises:
            UserError: it is not.
        """
        if not self.path.is_dir():
            raise UserError(f"{self.path}: is not a folder; move it away to have the run trained")

    def check(self) -> None:
        """Check that the configuration, the checkpoints and the leases are valid, so that the run
        can be trained.

        Raises:
            UserError, OSError: one of them is not; the error names it.
        """
        if self.path.is_symlink():  # it may lead to a folder of something else
            self.check_new()
        if os.path.lexists(self.config_path):
            read_config(self.config_path)
        for path in self.misplaced():
            raise UserError(f"{path}: is in the place of a file or folder of the run; move it away "
                            "to have the run trained")

    def misplaced(self) -> list[Path]:
        """Paths of the wrong kind: a file or a link in place of the checkpoint folder, or a folder
        or a pipe in place of a lease."""
        found = invalid_leases(self.path)
        # Behind a link, old checkpoints of something else would be removed.
        if self.checkpoints.is_symlink() or (
                os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir()):
            found.append(self.checkpoints)
        if self.environment_path.is_dir():
            found.append(self.environment_path)
        return found

    def record(self) -> dict[str, Any] | None:
        """The record of a finished run, or None (files.py).

        Raises:
            UserError: there is a record, and it is invalid.
        """
        return read_record(self.record_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl by step. A run that was killed and resumed may have written
        some steps twice, with the same numbers; the later line is used. A line torn by a crash is
        left out.

        Raises:
            UserError: they cannot be read, or a line is not a line of metrics.
        """
        lines = {(line["step"], "eval_loss" in line): line
                 for line in read_metrics(self.metrics_path)}
        return [lines[key] for key in sorted(lines)]

    def last_metrics(self) -> dict[str, Any] | None:
        """The last complete line of metrics.jsonl, without reading the lines before it.

        Raises:
            UserError: as in `metrics`.
        """
        return next(self.newest_metrics(), None)

    def newest_metrics(self) -> Iterator[dict[str, Any]]:
        """The complete lines in the last few thousand bytes of metrics.jsonl, unprocessed, the last
        one first."""
        return newest_metrics(self.metrics_path)

    @contextmanager
    def metrics_writer(self) -> Iterator[io.TextIOBase]:
        """metrics.jsonl, opened at the end, at the beginning of a line. Write errors name the
        file."""
        raw = _NamedFile(self.metrics_path, "a+", opener=open_no_follow)
        torn = False
        if size := raw.seek(0, os.SEEK_END):
            raw.seek(size - 1)
            torn = raw.read(1) != b"\n"
        buffered = io.BufferedWriter(raw)
        with io.TextIOWrapper(buffered, encoding="utf-8", line_buffering=True) as file:
            if torn:
                file.write("\n")
            yield file

    @contextmanager
    def lock(self) -> Iterator[Lease | None]:
        """Hold the run's lease for the body of the `with` statement; None if another process holds
        it."""
        lease = acquire(self.path)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    def locked(self) -> bool:
        """Whether a process holds the lease now, from a single check."""
        return is_held(self.path)

    def free(self) -> bool:
        """Whether the lease can be acquired now."""
        return is_free(self.path)

    def holder(self) -> str:
        """A description of the holder of the lease, for messages."""
        return holder_of(self.path)

    def alive(self) -> bool:
        """Whether there is proof that the holder of the lease is working on the run."""
        return is_alive(self.path)

    def remove_half_written(self) -> None:
        """Remove half-written files of a killed process. The caller must hold the lock."""
        for path in self.path.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                remove_below(self.path, path)


class _NamedFile(io.FileIO):
    """A file whose write errors name it; by default they have no file name."""

    def write(self, data: Any, /) -> int:
        with blame(Path(str(self.name))):
            return super().write(data)


def join_names(names: Sequence[str], max_shown: int = 3) -> str:
    """Join names for a message; at most the first `max_shown`, and the number of the others."""
    more = len(names) - max_shown
    return ", ".join(names[:max_shown]) + (f" and {more} more" if more > 0 else "")


def differing_run_keys(left: Any, right: Any) -> list[str]:
    """Dotted keys in which two run configurations differ, without keys that the losses do not
    depend on."""
    return differing_keys(_semantic_only(left), _semantic_only(right))


def _semantic_only(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {key: value for key, value in config.items() if NOT_SEMANTIC.get(key) is not True}
    for key, inner in NOT_SEMANTIC.items():
        if isinstance(inner, dict) and isinstance(kept.get(key), dict):
            kept[key] = {k: v for k, v in kept[key].items() if k not in inner}
    return kept


def differing_keys(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted keys in which two values of plain data differ."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right else [prefix]
    found = []
    for key in sorted(left.keys() | right.keys()):
        path = f"{prefix}.{key}" if prefix else key
        found += differing_keys(left.get(key), right.get(key), path)
    return found
