"""What planning says of a sweep's runs, kept beside them: planning thousands of runs takes seconds,
and who asks where they stand wants neither to wait nor to know more.

    runs/logs/NAME.index.json

The index holds for one content of the sweep, of the files that it names, and of this package; else
it is made anew. Where a run stands is read from its folder each time; what a record says, which is
written once, is remembered by the file's size and time.
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
from scaling.files import write_atomically
from scaling.training.run_folder import RunFolder

INDEX_SUFFIX = ".index.json"
_DESCRIPTIONS = ("manifest.json", "config.json")
"""What says what is in a folder that a sweep names: a token store's, a run's."""


@dataclass(frozen=True)
class Entry:
    """A run of a sweep, as far as planning knows it."""

    run_id: str
    role: str
    size: str
    """Of the model, for people: width x layers."""
    tokens: int
    steps: int
    flops: float
    """Counted FLOPs of training it alone."""
    paid_for: bool
    """Whether `max_flops` pays for it."""
    family: int
    """The same for runs that share a trunk (scaling/sweeps/planning/trunks.py)."""
    shared_steps: int
    """Steps that it takes over from its family's trunk."""


@dataclass
class Index:
    """The runs of a sweep, in the plan's order."""

    sweep: str
    runs: Path
    max_flops: float | None
    entries: list[Entry]
    key: str = ""
    remembered: dict[str, list[Any]] = field(default_factory=dict)
    """By identity, what `scaling.sweeps.status` took from a record, after its size and time."""

    def folder(self, entry: Entry) -> RunFolder:
        """Where a run is."""
        return RunFolder(self.runs / entry.run_id)

    @property
    def logs(self) -> Path:
        """Where launchers and workers leave their words."""
        return self.runs / "logs"

    @property
    def path(self) -> Path:
        """Where the index is kept."""
        return self.logs / f"{self.sweep}{INDEX_SUFFIX}"

    def save(self) -> None:
        """Keep it for the next time, if there is a place: whoever may only read can still ask, and
        a folder of runs is made by who trains."""
        if not self.runs.exists():
            return
        content = {"key": self.key, "entries": [[*vars(entry).values()] for entry in self.entries],
                   "remembered": self.remembered}
        with suppress(OSError):
            write_atomically(self.path, json.dumps(content) + "\n")


def index_of(sweep: SweepConfig, source: str, runs: Path) -> Index:
    """The index of a sweep, from the file or by planning.

    Args:
        sweep: its configuration.
        source: where that came from, for messages.
        runs: where run folders are.

    Raises:
        UserError: a run is impossible; the message says which, and why.
    """
    index = Index(sweep.name, runs, sweep.max_flops, [])
    index.key = _key(sweep)
    # Whatever is wrong with the file, another one can be made.
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(index.path.read_text(encoding="utf-8"))
        if kept["key"] == index.key:
            index.remembered = dict(kept["remembered"])
            index.entries = [Entry(*values) for values in kept["entries"]]
    if not index.entries:
        index.entries = _planned(sweep, source, runs)
        index.save()
    return index


def _planned(sweep: SweepConfig, source: str, runs: Path) -> list[Entry]:
    from scaling.sweeps.plan import make_plan
    from scaling.sweeps.planning.trunks import families, shared_steps

    plan = make_plan(sweep, source, runs)
    # A trunk of the runs that are paid for is one of them.
    kept = [p for p in plan.runs if p.run_id not in plan.over_budget]
    left_out = [p for p in plan.runs if p.run_id in plan.over_budget]
    places = {p.run_id: (number, shared_steps(p, family[0]))
              for number, family in enumerate([*families(kept), *families(left_out)])
              for p in family}
    return [Entry(
        p.run_id, p.role, f"{p.run.model.d_model} x {p.run.model.n_layers}", p.facts["tokens"],
        p.run.steps, p.flops, p.run_id not in plan.over_budget, *places[p.run_id],
    ) for p in plan.runs]


def _key(sweep: SweepConfig) -> str:
    content = sweep.model_dump(mode="json")
    named = {text: _content_of(Path(text)) for text in sorted(set(_texts(content)))}
    root = Path(scaling.__file__).parent
    # By time and size, not by version: in a checkout the code changes and its version does not.
    code = [[str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns]
            for path in sorted(root.rglob("*")) if path.suffix in (".py", ".json", ".yaml")]
    return content_hash([content, {k: v for k, v in named.items() if v}, code])


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def _content_of(path: Path) -> list[str]:
    """Hashes of the file of that name, or of what describes the folder; empty if there is none."""
    files = [path, *(path / name for name in _DESCRIPTIONS)]
    found = []
    for file in files:
        with suppress(OSError, ValueError):
            found.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return found
