"""The selection of documents: duplicates, near-duplicates, mixes, contamination."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scaling.data.prepare import minhash, prepare
from scaling.data.prepare.minhash import BANDS, ROWS, band_hashes, later_duplicates, sort_keys
from scaling.data.prepare.ngram_filter import empty_filter, insert, maybe_contained
from scaling.data.prepare.shingles import WordHashes, ngram_hashes
from scaling.data.store import TokenStore
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


def test_ngram_hashes_are_equal_if_the_words_are():
    hashes = WordHashes()
    found = ngram_hashes(hashes.of("The cat, the CAT; the dog: the cat the"), 3)
    expected = ["the cat the", "cat the cat", "the cat the", "cat the dog", "the dog the",
                "dog the cat", "the cat the"]
    assert [[a == b for b in found] for a in found] == [[a == b for b in expected]
                                                         for a in expected]
    assert len(ngram_hashes(hashes.of("two words"), 3)) == 0


@pytest.mark.parametrize("held", [1, 7, 10**6])
def test_duplicates_are_found_for_any_block_size(monkeypatch, held):
    for module in ("minhash", "external_sort"):
        monkeypatch.setattr(f"scaling.data.prepare.{module}.HASHES_IN_MEMORY", held)
    draw = np.random.default_rng(0)
    # Equal first words with other second ones, over the whole range of a uint64.
    pieces = [draw.integers(0, 5, (2, size), np.uint64) * np.uint64(2**62 - 1)
              for size in (0, 40, 1, 25)]
    opened = [sort_keys(piece) for piece in pieces]
    found = [(piece, place) for piece, places in later_duplicates([lambda o=o: o for o in opened])
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


def test_a_recurring_key_is_kept_in_memory_once(monkeypatch):
    held, size, sorted_at_once = 200, 50, []
    for module in ("minhash", "external_sort"):
        monkeypatch.setattr(f"scaling.data.prepare.{module}.HASHES_IN_MEMORY", held)
    sort = minhash._find_duplicates

    def later(seen, blocks):
        sorted_at_once.append(seen.shape[1] + sum(len(places) for *_, places in blocks))
        return sort(seen, blocks)

    monkeypatch.setattr(minhash, "_find_duplicates", later)
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 2**64, (2, 4000), np.uint64)
    keys[:, draw.random(4000) < 0.9] = np.uint64(2**63)
    blocks = [sort_keys(keys[:, start:start + size]) for start in range(0, 4000, size)]
    found = sorted(size * block + place
                   for block, places in later_duplicates([lambda b=b: b for b in blocks])
                   for place in places.tolist())
    again = np.flatnonzero(keys[0] == 2**63)[1:]
    assert found == again.tolist()
    assert max(sorted_at_once) < 2 * held
    assert len(again) > 3000


@pytest.mark.parametrize(("most_bits", "others"), [(31, 1 / 256), (10, 1.0)])
def test_the_filter_passes_all_inserted_hashes_and_few_others(monkeypatch, most_bits, others):
    monkeypatch.setattr("scaling.data.prepare.ngram_filter._MOST_BITS", most_bits)
    draw = np.random.default_rng(0)
    entered, other = draw.integers(0, 2**64, (2, 30_000), np.uint64)
    tables = empty_filter(len(entered))
    assert tables.shape == (2, 2**most_bits // 8 if most_bits < 31 else 2**16)
    for some in np.split(entered, 3):
        insert(some, tables)
    assert np.array_equal(maybe_contained(entered, tables), entered)
    through = maybe_contained(other, tables)
    assert np.isin(through, other).all()
    assert len(through) / len(other) <= others
    assert not len(maybe_contained(entered, empty_filter(len(entered))))


def test_the_filter_of_a_large_corpus_takes_half_a_gigabyte_and_that_of_a_small_one_little():
    """Sixteen bits for each hash, rounded up to a power of two, in each of two tables."""
    assert empty_filter(2**40).nbytes == 2**29
    assert empty_filter(2**27).nbytes == 2**29
    assert [empty_filter(count).nbytes for count in (0, 1, 1023, 1024)] == [
        2**8, 2**8, 2**12, 2**13]


def test_block_sizes_do_not_change_the_result(tmp_path, monkeypatch):
    """A corpus processed in many blocks and ranges gives the same store as in a single one."""
    texts = sentences(300, 60)
    near = [text.replace(text.split()[30], "other", 1) for text in texts[:50]]
    # One 13-gram each, so that a lost one is not compensated by another.
    quoting = [" ".join([text, *texts[number].split()[40:53]])
               for number, text in enumerate(sentences(200, 20, 1))]
    source = corpus(tmp_path, [*texts, *near, *quoting, *texts[:9]])
    options = {"test_fraction": 0.3, "deduplicate": "near", "contamination": "drop"}
    whole = prepare(source, "byte", None, tmp_path / "whole", 0.2, **options)
    for name, bound in (("minhash.HASHES_IN_MEMORY", 90), ("external_sort.HASHES_IN_MEMORY", 90),
                        ("scan._NGRAMS", 300), ("scan._DOCUMENTS", 40),
                        ("contamination.HASHES_IN_MEMORY", 20), ("contamination._BLOCK", 50),
                        ("tokenizing._BLOCK", 16)):
        monkeypatch.setattr(f"scaling.data.prepare.{name}", bound)
    cut = prepare(source, "byte", None, tmp_path / "cut", 0.2, **options)
    assert cut.manifest == whole.manifest
    for file in sorted(whole.manifest.files()):
        assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert cut.manifest.duplicates == 9
    assert cut.manifest.near_duplicates > 20
    assert cut.manifest.contaminated > 30


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.9])
def test_near_duplicates_collide_with_the_minhash_probability(similarity):
    """The share of pairs that agree in a band, and in any, against the Jaccard index that the
    sets of words were built to have."""
    pairs, shared, own = 300, round(90 * similarity), round(90 * (1 - similarity) / 2)
    draw = random.Random(1)
    texts = []
    for pair in range(pairs):
        # One 5-gram per set element: sentences of five words that do not recur.
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


def test_the_bands_of_a_text_are_those_of_earlier_versions():
    """They decide which documents a store has: prepared again, it has to be the same."""
    texts = ["the quick brown fox jumps over the lazy dog", "?!"]
    bands = np.concatenate(list(band_hashes(texts, WordHashes())), axis=1)
    assert bands[[0, 1, 15]].tolist() == [
        [10970694641908683837, 911897993381916018],
        [14994289694029545600, 931116822093813491],
        [13577079482615023986, 1159953612812840907]]


def test_near_duplicates_are_judged_by_runs_of_five_words():
    """Both texts have the same five runs of four words, and one run of five of their own."""
    first, second = "a b c d e a b c", "b c d e a b c d"
    assert shingles(first, 4) == shingles(second, 4)
    assert len(shingles(first, 5) ^ shingles(second, 5)) == 2
    bands = np.concatenate(list(band_hashes([first, second], WordHashes())), axis=1)
    assert (bands[:, 0] != bands[:, 1]).any()
    # The number and the width of the bands are such that most of the pairs alike in 0.8 are found
    # (Lee et al.).
    chances = [1 - (1 - index**12) ** 16 for index in (0.6, 0.7, 0.8, 0.9)]
    assert chances == pytest.approx([0.03, 0.20, 0.68, 0.996], abs=5e-3)
    assert (BANDS, ROWS) == (16, 12)


def test_near_duplicates_are_dropped_except_the_first(tmp_path):
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


def test_short_and_wordless_texts_only_match_themselves(tmp_path):
    texts = ["yes", "no", "?!", "?", "!?", "yes no", "no yes", "one two three four", *WORDS[:90]]
    store = prepare(corpus(tmp_path, [*texts, "YES", "?!"]), "byte", None, tmp_path / "store",
                    0.2, deduplicate="near")
    assert sorted(everything(store)) == sorted(texts)
    assert (store.manifest.near_duplicates, store.manifest.duplicates) == (1, 1)


@pytest.mark.parametrize("policy", ["report", "drop"])
def test_contamination_matches_its_definition(tmp_path, policy):
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
    if max_bytes is None:  # the source that is exhausted first is used completely
        assert sum(text[0] == "a" for text in texts) == 600
    else:
        assert 0.9 * max_bytes < sum(sizes.values()) <= max_bytes
    assert store.corpus == "first-second"
    # The subsampling is independent of the split.
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


def test_a_tokenizer_is_trained_on_a_sample_of_a_large_corpus(tmp_path, monkeypatch):
    source = corpus(tmp_path, sentences(800, 20))
    given = []

    def train(kind, texts, vocab_size, roles, sentinels):
        given.extend(texts)
        return real(kind, given, vocab_size, roles, sentinels)

    from scaling.data.prepare import pipeline, tokenizing

    real = pipeline.train_tokenizer
    monkeypatch.setattr(pipeline, "train_tokenizer", train)
    for module in (pipeline, tokenizing):
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
    with pytest.raises(UserError, match="is another store"):
        prepare(source, "none", None, tmp_path / "store")
    for wrong in ((source, "byte"), ("stdlib", "none")):
        with pytest.raises(UserError, match="takes the tokenizer none"):
            prepare(*wrong, None, tmp_path / "wrong")


def test_a_mix_records_the_bytes_of_each_source(tmp_path, command):
    given = {"a": [f"a {text}" for text in sentences(300, 12, 1)],
             "b": [f"b {text}" for text in sentences(900, 30, 2)]}
    first, second = (corpus(tmp_path, texts, name) for name, texts in (
        ("first", given["a"]), ("second", given["b"] * 2)))
    mix, out = f"mix:3*{first} + 1*{second}", tmp_path / "store"
    done = command("data", "prepare", mix, "--out", out, "--validation-fraction", "0.2")
    assert done.code == 0
    store = TokenStore.open(out)
    texts = everything(store)
    for part, mark, share in zip(store.manifest.mixture, "ab", (0.75, 0.25), strict=True):
        assert part.share == share
        assert part.bytes == sum(len(text) for text in texts if text[0] == mark)
        assert part.available == sum(map(len, set(given[mark])))
    assert store.manifest.mixture[0].bytes == store.manifest.mixture[0].available
    left = 1 - store.manifest.mixture[1].bytes / store.manifest.mixture[1].available
    assert left > 0.5  # of the distinct documents
    shown = command("data", "show", out)
    for printed in (done.out, shown.out):
        assert f"{second}: {left:.0%} of its text is omitted" in printed
        assert f"{1 - left:.3f}" in printed
    assert "1.000" in done.out
    alone = prepare(first, "byte", None, tmp_path / "alone", 0.2)
    assert alone.manifest.mixture == ()
    assert "mixture" not in (tmp_path / "alone" / "manifest.json").read_text()


def test_every_source_and_weight_of_a_mix_is_in_its_recipe(tmp_path):
    first = corpus(tmp_path, [f"a {text}" for text in sentences(120, 12, 1)], "first")
    texts = [f"b {text}" for text in sentences(120, 12, 2)]
    second, out = corpus(tmp_path, texts, "second"), tmp_path / "store"
    mix = f"mix:2*{first} + 1*{second}"
    prepare(mix, "byte", None, out, 0.2, workers=1)
    assert prepare(mix, "byte", None, out, 0.2, workers=1).path == out
    with pytest.raises(UserError, match="is another store"):
        prepare(f"mix:3*{first} + 1*{second}", "byte", None, out, 0.2, workers=1)
    corpus(tmp_path, [*texts, "b one more"], "second")
    with pytest.raises(UserError, match="is another store"):
        prepare(mix, "byte", None, out, 0.2, workers=1)

    def change(stage, done, total):
        if stage == "writing indexes":
            corpus(tmp_path, texts, "second")

    with pytest.raises(UserError, match="its files changed while they were read"):
        prepare(mix, "byte", None, tmp_path / "other", 0.2, None, change, workers=1)


@pytest.mark.parametrize(("weights", "message"), [
    ((1e9, 1e-9), r"nothing of .*second.* would be used, since a share of 1\.0e-18 is less than"),
    ((1e-9, 1e9), r"nothing of .*first.* would be used"),
])
def test_a_weight_that_selects_nothing_is_refused(tmp_path, weights, message):
    names = [corpus(tmp_path, [f"{mark} {text}" for text in sentences(60, 12, 1)], mark)
             for mark in ("first", "second")]
    terms = " + ".join(f"{weight}*{name}" for weight, name in zip(weights, names, strict=True))
    with pytest.raises(UserError, match=message):
        prepare(f"mix:{terms}", "byte", None, tmp_path / "store", 0.2)


def test_overlapping_sources_are_refused(tmp_path):
    first = corpus(tmp_path, sentences(60, 12, 1), "first")
    again = corpus(tmp_path, sentences(60, 12, 1), "again")
    glob = first.replace("first", "*")
    for other in (glob, first.replace(f"{tmp_path}", f"{tmp_path}/./.")):
        with pytest.raises(UserError, match=r"both contain .*first.*; name every file in one of"):
            prepare(f"mix:1*{first} + 1*{other}", "byte", None, tmp_path / "store", 0.2)
    with pytest.raises(UserError, match="the sources before it contain all of its text"):
        prepare(f"mix:1*{first} + 1*{again}", "byte", None, tmp_path / "store", 0.2)


def test_names_of_corpora_are_short_and_plain(tmp_path):
    hostile = tmp_path / ("=cmd|' C calc'!A0" + "é" * 30 + "x" * 100)
    hostile.mkdir()
    source = corpus(hostile, sentences(60, 12, 1), "=1+1").replace("=1+1", "*")
    store = prepare(source, "byte", None, tmp_path / "store", 0.2)
    assert store.corpus == ("cmd-C-calc-A0-" + "x" * 100)[:64]
    content = json.loads((store.path / "manifest.json").read_text())
    for corpus_name in ("=1+1", "a/b", "a\nb", "", "x" * 65, "-a", "@a", "+1"):
        (store.path / "manifest.json").write_text(json.dumps(content | {"corpus": corpus_name}))
        with pytest.raises(UserError, match="corpus"):
            TokenStore.open(store.path)
