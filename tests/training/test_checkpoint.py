"""A damaged checkpoint costs the work since the one before it, and not a bit of the result."""

from __future__ import annotations

import gc
import logging

import pytest

from scaling.training.loop import Stopped, train
from scaling.training.trunk import Trunk

# Where one array of several cannot be read, Orbax drops what it has begun to do for the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _dropped_here():
    """What is dropped is collected before another test begins, which does not expect it."""
    yield
    gc.collect()


@pytest.fixture
def stopped(make_run, store, tmp_path):
    """A run that was stopped with two checkpoints, and what it would have ended with."""
    run = make_run("checkpoint.every_seconds=0")
    whole = train(run, store, tmp_path / "whole")
    steps = iter(range(1, 100))
    path = tmp_path / "run"
    assert train(run, store, path, asked_to_stop=lambda: next(steps) == 9) == Stopped(9, run.steps)
    assert sorted(p.name for p in (path / "checkpoints").glob("[0-9]*")) == ["8", "9"]
    return run, path, whole


def files(folder):
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder):
    """In the middle of the largest file, where the arrays are."""
    path = files(folder)[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = files(folder)[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_file(folder):
    files(folder)[-1].unlink()


def empty_the_progress(folder):
    for path in (folder / "progress").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


DAMAGE = [flip_a_bit, truncate, lose_a_file, empty_the_progress]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_the_one_before_is_taken_and_said(stopped, store, damage, caplog):
    run, path, whole = stopped
    damage(path / "checkpoints" / "9")
    with caplog.at_level(logging.WARNING):
        record = train(run, store, path)
    assert record["loss"] == whole["loss"]
    said = [message for message in caplog.messages if "damaged" in message]
    assert len(said) == 1
    assert str(path / "checkpoints" / "9") in said[0]


def test_without_a_whole_one_the_run_begins_anew(stopped, store, caplog):
    run, path, whole = stopped
    for step in ("8", "9"):
        truncate(path / "checkpoints" / step)
    record = train(run, store, path)
    assert record["loss"] == whole["loss"]
    assert len([m for m in caplog.messages if "damaged" in m]) == 2


def test_a_damaged_trunk_is_no_harm(make_run, store, tmp_path, caplog):
    long, short = make_run("tokens=1536"), make_run("tokens=896")
    trunk = Trunk(tmp_path / "trunk", frozenset({11}))
    train(long, store, tmp_path / "long", trunk=trunk)
    flip_a_bit(trunk.path / "11")
    record = train(short, store, tmp_path / "short", trunk=Trunk(trunk.path))
    assert record["trunk"] is None
    assert record["loss"] == train(short, store, tmp_path / "alone")["loss"]
    assert trunk.steps() == [11]
