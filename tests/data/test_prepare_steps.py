"""The steps of preparation one by one, on arrays and files made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scaling.data.manifest import Options
from scaling.data.prepare import prepare, tokenizing
from scaling.data.prepare.pieces import Corpus, Piece, find_corpus
from scaling.data.prepare.select import ScannedBlock, count_decisions, read_decisions, select
from scaling.data.prepare.tasks import read_tasks, run_here, write_tasks
from scaling.data.prepare.tokenizing import training_texts
from scaling.data.prepare.work import WorkStep, begin, remove, seal, store_of, work_folder
from scaling.errors import UserError

TRAIN, VALIDATION, TEST, DUPLICATE, NEAR, CONTAMINATED, LEFT_OUT = range(7)
HALF = 2**63


@pytest.fixture
def source(tmp_path):
    texts = [f"document {i} {'some words of it ' * (i % 5)}" for i in range(120)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return f"jsonl:{tmp_path}/a.jsonl#text"


class Scanned:
    """A scan of documents whose hashes are given: `scanned(0, sizes, words)`."""

    def __init__(self, folder: Path, sources: int = 1) -> None:
        for name in "ab"[:sources]:
            (folder / name).write_text(name)
        names = [f"text:{folder}/{name}" for name in "ab"[:sources]]
        name = names[0] if sources == 1 else f"mix:1*{names[0]} + 1*{names[1]}"
        self.corpus: Corpus = find_corpus(name, Options(tokenizer="byte"))
        self.folder, self.blocks = folder, []

    def add(self, source: int, sizes: list[int], words: list[tuple[int, int]]) -> None:
        """A piece of one block. The arrays are those that `scan` documents."""
        number = len(self.blocks)
        first = sum(block.documents for block in self.blocks)
        step = WorkStep(self.folder, self.folder, f"scan-{number:05}")
        order = sorted(range(len(words)), key=lambda place: words[place])
        step.save(**{"keys-0": np.array([words[i] for i in order], np.uint64).T,
                     "places-0": np.array(order, np.uint32),
                     "sizes-0": np.array(sizes, np.uint64)})
        piece = Piece(number, source, self.corpus.sources[source], (), 1.0)
        self.blocks.append(ScannedBlock(piece, step, 0, first, len(sizes)))

    def decide(self, **options: object) -> tuple[bool, list[int]]:
        path = self.folder / "decisions"
        given = {"tokenizer": "byte", "deduplicate": "exact"} | options
        reached = select(self.corpus, self.blocks, Options(**given), path, self.folder)
        return reached, list(path.read_bytes())


def test_a_split_is_a_range_of_hashes_whose_end_is_of_the_next(tmp_path):
    """Of a quarter and an eighth; the first word of the hash decides, and not the second."""
    scanned = Scanned(tmp_path)
    first = [2**62 - 1, 2**62, 3 * 2**61 - 1, 3 * 2**61, 2**64 - 1, 0]
    scanned.add(0, [1] * 6, [(word, 2**64 - 1 - word) for word in first])
    assert scanned.decide(validation_fraction=0.25, test_fraction=0.125) == (
        False, [VALIDATION, TEST, TEST, TRAIN, TRAIN, VALIDATION])
    assert scanned.decide(validation_fraction=0.25, test_fraction=0)[1] == [
        VALIDATION, TRAIN, TRAIN, TRAIN, TRAIN, VALIDATION]


@pytest.mark.parametrize(("limit", "taken"), [
    (29, 2), (30, 3), (31, 3), (59, 3), (60, 4), (1000, 6)])
def test_a_document_that_just_fits_in_max_bytes_is_taken(tmp_path, limit, taken):
    """Of 10 bytes each, but the fourth of 30; a repetition takes nothing of the limit, and the
    rest of a piece, and all later pieces, are left out."""
    scanned = Scanned(tmp_path)
    scanned.add(0, [10, 10, 10, 10], [(HALF, 1), (HALF, 2), (HALF, 1), (HALF, 3)])
    scanned.add(0, [30, 10, 10], [(HALF, 4), (HALF, 5), (HALF, 6)])
    reached, decisions = scanned.decide(max_bytes=limit)
    kept = [place for place in range(7) if place != 2]
    assert decisions[2] == DUPLICATE
    assert [decisions[place] for place in kept] == [TRAIN] * taken + [LEFT_OUT] * (6 - taken)
    assert reached == (taken < 6)


def test_the_share_of_a_mix_is_a_range_of_the_upper_half_of_the_second_word(tmp_path):
    """The first source has 100 bytes and is used completely; of the second, which has 400 without
    its repetition, a quarter of the hashes is."""
    scanned = Scanned(tmp_path, sources=2)
    scanned.add(0, [50, 50], [(HALF, 2**64 - 1), (HALF, 1)])
    scanned.add(1, [80] * 6, [(HALF, (2**30 - 1 << 32) + 2**32 - 1), (HALF, 2**30 << 32),
                              (HALF, 5), (HALF, HALF), (HALF + 1, 2**63 + 2**62),
                              (HALF, 5)])
    assert scanned.decide() == (
        False, [TRAIN, TRAIN, TRAIN, LEFT_OUT, TRAIN, LEFT_OUT, LEFT_OUT, DUPLICATE])
    # A limit above the text that there is does not change the shares: 100 bytes of each.
    assert scanned.decide(max_bytes=10_000)[1][:5] == [TRAIN, TRAIN, TRAIN, LEFT_OUT, LEFT_OUT]


def test_each_source_of_a_mix_has_its_own_limit(tmp_path):
    """That of the first is reached at its third document; the second goes on to its own."""
    scanned = Scanned(tmp_path, sources=2)
    scanned.add(0, [10] * 4, [(HALF, place) for place in range(4)])
    scanned.add(1, [10, 5, 10], [(HALF, place) for place in range(10, 13)])
    assert scanned.decide(max_bytes=40) == (
        True, [TRAIN, TRAIN, LEFT_OUT, LEFT_OUT, TRAIN, TRAIN, LEFT_OUT])


def test_decisions_are_counted_by_document_and_by_byte(tmp_path):
    """Every document has another size, so each sum shows which documents it has."""
    scanned, path = Scanned(tmp_path, sources=2), tmp_path / "decisions"
    scanned.add(0, [1, 2, 4, 8, 16, 32, 64], [(HALF, place) for place in range(7)])
    scanned.add(1, [128, 256, 512], [(HALF, place) for place in range(7, 10)])
    path.write_bytes(bytes([TRAIN, VALIDATION, TEST, DUPLICATE, NEAR, CONTAMINATED, LEFT_OUT,
                            TRAIN, NEAR, TEST]))
    counts = count_decisions(path, scanned.blocks, 2)
    assert counts.decisions == {TRAIN: 2, VALIDATION: 1, TEST: 2, DUPLICATE: 1, NEAR: 2,
                                CONTAMINATED: 1, LEFT_OUT: 1}
    assert counts.train_bytes == 1 + 128
    assert counts.used == [1 + 2 + 4, 128 + 512]
    assert counts.available == [1 + 2 + 4 + 32 + 64, 128 + 512]
    assert read_decisions(path, scanned.blocks[1]).tolist() == [TRAIN, NEAR, TEST]


def test_tasks_that_are_read_are_those_that_were_written(source, tmp_path, monkeypatch):
    """Of each phase, and each task has another place in the corpus; they make the same store."""
    monkeypatch.setattr("scaling.data.prepare.pieces._SMALLEST_PIECE", 1000)
    monkeypatch.setattr("scaling.data.prepare.pieces._PIECES", 3)
    monkeypatch.chdir(tmp_path)
    options = {"contamination": "drop", "special": ("mask",), "sentinels": 2, "workers": 1}
    batches = []

    def read_again(batch, report_bytes):
        path = batch.work / "logs" / f"{batch.kind}.tasks.json"
        write_tasks(batch, path)
        again = read_tasks(path)
        batches.append((batch, again, path))
        return run_here(1)(again, report_bytes)

    expected = prepare(source, "byte", None, tmp_path / "expected", 0.2, **options)
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, run_tasks=read_again, **options)
    assert store.manifest == expected.manifest
    assert [batch.kind for batch, *_ in batches] == ["scan", "contamination", "tokens"]
    for batch, again, _ in batches:
        assert again.options == batch.options
        assert len(again.tasks) == len(batch.tasks) > 2
        for one, other in zip(batch.tasks, again.tasks, strict=True):
            assert type(one) is type(other)
            for name in vars(one).keys() - {"piece", "selected"}:
                assert getattr(one, name) == getattr(other, name), name
            if batch.kind != "scan":
                one, other = one.selected, other.selected
                assert (one.decisions, one.first, one.documents) == (
                    other.decisions, other.first, other.documents)
            one, other = one.piece, other.piece
            assert (one.number, one.source_number, one.parts, one.size) == (
                other.number, other.source_number, other.parts, other.size)
    firsts = [task.selected.first for task in batches[1][0].tasks]
    assert firsts == sorted(set(firsts))


@pytest.mark.parametrize(("change", "words"), [
    (lambda content: content | {"layout": content["layout"] - 1}, "another version of scaling"),
    (lambda content: content | {"stamp": [[[1, 1]]]}, "have other sizes or times"),
    (lambda content: content | {"folder": "/no/such"}, "no such folder on"),
    (lambda content: content | {"kind": "tokens"}, "a tokenizer is expected"),
    (lambda content: content | {"tasks": [content["tasks"][0] | {"source": 1}]},
     "has no source number 1"),
])
def test_tasks_that_do_not_fit_this_machine_are_refused(
    source, tmp_path, monkeypatch, change, words
):
    monkeypatch.chdir(tmp_path)
    paths = []

    def stop(batch, report_bytes):
        paths.append(batch.work / "logs" / "x.tasks.json")
        write_tasks(batch, paths[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, tmp_path / "store", 0.2, run_tasks=stop)
    paths[0].write_text(json.dumps(change(json.loads(paths[0].read_text()))))
    with pytest.raises(UserError, match=words):
        read_tasks(paths[0])


def test_the_sample_of_a_tokenizer_is_of_the_hashs_last_32_bits(source, tmp_path, monkeypatch):
    """Which neither decide the split, nor the share of a mix: it is independent of both."""
    from hashlib import blake2b

    from scaling.data.prepare.selected import SelectedPiece

    corpus = find_corpus(source, Options(tokenizer="byte"))
    (piece,) = corpus.pieces()
    texts = list(piece.texts())
    path = tmp_path / "decisions"
    path.write_bytes(bytes(place % 3 for place in range(len(texts))))
    monkeypatch.setattr("scaling.data.prepare.tokenizing.SAMPLE_BYTES", 3000)
    selected = SelectedPiece(piece, path, 0, len(texts))
    train = texts[::3]
    for train_bytes, share in ((12_000, 0.25), (6_000, 0.5), (3_000, 1), (100, 1)):
        expected = [text for text in train if int(
            blake2b(text.encode(), digest_size=16).hexdigest()[24:], 16) / 2**32 < share]
        assert list(training_texts([selected], train_bytes, lambda size: None)) == expected
        assert len(expected) > 5


def test_a_folder_of_work_is_one_that_is_marked_and_named_as_one(tmp_path):
    out = tmp_path / "my.store"
    work = work_folder(out, "0123456789abcdef")
    assert work.parent == tmp_path
    begin(work, out)
    assert store_of(work) == out
    for name in ("0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF"):
        begin(other := work_folder(out, name), out)
        with pytest.raises(UserError, match="is not a work folder"):
            store_of(other)
    (work / "made-by").write_text("another program\n")
    with pytest.raises(UserError, match="is not a work folder"):
        store_of(work)
    with pytest.raises(UserError, match="was not made by"):
        begin(work, out)
    remove(work)
    assert (work / "made-by").read_text() == "another program\n"


def test_a_sealed_store_has_its_files_and_no_other(tmp_path):
    work = work_folder(tmp_path / "store", "0123456789abcdef")
    begin(work, tmp_path / "store")
    for name in ("train-00000.bin", "train-00000.bin.0123", "validation-00000.bin"):
        (work / "store" / name).write_text(name)
    complete = seal(work, {"train-00000.bin", "validation-00000.bin", "test-00000.bin"})
    assert sorted(path.name for path in complete.iterdir()) == [
        "train-00000.bin", "validation-00000.bin"]
    assert not (work / "store").exists()
    remove(work)
    assert not work.exists()


def test_every_file_of_a_step_is_checked_before_the_step_is_skipped(source, tmp_path):
    """Of the pass that tokenizes: the shards, and the lengths of documents."""
    def stop(stage, done, total):
        if stage == "writing indexes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, "byte", None, tmp_path / "store", 0.2, None, stop, workers=1)
    (work,) = tmp_path.glob(".store.work-*")
    files = [*work.glob("store/*.bin"), *work.glob("tokens-00000.*.npy"),
             *work.glob("scan-00000.*.npy")]
    assert len(files) == 3 + 3 + 3
    for path in files:
        name = "scan-00000" if path.name.startswith("scan") else "tokens-00000"
        step = WorkStep(work, tmp_path / "store", name)
        content = path.read_bytes()
        assert step.load_result() is not None
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert step.load_result() is None, path
        path.write_bytes(content)


def test_a_batch_of_documents_is_bounded_by_their_bytes_and_by_their_number(monkeypatch):
    """The document that reaches a bound is the last of its batch; dropped ones take no room."""
    monkeypatch.setattr(tokenizing, "_BATCH_BYTES", 10)
    monkeypatch.setattr(tokenizing, "_BATCH_DOCUMENTS", 3)
    sizes = [1, 1, 1, 4, 6, 30, 9, 1, 5]
    documents = [(VALIDATION, f"{place}", size) for place, size in enumerate(sizes)]
    for place, dropped in ((1, DUPLICATE), (4, LEFT_OUT), (9, NEAR)):
        documents.insert(place, (dropped, "", 100))
    batches = list(tokenizing._batches(iter(documents)))
    assert [[size for *_, size in batch] for batch in batches] == [
        [1, 1, 1], [4, 6], [30], [9, 1], [5]]
    assert [document for batch in batches for document in batch] == [
        document for document in documents if document[0] == VALIDATION]
