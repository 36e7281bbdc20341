"""The lock of a folder that is being written, and the move into place."""

from __future__ import annotations

import fcntl
import os
import re

import pytest

from scaling.data.prepare.atomic_folder import folder_lock, move_in_place
from scaling.errors import UserError

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a pipe"])
def test_a_lock_that_is_not_a_file_is_refused_and_kept(tmp_path, kind):
    lock, victim = tmp_path / ".store.lock", tmp_path / "victim"
    if kind == "a link":
        victim.write_text("precious")
    if kind == "a pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(victim)
    with pytest.raises(UserError, match=re.escape(str(lock))), \
            folder_lock(tmp_path / "store", list):
        pass
    assert os.path.lexists(lock)
    assert victim.exists() == (kind == "a link")


def test_a_lock_honours_the_umask_and_is_removed(tmp_path):
    before = os.umask(0o077)
    try:
        with folder_lock(tmp_path / "store", list):
            assert (tmp_path / ".store.lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """By its previous owner: whoever came later would lock another file."""
    path, real, calls = tmp_path / ".store.lock", fcntl.flock, []

    def flock(handle, how):
        calls.append(how)
        if len(calls) == 1:
            path.unlink()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path / "store", list):
        assert len(calls) == 2
        assert path.exists()


def test_a_folder_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    made, out = tmp_path / "made", tmp_path / "store"
    made.mkdir()
    for name in ("manifest.json", "train-00000.bin"):
        (made / name).write_text("content")
    done = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        done.append(os.fstat(handle).st_ino)
        fsync(handle)

    def watched_replace(source, target):
        done.append("named")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    move_in_place(made, out)
    inside = {path.stat().st_ino for path in out.iterdir()}
    named = done.index("named")
    assert set(done[:named]) == inside | {out.stat().st_ino}
    assert done[named + 1:] == [tmp_path.stat().st_ino]
