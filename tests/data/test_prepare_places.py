"""Preparing writes and removes its own files only, and none of other files next to a store."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from scaling.data.prepare import prepare
from scaling.data.prepare.work import WorkStep, open_atomic
from scaling.errors import UserError

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read


def corpus(folder: Path) -> str:
    (folder / "corpus.jsonl").write_text("".join(
        json.dumps({"text": f"document {i} " + "some words of it " * (i % 5)}) + "\n"
        for i in range(200)))
    return f"jsonl:{folder}/corpus.jsonl#text"


def hostile_neighbours(folder: Path, work: str) -> dict[str, object]:
    """Foreign files next to a store, by what `prepare` could mistake them for."""
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("mine")

    def filled() -> None:
        (folder / work / "store").mkdir(parents=True)
        (folder / work / "store" / "thesis.txt").write_text("mine")

    return {
        "a folder of that name": filled,
        "a file of that name": lambda: (folder / work).write_text("mine"),
        "a link of that name": lambda: (folder / work).symlink_to(folder / "mine"),
        "a link to nothing": lambda: (folder / work).symlink_to(folder / "nowhere"),
        "a pipe of that name": lambda: os.mkfifo(folder / work),
        "a lock with content": lambda: (folder / ".store.lock").write_text("mine"),
        "a lock that is a link": lambda: (folder / ".store.lock").symlink_to(
            folder / "mine" / "thesis.txt"),
        "a lock that is a pipe": lambda: os.mkfifo(folder / ".store.lock"),
        "a lock that is a folder": lambda: (folder / ".store.lock").mkdir(),
    }


def tree(folder: Path) -> dict[str, str | None]:
    """Content of a folder: the text of files, the target of links, None for anything else."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink()
            else path.read_text() if path.is_file() else None
            for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("kind", [
    "a folder of that name", "a file of that name", "a link of that name", "a link to nothing",
    "a pipe of that name", "a lock with content", "a lock that is a link", "a lock that is a pipe",
    "a lock that is a folder",
])
def test_existing_files_at_the_paths_of_prepare_are_kept(tmp_path, monkeypatch, kind):
    source, out = corpus(tmp_path), tmp_path / "there" / "store"

    def stop(stage, done, total):
        if stage == "scanning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, out, 0.2, None, stop)
    work = next(out.parent.glob(".store.work-*"))
    shutil.rmtree(work)
    hostile_neighbours(out.parent, work.name)[kind]()
    before = tree(out.parent)
    with pytest.raises((UserError, OSError)) as error:
        prepare(source, "byte", None, out, 0.2)
    assert "store" in str(error.value)
    assert tree(out.parent) == before
    if work.name in before:
        with pytest.raises(UserError, match=r"was not made by `scaling data prepare`.* move"):
            prepare(source, "byte", None, out, 0.2)


def test_foreign_work_folders_are_kept_when_a_store_is_finished(tmp_path):
    source = corpus(tmp_path)
    for name in (".store.work-mine", ".store.work-0123456789abcdef", ".store.work-",
                 ".other.work-0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    other = tmp_path / ".other.work-0123456789abcdef"
    (tmp_path / ".store.work-fedcba9876543210").symlink_to(other)
    (other / "made-by").write_text("scaling data prepare\n")
    before = tree(tmp_path)
    prepare(source, "byte", None, tmp_path / "store", 0.2)
    shutil.rmtree(tmp_path / "store")
    prepare(source, "byte", None, tmp_path / "s[t]*", 0.2)
    shutil.rmtree(tmp_path / "s[t]*")
    assert tree(tmp_path) == before


def test_begun_work_with_other_options_is_removed(tmp_path):
    source = corpus(tmp_path)

    def stop(stage, done, total):
        if stage == "tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, tmp_path / "store", 0.3, None, stop)
    assert len(list(tmp_path.glob(".store.work-*"))) == 1
    prepare(source, "byte", None, tmp_path / "store", 0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "store"]


def test_a_link_inside_the_work_folder_is_not_followed(tmp_path):
    source, mine = corpus(tmp_path), tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")

    def stop(stage, done, total):
        if stage == "tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, tmp_path / "store", 0.2, None, stop)
    work = next(tmp_path.glob(".store.work-*"))
    shutil.rmtree(work / "store")
    (work / "store").symlink_to(mine)
    with pytest.raises(UserError, match="was not made by `scaling data prepare`"):
        prepare(source, "byte", None, tmp_path / "store", 0.2)
    assert tree(mine) == {"thesis.txt": "mine"}


@pytest.mark.parametrize("note", ["{}", "[]", '{"files": {}}', '{"files": {}, "result": [1]}',
                                  '{"files": {"../x": "0"}, "result": {}}', "[" * 10**5])
def test_an_invalid_note_is_not_a_finished_step(tmp_path, note):
    step = WorkStep(tmp_path, tmp_path, "scan")
    step.finish({"documents": 3}, {})
    assert step.load_result() == {"documents": 3}
    step.path("json").write_text(note)
    assert step.load_result() is None


@pytest.mark.parametrize("there", [True, False])
def test_a_link_at_a_temporary_file_is_not_followed(tmp_path, monkeypatch, there):
    """As an attacker who guessed the random name could place it."""
    name = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: name)
    path, victim = tmp_path / "train-00000.bin", tmp_path / "victim"
    if there:
        victim.write_text("mine")
    link = path.with_name(f"{path.name}.{name.hex}")
    link.symlink_to(victim)
    with pytest.raises(OSError, match="File exists"), open_atomic(path, tmp_path) as file:
        file.write(b"ids")
    assert victim.read_text() == "mine" if there else not victim.exists()
    assert link.is_symlink()
    assert not path.exists()


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path):
    with pytest.raises(KeyError), open_atomic(tmp_path / "a.bin", tmp_path) as file:
        file.write({}[b"ids"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_work_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with open_atomic(tmp_path / "train-00000.bin", tmp_path) as file:
            file.write(b"ids")
    finally:
        os.umask(before)
    assert (tmp_path / "train-00000.bin").stat().st_mode & 0o777 == mode
