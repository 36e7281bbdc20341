"""Files that are written whole, and what is left of those that were not."""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from pathlib import Path

import pytest

from scaling.errors import DataError, UserError
from scaling.files import (
    DISK_FULL,
    FIXES,
    cache_folder,
    clear_half_written,
    named,
    open_no_follow,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    remove_below,
    sync,
    write_atomically,
    write_new,
)
from tests.fuzz.limits import at_most

pytestmark = pytest.mark.quick


def test_only_old_half_written_files_are_removed(tmp_path):
    path = tmp_path / "soak.grid.plan.json"
    write_atomically(path, "{}")
    now = path.stat().st_mtime
    names = {".soak.grid.plan.json.old": 61, ".soak.grid.plan.json.new": 59,
             ".other.plan.json.old": 1000, ".soak.grid.plan.json2.old": 1000}
    for name, age in names.items():
        (tmp_path / name).write_text("{")
        os.utime(tmp_path / name, (now - age, now - age))
    clear_half_written(path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *names} - {
        ".soak.grid.plan.json.old"}


def test_other_than_regular_files_are_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "pipe or device"), (tmp_path, "folder"), (Path("/dev/zero"), "pipe")):
        with pytest.raises(UserError, match=kind), at_most(10):
            read_bytes(path)


def test_a_huge_file_is_refused(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)
    assert read_bytes(path, largest=11) == b"x" * 11
    with pytest.raises(UserError, match="larger than"):
        read_bytes(path, largest=10)
    with path.open("r+b") as file:  # the limit without one is 256 MiB; no disk is needed for this
        file.truncate(2**28 + 1)
    with pytest.raises(UserError, match="larger than 268 MB"):
        read_bytes(path)


def test_a_file_that_grows_while_it_is_read_is_limited_too(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)
    size = os.stat_result((stat.S_IFREG, *[0] * 9))
    monkeypatch.setattr(os, "fstat", lambda handle: size)
    assert read_bytes(path, largest=11) == b"x" * 11
    with pytest.raises(UserError, match="larger than"):
        read_bytes(path, largest=10)


@pytest.mark.parametrize("content", [
    b"", b"\xff", b"[" * 100_000, b"{", b"1" * 5_000, b"[1]", b'"text"', b"\x00"])
def test_invalid_json_objects_are_named_in_one_message(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_json(path)


def test_text_is_read_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_text(path) == "seed: 1\n"
    path.write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_text(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o007, 0o660)])
def test_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "record.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch, there):
    """By somebody who guesses its name."""
    victim, link = tmp_path / "victim", tmp_path / f".record.json.{'0' * 8}"
    if there:
        victim.write_text("precious")
    link.symlink_to(victim)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "record.json", "{}")
    with pytest.raises(FileExistsError):
        write_new(link, "{}")
    assert victim.read_text() == "precious" if there else not victim.exists()
    assert link.is_symlink()
    assert not (tmp_path / "record.json").exists()


@pytest.fixture
def tree(tmp_path):
    """A root, and beside it what is not to be touched."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").write_text("x")
    (tmp_path / "outside/b").mkdir(parents=True)
    (tmp_path / "outside/b/file").write_text("precious")
    return tmp_path / "root"


def test_only_paths_below_the_root_are_removed(tree):
    (tree / "a/b/link").symlink_to(tree.parent / "outside")
    (tree / "link").symlink_to(tree.parent / "outside")
    (tree / "a/link").symlink_to("b")
    for path in (tree / "link", tree / "link/b", tree / "link/b/file", tree / "a/link/file"):
        with pytest.raises(UserError, match="leads through a link"):
            remove_below(tree, path)
    for path in (tree, tree / "..", tree / "../outside", tree / "a/../../outside", Path("a/b"),
                 tree.parent / "outside", Path("/"), tree.parent / "root-2"):
        with pytest.raises(UserError, match="is not below"):
            remove_below(tree, path)
    assert (tree.parent / "outside/b/file").read_text() == "precious"
    remove_below(tree, tree / "a/b/file")
    assert not (tree / "a/b/file").exists()
    remove_below(tree, tree / "a")
    remove_below(tree, tree / "a")  # gone already
    remove_below(tree, tree / "gone/too")
    assert {path.name for path in tree.iterdir()} == {"link"}
    assert (tree.parent / "outside/b/file").read_text() == "precious"


def test_the_root_itself_may_be_a_link(tree):
    root = tree.parent / "named"
    root.symlink_to(tree)
    remove_below(root, root / "a/b")
    assert not (tree / "a/b").exists()
    assert (tree / "a").exists()


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a pipe", "a folder"])
def test_a_link_is_not_written_in_place(tmp_path, kind):
    path, victim = tmp_path / "log", tmp_path / "victim"
    if kind == "a link":
        victim.write_text("precious")
    if "link" in kind:
        path.symlink_to(victim)
    else:
        os.mkfifo(path) if kind == "a pipe" else path.mkdir()
    with pytest.raises((UserError, IsADirectoryError), match=re.escape(str(path))):
        open_no_follow(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    assert not victim.exists() or victim.read_text() == "precious"


def test_an_own_file_is_appended_to(tmp_path):
    before = os.umask(0o027)
    try:
        for _ in range(2):
            with open(tmp_path / "log", "ab", opener=open_no_follow) as file:
                file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "log").read_bytes() == b"xx"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_the_cache_is_private(tmp_path, monkeypatch):
    cache = tmp_path / "new/cache"
    monkeypatch.setenv("SCALING_CACHE", str(cache))
    before = os.umask(0)
    try:
        assert cache_folder() == cache
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o775)
    assert cache_folder() == cache  # a group may share one
    cache.chmod(0o1777)
    with pytest.raises(UserError, match="every user may write"):
        cache_folder()
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert cache_folder() == tmp_path / "file"  # whoever writes there says what is wrong


def test_the_cache_is_where_the_environment_has_it(tmp_path, monkeypatch):
    for name in ("SCALING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/scaling"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/scaling"
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, error):
    path = tmp_path / "record.json"
    path.write_text("old")

    def fail(handle):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)) as raised:
        write_atomically(path, "new")
    assert isinstance(error, KeyboardInterrupt) or raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_full_disk_is_known_by_its_errors():
    """No room, no quota, and a file that may not grow; each message has a fix of its own."""
    assert set(DISK_FULL) == {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    assert len(set(DISK_FULL.values())) == 3
    assert DISK_FULL.items() <= FIXES.items()


def test_a_repeated_key_is_refused_where_keys_are_to_be_unique():
    text = '{"a": 1, "b": {"c": 2, "c": 3}}'
    assert parse_json(text, "x") == {"a": 1, "b": {"c": 3}}
    with pytest.raises(UserError, match=r"^x: not readable as JSON \('c' occurs twice"):
        parse_json(text, "x", unique_keys=True)
    assert parse_json('{"a": 1, "b": {"a": 2}}', "x", unique_keys=True) == {"a": 1, "b": {"a": 2}}


def test_files_and_folders_are_flushed_by_sync(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    for path in (tmp_path, tmp_path / "file"):
        sync(path)
    assert flushed == [path.stat().st_ino for path in (tmp_path, tmp_path / "file")]


def test_an_error_about_content_names_the_file(tmp_path):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: too few$"), named(tmp_path):
        raise DataError("too few")


def test_content_is_flushed_before_the_rename(tmp_path, monkeypatch):
    """Else a file of the old name could be empty after a power failure."""
    path = tmp_path / "record.json"
    path.write_text("old")
    done = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        done.append(("on disk", os.fstat(handle).st_size))
        fsync(handle)

    def watched_replace(source, target):
        done.append(("named", Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(path, "longer than before")
    assert done == [("on disk", 18), ("named", 18)]
    assert path.read_text() == "longer than before"
