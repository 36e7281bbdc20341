"""A damaged checkpoint costs the work since the one before it, and not a bit of the result. One
that cannot be read for another reason costs nothing: an error says why, and all stay as they were.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from scaling.config import RunConfig, validate
from scaling.errors import UserError
from scaling.parallel import make_mesh
from scaling.runs import checkpoint_files
from scaling.runs.trunk import Trunk
from scaling.training import checkpoint
from scaling.training.checkpoint import Checkpoints
from scaling.training.loop import Stopped, train
from scaling.training.resolve import resolve
from scaling.training.step import init_state
from tests.conftest import ROOT, run_content

# Where one array of several cannot be read, Orbax drops what it has begun to do for the others.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("tasks_dropped_here", "ends"),  # which Orbax would not, at a pipe
]


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """A run that was stopped with two checkpoints, its folder, and the record of the whole run."""
    folder = tmp_path_factory.mktemp("made")
    content = run_content(store.path, checkpoint={"every_seconds": 0})
    run = resolve(validate(RunConfig, content, "test"), store)
    whole = train(run, store, folder / "whole")
    steps = iter(range(1, 100))
    path = folder / "run"
    assert train(run, store, path, asked_to_stop=lambda: next(steps) == 9) == Stopped(9, run.steps)
    assert sorted(p.name for p in (path / "checkpoints").glob("[0-9]*")) == ["8", "9"]
    return run, path, whole


@pytest.fixture
def stopped(made, tmp_path):
    """The same in a folder that may be damaged."""
    run, path, whole = made
    return run, shutil.copytree(path, tmp_path / "run"), whole


@pytest.fixture
def state(stopped):
    """A new state of that run, with its mesh in force."""
    run = stopped[0]
    with jax.set_mesh(make_mesh(run.execution.mesh)):
        yield init_state(run)


def contents(folder):
    """Every file below a folder, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def raising(error):
    def restore(*_, **__):
        raise error

    return restore


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


@pytest.fixture(params=["listed", "without a list"])
def a_list(request, stopped):
    """Checkpoints that say which files they have, and those that do not, as several processes
    write them."""
    if request.param != "listed":
        for path in (stopped[1] / "checkpoints").glob("*/files.json"):
            path.unlink()


@pytest.mark.usefixtures("a_list")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_the_one_before_is_taken_and_said(stopped, store, damage, caplog):
    run, path, whole = stopped
    damaged = path / "checkpoints" / "9"
    damage(damaged)
    before = contents(damaged)
    with caplog.at_level(logging.WARNING):
        record = train(run, store, path)
    assert record["loss"] == whole["loss"]
    said = [message for message in caplog.messages if "damaged" in message]
    assert len(said) == 1
    assert f"{damaged}: damaged (" in said[0]
    aside = path / "checkpoints" / "damaged-9.1"
    assert said[0].endswith(f"and set aside as {aside}")
    assert contents(aside) == before
    assert sorted(p.name for p in aside.parent.iterdir()) == ["23", "24", "damaged-9.1"]


@pytest.mark.parametrize("name", [
    "commit_success.txt", "state/_METADATA", "state/_sharding", "state/manifest.ocdbt",
    "progress/metadata", "files.json",
])
@pytest.mark.parametrize("change", [
    lambda path: path.write_bytes(path.read_bytes()[:-20]),
    lambda path: path.unlink(),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: (path.unlink(), os.mkfifo(path)),
    lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
], ids=["truncated", "missing", "a folder", "a pipe", "a device"])
def test_every_file_counts(stopped, store, state, name, change, caplog):
    folder = stopped[1] / "checkpoints"
    change(folder / "9" / name)
    with Checkpoints(folder) as checkpoints:
        taken = checkpoints.restore(state)[1].step
    # A list that is missing was never written: the process was killed just then.
    never_written = not list((stopped[1] / "checkpoints").glob("*9*/files.json"))
    assert taken == (9 if never_written else 8)
    assert (folder / "damaged-9.1").exists() == (taken == 8) == bool(caplog.messages)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("make", [
    lambda path, kept: os.mkfifo(path), lambda path, kept: path.symlink_to(kept),
    lambda path, kept: path.symlink_to(kept.parent),
], ids=["a pipe", "a link", "a link to a folder"])
def test_what_nobody_writes_into_a_checkpoint_is_not_followed(stopped, state, make, listed):
    """Beside the files that were written; where there is no list, nothing else would tell."""
    folder = stopped[1] / "checkpoints"
    kept = folder.parent / "outside" / "kept"
    kept.parent.mkdir()
    kept.write_text("kept")
    make(folder / "9" / "state" / "more", kept)
    if not listed:
        (folder / "9" / "files.json").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state)[1].step == 8
    assert os.path.lexists(folder / "damaged-9.1" / "state" / "more")
    assert kept.read_text() == "kept"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_orbax_does_not_wait_for_a_pipe(stopped, make):
    path = stopped[1] / "checkpoints" / "9" / "_CHECKPOINT_METADATA"
    path.unlink()
    make(path)
    with pytest.raises(UserError, match=f"{path}: is not a file"):
        Checkpoints(stopped[1] / "checkpoints")


@pytest.mark.parametrize("content", [
    "[" * 10**5, "[1]", "3", '{"init_timestamp_nsecs": [1]}', '{"commit_timestamp_nsecs": 1e300}',
    '{"metrics": 3}'])
@pytest.mark.parametrize("listed", [True, False])
def test_what_orbax_says_of_one_keeps_none_from_being_opened(stopped, state, content, listed):
    folder = stopped[1] / "checkpoints"
    (folder / "9" / "_CHECKPOINT_METADATA").write_text(content)
    (folder / "8" / "_CHECKPOINT_METADATA").write_text(content)
    if not listed:
        for step in ("8", "9"):
            (folder / step / "files.json").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.newest() == 9
        found = checkpoints.restore(state)
    if listed:  # both are damaged, and are set aside
        assert found is None
        assert sorted(p.name for p in folder.iterdir()) == ["damaged-8.1", "damaged-9.1"]
    else:  # the arrays and the progress are whole
        assert found[1].step == 9


@pytest.mark.parametrize("name", [
    "x" * 300, "x" * 5000, "a\0b", "\ud800", "../../config.json", "/etc/passwd", "", ".",
    "a/" * 3000], ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("expected", [[1, 2], 3, None], ids=str)
def test_a_list_of_what_no_file_is_called_is_damage(stopped, state, name, expected):
    folder = stopped[1] / "checkpoints"
    path = folder / "9" / "files.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: expected}))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state)[1].step == 8
    assert (folder / "damaged-9.1").is_dir()


@pytest.mark.parametrize("change", [
    {"step": 8}, {"step": 9.5}, {"step": None}, {"pending": [1]}, {"pending": {"a": 1}},
    {"pending": [{"a": "1"}]}, {"pending": [{"a": 1.0}, {"b": 1.0}]}, {"seconds": "1"},
    {"seconds": -1}, {"seconds": float("nan")}, {"branch": 3}, {"branch": {"run_id": 3, "step": 1}},
    {"branch": {"run_id": "x", "step": -1}},
])
def test_progress_that_is_none_is_damage_without_a_list_too(stopped, state, change):
    folder = stopped[1] / "checkpoints"
    path = folder / "9" / "progress" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (folder / "9" / "files.json").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state)[1].step == 8
    assert (folder / "damaged-9.1").is_dir()


def test_without_a_whole_one_the_run_begins_anew(stopped, store, caplog):
    run, path, whole = stopped
    for step in ("8", "9"):
        truncate(path / "checkpoints" / step)
    record = train(run, store, path)
    assert record["loss"] == whole["loss"]
    assert len([m for m in caplog.messages if "damaged" in m]) == 2


def test_another_number_of_processes_may_read_it(stopped, state, monkeypatch):
    """A process that has not all of the arrays cannot compare their checksum."""
    _, path, _ = stopped
    monkeypatch.setattr(checkpoint, "_checksum", lambda state: None)
    before = contents(path / "checkpoints")
    with Checkpoints(path / "checkpoints") as checkpoints:
        assert checkpoints.restore(state) is not None
    assert contents(path / "checkpoints") == before


def test_each_damaged_one_has_a_name_of_its_own(stopped, state):
    folder = stopped[1] / "checkpoints"
    (folder / "damaged-9.1").mkdir()
    truncate(folder / "9")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state)[1].step == 8
    assert sorted(p.name for p in folder.iterdir()) == ["8", "damaged-9.1", "damaged-9.2"]


def test_one_that_is_only_read_stays_where_it_is(stopped, state):
    folder = stopped[1] / "checkpoints"
    flip_a_bit(folder / "9")
    before = contents(folder)
    with Checkpoints(folder, to_read=True) as checkpoints:
        assert checkpoints.newest() == 9
        assert checkpoints.restore(state, 9) is None
        assert checkpoints.restore(state)[1].step == 8
    assert contents(folder) == before


def tensorstore(number):
    """As TensorStore says it; and as Orbax wraps what TensorStore says."""
    error = Exception("Encountered error while reading array index: ()")
    error.__cause__ = ValueError("UNKNOWN: Error reading local file "
                                 f"[source locations='...', os_error_code='{number}']")
    return error


SYSTEM = {
    **{f"OSError {errno.errorcode[number]}": (OSError(number, os.strerror(number)), number)
       for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES, errno.ENOMEM)},
    **{f"TensorStore {errno.errorcode[number]}": (tensorstore(number), number)
       for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES, errno.EPERM)},
    "MemoryError": (MemoryError(), errno.ENOMEM),
    "of the device": (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), errno.ENOMEM),
    "in a group": (ExceptionGroup("read", [OSError(errno.EIO, "no")]), errno.EIO),
}


@pytest.mark.usefixtures("a_list")
@pytest.mark.parametrize("error", SYSTEM)
def test_what_cannot_be_read_now_is_no_damage(stopped, state, error, monkeypatch, caplog):
    folder = stopped[1] / "checkpoints"
    raised, number = SYSTEM[error]
    before = contents(folder)
    with Checkpoints(folder) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.CheckpointManager, "restore", raising(raised))
            with pytest.raises(OSError, match=os.strerror(number)) as said:
                checkpoints.restore(state)
        assert (said.value.errno, said.value.filename) == (number, str(folder / "9"))
        assert contents(folder) == before
        assert not caplog.messages
        assert checkpoints.restore(state)[1].step == 9


def test_the_run_goes_on_when_the_cause_is_gone(stopped, store, monkeypatch):
    run, path, whole = stopped
    before = contents(path / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", raising(tensorstore(errno.ESTALE)))
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            train(run, store, path)
    assert contents(path / "checkpoints") == before
    assert train(run, store, path)["loss"] == whole["loss"]


FEW_FILES = """
import os, resource, sys
from pathlib import Path
from scaling.config import RunConfig, validate
from scaling.files import read_json
from scaling.parallel import make_mesh
from scaling.training import checkpoint
from scaling.training.step import init_state
import jax

folder = Path(sys.argv[1])
run = validate(RunConfig, read_json(folder / "config.json")["config"], "test")
jax.set_mesh(make_mesh(run.execution.mesh))
state = init_state(run)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
    print(checkpoints.restore(state)[1].step)
    # With the second, TensorStore finds the damage first.
    for look in checkpoint.verify_file_list, lambda _: True:
        checkpoint.verify_file_list = look
        checkpoints._proven.clear()
        for more in range(40):
            few = len(os.listdir("/proc/self/fd")) - 1 + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
            try:
                print(checkpoints.restore(state)[1].step)
                break
            except Exception as error:
                print(type(error).__name__, getattr(error, "errno", None), error)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""


def test_too_few_files_may_be_open(stopped):
    """The kernel's own errors, in Python and inside of TensorStore."""
    before = contents(stopped[1])
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, stopped[1]], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert contents(stopped[1]) == before
    lines = done.stdout.splitlines()
    steps = [place for place, line in enumerate(lines) if line == "9"]
    assert len(steps) == 3
    assert steps[-1] == len(lines) - 1
    failed = [line for line in lines if line != "9"]
    assert len(failed) > 1
    for line in failed:
        assert line.startswith(f"OSError {errno.EMFILE} ")
        assert str(stopped[1] / "checkpoints" / "9") in line


@pytest.mark.usefixtures("a_list")
@pytest.mark.parametrize("error", [
    ValueError("Checkpoint was written by a newer version"), KeyError("tree_metadata"),
    AttributeError("no"), TypeError("no"), NotImplementedError(), ImportError("no zstd"),
    OSError("without a number"),
], ids=repr)
def test_what_nobody_understands_is_no_damage(stopped, state, error, monkeypatch):
    folder = stopped[1] / "checkpoints"
    before = contents(folder)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", raising(error))
    with (Checkpoints(folder) as checkpoints,
          pytest.raises(UserError, match=f"checkpoints/9: cannot be read .*{error}")):
        checkpoints.restore(state)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [
    json.JSONDecodeError("no", "x", 0), ValueError("DATA_LOSS: of another version"),
    FileNotFoundError(errno.ENOENT, "no such file"), ValueError("NOT_FOUND: no such array"),
], ids=repr)
def test_files_that_are_those_that_were_written_are_no_damage(stopped, state, error, monkeypatch):
    """Whatever a library makes of them: another version of it may read them."""
    folder = stopped[1] / "checkpoints"
    before = contents(folder)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", raising(error))
    with (Checkpoints(folder) as checkpoints,
          pytest.raises(UserError, match="no proof that it is damaged, so it was kept")):
        checkpoints.restore(state)
    assert contents(folder) == before


def test_a_list_that_cannot_be_read_now_is_said(stopped, state, monkeypatch):
    folder = stopped[1] / "checkpoints"
    before = contents(folder)
    monkeypatch.setattr(checkpoint_files, "read_bytes", raising(
        OSError(errno.EIO, os.strerror(errno.EIO), "files.json")))
    with Checkpoints(folder) as checkpoints, pytest.raises(OSError, match=r"files\.json"):
        checkpoints.restore(state)
    assert contents(folder) == before


@pytest.mark.parametrize(("change", "expected"), [
    ("model.d_model=16", r"key.weight.value is float32\[2, 8, 2, 4\] in it and "
                         r"float32\[2, 16, 2, 8\] in the model"),
    ("model.n_layers=3", r"is float32\[2, 8, 2, 4\] in it and float32\[3, 8, 2, 4\]"),
    ("model.vocab_size=300", r"is float32\[257, 8\] in it and float32\[300, 8\]"),
    ("model.use_bias=true", r"it has no model.decoder"),
])
def test_another_model_is_named(stopped, make_run, change, expected):
    folder = stopped[1] / "checkpoints"
    before = contents(folder)
    run = make_run(change)
    said = f"{folder}/9: was saved by a model of other .*{expected}"
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match=said),
    ):
        checkpoints.restore(init_state(run))
    assert contents(folder) == before


def test_another_type_is_named(stopped, state):
    folder = stopped[1] / "checkpoints"
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, state)
    with (Checkpoints(folder) as checkpoints,
          pytest.raises(UserError, match=r"is float32(\[2, 8, 2, 4\]) in it and bfloat16\1 in")):
        checkpoints.restore(half)


@pytest.fixture
def left(make_run, store, tmp_path):
    """A trunk with a state of step 11, and a run that begins there."""
    trunk = Trunk(tmp_path / "trunk", frozenset({11}))
    train(make_run("tokens=1536"), store, tmp_path / "long", trunk=trunk)
    return Trunk(trunk.path), make_run("tokens=896")


def test_a_damaged_trunk_is_no_harm(left, store, tmp_path):
    trunk, short = left
    flip_a_bit(trunk.path / "11")
    before = contents(trunk.path)
    record = train(short, store, tmp_path / "short", trunk=trunk)
    assert record["trunk"] is None
    assert record["loss"] == train(short, store, tmp_path / "alone")["loss"]
    assert contents(trunk.path) == before


def test_a_trunk_that_cannot_be_read_now_is_said(left, store, tmp_path, monkeypatch):
    """What the trunk has trained is not trained again in silence."""
    trunk, short = left
    before = contents(trunk.path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", raising(tensorstore(errno.EIO)))
        with pytest.raises(OSError, match="Input/output error") as said:
            train(short, store, tmp_path / "short", trunk=trunk)
    assert said.value.filename == str(trunk.path / "11")
    assert contents(trunk.path) == before
    assert train(short, store, tmp_path / "short", trunk=trunk)["trunk"]["step"] == 11
