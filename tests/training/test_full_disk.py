"""A disk that is full at any write: nothing that was there is lost, the error names the file, and
with room again the run ends with the same bits."""

from __future__ import annotations

import errno
import json
import resource
import sys
from collections import namedtuple

import pytest

from scaling.accounting import count_parameters
from scaling.config import RunConfig, validate
from scaling.runs.folder import RunFolder
from scaling.runs.trunk import Trunk
from scaling.training import checkpoint
from scaling.training.loop import train
from scaling.training.resolve import resolve
from tests.conftest import assert_refused, run_content

# Orbax drops the tasks of the other arrays when it cannot write one of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("tasks_dropped_here"),
]

Usage = namedtuple("Usage", "total used free")
TIMES = {"seconds", "data_wait_seconds"}


@pytest.fixture
def files_of_at_most(monkeypatch):
    """Sets how large a file this process may write: the kernel then refuses as a full disk does,
    in the middle of a write."""
    # Python does not notice that the compiled module it writes is cut short, and later reads it.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


@pytest.fixture
def train_until_full(files_of_at_most, store):
    """Trains a run whose disk is full from some write on, counted by calls of the fence."""
    def trained(run, path, writes, size, **options):
        count = 0

        def fence():
            nonlocal count
            count += 1
            if count == writes:
                files_of_at_most(size)

        try:
            with pytest.raises(OSError, match="File too large") as error:
                train(run, store, path, fence=fence, **options)
        finally:
            files_of_at_most(None)
        return error.value

    return trained


def numbers(path):
    return [{k: v for k, v in line.items() if k not in TIMES}
            for line in RunFolder(path).metrics()]


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    """A run of six steps that saves after each, and how it ends undisturbed."""
    path = tmp_path_factory.mktemp("whole")
    content = run_content(store.path, tokens=6 * 64, logging={"every_steps": 2},
                          checkpoint={"every_seconds": 0})
    run = resolve(validate(RunConfig, content, "test"), store)
    return run, train(run, store, path), numbers(path)


# (number of the write, bytes that a file may have from then on, file, checkpoints before)
WRITES = {
    "first checkpoint": (1, 0, "checkpoints", []),
    "first line": (2, 100, "metrics.jsonl", ["1"]),
    "half a line": (5, 250, "metrics.jsonl", ["2", "3"]),
    "a small file of a checkpoint": (6, 100, "checkpoints", ["2", "3"]),
    "arrays of a checkpoint": (6, 13_000, "checkpoints", ["2", "3"]),
    "held-out loss": (11, 0, "metrics.jsonl", ["5", "6"]),
    "record": (12, 100, "record.json", ["5", "6"]),
}


@pytest.mark.parametrize("what", WRITES)
def test_nothing_is_lost_and_no_bit_differs(undisturbed, store, tmp_path, train_until_full, what):
    run, whole, lines = undisturbed
    writes, size, name, saved = WRITES[what]
    path = tmp_path / "run"
    error = train_until_full(run, path, writes, size)
    assert error.errno == errno.EFBIG
    assert error.filename == str(path / name)
    assert RunFolder(path).record() is None
    assert not [p for p in path.iterdir() if p.name.startswith((".", "record"))]
    there = (path / "checkpoints").glob("*")
    assert sorted(p.name for p in there if p.name.isdigit()) == saved
    assert numbers(path) == lines[: len(numbers(path))]
    written = (path / "metrics.jsonl").read_bytes()
    torn = name == "metrics.jsonl" and size > 0
    assert written.endswith(b"\n") != (torn or not written)
    again = train(run, store, path)
    assert (again["loss"], again["loss_se"]) == (whole["loss"], whole["loss_se"])
    assert numbers(path) == lines
    assert (path / "metrics.jsonl").read_bytes().startswith(written)


def test_a_trunk_that_could_not_be_left_is_left_later(
    undisturbed, store, tmp_path, train_until_full
):
    long = undisturbed[0]
    trunk = Trunk(tmp_path / "trunk", frozenset({3}))
    error = train_until_full(long, tmp_path / "long", 4, 13_000, trunk=trunk)
    assert error.filename == str(trunk.path)
    assert trunk.steps() == []
    assert train(long, store, tmp_path / "long", trunk=trunk)["loss"] == undisturbed[1]["loss"]
    assert trunk.steps() == [3]


def test_the_command_says_it_in_a_sentence(scaling, store_path, tmp_path, files_of_at_most):
    (tmp_path / "run.yaml").write_text(json.dumps(run_content(store_path)))
    files_of_at_most(1000)
    result = scaling("train", "run.yaml", "--out", "run")
    files_of_at_most(None)
    assert_refused(result, "run/config.json: file too large; lift the limit on the size of files")


def test_what_cannot_fit_is_not_begun(undisturbed, store, tmp_path, monkeypatch):
    """The kernel says how much room there is, and the state takes more."""
    run = undisturbed[0]
    size = 12 * count_parameters(run.model).total  # Adam's moments beside each parameter
    free = size - 1
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: (Usage(10**12, 0, free)))
    with pytest.raises(OSError, match="No space left") as error:
        train(run, store, tmp_path / "run")
    assert error.value.filename == str(tmp_path / "run/checkpoints")
    assert not list((tmp_path / "run/checkpoints").iterdir())
    free += 1000  # and a few counters
    assert train(run, store, tmp_path / "run")["loss"] == undisturbed[1]["loss"]
