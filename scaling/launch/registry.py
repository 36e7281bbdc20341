"""The registry of launchers: a name to its `LauncherKind`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from scaling.errors import UserError
from scaling.launch.launcher import Launcher, LauncherKind, WorkerGroup, WorkerStatus
from scaling.launch.local import LOCAL
from scaling.launch.slurm import SLURM
from scaling.plugins import load_entry_point
from scaling.runs.planned import GRID, HELDOUT

GROUP = "scaling.launchers"
"""Entry-point group through which other packages add launchers."""

_BUILT_IN = (LOCAL, SLURM)


def known_launchers() -> tuple[LauncherKind, ...]:
    """All launchers. Another package adds one by an entry point of the group `scaling.launchers`
    whose value is a `LauncherKind`.

    Raises:
        UserError: the entry point of a package cannot be loaded, or a name is registered twice.
    """
    kinds, errors = _registered()
    if errors:
        raise errors[0]
    return kinds


@cache
def _registered() -> tuple[tuple[LauncherKind, ...], tuple[UserError, ...]]:
    """The launchers, and the errors of entry points that are left out."""
    found, errors = {kind.name: kind for kind in _BUILT_IN}, []
    for entry in entry_points(group=GROUP):
        try:
            kind = load_entry_point(entry, LauncherKind, "launcher")
            if kind.name in found:
                raise UserError(f"the launcher {entry.name} ({entry.value}): another launcher is "
                                f"named {kind.name} too; remove one of their packages")
            found[kind.name] = kind
        except UserError as error:
            errors.append(error)
    return tuple(found.values()), tuple(errors)


@dataclass(frozen=True)
class LaunchedGroup:
    """The workers of a stage of a sweep that one launcher may have started."""

    kind: LauncherKind
    launcher: Launcher
    group: WorkerGroup

    def status(self) -> list[WorkerStatus]:
        """The workers that are queued or running, whoever started them."""
        return self.launcher.status(self.group, others=True)

    def cancel(self) -> list[str]:
        """Ask these workers to save and exit; see `Launcher.cancel`."""
        return self.launcher.cancel(self.group, others=True)


def launched_groups(sweep: str, logs: Path) -> tuple[list[LaunchedGroup], list[UserError]]:
    """The groups of workers of a sweep, for every launcher and stage; and the errors of launchers
    that cannot be loaded.

    Args:
        sweep: name of the sweep.
        logs: folder `logs` of the runs.
    """
    kinds, errors = _registered()
    return [LaunchedGroup(kind, kind.open(), WorkerGroup(logs, f"{sweep}.{role}"))
            for kind in kinds for role in (GRID, HELDOUT)], list(errors)


def find_launcher(name: str) -> LauncherKind:
    """The launcher of that name.

    Raises:
        UserError: there is none; the message lists the known ones.
    """
    for kind in _BUILT_IN:  # also while another package is broken
        if kind.name == name:
            return kind
    known = {kind.name: kind for kind in known_launchers()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--launcher {name}: unknown launcher; {guess}known are "
                    + ", ".join(f"{kind.name} ({kind.text})" for kind in known.values()))

