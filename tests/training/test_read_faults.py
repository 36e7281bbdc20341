"""An error of the file system at any read of a run's folder or of its store: nothing that was there
is lost, the error is a sentence, and the next start ends with the record of an undisturbed run."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from scaling.config import RunConfig, validate
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.runs.folder import RunFolder
from scaling.training.loop import Stopped, train
from scaling.training.resolve import resolve
from tests.conftest import run_content

# Orbax drops the tasks that read the other arrays when one of them fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("tasks_dropped_here"),
]

CHANGING = ("environment.json", "lease.")
"""Files of a run that every start writes anew."""

ERRORS = {
    "EIO": OSError(errno.EIO, os.strerror(errno.EIO)),
    "ESTALE": OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "EMFILE": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "EACCES": PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    "MemoryError": MemoryError(),
}


@dataclass
class Faults:
    """Lets one read of files below some folders fail: the k-th."""

    folders: tuple[Path, ...]
    error: Exception
    at: int
    reads: int = 0
    seen: list[str] = field(default_factory=list)

    def look(self, path: object, writes: bool) -> None:
        if writes or not isinstance(path, str | os.PathLike):
            return
        absolute = Path(os.path.abspath(os.fspath(path)))
        if not any(absolute.is_relative_to(folder) for folder in self.folders):
            return
        self.reads += 1
        self.seen.append(str(absolute))
        if self.reads == self.at:
            if isinstance(self.error, OSError):
                raise type(self.error)(*self.error.args, os.fspath(path))
            raise self.error

    def install(self, patch: pytest.MonkeyPatch) -> None:
        opens, os_open, scan, listed = builtins.open, os.open, os.scandir, os.listdir

        def open_(path, mode="r", *rest, **options):
            self.look(path, any(letter in mode for letter in "wax+"))
            return opens(path, mode, *rest, **options)

        def os_open_(path, flags, *rest, **options):
            writes = flags & os.O_ACCMODE == os.O_WRONLY
            self.look(path, writes or bool(flags & os.O_DIRECTORY))
            return os_open(path, flags, *rest, **options)

        def scandir(path="."):
            self.look(path, False)
            return scan(path)

        def listdir(path="."):
            self.look(path, False)
            return listed(path)

        for module in (builtins, io):
            patch.setattr(module, "open", open_)
        patch.setattr(os, "open", os_open_)
        patch.setattr(os, "scandir", scandir)
        patch.setattr(os, "listdir", listdir)
        # Its class opens by a name that it took when numpy was imported.
        memmap = np.memmap

        def mapped(path, *rest, **options):
            self.look(path, False)
            return memmap(path, *rest, **options)

        patch.setattr(np, "memmap", mapped)


@pytest.fixture(scope="module")
def made(store_path, tmp_path_factory):
    """A run that was stopped with two checkpoints, its store, and the record of the whole run."""
    folder = tmp_path_factory.mktemp("made")
    content = run_content(store_path, tokens=8 * 64, logging={"every_steps": 2},
                          checkpoint={"every_seconds": 0})
    store = TokenStore.open(store_path)
    run = resolve(validate(RunConfig, content, "test"), store)
    whole = train(run, store, folder / "whole")
    steps = iter(range(1, 100))
    stopped = train(run, store, folder / "run", asked_to_stop=lambda: next(steps) == 6)
    assert stopped == Stopped(6, run.steps)
    return run, folder / "run", whole, numbers(folder / "whole")


def numbers(path):
    return [{k: v for k, v in line.items() if k not in ("seconds", "data_wait_seconds")}
            for line in RunFolder(path).metrics()]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(before, folder):
    """See that every file is there as it was; metrics may have been added to."""
    now = contents(folder)
    for path, content in before.items():
        if path.name.startswith(CHANGING):
            continue
        assert path in now, path
        if path.name == "metrics.jsonl":
            assert now[path].startswith(content)
        else:
            assert now[path] == content, path


def start(run, path):
    """What `scaling train` does."""
    store = TokenStore.open(run.data.store)
    folder = RunFolder(path)
    if (record := folder.record()) is not None:
        return record
    with folder.lock() as lease:
        assert lease is not None
        return train(run, store, path, fence=lease.check)


def attempt(run, path, faults):
    """Start the run with a fault; the error that it ends with, if it does."""
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        try:
            start(run, path)
        except (UserError, OSError, MemoryError) as error:
            return error
    return None


# At every read; and in `make test` at a few.
@pytest.mark.parametrize(("name", "stride"), [
    ("EIO", 5), ("ESTALE", 13), ("EMFILE", 11), ("EACCES", 17), ("MemoryError", 9),
    *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ERRORS)])
def test_a_read_that_fails_costs_nothing(made, tmp_path, name, stride):
    """In turn the reads of a start, until it writes a checkpoint of its own."""
    run, stopped, whole, lines = made
    store = Path(run.data.store)
    before_store = contents(store)
    reached = set()
    for at in range(1, 1000, stride):
        path = shutil.copytree(stopped, tmp_path / f"run-{at}")
        before = contents(path)
        faults = Faults((path, store), ERRORS[name], at)
        error = attempt(run, path, faults)
        failed = Path(faults.seen[at - 1])
        where = f"read {at}, of {failed}: {error!r}"
        if path / "checkpoints" in failed.parents and "7" in str(failed.relative_to(path))[:13]:
            break
        if error is not None:
            if not isinstance(error, MemoryError):
                assert str(path) in str(error) or str(store) in str(error), where
            assert RunFolder(path).record() is None, where
            kept(before, path)
        assert not list(path.glob("checkpoints/damaged*")), where
        if failed.name not in reached and failed.parent.name != "d":
            for lease in path.glob("lease.*"):  # whose process is gone, where one has failed
                lease.unlink()
            record = start(run, path)
            assert (record["loss"], record["loss_se"]) == (whole["loss"], whole["loss_se"]), where
            assert numbers(path) == lines, where
        reached.add(failed.name)
        shutil.rmtree(path)
    assert contents(store) == before_store
    assert stride > 1 or reached >= {
        "manifest.json", "train.index.npy", "train-00000.bin", "validation-00000.bin",
        "config.json", "record.json", "metrics.jsonl", "files.json", "metadata", "checkpoints"}


@pytest.mark.parametrize("name", ERRORS)
def test_a_run_that_is_over_is_not_trained_again(made, tmp_path, name):
    """Though its record cannot be read now, nor anything else that is looked at before."""
    run, stopped, whole, _ = made
    path = shutil.copytree(stopped.parent / "whole", tmp_path / "whole")
    before = contents(path)
    faults = Faults((path, Path(run.data.store)), ERRORS[name], 0)
    assert attempt(run, path, faults) is None
    assert path / "record.json" in map(Path, faults.seen)
    for at in range(1, faults.reads + 1):
        error = attempt(run, path, Faults(faults.folders, ERRORS[name], at))
        assert error is not None, faults.seen[at - 1]
        assert contents(path) == before
    assert start(run, path) == RunFolder(path).record()
    assert whole["loss"] == RunFolder(path).record()["loss"]
