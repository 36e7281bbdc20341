"""A planned run of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scaling.config import RunConfig
from scaling.runs.folder import RunFolder

GRID, HELDOUT, FORMER = "grid", "heldout", "former"


@dataclass(frozen=True)
class PlannedRun:
    """A planned run of a sweep: its configuration, role and folder."""

    run: RunConfig
    role: str
    """"grid", or "heldout" for a run that is left out of fits."""
    facts: dict[str, Any]
    """Columns of the runs table that are known before training."""
    folder: RunFolder
    grids: tuple[str, ...] = ()
    """Kinds of the grids that have this run."""
    choice: dict[str, Any] = field(default_factory=dict)
    """Values of the keys that the sweep varies."""

    @property
    def run_id(self) -> str:
        """Identity of the run, which is the name of its folder."""
        return self.folder.path.name

    @property
    def flops(self) -> float:
        """Counted FLOPs of training this run alone."""
        return float(self.facts["flops_counted"])
