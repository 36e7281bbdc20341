"""A store that does not match its manifest is refused, and the message names the file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from scaling.config import validate
from scaling.data.manifest import Manifest
from scaling.data.prepare import prepare
from scaling.data.statistics import entropy, length_quantiles, unigram_counts
from scaling.data.store import TokenStore, default_folder, language_folder, prepare_command
from scaling.errors import UserError
from tests.data.memory import ArraySplit

pytestmark = pytest.mark.quick

SHARDS = ("train-00000.bin", "train-00001.bin", "validation-00000.bin", "test-00001.bin")
INDEXES = ("train.index.npy", "validation.index.npy", "test.index.npy")
PARTS = (*SHARDS, *INDEXES, "tokenizer.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"text": f"some words, number {i}"}) for i in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 2500)
        patch.setattr("scaling.data.prepare.pieces._PIECES", 3)
        return prepare(f"jsonl:{folder}/a.jsonl#text", "bpe", 280, folder / "store", 0.2,
                       test_fraction=0.1, workers=1)


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
    split = TokenStore.open(folder).split("train")
    shard = np.fromfile(folder / "train-00000.bin", "<u2")
    tokens = split.read(3, len(shard))
    assert tokens.dtype == np.dtype("<u2")
    assert tokens.base is not None
    assert np.array_equal(tokens, shard[3:])
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1
    assert len(split.read(5, 5)) == 0


def test_a_missing_split_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"text": "{i}"}}' for i in range(50)))
    store = prepare(f"jsonl:{tmp_path}/a.jsonl#text", "byte", None, tmp_path / "store", 0.2,
                    test_fraction=0)
    assert store.splits() == ("train", "validation")
    with pytest.raises(UserError, match="has no test split, only train, validation; prepare"):
        store.split("test")


@pytest.mark.parametrize(("stride", "width"), [(1, 1), (7, 8), (64, 65), (5, 3), (900, 901)])
def test_rows_are_windows_of_the_tokens_across_shards(made, stride, width):
    for name in made.splits():
        split = made.split(name)
        files = sorted(made.path.glob(f"{name}-*.bin"))
        assert len(files) == len(made.manifest.split(name).shards) > 1
        tokens = np.concatenate([np.fromfile(file, "<u2") for file in files])
        assert split.tokens == len(tokens)
        windows = [tokens[start:start + width] for start in range(0, len(tokens), stride)
                   if start + width <= len(tokens)]
        assert split.count(stride, width) == len(windows)
        index = np.random.default_rng(0).permutation(len(windows))
        for some in (index, index[:1], index[:0]):
            rows = split.rows(some, stride, width)
            assert rows.dtype == np.dtype("<u2")
            assert rows.shape == (len(some), width)
            assert np.array_equal(rows, np.array([windows[i] for i in some]).reshape(-1, width))
        for wrong in (-1, len(windows)):
            with pytest.raises(IndexError):
                split.rows(np.array([wrong]), stride, width)


def test_unigrams_of_a_large_split_are_counted_all_over_it():
    """A sample of four windows in ten, of ids that tell the window; a small split is counted
    whole, also what fills no window."""
    ids = np.repeat(np.arange(11, dtype=np.uint16), 1024)[:-1]
    split = ArraySplit(ids, ends=(len(ids),))
    sampled = unigram_counts(split, 11, limit=4 * 1024)
    chosen = np.flatnonzero(sampled)
    assert sampled[chosen].tolist() == [1024] * 4
    assert set(np.diff([*chosen, 10 + chosen[0]])) == {2, 3}
    assert unigram_counts(split, 11).tolist() == [1024] * 10 + [1023]


def test_quantiles_are_lengths_of_documents():
    """Of 2, 3, 10 and 12 tokens, the end of each document included; no length in between."""
    split = ArraySplit(np.zeros(27, np.uint16), ends=(10, 12, 24, 27))
    assert length_quantiles(split, [0.0, 0.25, 0.26, 0.5, 0.75, 0.9, 1.0]) == [
        2, 2, 3, 3, 10, 12, 12]


def test_entropy_is_in_nats():
    assert entropy(np.array([0, 5, 5, 0])) == pytest.approx(0.6931471806)
    assert entropy(np.array([7])) == 0
    assert entropy(np.array([1, 2, 1])) == pytest.approx(1.0397207708)  # 1.5 bits


def test_the_hash_of_a_store_is_that_of_its_tokens_alone(made, tmp_path):
    """It is in the identity of every run."""
    manifest = made.manifest
    train = manifest.train.model_copy(update={"sha256": "0" * 64})
    other = {"train": train, "validation": train, "test": None, "tokenizer_hash": "0" * 64,
             "dtype": "uint32"}
    hashes = {manifest.model_copy(update={key: value}).hash for key, value in other.items()}
    assert len(hashes | {manifest.hash}) == 1 + len(other)
    same = {"source": "x", "corpus": "x", "reading": "x", "corpus_sha256": "0" * 64,
            "options": manifest.options.model_copy(update={"max_bytes": 7}), "duplicates": 7,
            "contaminated": 7, "not_utf8": 7, "tokenizer_bytes": 7}
    assert {manifest.model_copy(update={key: value}).hash for key, value in same.items()} == {
        manifest.hash}
    language = prepare("synthetic:markov,vocab=16,seed=1,tokens=1e5", "none", None,
                       tmp_path / "language").manifest
    others = {"special": language.special.model_copy(update={"eos": 15}),
              "language": language.language.model_copy(update={"seed": 2})}
    hashes = {language.model_copy(update={key: value}).hash for key, value in others.items()}
    assert len(hashes | {language.hash}) == 3
    assert language.model_copy(update={"source": "x"}).hash == language.hash


@pytest.mark.parametrize(("changes", "words"), [
    ({"vocab_size": 256}, r"special: has the id 256, but the vocabulary has 256 ids"),
    ({"duplicates": -1}, "duplicates"),
    ({"mixture": [{"source": "a", "share": 1.5, "bytes": 1, "available": 1}]}, "share"),
])
def test_a_manifest_whose_numbers_contradict_each_other_is_refused(tmp_path, changes, words):
    lines = [json.dumps({"text": f"{i}"}) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    prepare(f"jsonl:{tmp_path}/a.jsonl#text", "byte", None, tmp_path / "store", 0.2, workers=1)
    edit(tmp_path / "store", **changes)
    assert re.search(words, refused(tmp_path / "store"))


def test_a_split_has_a_token_for_each_document_at_least(folder):
    train = json.loads((folder / "manifest.json").read_text())["train"]
    edit(folder, train=train | {"documents": train["tokens"] + 1})
    assert "documents: is " in refused(folder)


@pytest.mark.parametrize("entropy_of", [
    (2.0, 1.0, 1.5), (0.5, 1.0, 1.5), (1.2, -1.0, 1.5), (1.0, 1.0, float("inf"))])
def test_an_entropy_lies_between_its_bounds(tmp_path, entropy_of):
    store = prepare("synthetic:markov,vocab=16,seed=1,tokens=1e5", "none", None, tmp_path / "store")
    content = store.manifest.model_dump()
    assert validate(Manifest, content | {"entropy": (1.0, 1.0, 1.5)}, "x").entropy.high == 1.5
    with pytest.raises(UserError, match="entropy: a finite rate"):
        validate(Manifest, content | {"entropy": entropy_of}, "x")


def test_the_order_of_documents_is_checked_across_chunks(folder, monkeypatch):
    """The last document of the first chunk has no token."""
    monkeypatch.setattr("scaling.data.splits._CHUNK", 5)
    path = folder / "train.index.npy"
    index = np.load(path)
    TokenStore.open(folder).split("train").offsets()
    index[5] = index[4]
    np.save(path, index)
    with pytest.raises(UserError, match="document 4 of the train split begins at"):
        TokenStore.open(folder).split("train").offsets()


def test_few_shards_are_open_at_once(made, monkeypatch):
    monkeypatch.setattr("scaling.data.splits._OPEN_SHARDS", 1)
    split = made.split("train")
    whole = made.split("train").read(0, split.tokens)
    assert np.array_equal(split.rows(np.arange(split.count(9, 9)), 9, 9).reshape(-1),
                          whole[:split.count(9, 9) * 9])
    assert len(split._opened) == 1 < len(split.record.shards)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(folder, part):
    (folder / part).unlink()
    assert f"{folder / part}: missing" in refused(folder)


@pytest.mark.parametrize("part", PARTS[:-1])
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
    place = len(content) * 3 // 4
    if part == "tokenizer.json":  # a letter of the first merge
        place = content.index(b'"', content.index(b'"merges"') + len(b'"merges"')) + 1
        assert chr(content[place]).isalpha()
    content[place] ^= 1
    (folder / part).write_bytes(content)
    TokenStore.open(folder)  # only found with verify
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


@pytest.mark.parametrize("layout", [0, 1, None, "2"])
def test_another_layout_is_refused(folder, layout):
    edit(folder, layout=layout, added_later=True)
    message = refused(folder)
    assert f"manifest.json: is a store of layout {layout!r}, but this version" in message
    assert "reads layout 2" in message


def test_a_manifest_with_wrong_content_is_refused(folder):
    train = json.loads((folder / "manifest.json").read_text())["train"]
    edit(folder, train=train | {"tokens": -5})
    assert "manifest.json: train.tokens: a number greater than 0" in refused(folder)
    edit(folder, train=train | {"tokens": train["tokens"] + 1})
    assert "train.tokens: is " in refused(folder)
    edit(folder, train=train | {"index_file": "../train.bin"})
    assert "manifest.json: train.index_file: " in refused(folder)
    edit(folder, train=None)
    assert "language: either a language is expected" in refused(folder)
    edit(folder, train=train, dtype="float32")
    assert "manifest.json: dtype: 'uint16' or 'uint32' is expected" in refused(folder)
    edit(folder, dtype="uint32")
    assert "dtype: is uint32, but 280 ids need uint16" in refused(folder)
    edit(folder, dtype="uint16", vocab_size=70_000)
    assert "dtype: is uint16, but 70,000 ids need uint32" in refused(folder)
    for content in ("", "{", "[]", "7", "\xff"):
        (folder / "manifest.json").write_text(content, encoding="latin-1")
        assert "manifest.json: " in refused(folder)


def test_a_missing_store_is_reported_with_the_prepare_command(tmp_path):
    message = refused(tmp_path / "stores" / "chitchat-bpe-4096")
    assert "no such store" in message
    assert message.endswith("scaling data prepare wheel:chitchat-dataset --tokenizer bpe "
                            f"--vocab-size 4096 --out {tmp_path}/stores/chitchat-bpe-4096")
    assert "has no manifest" in refused(tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file, but the folder of a token store" in refused(tmp_path / "file")


def test_a_tokenizer_is_that_of_the_manifest(folder):
    """By the number of its ids, and by its content."""
    assert TokenStore.open(folder).tokenizer().vocab_size == 280
    edit(folder, vocab_size=281)
    with pytest.raises(UserError, match="vocab_size: is 281, but its tokenizer has 280 ids"):
        TokenStore.open(folder).tokenizer()
    edit(folder, vocab_size=280, tokenizer_hash="0" * 64)
    with pytest.raises(UserError, match=r"tokenizer\.json: .*not the tokenizer of the manifest"):
        TokenStore.open(folder).tokenizer()


@pytest.mark.parametrize(("name", "command"), [
    ("stdlib-byte", "scaling data prepare stdlib --out stores/stdlib-byte"),
    ("mine-byte", "scaling data prepare SOURCE --out stores/mine-byte"),
    ("mine-unigram-4096",
     "scaling data prepare SOURCE --tokenizer unigram --vocab-size 4096 --out "
     "stores/mine-unigram-4096"),
    ("my tokens", "scaling data prepare SOURCE --out 'stores/my tokens'"),
])
def test_the_command_follows_from_the_name(name, command):
    assert prepare_command(default_folder("x", "byte", None).with_name(name)) == command


def test_default_folders():
    """A trained tokenizer has its size in the name, one from a file the name of the file, and the
    store of a language the options of the language."""
    assert str(default_folder("chitchat", "byte", None)) == "stores/chitchat-byte"
    for kind in ("bpe", "wordpiece", "unigram"):
        assert str(default_folder("books", kind, 8192)) == f"stores/books-{kind}-8192"
    assert str(default_folder("books", "files/gpt2.tiktoken", 50_257)) == "stores/books-gpt2"
    assert str(language_folder("synthetic:markov,vocab=512,seed=1")) == (
        "stores/markov-vocab-512-seed-1")
    assert str(language_folder("synthetic:markov,exponent=1.5,")) == (
        "stores/markov-exponent-1.5")


def test_training_reads_with_numpy_alone():
    heavy = ("jax", "flax", "tokenizers", "tensorflow", "pandas", "scipy", "chitchat_dataset")
    code = ("import sys, scaling.data.batches, scaling.data.prepare\n"
            f"print([name for name in {heavy} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_bpe_store_is_read_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    store = TokenStore.open(folder, verify=True)
    assert len(store.split("train").read(0, 10)) == 10
    with pytest.raises(UserError, match="pip install"):
        store.tokenizer().decode([1])
