"""Preparing loses no document, keeps the splits apart, and leaves a whole store or none."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scaling.data import sources
from scaling.data.prepare import prepare, split_of
from scaling.data.store import SPLITS, TokenStore
from scaling.errors import UserError

TEXTS = [f"document {i} " + "some words of it " * (i % 5) for i in range(200)]
REPEATED = [TEXTS[3], TEXTS[3], TEXTS[150]]


def corpus(folder: Path, texts: list[str], name: str = "corpus.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"jsonl:{folder}/{name}#text"


def split_by_definition(text: str, fraction: float) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return "validation" if int(digest[:16], 16) / 2**64 < fraction else "train"


def texts_of(store: TokenStore, split: str) -> list[str]:
    """Documents read back from the bare files, by nothing but their format."""
    assert store.manifest.dtype == "uint16"
    tokens = np.fromfile(store.path / f"{split}.bin", "<u2")
    offsets = np.load(store.path / f"{split}.index.npy", allow_pickle=False)
    tokenizer = store.tokenizer()
    ends = np.flatnonzero(tokens == tokenizer.eos)
    assert np.array_equal(ends + 1, offsets[1:])
    assert offsets[0] == 0
    return [tokenizer.decode(tokens[a:b]) for a, b in zip(offsets[:-1], ends, strict=True)]


@pytest.mark.parametrize(("kind", "vocab_size"), [("byte", None), ("bpe", 300)])
def test_a_store_is_the_corpus_split_without_repetitions(tmp_path, kind, vocab_size):
    source = corpus(tmp_path, TEXTS + REPEATED)
    store = prepare(source, kind, vocab_size, tmp_path / "store", 0.2)
    assert store.vocab_size == (vocab_size or 257)
    assert store.manifest.duplicates == len(REPEATED)
    for split in SPLITS:
        expected = [text for text in TEXTS if split_by_definition(text, 0.2) == split]
        found = texts_of(store, split)
        assert found == expected
        record = store.manifest.split(split)
        assert record.documents == len(expected) > 10
        assert record.bytes == sum(len(text.encode()) for text in expected)
        assert record.tokens == len(store.tokens(split))
        assert store.bytes_per_token(split) == record.bytes / record.tokens
    if kind == "byte":
        assert store.manifest.train.tokens == (
            store.manifest.train.bytes + store.manifest.train.documents
        )
    assert TokenStore.open(store.path, verify=True).hash == store.hash


def test_chitchat_as_bytes_is_chitchat(tmp_path):
    store = prepare("wheel:chitchat-dataset", "byte", None, tmp_path / "store")
    counts = Counter(sources.documents("wheel:chitchat-dataset"))
    found = {split: texts_of(store, split) for split in SPLITS}
    assert Counter(found["train"] + found["validation"]) == Counter(dict.fromkeys(counts, 1))
    assert store.manifest.duplicates == counts.total() - len(counts)
    assert not set(found["train"]) & set(found["validation"])
    # 5% of the documents, within four standard deviations.
    share = len(found["validation"]) / len(counts)
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / len(counts)) ** 0.5
    assert store.corpus == "chitchat"


def test_a_document_stays_in_its_split_when_others_come(tmp_path):
    few = prepare(corpus(tmp_path, TEXTS[:100]), "byte", None, tmp_path / "few", 0.3)
    others = [f"another {i}" for i in range(300)]
    mixed = [text for pair in zip(others, TEXTS[::-1], strict=False) for text in pair]
    many = prepare(corpus(tmp_path, mixed, "more.jsonl"), "byte", None, tmp_path / "many", 0.3)
    for split in SPLITS:
        assert set(texts_of(few, split)) < set(texts_of(many, split))
    # A larger share holds out what a smaller one did, and more.
    smaller = prepare(corpus(tmp_path, TEXTS), "byte", None, tmp_path / "smaller", 0.1)
    assert set(texts_of(smaller, "validation")) < {
        text for text in TEXTS if split_by_definition(text, 0.3) == "validation"
    }


def test_max_bytes_takes_whole_documents_from_the_start(tmp_path):
    source = corpus(tmp_path, [TEXTS[0], *TEXTS])
    limit = sum(len(text) for text in TEXTS[:120]) + 3
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, limit)
    assert set(texts_of(store, "train") + texts_of(store, "validation")) == set(TEXTS[:120])
    assert store.manifest.train.bytes + store.manifest.validation.bytes == limit - 3


def test_a_bpe_learns_from_the_train_split_alone(tmp_path):
    held_out = [f"zqxj {'zqxj ' * 200}{i}" for i in range(400)]
    held_out = [text for text in held_out if split_by_definition(text, 0.2) == "validation"]
    assert len(held_out) > 20
    kept = [text for text in TEXTS if split_by_definition(text, 0.2) == "train"]
    store = prepare(corpus(tmp_path, kept + held_out), "bpe", 300, tmp_path / "store", 0.2)
    vocabulary = json.loads((store.path / "tokenizer.json").read_text())["model"]["vocab"]
    assert any("word" in token for token in vocabulary)
    assert not any("zq" in token or "xj" in token for token in vocabulary)


def test_the_hash_is_of_the_tokens_and_not_of_the_place(tmp_path):
    source = corpus(tmp_path, TEXTS)
    store = prepare(source, "byte", None, tmp_path / "one", 0.2)
    (tmp_path / "elsewhere").mkdir()
    again = prepare(corpus(tmp_path / "elsewhere", TEXTS), "byte", None, tmp_path / "two", 0.2)
    assert again.manifest.source != store.manifest.source
    assert again.hash == store.hash
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert TokenStore.open(tmp_path / "moved").hash == store.hash
    others = [
        prepare(source, "byte", None, tmp_path / "three", 0.25),
        prepare(source, "bpe", 300, tmp_path / "four", 0.2),
        prepare(source, "bpe", 290, tmp_path / "five", 0.2),
        prepare(corpus(tmp_path, TEXTS[:-1], "b.jsonl"), "byte", None, tmp_path / "six", 0.2),
    ]
    assert len({store.hash, *(other.hash for other in others)}) == 5


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_same_store_is_not_made_twice(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    first, second = [], []
    prepare(source, "bpe", 300, out, 0.2, None, lambda stage, done: first.append(stage))
    before = contents(out)
    prepare(source, "bpe", 300, out, 0.2, None, lambda stage, done: second.append(stage))
    assert set(first) == {"hashing", "reading for the BPE", "learning merges", "tokenizing"}
    assert set(second) == {"hashing"}
    assert contents(out) == before
    # The same text from another place is the same corpus.
    moved = shutil.move(tmp_path / "corpus.jsonl", tmp_path / "moved.jsonl")
    prepare(f"jsonl:{moved}#text", "bpe", 300, out, 0.2)
    assert contents(out) == before


def test_nothing_else_is_overwritten(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    prepare(source, "byte", None, out, 0.2)
    before = contents(out)
    other = corpus(tmp_path, TEXTS[1:], "other.jsonl")
    for arguments in (
        (source, "byte", None, out, 0.3), (source, "bpe", 300, out, 0.2),
        (source, "byte", None, out, 0.2, 5000), (other, "byte", None, out, 0.2),
    ):
        with pytest.raises(UserError, match=r"holds another store.*fraction 0\.2.* --out"):
            prepare(*arguments)
    assert contents(out) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("notes", "file", "empty", "dangling"):
        with pytest.raises(UserError, match=f"{name}: exists and is no token store"):
            prepare(source, "byte", None, tmp_path / name)
    assert (tmp_path / "notes" / "a").read_text() == (tmp_path / "file").read_text() == "mine"


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


@pytest.mark.parametrize(("kind", "vocab_size"), [("byte", None), ("bpe", 300)])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, UserError, OSError])
def test_an_error_in_the_source_leaves_nothing(tmp_path, monkeypatch, kind, vocab_size, stop):
    source = corpus(tmp_path, TEXTS)
    monkeypatch.setattr("scaling.data.prepare._BATCH_DOCUMENTS", 10)
    real = sources.Source.documents
    passes = []

    def broken(self):
        passes.append(self)
        for count, document in enumerate(real(self)):
            if count == 150 and len(passes) == (2 if kind == "bpe" else 1):
                assert (next(tmp_path.glob(".store*")) / "train.bin").exists()
                raise stop("stop")
            yield document

    with monkeypatch.context() as patch:
        patch.setattr(sources.Source, "documents", broken)
        with pytest.raises(stop, match="stop"):
            prepare(source, kind, vocab_size, tmp_path / "store", 0.2)
    assert left_behind(tmp_path) == []
    assert prepare(source, kind, vocab_size, tmp_path / "store", 0.2).manifest.duplicates == 0


STOPS_WHILE_TOKENIZING = """
import sys, time
from pathlib import Path
from scaling.data.prepare import prepare

def wait(stage, done):
    if stage == "tokenizing":
        print("ready", flush=True)
        time.sleep(100)

prepare(sys.argv[1], "byte", None, Path(sys.argv[2]), 0.2, None, wait)
"""


def test_a_killed_process_leaves_no_store_and_the_next_one_cleans_up(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    child = subprocess.Popen(
        [sys.executable, "-c", STOPS_WHILE_TOKENIZING, source, str(out)],
        stdout=subprocess.PIPE, text=True,
    )
    with child:
        assert child.stdout.readline() == "ready\n"
        # While it lives, its folder is its own: this one goes its own way.
        living = left_behind(tmp_path)
        assert len(living) == 1
        prepare(corpus(tmp_path, TEXTS), "byte", None, tmp_path / "other", 0.2)
        with pytest.raises(UserError, match="empty"):
            prepare(source, "byte", None, out, 1e-9)
        assert left_behind(tmp_path) == [*living, "other"]
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    assert left_behind(tmp_path) == [*living, "other"]
    store = prepare(source, "byte", None, out, 0.2)
    assert TokenStore.open(out, verify=True).hash == store.hash
    assert left_behind(tmp_path) == ["other", "store"]


def test_another_process_may_be_quicker(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    ready = prepare(source, "byte", None, tmp_path / "ready", 0.2)
    wrong = prepare(source, "byte", None, tmp_path / "wrong", 0.3)

    def interfering(store):
        def tell(stage, done):
            if stage == "tokenizing" and not out.exists():
                shutil.copytree(store.path, out)
        return tell

    assert prepare(source, "byte", None, out, 0.2, None, interfering(ready)).hash == ready.hash
    shutil.rmtree(out)
    with pytest.raises(UserError, match="holds another store"):
        prepare(source, "byte", None, out, 0.2, None, interfering(wrong))
    assert left_behind(tmp_path) == ["ready", "store", "wrong"]


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path):
    source = corpus(tmp_path, TEXTS)

    def append(stage, done):
        if stage == "tokenizing":
            with (tmp_path / "corpus.jsonl").open("a") as file:
                file.write('{"text": "one more"}\n')

    with pytest.raises(UserError, match="its files changed while they were read"):
        prepare(source, "byte", None, tmp_path / "store", 0.2, None, append)
    assert left_behind(tmp_path) == []


def test_a_full_disk_names_the_store_and_leaves_nothing(tmp_path):
    source = corpus(tmp_path, [f"{i} " * 400 for i in range(2000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, hard))  # stands in for the full disk
        with pytest.raises(OSError, match="too large") as error:
            prepare(source, "byte", None, tmp_path / "store", 0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(tmp_path / "store")
    assert error.value.strerror
    assert left_behind(tmp_path) == []


def test_a_folder_that_cannot_be_written_names_the_store(tmp_path):
    source = corpus(tmp_path, TEXTS)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"directory|exists") as error:
        prepare(source, "byte", None, tmp_path / "file" / "store", 0.2)
    assert error.value.filename == str(tmp_path / "file" / "store")
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError) as error:
            prepare(source, "byte", None, tmp_path / "locked" / "store", 0.2)
        assert error.value.filename == str(tmp_path / "locked" / "store")


def test_the_store_is_readable_by_those_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        store = prepare(corpus(tmp_path, TEXTS), "byte", None, tmp_path / "store", 0.2)
    finally:
        os.umask(before)
    assert store.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("kind", "vocab_size", "fraction", "max_bytes", "message"), [
    ("word", None, 0.1, None, "tokenizer: input should be 'byte' or 'bpe', not 'word'"),
    ("bpe", None, 0.1, None, "vocab_size is missing; a BPE needs one of at least 257"),
    ("bpe", 100, 0.1, None, "vocab_size is 100; a BPE needs one of at least 257"),
    ("bpe", 0, 0.1, None, "vocab_size: .*greater than 0"),
    ("byte", 300, 0.1, None, "vocab_size = 300, and bytes have 257"),
    ("byte", None, 0.0, None, "validation_fraction: .*greater than 0"),
    ("byte", None, 1.0, None, "validation_fraction: .*less than 1"),
    ("byte", None, float("nan"), None, "validation_fraction"),
    ("byte", None, 0.1, 0, "max_bytes: .*greater than 0"),
    ("byte", None, 0.1, 3, "the train split would be empty: of 0 documents.*--max-bytes"),
    ("byte", None, 1e-9, None, "the validation split would be empty: of 200 documents"),
    ("bpe", 50_000, 0.1, None, "vocab_size 50,000: this corpus gives a BPE of no more than"),
])
def test_wrong_options_are_refused(tmp_path, kind, vocab_size, fraction, max_bytes, message):
    source = corpus(tmp_path, TEXTS)
    with pytest.raises(UserError, match=message) as error:
        prepare(source, kind, vocab_size, tmp_path / "store", fraction, max_bytes)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == []


def test_split_of_is_its_definition():
    for text in TEXTS:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        assert split_of(digest, 0.2) == split_by_definition(text, 0.2)
