"""Saving a model replaces only files that saving wrote before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.interop import from_hf, save_hf
from scaling.interop.hf import from_tensors
from tests.interop.test_goldens import GOLDENS, golden

LLAMA = next(golden(path) for path in GOLDENS if path.stem == "LlamaForCausalLM")


@pytest.fixture
def llama(tmp_path):
    """A small model in a folder in Hugging Face's format."""
    model, config = from_tensors(LLAMA.architecture, LLAMA.settings, LLAMA.weights)
    save_hf(model, config, tmp_path / "llama")
    return tmp_path / "llama"


def test_saving_keeps_files_of_other_origin(llama, tmp_path):
    model, config = from_hf(llama)
    save_hf(model, config, llama)  # its own files are replaced
    others = tmp_path / "others"
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json"):
        for write in (lambda path: path.write_bytes(b"mine"), lambda path: path.mkdir(),
                      os.mkfifo, lambda path: path.symlink_to(llama / "model.safetensors"),
                      lambda path: path.symlink_to(tmp_path / "nowhere")):
            others.mkdir()
            write(others / name)
            with pytest.raises(UserError, match=rf"{name}: "):
                save_hf(model, config, others)
            assert [path.name for path in others.iterdir()] == [name]
            assert others.joinpath(name).is_symlink() or not (others / name).is_file() or (
                others / name).read_bytes() == b"mine"
            others.rename(tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
    (tmp_path / "file").write_text("mine")
    with pytest.raises((UserError, OSError), match="file"):
        save_hf(model, config, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_is_atomic(llama, monkeypatch):
    import safetensors.numpy

    model, config = from_hf(llama)
    before = {path.name: path.read_bytes() for path in llama.iterdir()}

    def fails(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise safetensors.SafetensorError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", fails)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be written"):
        save_hf(model, config, llama)
    assert {path.name: path.read_bytes() for path in llama.iterdir()} == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_saved_model_has_the_modes_that_the_umask_leaves(llama, tmp_path, umask, mode):
    model, config = from_hf(llama)
    before = os.umask(umask)
    try:
        save_hf(model, config, tmp_path / "new")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {mode}


def test_weights_are_on_disk_before_they_have_their_name(llama, monkeypatch):
    """And config.json comes last: a folder without it is no model."""
    from scaling.interop import files

    model, config = from_hf(llama)
    done = []

    def watch(owner, name, place):
        function = getattr(owner, name)

        def watched(*paths):
            done.append((name, Path(paths[place]).name))
            return function(*paths)

        monkeypatch.setattr(owner, name, watched)

    watch(files, "sync", 0)
    watch(files, "write_atomically", 0)
    watch(files.os, "replace", 1)
    save_hf(model, config, llama)
    (first, temporary), second, third = done[:3]
    assert first == "sync"
    assert temporary.startswith(".model.safetensors.")
    assert second == ("replace", "model.safetensors")
    assert third == ("write_atomically", "config.json")
    assert sorted(path.name for path in llama.iterdir()) == ["config.json", "model.safetensors"]


def test_the_file_says_what_transformers_asks_for_before_it_opens_it(llama):
    from safetensors import safe_open

    with safe_open(llama / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
