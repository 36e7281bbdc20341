"""A store that is not what its manifest says is refused, and the message names the file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from scaling.data.prepare import prepare
from scaling.data.store import TokenStore, default_folder, prepare_command
from scaling.errors import UserError

PARTS = ("train.bin", "validation.bin", "train.index.npy", "validation.index.npy",
         "tokenizer.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"text": f"some words, number {i}"}) for i in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return prepare(f"jsonl:{folder}/a.jsonl#text", "bpe", 280, folder / "store", 0.2)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made.path, tmp_path / "store")


def refused(folder, verify=False) -> str:
    with pytest.raises(UserError) as error:
        TokenStore.open(folder, verify=verify)
    message = str(error.value)
    assert str(folder) in message
    return message


def test_an_untouched_store_opens(folder, made):
    store = TokenStore.open(str(folder), verify=True)
    assert store.hash == made.hash
    assert store.corpus == "a"
    assert store.vocab_size == 280
    assert store.tokenizer().hash == made.manifest.tokenizer_hash


def test_tokens_are_mapped_and_read_only(folder):
    tokens = TokenStore.open(folder).tokens("train")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1
    with pytest.raises(KeyError):
        TokenStore.open(folder).tokens("test")


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(folder, part):
    (folder / part).unlink()
    assert f"{folder / part}: missing" in refused(folder)


@pytest.mark.parametrize("part", PARTS[:4])
@pytest.mark.parametrize("change", [-1, 1, -10**9])
def test_a_file_of_another_length_is_named(folder, part, change):
    content = (folder / part).read_bytes()
    changed = content + b"x" * change if change > 0 else content[:max(len(content) + change, 0)]
    (folder / part).write_bytes(changed)
    if part.endswith(".npy") and change > 0:
        assert f"{folder / part}: its content has changed" in refused(folder, verify=True)
    else:
        assert f"{folder / part}: " in refused(folder)


@pytest.mark.parametrize("part", PARTS)
def test_one_changed_byte_is_found_by_verify(folder, part):
    content = bytearray((folder / part).read_bytes())
    place = len(content) // 2
    if part == "tokenizer.json":  # a letter of the first merge
        place = content.index(b'"', content.index(b'"merges"') + len(b'"merges"')) + 1
        assert chr(content[place]).isalpha()
    content[place] ^= 1
    (folder / part).write_bytes(content)
    TokenStore.open(folder)  # not looked for without being asked
    assert f"{folder / part}: " in refused(folder, verify=True)


@pytest.mark.parametrize("change", [
    lambda index: index[:-1], lambda index: index.astype(np.int64), lambda index: index + 1,
    lambda index: np.array([index[0], None]),
])
def test_another_index_is_named(folder, change):
    path = folder / "train.index.npy"
    np.save(path, change(np.load(path)), allow_pickle=True)
    assert f"{path}: not the index of" in refused(folder)


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("layout", [0, 2, None, "1"])
def test_another_layout_is_refused(folder, layout):
    edit(folder, layout=layout, added_later=True)
    message = refused(folder)
    assert f"manifest.json: a store of layout {layout!r}, and this version" in message
    assert "reads layout 1" in message


def test_a_manifest_with_wrong_content_is_refused(folder):
    train = json.loads((folder / "manifest.json").read_text())["train"]
    edit(folder, train=train | {"tokens": -5})
    assert "manifest.json: train.tokens: input should be greater than 0" in refused(folder)
    edit(folder, train=train | {"file": "../train.bin"})
    assert "manifest.json: train.file: " in refused(folder)
    edit(folder, train=train, dtype="float32")
    assert "manifest.json: dtype: input should be 'uint16' or 'uint32'" in refused(folder)
    edit(folder, dtype="uint32")
    assert "train.bin: " in refused(folder)
    for content in ("", "{", "[]", "7", "\xff"):
        (folder / "manifest.json").write_text(content, encoding="latin-1")
        assert "manifest.json: " in refused(folder)


def test_no_store_says_how_to_make_one(tmp_path):
    message = refused(tmp_path / "stores" / "chitchat-bpe-4096")
    assert "no such store" in message
    assert message.endswith("scaling data prepare wheel:chitchat-dataset --tokenizer bpe "
                            f"--vocab-size 4096 --out {tmp_path}/stores/chitchat-bpe-4096")
    assert "holds no manifest" in refused(tmp_path)
    (tmp_path / "file").write_text("")
    assert "a file, where the folder" in refused(tmp_path / "file")


@pytest.mark.parametrize(("name", "command"), [
    ("stdlib-byte", "scaling data prepare stdlib --out stores/stdlib-byte"),
    ("mine-byte", "scaling data prepare SOURCE --out stores/mine-byte"),
    ("my tokens", "scaling data prepare SOURCE --out 'stores/my tokens'"),
])
def test_the_command_follows_from_the_name(name, command):
    assert prepare_command(default_folder("x", "byte", None).with_name(name)) == command


def test_default_folders():
    assert str(default_folder("chitchat", "byte", None)) == "stores/chitchat-byte"
    assert str(default_folder("books", "bpe", 8192)) == "stores/books-bpe-8192"


def test_training_reads_with_numpy_alone():
    heavy = ("jax", "flax", "tokenizers", "tensorflow", "pandas", "scipy", "chitchat_dataset")
    code = ("import sys, scaling.data.batches, scaling.data.prepare\n"
            f"print([name for name in {heavy} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_bpe_store_is_read_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    store = TokenStore.open(folder, verify=True)
    assert len(store.tokens("train")) == store.manifest.train.tokens
    with pytest.raises(UserError, match="pip install"):
        store.tokenizer().decode([1])
