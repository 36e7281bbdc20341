"""A cache of a sweep's planned runs for `scaling sweep status` and `log`: planning thousands of
runs takes seconds.

    runs/logs/NAME.index.json

The index is for display only: commands that remove, retry or train runs make a new plan. It is
valid for one content of the sweep, of the files that the sweep names, and of this package; an
invalid or malformed index is made again. The state of a run is read from its folder each time. The
values of a record, which is written once, are cached with the size and time of its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scaling
from scaling.config import SweepConfig, content_hash
from scaling.errors import UserError
from scaling.files import read_bytes, read_json, write_atomically
from scaling.runs.files import END_STATUSES, is_count, is_number, is_run_id
from scaling.runs.folder import RunFolder

INDEX_SUFFIX = ".index.json"
_DESCRIPTIONS = ("manifest.json", "config.json")
"""Files that describe a folder that a sweep names: a token store, a run."""


@dataclass(frozen=True)
class IndexedRun:
    """A planned run of a sweep."""

    run_id: str
    role: str
    size: str
    """Readable size of the model: width x layers."""
    tokens: int
    steps: int
    flops: float
    """Counted FLOPs of training it alone."""
    paid_for: bool
    """Whether it is within `max_flops`."""
    group: int
    """Number of its group: runs that share a trunk (scaling/runs/trunk_groups.py)."""
    shared_steps: int
    """Number of steps that it shares with its group's trunk."""


@dataclass
class SweepIndex:
    """The runs of a sweep, in the order of the plan."""

    sweep: str
    runs_folder: Path
    max_flops: float | None
    runs: list[IndexedRun]
    key: str = ""
    records: dict[str, list[Any]] = field(default_factory=dict)
    """Cached values of records by run_id: size and time of the file, and the values that
    `scaling.sweeps.status` uses."""

    def folder(self, run: IndexedRun) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.runs_folder / run.run_id)

    @property
    def logs(self) -> Path:
        """The folder of the logs of launchers and workers."""
        return self.runs_folder / "logs"

    @property
    def path(self) -> Path:
        """The file of the index."""
        return self.logs / f"{self.sweep}{INDEX_SUFFIX}"

    def save(self) -> None:
        """Write the index, if the folder of logs exists and is writable: a reader without write
        access can still show the status, and the folder is created by the training commands."""
        if not self.logs.is_dir():
            return
        content = {"key": self.key, "entries": [[*vars(run).values()] for run in self.runs],
                   "remembered": self.records}
        with suppress(OSError):
            write_atomically(self.path, json.dumps(content) + "\n")


def index_of(sweep: SweepConfig, source: str, runs_folder: Path) -> SweepIndex:
    """The index of a sweep, from the file or from a new plan.

    Args:
        sweep: its configuration.
        source: name of the configuration file, for messages.
        runs_folder: folder of all runs.

    Raises:
        UserError: a run is impossible; the message names it and the reason.
    """
    index = SweepIndex(sweep.name, runs_folder, sweep.max_flops, [])
    index.key = _key(sweep)
    # A file with any defect is replaced.
    with suppress(OSError, UserError, ValueError, TypeError, KeyError, AttributeError):
        content = read_json(index.path)
        if content["key"] == index.key:
            runs = [_indexed_run(*values) for values in content["entries"]]
            index.records = {k: v for k, v in content["remembered"].items() if _is_record(v)}
            index.runs = runs
    if not index.runs:
        index.runs = _planned(sweep, source, runs_folder)
        index.save()
    return index


def _indexed_run(*values: Any) -> IndexedRun:
    """A run from the file.

    Raises:
        ValueError, TypeError: the values are not those of a run.
    """
    run = IndexedRun(*values)
    counts = (run.tokens, run.group, run.shared_steps)
    if not (is_run_id(run.run_id) and isinstance(run.role, str) and isinstance(run.size, str)
            and all(map(is_count, counts)) and is_count(run.steps) and run.steps > 0
            and is_number(run.flops) and isinstance(run.paid_for, bool)):
        raise ValueError("not a run of an index")
    return run


def _is_record(values: Any) -> bool:
    """Whether these are cached values of a record."""
    if not isinstance(values, list) or len(values) != 6:
        return False
    size, time, state, steps, loss, speed = values
    return (all(map(is_count, (size, time, steps))) and state in END_STATUSES
            and all(value is None or is_number(value) for value in (loss, speed)))


def _planned(sweep: SweepConfig, source: str, runs_folder: Path) -> list[IndexedRun]:
    from scaling.runs.trunk_groups import shared_steps, trunk_groups
    from scaling.sweeps.plan import make_plan

    plan = make_plan(sweep, source, runs_folder)
    # The trunk of runs within the budget is one of these runs.
    kept = [p for p in plan.runs if p.run_id not in plan.over_budget]
    over_budget = [p for p in plan.runs if p.run_id in plan.over_budget]
    places = {p.run_id: (number, shared_steps(p, group[0]))
              for number, group in enumerate([*trunk_groups(kept), *trunk_groups(over_budget)])
              for p in group}
    return [IndexedRun(
        p.run_id, p.role, f"{p.run.model.d_model} x {p.run.model.n_layers}", p.facts["tokens"],
        p.run.steps, p.flops, p.run_id not in plan.over_budget, *places[p.run_id],
    ) for p in plan.runs]


def _key(sweep: SweepConfig) -> str:
    content = sweep.model_dump(mode="json")
    files = {text: _content_hashes(Path(text)) for text in sorted(set(_texts(content)))}
    root = Path(scaling.__file__).parent
    # By time and size, because in a checkout the code changes without its version.
    code = [[str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns]
            for path in sorted(root.rglob("*")) if path.suffix in (".py", ".json", ".yaml")]
    return content_hash([content, {k: v for k, v in files.items() if v}, code])


def _texts(content: Any) -> Iterator[str]:
    """All strings in nested JSON content."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def _content_hashes(path: Path) -> list[str]:
    """SHA-256 of the file, or of the files that describe the folder or the run of a checkpoint, and
    sizes and times of weights in the folder; empty if there is none."""
    files = [path, *(path / name for name in _DESCRIPTIONS), path.parent.parent / "config.json"]
    found = []
    for file in files:
        with suppress(OSError, UserError, ValueError):
            found.append(hashlib.sha256(read_bytes(file)).hexdigest())
    with suppress(OSError, ValueError):
        for file in sorted(path.glob("*.safetensors")):
            found.append(f"{file.stat().st_size} {file.stat().st_mtime_ns}")
    return found
