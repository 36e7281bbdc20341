"""The list of a checkpoint's files, and which errors in reading one prove that it is damaged."""

from __future__ import annotations

import errno
import json
import os
import zlib
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.runs import checkpoint_files
from scaling.runs.checkpoint_files import (
    FILE_LIST,
    DamagedCheckpoint,
    check_metadata_files,
    explain_read_error,
    set_aside,
    system_errno,
    verify_file_list,
    write_file_list,
)
from scaling.training import checkpoint
from scaling.training.checkpoint import Progress
from scaling.training.step import TrainState


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of two files, with their list."""
    folder = tmp_path / "100"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "array").write_bytes(b"abc" * 10)
    (folder / "progress").write_bytes(b"{}")
    write_file_list(folder)
    return folder


def test_the_list_has_the_size_and_checksum_of_every_file(saved):
    assert json.loads((saved / FILE_LIST).read_text()) == {
        "state/array": [30, zlib.crc32(b"abc" * 10)],
        "progress": [2, zlib.crc32(b"{}")],
    }
    assert verify_file_list(saved)
    (saved / "more").write_text("not listed")
    assert verify_file_list(saved)
    (saved / FILE_LIST).unlink()
    assert not verify_file_list(saved)


def test_large_files_are_read_in_parts(saved, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_CHUNK_BYTES", 7)
    assert verify_file_list(saved)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "progress").write_text("[]"), "progress has another content"),
        (lambda f: (f / "progress").write_text("{ }"), "progress has another size"),
        (lambda f: (f / "progress").unlink(), "progress is missing"),
        (lambda f: (f / FILE_LIST).write_text("[]"), "is not a list of files"),
        (lambda f: (f / FILE_LIST).write_text("{"), FILE_LIST),
        (lambda f: (f / FILE_LIST).write_text('{"../other": [0, 0]}'), "../other is missing"),
        (lambda f: (f / "link").symlink_to(f), "link is a link, a pipe or a device"),
        (lambda f: f.rename(f.with_name("other")), "it is missing"),
    ],
)
def test_what_differs_from_the_list_is_damaged(saved, damage, words):
    (saved.parent / "other").write_text("") if "other" in words else None
    damage(saved)
    with pytest.raises(DamagedCheckpoint) as caught:
        verify_file_list(saved)
    assert words in str(caught.value)


def caused(error, cause):
    error.__cause__ = cause
    return error


NO_SPACE = "... os_error_code='28' ..."


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "x"), errno.EIO),
        (OSError(errno.ENOENT, "x"), None),
        (ValueError(), None),
        (FileNotFoundError("x"), None),
        (MemoryError(), errno.ENOMEM),
        (ValueError("RESOURCE_EXHAUSTED: x"), errno.ENOMEM),
        (ValueError("Out of memory"), errno.ENOMEM),
        (ValueError(NO_SPACE), errno.ENOSPC),
        (ValueError("os_error_code='2'"), None),
        (ValueError("os_error_code='2' os_error_code='5'"), errno.EIO),
        (caused(ValueError("x"), OSError(errno.EACCES, "x")), errno.EACCES),
        (ExceptionGroup("x", [ValueError("y"), OSError(errno.EIO, "x")]), errno.EIO),
    ],
)
def test_the_number_of_an_error_of_the_system(error, number):
    assert system_errno(error) == number


@pytest.mark.parametrize(
    ("error", "proven", "kind"),
    [
        (ValueError("DATA_LOSS: crc"), False, DamagedCheckpoint),
        (ValueError("DATA_LOSS: crc"), True, UserError),
        (ValueError("NOT_FOUND: x"), False, DamagedCheckpoint),
        (ValueError("FAILED_PRECONDITION: x"), False, DamagedCheckpoint),
        (ValueError("OUT_OF_RANGE: x"), False, DamagedCheckpoint),
        (ValueError("INTERNAL: x"), False, UserError),
        (ValueError("x DATA_LOSS: crc"), False, UserError),
        (FileNotFoundError("x"), False, DamagedCheckpoint),
        (NotADirectoryError(errno.ENOTDIR, "x"), False, DamagedCheckpoint),
        (json.JSONDecodeError("x", "y", 0), False, DamagedCheckpoint),
        (caused(KeyError("x"), json.JSONDecodeError("x", "y", 0)), False, DamagedCheckpoint),
        (KeyError("x"), False, UserError),
        (ValueError(NO_SPACE), False, OSError),
        (ValueError(NO_SPACE), True, OSError),
    ],
)
def test_what_proves_damage(saved, error, proven, kind):
    found = explain_read_error(error, saved, proven)
    assert type(found) is kind
    if kind is OSError:
        assert (found.errno, found.filename) == (errno.ENOSPC, str(saved))


def test_an_error_that_names_its_file_stays_as_it_is(saved):
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a/b")
    assert explain_read_error(error, saved, False) is error


def test_one_that_is_there_no_longer_is_not_read(tmp_path):
    """As when another sweep has cleared a trunk in the meantime: the run is trained from the
    start."""
    with checkpoint.Checkpoints(tmp_path, to_read=True) as checkpoints:
        assert checkpoints.origin(100) is None
        assert checkpoints.restore(TrainState(jnp.ones(2), jnp.ones(2)), 100) is None


def test_damaged_ones_get_unused_names(saved):
    taken = saved.with_name("damaged-100.1")
    taken.mkdir()
    assert set_aside(saved) == saved.with_name("damaged-100.2")
    assert not saved.exists()
    assert (saved.with_name("damaged-100.2") / "progress").exists()


def test_metadata_that_is_no_file_is_refused(saved):
    check_metadata_files(saved.parent)
    (saved / "_CHECKPOINT_METADATA").mkdir()
    with pytest.raises(UserError, match="is not a file, so this is not an Orbax checkpoint"):
        check_metadata_files(saved.parent)


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"step": 8}, False),
        ({"step": 7.0}, False),
        ({"seconds": -1.0}, False),
        ({"seconds": float("nan")}, False),
        ({"seconds": "1"}, False),
        ({"pending": {}}, False),
        ({"pending": [{"a": 1.0}, {"a": float("nan")}]}, True),
        ({"pending": [{"a": 1.0}, {"b": 1.0}]}, False),
        ({"pending": [{"a": "1"}]}, False),
        ({"pending": [{"a": True}]}, False),
        ({"pending": [3]}, False),
        ({"branch": {"run_id": "a", "step": 3}}, True),
        ({"branch": {"run_id": "a"}}, False),
        ({"branch": {"run_id": 3, "step": 3}}, False),
        ({"branch": {"run_id": "a", "step": -1}}, False),
        ({"branch": []}, False),
    ],
)
def test_progress_that_may_have_been_saved(changes, valid):
    progress = Progress(7, [], 1.5)._replace(**changes)
    assert checkpoint._is_of_step(progress, 7) is valid


def test_arrays_that_differ_are_named():
    def array(*shape, dtype="float32"):
        return SimpleNamespace(shape=shape, dtype=np.dtype(dtype))

    there = {"a": array(2), "b": array(3), "c": array(4), "d": array(5)}
    wanted = {"a": array(2), "b": array(3, 1), "c": array(4, dtype="int32"), "e": array(5)}
    assert checkpoint._differences(there, wanted) == [
        "b is float32[3] in it and float32[3, 1] in the model",
        "c is float32[4] in it and int32[4] in the model",
        "it has no e",
        "it has d, which the model has not",
    ]
    assert checkpoint._differences(there, there) == []


def test_the_checksum_is_of_all_arrays_in_order():
    one, other = jnp.arange(3.0), jnp.ones(2)
    found = checkpoint._checksum(TrainState(one, other))
    assert found == zlib.crc32(np.asarray(one).tobytes() + np.asarray(other).tobytes())
    assert found != checkpoint._checksum(TrainState(other, one))
