"""Maliciously crafted stores: each is refused with one sentence that names the store, in bounded
memory and time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import time

import numpy as np
import pytest

from scaling.data.prepare import prepare
from scaling.data.store import TokenStore
from scaling.data.tokenizers import read_tokenizer
from scaling.errors import UserError
from tests.conftest import run_content

pytestmark = pytest.mark.usefixtures("ends")  # pipes and devices are among what is read

SECONDS, BYTES = 10, 500 * 2**20
"""Time limit for opening a store, which takes milliseconds on an idle machine."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of a BPE vocabulary with a few shards."""
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"text": f"some words, number {i}"}) for i in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 2500)
        patch.setattr("scaling.data.prepare.pieces._PIECES", 3)
        return prepare(f"jsonl:{folder}/a.jsonl#text", "bpe", 280, folder / "store", 0.2,
                       test_fraction=0.1, workers=1).path


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def edit(folder, **changes):
    """Change the manifest; `train__tokens` is a field of a field."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        at = content
        for key in outer:
            at = at[int(key) if key.isdigit() else key]
        at[last] = value(at.get(last)) if callable(value) else value
    path.write_text(json.dumps(content))


def rewrite(folder, name, content):
    """Change a file, and the hashes of the manifest with it."""
    (folder / name).write_bytes(content)
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    for split in ("train", "validation", "test"):
        for part in (*manifest[split]["shards"], manifest[split]):
            if name in (part.get("file"), part.get("index_file")):
                key = "sha256" if part.get("file") == name else "index_sha256"
                text = text.replace(part[key], hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(text)


def replaced(name, make):
    """A function that replaces a file by something else."""
    def change(folder):
        path = folder / name
        path.unlink(missing_ok=True)
        make(path)

    return change


def written(name, content):
    return replaced(name, lambda path: path.write_bytes(content))


def index(change):
    """A function that changes the index of the train split, and its hash."""
    def changed(folder):
        buffer = io.BytesIO()
        array = change(np.load(folder / "train.index.npy").copy())
        np.save(buffer, array, allow_pickle=True)
        rewrite(folder, "train.index.npy", buffer.getvalue())

    return changed


def at(place, value):
    def change(array):
        array[place] = value
        return array

    return change


def header(text, version=b"\x01\x00", size=None):
    """An index with a custom header."""
    data = text.encode()
    length = (len(data) if size is None else size).to_bytes(2 if version[0] == 1 else 4, "little")
    return written("train.index.npy", b"\x93NUMPY" + version + length + data + b"\0" * 4000)


def manifest(**changes):
    return lambda folder: edit(folder, **changes)


def widened(vocab_size):
    """A function that makes the ids 32 bits wide, with correct hashes, for a vocabulary of a given
    size."""
    def change(folder):
        for path in folder.glob("*.bin"):
            rewrite(folder, path.name, np.fromfile(path, "<u2").astype("<u4").tobytes())
        edit(folder, vocab_size=vocab_size, dtype="uint32")

    return change


def sparse(size):
    def make(path):
        with path.open("wb") as file:
            file.truncate(size)

    return make


OTHER_FILES = {
    "a pipe": os.mkfifo, "a folder": os.mkdir, "nothing": lambda path: None,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "a link to itself": lambda path: path.symlink_to(path),
}
FILES = ("manifest.json", "train-00000.bin", "train.index.npy", "tokenizer.json")
NPY = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"

AT_ONCE = {
    **{f"{what} for {name}": replaced(name, make)
       for what, make in OTHER_FILES.items() for name in FILES},
    "deep nesting": written("manifest.json", b"[" * 100_000),
    "deep nesting inside": written("manifest.json", b'{"layout":2,"a":' + b'{"a":' * 20_000),
    "layout of deep nesting": manifest(layout=[[[[[[1]]]]]]),
    "5,000 digits": written("manifest.json", b'{"layout": 2, "vocab_size": ' + b"7" * 5000 + b"}"),
    "4,000 digits": manifest(train__tokens=10**4000),
    "a huge manifest": replaced("manifest.json", sparse(10**12)),
    "no UTF-8": written("manifest.json", b"\xff\xfe\x00\x01"),
    "a text of 10 MB": manifest(dtype="x" * 10**7),
    "tokens": manifest(train__tokens=10**18),
    "tokens of a shard": manifest(train__tokens=10**15 + 1, train__shards=lambda s: [
        s[0] | {"tokens": 10**15}, s[1] | {"tokens": 1}]),
    "documents": manifest(train__documents=-1),
    "too many documents": manifest(train__documents=10**9),
    "documents that the tokens could be": manifest(train__documents=lambda n: n + 1),
    "an empty shard": manifest(train__shards__0__tokens=0),
    "many shards": manifest(train__shards=lambda s: s[:1] * 20_000),
    "wrong shards": manifest(train__shards=[{}] * 10_000),
    "a shard twice": manifest(train__tokens=lambda n: n, train__shards=lambda s: s + s[:1]),
    "one file for two": manifest(validation__index_file="train.index.npy"),
    "one split for two": lambda folder: edit(
        folder, validation=json.loads((folder / "manifest.json").read_text())["train"]),
    "the manifest as a shard": manifest(train__index_file="manifest.json"),
    **{f"the name {name}": manifest(train__shards__0__file=name) for name in (
        "../a.bin", "/etc/passwd", "a/b.bin", "..", ".", "", "a\x00b", "a b", "A\n", "-rf",
        "x" * 5000, "a\\b")},
    "a link out": lambda folder: (
        shutil.move(folder / "train-00000.bin", folder.parent / "a.bin"),
        (folder / "train-00000.bin").symlink_to(folder.parent / "a.bin")),
    "dtype": manifest(dtype="uint32"),
    "an object's dtype": manifest(dtype="O"),
    "special": manifest(special__eos=10**6),
    "negative special": manifest(special__eos=-1),
    "sentinels": manifest(special__sentinels=list(range(10**5))),
    # `cls` is also pydantic's name for the class in error messages
    "sentinels and a cls": manifest(special__sentinels={"a": []}, special__cls=3),
    "vocabulary": manifest(vocab_size=10**9, dtype="uint32"),
    "a vocabulary that would fill the memory": widened(2**31),
    "smaller vocabulary": manifest(vocab_size=0),
    "an entropy": manifest(entropy=[float("nan"), 0, 1]),
    "a language beside text": manifest(language={"kind": "markov", "vocab_size": 10}),
    "objects": index(lambda array: np.array([None, *array], object)),
    "no index": written("train.index.npy", b"\x80\x04\x95" + b"x" * 5000),
    "a pickle": header(NPY % ("|O", False, "(3,)")),
    "a huge shape": header(NPY % ("<u8", False, f"({10**18},)")),
    "a shape beyond numpy": header(NPY % ("<u8", False, f"({10**40},)")),
    "a negative shape": header(NPY % ("<u8", False, "(-5,)")),
    "two dimensions": index(lambda array: array.reshape(1, -1)),
    "Fortran order": index(lambda array: np.asfortranarray(np.stack([array, array]))),
    "other integers": index(lambda array: array.astype(np.int64)),
    "big-endian": index(lambda array: array.astype(">u8")),
    "no header": header("()"),
    "a header of code": header("__import__('os').system('false')"),
    "a deep header": header("(" * 3000),
    "a header of 1 GB": header(NPY % ("<u8", False, "(3,)"), b"\x02\x00", 10**9),
    "a header of 60 kB": header(" " * 60_000),
    "a version to come": header(NPY % ("<u8", False, "(3,)"), b"\x09\x00"),
    "an index of 1 TB": replaced("train.index.npy", sparse(10**12)),
    "another beginning": index(at(0, 1)),
    "another end": index(at(-1, 2)),
}
"""Found when the store is opened."""

LATER = {
    "an empty document": index(at(3, 0)),
    "documents that overlap": index(lambda a: at(slice(3, 5), a[3:5][::-1])(a)),
    "a document beyond the end": index(at(3, 10**6)),
    "a document far beyond the end": index(at(3, 2**64 - 1)),
    "all documents at the start": index(at(slice(1, -1), 0)),
    "an id beyond the vocabulary": lambda folder: rewrite(
        folder, "train-00000.bin", b"\xff\xff" + (folder / "train-00000.bin").read_bytes()[2:]),
    "the first id beyond it": lambda folder: rewrite(
        folder, "train-00001.bin",
        (folder / "train-00001.bin").read_bytes()[:-2] + (280).to_bytes(2, "little")),
}
"""With correct hashes: found when the data is read."""


def tokenizer(**changes):
    """A function that changes the tokenizer's file, and its hash in the manifest if it has one."""
    def change(folder):
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scaling.data.store.TokenStore.vocab_size", 280)
            try:
                eos = json.loads((folder / "manifest.json").read_text())["special"]["eos"]
                from scaling.data.tokenizers import load_tokenizer
                from scaling.data.tokenizers.special import SpecialTokens

                hashed = load_tokenizer("bpe", folder, SpecialTokens(eos=eos)).hash
            except UserError:
                return
        edit(folder, tokenizer_hash=hashed)

    return change


TOKENIZERS = {
    "junk": written("tokenizer.json", bytes(range(256)) * 10),
    "nested deeply": written("tokenizer.json", b'{"model":' * 50_000),
    "5,000 digits": written("tokenizer.json", b'{"model":' + b"1" * 5000 + b"}"),
    "another model": tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": []}),
    "no model": tokenizer(model=None),
    "ids of infinity": tokenizer(added_tokens=[{"id": float("inf"), "content": "x"}]),
    "an id far away": tokenizer(added_tokens=[{"id": 10**12, "content": "x"}]),
    "a negative id": tokenizer(added_tokens=[{"id": -3, "content": "x"}]),
    "a token of 10 MB": tokenizer(added_tokens=[{"id": 280, "content": "x" * 10**7}]),
    "a gap": tokenizer(added_tokens=[{"id": 500, "content": "x"}]),
    "a panic": tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a late panic": tokenizer(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "a wrong pattern": tokenizer(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "(("}, "behavior": "Removed", "invert": False}),
    "no such step": tokenizer(decoder={"type": "Nothing"}),
    "a number for a step": tokenizer(decoder=7),
    "steps without an end": tokenizer(decoder={"type": "Sequence", "decoders": [None]}),
}


@pytest.fixture(autouse=True)
def bounded():
    """Each takes little time and little additional memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, hard))
    began = time.process_time()
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - began < SECONDS


def one_sentence(error, folder):
    message = str(error)
    assert str(folder) in message
    assert "Traceback" not in message
    assert len(message) < 8000
    assert len(message.splitlines()) <= 21


@pytest.mark.parametrize("what", AT_ONCE)
def test_a_hostile_store_is_not_opened(folder, what):
    AT_ONCE[what](folder)
    for verify in (False, True):
        with pytest.raises((UserError, OSError)) as error:
            TokenStore.open(folder, verify=verify)
        one_sentence(error.value, folder)


@pytest.mark.parametrize("what", LATER)
def test_hidden_damage_is_found_by_verify(folder, what):
    LATER[what](folder)
    TokenStore.open(folder)
    with pytest.raises(UserError) as error:
        TokenStore.open(folder, verify=True)
    one_sentence(error.value, folder)
    assert f"move {folder} away" in str(error.value)
    assert "train" in str(error.value)


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_hostile_tokenizer_is_refused(folder, what, capfd):
    TOKENIZERS[what](folder)

    def read():
        TokenStore.open(folder, verify=True).tokenizer().decode([1, 2, 3])

    with pytest.raises(UserError, match=r"tokenizer|manifest\.json: vocab_size"):
        read()
    assert not capfd.readouterr().err


@pytest.mark.parametrize("stride", [7, 64])
def test_an_unknown_id_is_reported_with_its_position(folder, stride):
    """However it is read: within a shard, across shards, or as a view."""
    first = json.loads((folder / "manifest.json").read_text())["train"]["shards"][0]["tokens"]
    ids = np.fromfile(folder / "train-00001.bin", "<u2")
    ids[4] = 280
    rewrite(folder, "train-00001.bin", ids.tobytes())
    split = TokenStore.open(folder).split("train")
    said = (rf"{folder}/train-00001\.bin: token {first + 4:,} of the train split is 280, but the "
            "vocabulary has 280 ids; the store is damaged: move")
    windows = np.arange(split.count(stride, 64))
    assert split.rows(windows[:1], stride, 64).max() < 280
    with pytest.raises(UserError, match=said):
        split.rows(windows, stride, 64)
    with pytest.raises(UserError, match=said):
        split.read(0, split.tokens)
    assert len(split.read(first + 5, split.tokens)) == split.tokens - first - 5


LANGUAGE_LIES = {
    "NaN": ("entropy", [float("nan"), 0.0, 1.0]),
    "infinity": ("entropy", [1.0, 0.0, float("inf")]),
    "bounds around something else": ("entropy", [2.0, 0.0, 1.0]),
    "negative": ("entropy", [-1.0, -1.0, -1.0]),
    "fewer ids than the language": ("vocab_size", 10),
    "a special token far away": ("special", {"eos": 1000}),
}


@pytest.mark.parametrize("what", LANGUAGE_LIES)
def test_an_invalid_language_record_is_refused(tmp_path, what):
    path = prepare("synthetic:markov,vocab=64,seed=1", "none", None, tmp_path / "store").path
    TokenStore.open(path, verify=True)
    edit(path, **dict([LANGUAGE_LIES[what]]))
    with pytest.raises(UserError) as error:
        TokenStore.open(path)
    one_sentence(error.value, path)


def test_a_wrong_entropy_is_found_by_verify(tmp_path):
    path = prepare("synthetic:markov,vocab=64,seed=1", "none", None, tmp_path / "store").path
    rate, low, high = json.loads((path / "manifest.json").read_text())["entropy"]
    assert rate > 1
    for wrong in ([1.0, 1.0, 1.0], [rate * (1 + 1e-5), low, high * (1 + 1e-5)]):
        edit(path, entropy=wrong)
        TokenStore.open(path)
        with pytest.raises(UserError, match="nats per token, but its language"):
            TokenStore.open(path, verify=True)


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.tiktoken", "a.model"])
@pytest.mark.parametrize("make", [
    os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), sparse(10**12),
    lambda path: path.write_bytes(bytes(range(256)) * 100),
    lambda path: path.write_bytes(b"\x80" * 10**6),
    lambda path: path.write_bytes(b"[" * 10**6),
    lambda path: path.write_bytes(b"A" * 10**6 + b" 1\n"),
], ids=["a pipe", "a folder", "a device", "1 TB", "junk", "bytes", "brackets", "one token"])
def test_a_hostile_vocabulary_file_is_refused(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(UserError, match=str(tmp_path / name)):
        read_tokenizer(tmp_path / name)


COMMANDS = {
    "show": ("data", "show", "store"), "verify": ("data", "show", "store", "--verify"),
    "train": ("train", "run.yaml", "--out", "run"), "plan": ("sweep", "plan", "sweep.yaml"),
}


@pytest.mark.parametrize("what", [
    "a pipe for manifest.json", "a device for manifest.json", "deep nesting", "tokens",
    "a pipe for train-00000.bin", "a folder for train.index.npy", "a huge shape",
    "a pipe for tokenizer.json", "special",
])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_reports_damage_in_one_sentence(folder, command, name, what):
    AT_ONCE[what](folder)
    run = run_content(folder)
    (folder.parent / "run.yaml").write_text(json.dumps(run))
    sizes = [{"d_model": 8, "n_layers": 1, "n_heads": 1}]
    (folder.parent / "sweep.yaml").write_text(json.dumps({
        "name": "x", "run": {k: run[k] for k in ("data", "batch_sequences", "evaluation")}
        | {"model": {"context": 16}}, "sizes": sizes,
        "grids": [{"kind": "product", "tokens": [1024]}],
        "learning_rate": {"rule": "power", "learning_rate": 1e-3, "reference_params": 1000,
                          "exponent": 0},
    }))
    done = command(*COMMANDS[name], cwd=folder.parent)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "store" in done.err
    assert done.err.count("\n") == 1
