"""Laws in files: what `scaling fit --json` writes and the other commands read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.laws.approaches.frontier import APPROACHES, Frontier, frontier_from_json
from scaling.laws.law import Law, from_json


def save(laws: Sequence[Law | Frontier], path: Path) -> None:
    """Write laws as JSON, one line for each key, so that a change is one line of a diff."""
    blocks = []
    for law in laws:
        lines = [f"    {json.dumps(key)}: {json.dumps(_finite(value), separators=(', ', ': '))}"
                 for key, value in law.to_json().items()]
        blocks.append("   {\n" + ",\n".join(lines) + "\n   }")
    write_atomically(path, '{\n  "laws": [\n' + ",\n".join(blocks) + "\n  ]\n}\n")


def load(path: Path) -> list[Law | Frontier]:
    """The laws that `save` wrote.

    Raises:
        UserError: there is no such file, or it holds no laws.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `scaling fit RUNS --json {path}` writes it"
                        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    laws = content.get("laws") if isinstance(content, dict) else None
    if not isinstance(laws, list) or not laws:
        raise UserError(f"{path}: holds no laws; a file that `scaling fit --json` wrote is "
                        "expected")
    return [_read(law, str(path)) for law in laws]


def laws_of_loss(path: Path) -> list[Law]:
    """Those of them that predict a loss, and not the optimal sizes alone."""
    return [law for law in load(path) if isinstance(law, Law)]


def _read(content: Any, source: str) -> Law | Frontier:
    if isinstance(content, dict) and content.get("law") in APPROACHES:
        return frontier_from_json(content, source)
    return from_json(content, source)


def _finite(content: Any) -> Any:
    """A copy in which numbers that JSON cannot write are None."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
