"""Preparing loses no document, keeps the splits disjoint, and leaves a complete store or none."""

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
from scaling.data.manifest import SPLITS, Options
from scaling.data.prepare import prepare
from scaling.data.prepare.work import STORE, open_atomic
from scaling.data.store import TokenStore
from scaling.errors import UserError

TEXTS = [f"document {i} " + "some words of it " * (i % 5) for i in range(200)]
REPEATED = [TEXTS[3], TEXTS[3], TEXTS[150]]


def corpus(folder: Path, texts: list[str], name: str = "corpus.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"jsonl:{folder}/{name}#text"


def split_by_definition(text: str, validation: float, test: float = 0.02) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    place = int(digest[:16], 16) / 2**64
    return "validation" if place < validation else "test" if place < validation + test else "train"


def texts_of(store: TokenStore, split: str) -> list[str]:
    """Documents decoded from the raw files, by their documented format only."""
    assert store.manifest.dtype == "uint16"
    files = sorted(store.path.glob(f"{split}-*.bin"))
    tokens = np.concatenate([np.fromfile(file, "<u2") for file in files])
    offsets = np.load(store.path / f"{split}.index.npy", allow_pickle=False)
    tokenizer = store.tokenizer()
    ends = np.flatnonzero(tokens == tokenizer.eos)
    assert np.array_equal(ends + 1, offsets[1:])
    assert offsets[0] == 0
    return [tokenizer.decode(tokens[a:b]) for a, b in zip(offsets[:-1], ends, strict=True)]


def everything(store: TokenStore) -> list[str]:
    return [text for split in store.splits() for text in texts_of(store, split)]


@pytest.fixture
def small_pieces(monkeypatch):
    """Corpora of a few kilobytes are divided into several pieces, as large ones are."""
    monkeypatch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 1000)
    monkeypatch.setattr("scaling.data.prepare.pieces._PIECES", 9)


@pytest.mark.parametrize(("kind", "vocab_size"), [("byte", None), ("bpe", 300)])
def test_a_store_is_the_corpus_split_without_duplicates(tmp_path, kind, vocab_size):
    source = corpus(tmp_path, TEXTS + REPEATED)
    store = prepare(source, kind, vocab_size, tmp_path / "store", 0.2, test_fraction=0.1)
    assert store.vocab_size == (vocab_size or 257)
    assert store.manifest.duplicates == len(REPEATED)
    for split in SPLITS:
        expected = [text for text in TEXTS if split_by_definition(text, 0.2, 0.1) == split]
        found = texts_of(store, split)
        assert found == expected
        record = store.manifest.split(split)
        assert record.documents == len(expected) > 10
        assert record.bytes == sum(len(text.encode()) for text in expected)
        assert record.tokens == store.split(split).tokens
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
    assert Counter(everything(store)) == Counter(dict.fromkeys(counts, 1))
    assert store.manifest.duplicates == counts.total() - len(counts)
    # 5% of the documents, within four standard deviations.
    share = len(found["validation"]) / len(counts)
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / len(counts)) ** 0.5
    assert store.corpus == "chitchat"


def test_a_document_stays_in_its_split_when_the_corpus_grows(tmp_path):
    few = prepare(corpus(tmp_path, TEXTS[:100]), "byte", None, tmp_path / "few", 0.3)
    others = [f"another {i}" for i in range(300)]
    mixed = [text for pair in zip(others, TEXTS[::-1], strict=False) for text in pair]
    many = prepare(corpus(tmp_path, mixed, "more.jsonl"), "byte", None, tmp_path / "many", 0.3)
    for split in ("train", "validation"):
        assert set(texts_of(few, split)) < set(texts_of(many, split))
    # A larger fraction holds out a superset of a smaller one.
    smaller = prepare(corpus(tmp_path, TEXTS), "byte", None, tmp_path / "smaller", 0.1)
    assert set(texts_of(smaller, "validation")) < {
        text for text in TEXTS if split_by_definition(text, 0.3) == "validation"
    }


@pytest.mark.parametrize("pieces", ["one", "many"])
def test_max_bytes_takes_whole_documents_from_the_start(tmp_path, request, pieces):
    if pieces == "many":
        request.getfixturevalue("small_pieces")
    source = corpus(tmp_path, [TEXTS[0], *TEXTS])
    limit = sum(len(text) for text in TEXTS[:120]) + 3
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, limit, workers=1)
    assert sorted(everything(store)) == sorted(TEXTS[:120])
    assert sum(split.bytes for split in store.manifest.splits().values()) == limit - 3
    assert store.manifest.duplicates == 1


def test_nothing_is_taken_after_max_bytes_is_reached(tmp_path, small_pieces):
    """Not even a document of a later piece that would fit in the rest."""
    texts = [f"document {i:02} {'some words of it ' * 4}" for i in range(80)]
    source = corpus(tmp_path, [*texts, *(f"s{i:03}" for i in range(300))])
    limit = sum(len(text) for text in texts[:-1]) + 10
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, limit, workers=1)
    assert sorted(everything(store)) == texts[:-1]


def test_a_bpe_is_trained_on_the_train_split_only(tmp_path):
    held_out = [f"zqxj {'zqxj ' * 200}{i}" for i in range(400)]
    held_out = [text for text in held_out if split_by_definition(text, 0.2) == "validation"]
    assert len(held_out) > 20
    kept = [text for text in TEXTS if split_by_definition(text, 0.2) == "train"]
    store = prepare(corpus(tmp_path, kept + held_out), "bpe", 300, tmp_path / "store", 0.2)
    vocabulary = json.loads((store.path / "tokenizer.json").read_text())["model"]["vocab"]
    assert any("word" in token for token in vocabulary)
    assert not any("zq" in token or "xj" in token for token in vocabulary)


def test_the_hash_depends_on_tokens_and_not_on_paths(tmp_path):
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


def test_an_existing_store_is_not_built_again(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    first, second = [], []
    prepare(source, "bpe", 300, out, 0.2, None, lambda stage, *_: first.append(stage))
    before = contents(out)
    prepare(source, "bpe", 300, out, 0.2, None, lambda stage, *_: second.append(stage))
    assert list(dict.fromkeys(first)) == [
        "hashing", "scanning", "selecting documents", "reading text for the bpe tokenizer",
        "training the bpe tokenizer", "tokenizing", "writing indexes",
    ]
    assert set(second) == {"hashing"}
    assert contents(out) == before
    # The same text at another path is the same corpus.
    moved = shutil.move(tmp_path / "corpus.jsonl", tmp_path / "moved.jsonl")
    prepare(f"jsonl:{moved}#text", "bpe", 300, out, 0.2)
    assert contents(out) == before


def test_options_that_are_not_given_are_those_of_the_command(tmp_path):
    """As `scaling data prepare --help` has them; they are in the recipe of every store."""
    store = prepare(corpus(tmp_path, TEXTS), "byte", None, tmp_path / "store", workers=1)
    assert store.manifest.options.model_dump() == {
        "tokenizer": "byte", "vocab_size": None, "tokenizer_sha256": None, "special": (),
        "sentinels": 0, "validation_fraction": 0.05, "test_fraction": 0.02, "max_bytes": None,
        "deduplicate": "exact", "contamination": "off", "not_utf8": "refuse"}
    assert store.manifest.options == Options(tokenizer="byte")


def test_nothing_else_is_overwritten(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    prepare(source, "byte", None, out, 0.2)
    before = contents(out)
    other = corpus(tmp_path, TEXTS[1:], "other.jsonl")
    for arguments in (
        (source, "byte", None, out, 0.3), (source, "bpe", 300, out, 0.2),
        (source, "byte", None, out, 0.2, 5000), (other, "byte", None, out, 0.2),
    ):
        with pytest.raises(UserError, match=r"is another store.*fraction 0\.2.* --out"):
            prepare(*arguments)
    assert contents(out) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("notes", "file", "empty", "dangling"):
        with pytest.raises(UserError, match=f"{name}: exists and is not a token store"):
            prepare(source, "byte", None, tmp_path / name)
    assert (tmp_path / "notes" / "a").read_text() == (tmp_path / "file").read_text() == "mine"


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


def files_of(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.path.iterdir()}


@pytest.mark.parametrize(("kind", "vocab_size"), [("byte", None), ("bpe", 300)])
@pytest.mark.parametrize("stop", [
    KeyboardInterrupt("stop"), UserError("stop"), OSError(5, "stop", "a.jsonl"),
])
def test_an_error_in_the_source(tmp_path, monkeypatch, small_pieces, kind, vocab_size, stop):
    source = corpus(tmp_path, TEXTS)
    expected = prepare(source, kind, vocab_size, tmp_path / "expected", 0.2, workers=1)
    real, read, passes = sources.Source.read, [], 3 if kind == "bpe" else 2

    def broken(self, part, problems=None):
        read.append(part)
        if read.count(part) == passes and part.start > 4000:
            raise stop
        return real(self, part, problems)

    with monkeypatch.context() as patch:
        patch.setattr(sources.Source, "read", broken)
        with pytest.raises(type(stop), match="stop") as error:
            prepare(source, kind, vocab_size, tmp_path / "store", 0.2, workers=1)
    assert getattr(error.value, "filename", "a.jsonl") == "a.jsonl"
    # After an error in the source a retry is pointless, so nothing is kept.
    kept = [name for name in left_behind(tmp_path) if name.startswith(".store.work-")]
    assert len(kept) == (0 if isinstance(stop, UserError) else 1)
    again = []

    def counted(self, part, problems=None):
        again.append(part)
        return real(self, part, problems)

    monkeypatch.setattr(sources.Source, "read", counted)
    store = prepare(source, kind, vocab_size, tmp_path / "store", 0.2, workers=1)
    parts = len(set(read))
    finished = 0 if isinstance(stop, UserError) else len(read) - 1
    assert len(again) == passes * parts - finished
    assert 1 < parts < len(read)
    assert files_of(store) == files_of(expected)
    assert left_behind(tmp_path) == ["expected", "store"]


def test_an_orphaned_worker_adds_nothing_to_the_store(tmp_path, monkeypatch, small_pieces):
    source, late = corpus(tmp_path, TEXTS), []
    expected = prepare(source, "byte", None, tmp_path / "expected", 0.2, workers=1)

    def interrupted(complete, out):
        # It still has the path from the start of its piece.
        with pytest.raises(FileNotFoundError), open_atomic(
            complete.parent / STORE / "train-00000.bin", out
        ):
            pass
        late.append(complete)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scaling.data.prepare.main.move_in_place", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, "byte", None, tmp_path / "store", 0.2, workers=1)
    assert len(late) == 1
    # The next process resumes with the complete folder.
    monkeypatch.setattr(sources.Source, "read", None)
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, workers=1)
    assert files_of(store) == files_of(expected)
    assert left_behind(tmp_path) == ["expected", "store"]


def test_the_number_of_workers_does_not_change_the_store(tmp_path, small_pieces):
    source = corpus(tmp_path, TEXTS + REPEATED)
    options = {"test_fraction": 0.1, "deduplicate": "near", "contamination": "drop"}
    stores = [
        prepare(source, "bpe", 300, tmp_path / f"store{workers}", 0.2, workers=workers, **options)
        for workers in (1, 2)
    ]
    assert files_of(stores[0]) == files_of(stores[1])
    assert len(stores[0].manifest.train.shards) > 3


def test_the_division_into_pieces_does_not_change_the_hash(tmp_path, request):
    source = corpus(tmp_path, TEXTS)
    whole = prepare(source, "byte", None, tmp_path / "whole", 0.2)
    request.getfixturevalue("small_pieces")
    cut = prepare(source, "byte", None, tmp_path / "cut", 0.2, workers=1)
    assert len(cut.manifest.train.shards) > 3
    assert len(whole.manifest.train.shards) == 1
    assert cut.hash == whole.hash
    assert everything(cut) == everything(whole)


STOPS_WHILE_TOKENIZING = """
import sys, time
from pathlib import Path
import scaling.data.prepare.pieces as pieces
from scaling.data.prepare import prepare

def wait(stage, done, total):
    if stage == "tokenizing" and done > total / 2:
        print("ready", flush=True)
        time.sleep(100)

if __name__ == "__main__":
    pieces._SMALLEST_PIECE, pieces._PIECES = 1000, 9
    prepare(sys.argv[1], "byte", None, Path(sys.argv[2]), 0.2, None, wait, 2)
"""


def test_work_of_a_killed_process_is_resumed(tmp_path, small_pieces):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    expected = prepare(source, "byte", None, tmp_path / "expected", 0.2, workers=1)
    (tmp_path / "stops.py").write_text(STOPS_WHILE_TOKENIZING)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "stops.py"), source, str(out)], stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    told = []

    def tell(stage, done, total):
        if stage.startswith("waiting"):
            assert not out.exists()
            child.send_signal(signal.SIGKILL)
        told.append((stage, done, total))

    with child:
        assert child.stdout.readline() == "ready\n"
        # The other process has the lock; once it is dead, this one resumes its work.
        store = prepare(source, "byte", None, out, 0.2, None, tell, workers=1)
    assert child.returncode == -signal.SIGKILL
    assert any(stage.startswith("waiting") for stage, _, _ in told)
    for stage, finished in (("scanning", 1.0), ("tokenizing", 0.3)):
        done, total = next((done, total) for name, done, total in told if name == stage)
        assert done >= finished * total
    assert files_of(store) == files_of(expected)
    assert left_behind(tmp_path) == ["expected", "stops.py", "store"]


def test_damaged_work_is_done_again(tmp_path, monkeypatch, small_pieces):
    source = corpus(tmp_path, TEXTS)
    expected = prepare(source, "byte", None, tmp_path / "expected", 0.2, workers=1)

    def stop(stage, done, total):
        if stage == "writing indexes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, tmp_path / "store", 0.2, None, stop, workers=1)
    work = next(tmp_path.glob(".store.work-*"))
    shard = sorted((work / "store").glob("train-*.bin"))[1]
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    (work / "scan-00002.sizes-0.npy").unlink()
    (work / "tokens-00003.json").write_text("{")
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, workers=1)
    assert files_of(store) == files_of(expected)


def test_another_process_may_finish_the_store_first(tmp_path):
    source, out = corpus(tmp_path, TEXTS), tmp_path / "store"
    ready = prepare(source, "byte", None, tmp_path / "ready", 0.2)
    wrong = prepare(source, "byte", None, tmp_path / "wrong", 0.3)

    def interfering(store):
        def tell(stage, done, total):
            if stage == "tokenizing" and not out.exists():
                shutil.copytree(store.path, out)
        return tell

    assert prepare(source, "byte", None, out, 0.2, None, interfering(ready)).hash == ready.hash
    shutil.rmtree(out)
    with pytest.raises(UserError, match="is another store"):
        prepare(source, "byte", None, out, 0.2, None, interfering(wrong))
    assert left_behind(tmp_path) == ["ready", "store", "wrong"]


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path):
    source = corpus(tmp_path, TEXTS)

    def append(stage, done, total):
        if stage == "tokenizing":
            with (tmp_path / "corpus.jsonl").open("a") as file:
                file.write('{"text": "one more"}\n')

    with pytest.raises(UserError, match="its files changed while they were read"):
        prepare(source, "byte", None, tmp_path / "store", 0.2, None, append)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_names_the_store_and_work_is_resumed_later(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 2**21)
    source = corpus(tmp_path, [f"{i} " * 400 for i in range(2000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, hard))  # stands in for the full disk
        with pytest.raises(OSError, match="too large") as error:
            prepare(source, "byte", None, tmp_path / "store", 0.2, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(tmp_path / "store")
    assert error.value.strerror
    assert not (tmp_path / "store").exists()
    told = []
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, None,
                    lambda *stage: told.append(stage), workers=1)
    assert next(done == total for stage, done, total in told if stage == "scanning")
    assert store.manifest.train.documents + store.manifest.validation.documents > 1900
    assert left_behind(tmp_path) == ["store"]


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
    ("word", None, 0.1, None, "tokenizer: 'byte', 'bpe', 'wordpiece'"),
    ("bpe", None, 0.1, None, "vocab_size is missing; a BPE tokenizer needs one from 257"),
    ("bpe", 100, 0.1, None, "vocab_size is 100; a BPE tokenizer needs one from 257"),
    ("unigram", 5 * 10**9, 0.1, None, "vocab_size is 5000000000; .* to 1048576"),
    ("bpe", 0, 0.1, None, "vocab_size: .*greater than 0"),
    ("byte", 300, 0.1, None, "vocab_size = 300, but a byte tokenizer has 257"),
    ("byte", None, 0.0, None, "validation_fraction: .*greater than 0"),
    ("byte", None, 1.0, None, "validation_fraction: .*less than 1"),
    ("byte", None, float("nan"), None, "validation_fraction"),
    ("byte", None, 0.1, 0, "max_bytes: .*greater than 0"),
    ("byte", None, 0.1, 3, "the train split would be empty: each of 0 documents.*--max-bytes"),
    ("byte", None, 1e-9, None, "the validation split would be empty: each of 200 documents"),
    ("bpe", 50_000, 0.1, None,
     "vocab_size 50,000: a BPE tokenizer trained on this corpus has at most"),
])
def test_wrong_options_are_refused(tmp_path, kind, vocab_size, fraction, max_bytes, message):
    source = corpus(tmp_path, TEXTS)
    with pytest.raises(UserError, match=message) as error:
        prepare(source, kind, vocab_size, tmp_path / "store", fraction, max_bytes)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == []
