"""Progress of a launch: compute done and total, and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.runs.planned import PlannedRun
from scaling.runs.state import RunState
from scaling.runs.trunk_groups import shared_steps, trunk_groups
from scaling.sweeps.index import IndexedRun
from scaling.sweeps.status import flops_of_steps, speed


@dataclass(frozen=True)
class LaunchStatus:
    """Compute and speed of a launch."""

    flops_done: float
    """Counted FLOPs, with steps that runs share counted once."""
    flops_total: float
    """The same at the end, without the steps that diverged and failed runs did not take."""
    tokens_per_second: float
    """Total of all running runs."""


class LaunchProgress:
    """Measures the progress of a launch repeatedly."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._runs = runs
        places = {p.run_id: (number, shared_steps(p, group[0]))
                  for number, group in enumerate(trunk_groups(runs)) for p in group}
        self._indexed = [
            IndexedRun(p.run_id, p.role, "", p.facts["tokens"], p.run.steps, p.flops, True,
                       *places[p.run_id]) for p in runs]

    def measure(self, run_states: Sequence[RunState]) -> LaunchStatus:
        """The present status.

        Args:
            run_states: the state of each run, in the order of the runs.
        """
        steps = [state.step for state in run_states]
        ends = [state.step if state.over else run.steps
                for state, run in zip(run_states, self._indexed, strict=True)]
        running = (p.folder for p, state in zip(self._runs, run_states, strict=True)
                   if state.state == "running")
        return LaunchStatus(
            flops_of_steps(zip(self._indexed, steps, strict=True)),
            flops_of_steps(zip(self._indexed, ends, strict=True)),
            sum(speed(folder) or 0.0 for folder in running),
        )
