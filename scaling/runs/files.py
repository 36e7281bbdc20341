"""Readers of a run's files, whose content is not trusted.

Each returns values with checked types and ranges, or raises one error that names the file; it reads
a bounded number of bytes and does not block. What a crash leaves behind (a torn last line of
metrics, zeros instead of text) is not an error.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from scaling.errors import UserError
from scaling.files import LARGEST_BYTES, open_regular, read_json

END_STATUSES = ("done", "diverged")
"""Statuses of a finished run in its record."""

LONGEST_LINE = 2**16
"""Largest length of a line of metrics in bytes; the usual is a few hundred."""

_LARGEST_BYTES = 2**24
"""Largest size of a record or a configuration; the usual is a few thousand bytes."""
_TAIL_BYTES = 4096
_LARGEST_COUNT = 2**63 - 1
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_FIX = "move it away to have it written again"

_COUNTS = ("steps", "tokens", "params_total", "params_non_embedding")
_NUMBERS = ("loss", "loss_se", "bits_per_byte", "target_entropy", "tokens_per_second", "seconds")
_TEXTS = ("status", "run_id", "finished")


def is_run_id(value: object) -> bool:
    """Whether a value is the identity of a run or a trunk: 16 hexadecimal digits. Other values must
    not be used in paths."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def is_count(value: object) -> bool:
    """Whether a value is a non-negative integer that fits in 64 bits."""
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    if type(value) is int:
        return abs(value) <= _LARGEST_COUNT
    return type(value) is float and math.isfinite(value)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a finished run; None if there is none.

    `status` is one of END_STATUSES, `steps` is a count, and `loss` is in nats per token if the run
    is done. Any other number is finite, or None.

    Raises:
        UserError: the file is not a valid record of this run.
        OSError: the file cannot be read, as in `read_bytes`.
    """
    try:
        record = read_json(path, _FIX, _LARGEST_BYTES)
    except FileNotFoundError:
        return None
    for key, value in record.items():
        if type(value) is float and not math.isfinite(value) and key != "loss":
            record[key] = None
    wrong = [
        *(key for key in ("status", "steps", "loss") if key not in record),
        *(key for key in _TEXTS if not isinstance(record.get(key, ""), str)),
        *(key for key in _COUNTS if not is_count(record.get(key, 0))),
        *(key for key in _NUMBERS if record.get(key) is not None and not is_number(record[key])),
        *(key for key, value in record.items() if type(value) is int and not is_number(value)),
    ]
    if not wrong and record["status"] not in END_STATUSES:
        wrong = ["status"]
    if not wrong and record["status"] == "done" and record["loss"] is None:
        wrong = ["loss"]
    if wrong:
        raise UserError(f"{path}: is not a record of this version "
                        f"({', '.join(dict.fromkeys(wrong))} is missing or invalid); {_FIX}")
    named = record.get("run_id", path.parent.name)
    if is_run_id(path.parent.name) and named != path.parent.name:
        raise UserError(f"{path}: is the record of another run ({named[:40]}); {_FIX}")
    return record


def read_config(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The content of config.json: the run's identity, its configuration, and its semantic content
    (what its losses depend on), both as plain data.

    Raises:
        UserError: the file is not a valid configuration of a run.
        OSError: the file cannot be read, as in `read_bytes`.
    """
    content = read_json(path, _FIX, _LARGEST_BYTES)
    run_id, config = content.get("run_id"), content.get("config")
    semantic = content.get("semantic", {})
    if isinstance(run_id, str) and is_run_id(run_id) and isinstance(config, dict) \
            and isinstance(semantic, dict):
        return run_id, config, semantic
    raise UserError(f"{path}: is not a run configuration of this version; {_FIX}")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of metrics.jsonl in order; none if there is no such file.

    Raises:
        UserError: the file is too large, or a line is not a line of metrics.
        OSError: the file cannot be read, as in `read_bytes`.
    """
    if (file := _opened(path)) is None:
        return
    with file:
        if os.fstat(file.fileno()).st_size > LARGEST_BYTES:
            raise UserError(f"{path}: is larger than {LARGEST_BYTES / 1e6:,.0f} MB; {_FIX}")
        number = 1
        while text := file.readline(LONGEST_LINE):
            if (line := _line(text, path, f"line {number:,}")) is not None:
                yield line
            number += text.endswith(b"\n")


def newest_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines in the last few thousand bytes of metrics.jsonl, the last one first.

    Raises:
        UserError, OSError: as in `read_metrics`.
    """
    if (file := _opened(path)) is None:
        return
    with file:
        size = file.seek(0, os.SEEK_END)
        for n_bytes in (_TAIL_BYTES, LONGEST_LINE):
            start = max(0, size - n_bytes)
            file.seek(start)
            text = file.read(n_bytes)
            lines = text.splitlines()
            if start and b"\n" in text:  # the first line is incomplete
                del lines[0]
            found = False
            for each in reversed(lines):
                if (line := _line(each, path, "near its end")) is not None:
                    found = True
                    yield line
            if found or not start:
                return
        if text.strip(b"\0\n"):
            raise UserError(f"{path}: its last {len(text):,} bytes have no line of metrics; {_FIX}")


def _line(text: bytes, path: Path, where: str) -> dict[str, Any] | None:
    """The metrics of a line; None if a crash tore it or filled it with zeros."""
    if len(text) >= LONGEST_LINE and text.strip(b"\0\n"):
        raise UserError(f"{path}: {where}: is longer than {LONGEST_LINE:,} bytes, the most for a "
                        f"line of metrics; {_FIX}")
    try:
        line = json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: {where}: is nested too deeply; {_FIX}") from None
    except ValueError:
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    wrong = [key for key, value in line.items() if value is not None and not is_number(value)]
    wrong += [key for key in ("step", "tokens") if not is_count(line.get(key, 0))]
    wrong += [key for key in ("seconds",) if not is_number(line.get(key, 0))]
    if "loss" in line and "tokens" not in line:
        wrong.append("tokens")
    if wrong:
        raise UserError(f"{path}: {where}: {wrong[0][:40]} is missing or not a number; {_FIX}")
    return line


def _opened(path: Path) -> BinaryIO | None:
    try:
        return open_regular(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path}: is a broken link; {_FIX}") from None
        return None
