"""How results of this package are written: plain data for machines, aligned text for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws import show


class Plain:
    """A result that `json.dumps` takes: a base of frozen dataclasses."""

    def to_json(self) -> dict[str, Any]:
        """Fields as plain data; numbers that JSON cannot write are None."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: plain(getattr(self, field.name)) for field in fields}


def plain(value: Any) -> Any:
    """Lists, dictionaries, text and finite numbers alone."""
    if isinstance(value, Plain):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def aligned(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in plain text: words to the left, numbers to the right, to four digits."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    left = [any(isinstance(row[i], str) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) if words else cell.rjust(width)
                       for cell, width, words in zip(row, widths, left, strict=True)).rstrip()
             for row in cells]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int) else show.number(float(value))
