"""The type of the inputs of test_inputs.py, which inputs_typed.py and inputs_files.py list."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Input:
    """A command in a folder where every command has run once (tests/cli/conftest.py)."""

    name: str
    line: str
    """The words after `scaling`."""
    files: Mapping[str, bytes | Callable[[], bytes]] = field(default_factory=dict)
    """Files written before, by paths below the working folder."""
    prepare: Callable[[Path], None] | None = None
    """Further preparation of the working folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (2,)
    """Allowed exit statuses."""
    says: str = ""
    """Text that the output must contain."""
    changes: tuple[str, ...] = ()
    """Prefixes of paths that the command may change."""

    @property
    def words(self) -> list[str]:
        """The words of the command."""
        return shlex.split(self.line)
