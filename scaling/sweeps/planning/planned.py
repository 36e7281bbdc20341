"""A run of a sweep, before it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scaling.config import RunConfig
from scaling.training.run_folder import RunFolder

GRID, HELDOUT = "grid", "heldout"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep."""

    run: RunConfig
    role: str
    """"grid", or "heldout" for one that no fit may see."""
    facts: dict[str, Any]
    """Its columns of the runs table, as far as they are known before training."""
    folder: RunFolder
    grids: tuple[str, ...] = ()
    """Kinds of the grids that ask for it."""
    choice: dict[str, Any] = field(default_factory=dict)
    """What it has of the keys that the sweep varies."""

    @property
    def run_id(self) -> str:
        """Its identity; the name of its folder."""
        return self.folder.path.name

    @property
    def flops(self) -> float:
        """Counted FLOPs of training it alone."""
        return float(self.facts["flops_counted"])
