"""Which documents a store takes: repetitions, near-repetitions, mixes, contamination."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scaling.data import deduplicate
from scaling.data.contamination import empty_tables, enter, perhaps_entered
from scaling.data.deduplicate import BANDS, ROWS, band_hashes, later_ones, sorted_keys
from scaling.data.prepare import prepare
from scaling.data.store import TokenStore
from scaling.data.words import WordHashes, runs
from scaling.errors import UserError

WORDS = [f"word{i}" for i in range(3000)]


def sentences(count: int, length: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(length)) for _ in range(count)]


def corpus(folder: Path, texts: list[str], name: str = "corpus") -> str:
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    return f"jsonl:{folder}/{name}.jsonl#text"


def texts_of(store: TokenStore, split: str) -> list[str]:
    offsets, stored = store.split(split).offsets(), store.split(split)
    tokenizer = store.tokenizer()
    return [tokenizer.decode(stored.read(int(a), int(b)))
            for a, b in pairwise(offsets)]


def everything(store: TokenStore) -> list[str]:
    return [text for split in store.splits() for text in texts_of(store, split)]


def shingles(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i:i + length]) for i in range(len(words) - length + 1)}


def test_runs_are_equal_where_the_words_are():
    hashes = WordHashes()
    found = runs(hashes.of("The cat, the CAT; the dog: the cat the"), 3)
    expected = ["the cat the", "cat the cat", "the cat the", "cat the dog", "the dog the",
                "dog the cat", "the cat the"]
    assert [[a == b for b in found] for a in found] == [[a == b for b in expected]
                                                         for a in expected]
    assert len(runs(hashes.of("two words"), 3)) == 0


@pytest.mark.parametrize("held", [1, 7, 10**6])
def test_later_ones_are_found_whatever_is_sorted_at_once(monkeypatch, held):
    for module in ("deduplicate", "ranges"):
        monkeypatch.setattr(f"scaling.data.{module}.HELD", held)
    draw = np.random.default_rng(0)
    # Equal first words with other second ones, over the whole range of a uint64.
    pieces = [draw.integers(0, 5, (2, size), np.uint64) * np.uint64(2**62 - 1)
              for size in (0, 40, 1, 25)]
    opened = [sorted_keys(piece) for piece in pieces]
    found = [(piece, place) for piece, places in later_ones([lambda o=o: o for o in opened])
             for place in places.tolist()]
    seen: set[tuple[int, ...]] = set()
    expected = []
    for number, piece in enumerate(pieces):
        for place, key in enumerate(map(tuple, piece.T.tolist())):
            if key in seen:
                expected.append((number, place))
            seen.add(key)
    assert sorted(found) == expected
    assert 10 < len(expected) < 60


def test_a_key_that_comes_again_and_again_is_not_held_each_time(monkeypatch):
    held, size, sorted_at_once = 200, 50, []
    for module in ("deduplicate", "ranges"):
        monkeypatch.setattr(f"scaling.data.{module}.HELD", held)
    sort = deduplicate._later

    def later(seen, blocks):
        sorted_at_once.append(seen.shape[1] + sum(len(places) for *_, places in blocks))
        return sort(seen, blocks)

    monkeypatch.setattr(deduplicate, "_later", later)
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 2**64, (2, 4000), np.uint64)
    keys[:, draw.random(4000) < 0.9] = np.uint64(2**63)
    blocks = [sorted_keys(keys[:, start:start + size]) for start in range(0, 4000, size)]
    found = sorted(size * block + place
                   for block, places in later_ones([lambda b=b: b for b in blocks])
                   for place in places.tolist())
    again = np.flatnonzero(keys[0] == 2**63)[1:]
    assert found == again.tolist()
    assert max(sorted_at_once) < 2 * held
    assert len(again) > 3000


@pytest.mark.parametrize(("most_bits", "others"), [(31, 1 / 256), (10, 1.0)])
def test_tables_let_all_through_that_was_entered_and_few_others(monkeypatch, most_bits, others):
    monkeypatch.setattr("scaling.data.contamination._MOST_BITS", most_bits)
    draw = np.random.default_rng(0)
    entered, other = draw.integers(0, 2**64, (2, 30_000), np.uint64)
    tables = empty_tables(len(entered))
    assert tables.shape == (2, 2**most_bits // 8 if most_bits < 31 else 2**16)
    for some in np.split(entered, 3):
        enter(some, tables)
    assert np.array_equal(perhaps_entered(entered, tables), entered)
    through = perhaps_entered(other, tables)
    assert np.isin(through, other).all()
    assert len(through) / len(other) <= others
    assert not len(perhaps_entered(entered, empty_tables(len(entered))))


def test_how_much_is_held_changes_nothing(tmp_path, monkeypatch):
    """A corpus in many blocks and ranges gives the store of one that is looked at whole."""
    texts = sentences(300, 60)
    near = [text.replace(text.split()[30], "other", 1) for text in texts[:50]]
    # One run of 13 words each, so that no second one makes up for a run that is lost.
    quoting = [" ".join([text, *texts[number].split()[40:53]])
               for number, text in enumerate(sentences(200, 20, 1))]
    source = corpus(tmp_path, [*texts, *near, *quoting, *texts[:9]])
    options = {"test_fraction": 0.3, "deduplicate": "near", "contamination": "drop"}
    whole = prepare(source, "byte", None, tmp_path / "whole", 0.2, **options)
    for name, bound in (("deduplicate.HELD", 90), ("ranges.HELD", 90), ("prepare.scan._RUNS", 300),
                        ("prepare.scan._DOCUMENTS", 40), ("prepare.contaminated.HELD", 20),
                        ("prepare.contaminated._BLOCK", 50), ("prepare.tokenizing._BLOCK", 16)):
        monkeypatch.setattr(f"scaling.data.{name}", bound)
    cut = prepare(source, "byte", None, tmp_path / "cut", 0.2, **options)
    assert cut.manifest == whole.manifest
    for file in sorted(whole.manifest.files()):
        assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert cut.manifest.duplicates == 9
    assert cut.manifest.near_duplicates > 20
    assert cut.manifest.contaminated > 30


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.9])
def test_near_duplicates_collide_as_minhash_says(similarity):
    """The share of pairs that agree in a band, and in any, against the Jaccard index that the
    sets of words were built to have."""
    pairs, shared, own = 300, round(90 * similarity), round(90 * (1 - similarity) / 2)
    draw = random.Random(1)
    texts = []
    for pair in range(pairs):
        # A run for each separate word: sentences of five words in a row that never come again.
        common = [f"{pair}c{i}" for i in range(shared + 4)]
        for side in "ab":
            end = [f"{pair}{side}{i}" for i in range(own)]
            texts.append(" ".join(common + end))
        draw.shuffle(common)
    a, b = (shingles(text, 5) for text in texts[:2])
    index = len(a & b) / len(a | b)
    bands = np.concatenate(list(band_hashes(texts, WordHashes())), axis=1)
    same = bands[:, ::2] == bands[:, 1::2]
    for found, expected, count in (
        (same.mean(), index**ROWS, pairs * BANDS),
        (same.any(axis=0).mean(), 1 - (1 - index**ROWS) ** BANDS, pairs),
    ):
        error = (expected * (1 - expected) / count) ** 0.5
        assert abs(found - expected) < 4 * error + 1e-3


def test_near_duplicates_are_dropped_and_the_first_stays(tmp_path):
    texts = sentences(150, 200)
    changed = [text.replace(text.split()[100], "other", 1).upper() for text in texts[:40]]
    store = prepare(corpus(tmp_path, texts + changed + texts[:3]), "byte", None,
                    tmp_path / "store", 0.2, deduplicate="near")
    assert sorted(everything(store)) == sorted(texts)
    assert store.manifest.duplicates == 3
    assert store.manifest.near_duplicates == 40
    exact = prepare(corpus(tmp_path, texts + changed + texts[:3]), "byte", None,
                    tmp_path / "exact", 0.2)
    assert sorted(everything(exact)) == sorted(texts + changed)
    none = prepare(corpus(tmp_path, texts + texts[:3]), "byte", None, tmp_path / "none", 0.2,
                   deduplicate="none")
    assert sorted(everything(none)) == sorted(texts + texts[:3])
    assert none.manifest.duplicates == 0


def test_short_texts_and_signs_are_only_like_themselves(tmp_path):
    texts = ["yes", "no", "?!", "?", "!?", "yes no", "no yes", "one two three four", *WORDS[:90]]
    store = prepare(corpus(tmp_path, [*texts, "YES", "?!"]), "byte", None, tmp_path / "store",
                    0.2, deduplicate="near")
    assert sorted(everything(store)) == sorted(texts)
    assert (store.manifest.near_duplicates, store.manifest.duplicates) == (1, 1)


@pytest.mark.parametrize("policy", ["report", "drop"])
def test_contamination_is_what_its_definition_says(tmp_path, policy):
    texts = sentences(400, 40)
    draw = random.Random(3)
    for number in range(0, 400, 2):  # half of them quote an odd one, 11 to 14 words of it
        quoted = draw.choice(texts[1::2]).split()
        start, length = draw.randrange(20), draw.randint(11, 14)
        words = texts[number].split()
        words[5:5 + length] = quoted[start:start + length]
        texts[number] = ", ".join(words).title()
    source = corpus(tmp_path, texts)
    plain = prepare(source, "byte", None, tmp_path / "plain", 0.1, test_fraction=0.3)
    train = set().union(*(shingles(text, 13) for text in texts_of(plain, "train")))
    test = texts_of(plain, "test")
    bad = [text for text in test if shingles(text, 13) & train]
    assert 10 < len(bad) < len(test) - 10
    store = prepare(source, "byte", None, tmp_path / "store", 0.1, test_fraction=0.3,
                    contamination=policy)
    assert store.manifest.contaminated == len(bad)
    assert plain.manifest.contaminated is None
    expected = test if policy == "report" else [text for text in test if text not in bad]
    assert texts_of(store, "test") == expected
    for split in ("train", "validation"):
        assert texts_of(store, split) == texts_of(plain, split)


@pytest.mark.parametrize("max_bytes", [None, 30_000])
def test_a_mix_has_its_shares_of_the_bytes(tmp_path, max_bytes):
    first = corpus(tmp_path, [f"a {text}" for text in sentences(600, 12, 1)], "first")
    second = corpus(tmp_path, [f"b {text}" for text in sentences(500, 30, 2)], "second")
    store = prepare(f"mix:3*{first} + 1*{second}", "byte", None, tmp_path / "store", 0.2, max_bytes,
                    workers=1)
    texts = everything(store)
    sizes = {mark: sum(len(text) for text in texts if text[0] == mark) for mark in "ab"}
    assert sizes["a"] / sum(sizes.values()) == pytest.approx(0.75, abs=0.03)
    if max_bytes is None:  # the source that runs out first is taken whole
        assert sum(text[0] == "a" for text in texts) == 600
    else:
        assert 0.9 * max_bytes < sum(sizes.values()) <= max_bytes
    assert store.corpus == "first-second"
    # The choice is no part of the choice of the split.
    held = [text for text in texts_of(store, "validation") if text[0] == "b"]
    assert len(held) / sum(text[0] == "b" for text in texts) == pytest.approx(0.2, abs=0.12)


@pytest.mark.parametrize(("policy", "expected"), [
    ("skip", ["good"]), ("replace", ["good", "caf\ufffd"]),
])
def test_text_that_is_not_utf8_is_counted(tmp_path, policy, expected):
    for number in range(60):
        (tmp_path / f"{number:02}.txt").write_bytes(f"{number:02} good".encode())
    (tmp_path / "bad.txt").write_bytes(b"-- caf\xe9")
    source = f"text:{tmp_path}/*.txt"
    with pytest.raises(UserError, match=r"bad\.txt: not UTF-8"):
        prepare(source, "byte", None, tmp_path / "store", 0.2)
    store = prepare(source, "byte", None, tmp_path / "store", 0.2, not_utf8=policy)
    assert store.manifest.not_utf8 == 1
    assert {text[3:] for text in everything(store)} == set(expected)
    assert len(everything(store)) == 59 + len(expected)


def test_a_large_corpus_teaches_its_tokenizer_by_a_share(tmp_path, monkeypatch):
    source = corpus(tmp_path, sentences(800, 20))
    given = []

    def train(kind, texts, vocab_size, roles, sentinels):
        given.extend(texts)
        return real(kind, given, vocab_size, roles, sentinels)

    from scaling.data.prepare import making, tokenizing

    real = making.train_tokenizer
    monkeypatch.setattr(making, "train_tokenizer", train)
    for module in (making, tokenizing):
        monkeypatch.setattr(module, "SAMPLE_BYTES", 40_000)
    store = prepare(source, "bpe", 300, tmp_path / "store", 0.2)
    assert store.manifest.tokenizer_bytes == 40_000
    assert set(given) < set(texts_of(store, "train"))
    assert sum(map(len, given)) == pytest.approx(40_000, rel=0.2)


def test_a_language_is_a_store_without_shards(tmp_path):
    source = "synthetic:markov,vocab=64,seed=1,tokens=1e6"
    store = prepare(source, "none", None, tmp_path / "store", special=("mask",), sentinels=2)
    assert [path.name for path in store.path.iterdir()] == ["manifest.json"]
    assert (store.special.eos, store.special.mask) == (64, 65)
    assert sorted(store.special.sentinels) == [66, 67]
    assert store.vocab_size == 68
    index = np.array([5, 0, 7])
    for split in store.splits():
        rows = store.split(split).rows(index, 16, 17)
        assert rows.dtype == store.dtype
        assert np.array_equal(rows, store.manifest.language.rows(split, index, 17))
    assert store.split("train").tokens == 10**6
    assert store.split("train").count(16, 17) == (10**6 - 1) // 16
    with pytest.raises(UserError, match="has no documents"):
        store.split("train").offsets()
    with pytest.raises(UserError, match="no tokenizer"):
        store.tokenizer()
    assert np.isnan(store.bytes_per_token("train"))
    assert store.manifest.entropy.rate == store.manifest.language.entropy().rate
    again = prepare(source, "none", None, tmp_path / "store", special=("mask",), sentinels=2)
    assert again.hash == store.hash
    other = prepare(source.replace("seed=1", "seed=2"), "none", None, tmp_path / "other")
    assert other.hash != store.hash
    with pytest.raises(UserError, match="holds another store"):
        prepare(source, "none", None, tmp_path / "store")
    for wrong in ((source, "byte"), ("stdlib", "none")):
        with pytest.raises(UserError, match="takes the tokenizer none"):
            prepare(*wrong, None, tmp_path / "wrong")
