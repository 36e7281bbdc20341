"""Tokenizers are lossless, split as GPT-2 does, and never encode text to the end of a document."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling.data.tokenizers import ByteTokenizer, SubwordTokenizer, load_tokenizer, train_tokenizer
from scaling.data.tokenizers.special import SpecialTokens
from scaling.errors import UserError

pytestmark = pytest.mark.quick

TEMPTING = [
    "route66 route66 covid19 covid19 3rd 3rd x=1; x=1; foo_bar foo_bar end.Start end.Start",
    "don't don't it's we'll they've I'm he'd\n\nnew  line\t\ttabs   spaces",
    "naïve café 日本語2024年 日本語2024年 Ωλη123 Ωλη123 🙂ok 🙂ok",
    "<eos> <eos> <eos>",
]
VOCABULARY = 350
BYTE_HASH, BPE_HASH = "a75d27b6f7774355", "ca799cbe66d0c61e"  # of the first version


def merges(tokenizer):
    return tokenizer.definition["model"]["merges"]


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer("bpe", TEMPTING * 40, VOCABULARY)


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request, bpe):
    return bpe if request.param == "bpe" else ByteTokenizer()


@given(text=st.text())
@example(text="")
@example(text="a<eos>b <eos>")
@example(text="  \r\n\x00\t ")
@settings(max_examples=150, deadline=None)
def test_text_comes_back_as_it_was(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos not in ids
    assert ids.size == 0 or ids.max() < tokenizer.vocab_size


@given(texts=st.lists(st.text(), max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_its_texts_encoded_one_by_one(tokenizer, texts):
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text).tolist() for text in texts]


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_a_byte_is_its_value(text):
    assert ByteTokenizer().encode(text).tolist() == list(text.encode("utf-8"))


def test_the_end_of_a_document_is_no_text(tokenizer):
    ids = [tokenizer.eos, *tokenizer.encode("one"), tokenizer.eos, *tokenizer.encode(" two")]
    assert tokenizer.decode(ids) == "one two"
    assert 0 <= tokenizer.eos < tokenizer.vocab_size


def test_a_partial_character_becomes_the_replacement_character(tokenizer):
    ids = tokenizer.encode("\u0e01")  # three bytes that no merge of the corpus joins
    assert len(ids) == 3
    assert tokenizer.decode(ids[:2]).strip("\ufffd") == ""


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, wrong):
    with pytest.raises(ValueError, match="vocabulary"):
        tokenizer.decode([1, wrong])


def kind(character: str) -> str:
    if character.isspace():
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")


def one_piece(text: str) -> bool:
    """Whether GPT-2's pre-tokenizer can leave this string in one piece: one kind of character,
    with a space in front unless it is whitespace, or part of a contraction."""
    body = text[1:] if text.startswith(" ") and text.strip() else text
    return re.match(r"'(s|t|re?|ve?|m|ll?|d)$", text) is not None or len(set(map(kind, body))) <= 1


def test_no_token_spans_two_kinds_of_character(bpe):
    joined = [token for token in bpe.vocab if len(token) > 1 and token != "<eos>"]
    assert len(joined) == VOCABULARY - 257
    whole = 0
    for token in joined:
        text = bpe.decode([bpe.vocab[token]])
        if "\ufffd" not in text:  # part of a character
            whole += 1
            assert one_piece(text), text
    assert whole > 60
    assert bpe.encode("route66").size > 1
    assert bpe.encode(" route").size == 1


@given(pieces=st.lists(st.sampled_from(
    ["route", "66", "covid", "19", "x", "=", "1", ";", "foo", "_", "don", "'t", " ", "\n", "."]
)))
@settings(max_examples=60, deadline=None)
def test_no_encoding_spans_two_kinds_of_character(bpe, pieces):
    assert all(one_piece(bpe.decode([number])) for number in bpe.encode("".join(pieces)))


def test_training_is_deterministic_and_merges_compress(bpe):
    again = train_tokenizer("bpe", iter(TEMPTING * 40), VOCABULARY)
    assert (again.definition, again.hash) == (bpe.definition, bpe.hash)
    assert bpe.vocab_size == len(bpe.vocab) == VOCABULARY
    assert len(merges(bpe)) == VOCABULARY - 257
    text = TEMPTING[0]
    assert len(bpe.encode(text)) < len(text) / 2


def test_saving_and_loading_preserves_the_tokenizer(bpe, tmp_path):
    bpe.save(tmp_path)
    loaded = load_tokenizer("bpe", tmp_path, bpe.special)
    assert loaded.hash == bpe.hash
    assert loaded.eos == bpe.eos
    for text in TEMPTING:
        assert np.array_equal(loaded.encode(text), bpe.encode(text))
    byte = load_tokenizer("byte", tmp_path, SpecialTokens(eos=256))
    assert byte.hash == ByteTokenizer().hash != bpe.hash


def test_the_file_is_one_that_the_library_reads(bpe, tmp_path):
    from tokenizers import Tokenizer

    bpe.save(tmp_path)
    foreign = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEMPTING[:3]:
        assert foreign.encode(text).ids == bpe.encode(text).tolist()
    assert foreign.token_to_id("<eos>") == bpe.eos


def with_model(tokenizer, **changes):
    """The same with another vocabulary or other merges."""
    model = {**tokenizer.definition["model"], **changes}
    return SubwordTokenizer({**tokenizer.definition, "model": model}, tokenizer.special)


def test_the_hash_covers_everything_that_affects_encoding(bpe):
    first, second, *rest = merges(bpe)
    assert with_model(bpe, merges=[second, first, *rest]).hash != bpe.hash
    one, other = list(bpe.vocab)[1:3]
    vocab = bpe.vocab | {one: bpe.vocab[other], other: bpe.vocab[one]}
    assert with_model(bpe, vocab=vocab).hash != bpe.hash
    assert SubwordTokenizer(bpe.definition, SpecialTokens(eos=1)).hash != bpe.hash
    for key, value in (("normalizer", {"type": "NFC"}), ("pre_tokenizer", None)):
        assert SubwordTokenizer({**bpe.definition, key: value}, bpe.special).hash != bpe.hash
    decoder = {**bpe.definition, "decoder": None}  # affects no id
    assert SubwordTokenizer(decoder, bpe.special).hash == bpe.hash


def test_the_hashes_of_the_first_stores_have_not_changed():
    """So that data prepared with the first version keep their hash, and so do their runs."""
    assert ByteTokenizer().hash.startswith(BYTE_HASH)
    bpe = train_tokenizer("bpe", ["low lower lowest"] * 3, 260)
    assert bpe.hash.startswith(BPE_HASH)


def test_merges_are_applied_by_hand(bpe):
    """Sennrich et al. 2016, algorithm 1: apply the earliest matching merge until none matches."""
    order = {tuple(pair): rank for rank, pair in enumerate(merges(bpe))}
    for word in ("route", "covid", "foo", "Start", "spaces", "rooted", "stared"):
        parts = list(word)
        while pairs := [pair for pair in pairwise(parts) if pair in order]:
            best = min(pairs, key=order.__getitem__)
            k = list(pairwise(parts)).index(best)
            parts[k : k + 2] = ["".join(best)]
        assert bpe.encode(word).tolist() == [bpe.vocab[part] for part in parts]


def test_large_vocabularies_need_uint32():
    # Entries that no merge produces, after a real byte alphabet.
    small = train_tokenizer("bpe", ["abc"], 257)
    vocab = small.vocab | {f"unused{i}": 257 + i for i in range(2**16)}
    assert with_model(small, vocab=vocab).encode("abc").dtype == np.uint32


def test_a_vocabulary_too_large_for_the_corpus_is_refused():
    with pytest.raises(UserError, match=r"has at most 259 tokens; choose that or less"):
        train_tokenizer("bpe", ["abc"], 1000)


@pytest.mark.parametrize("content", [
    "", "[]", "{}", '{"model": {"vocab": {"a": 0}, "merges": []}}',
    json.dumps({"model": {"vocab": {"<eos>": 0, "a": 7}, "merges": []}}),
    json.dumps({"model": {"vocab": {"<eos>": 0, "a": 1}, "merges": [["a"]]}}),
    json.dumps({"model": {"type": "WordLevel", "vocab": {"<eos>": 0, "a": 1}}}),
    json.dumps({"model": {"type": "WordPiece", "vocab": {"<eos>": 0, "a": 1}}}),
])
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: not a BPE tokenizer"):
        load_tokenizer("bpe", tmp_path, SpecialTokens(eos=1))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json: missing"):
        load_tokenizer("bpe", tmp_path, SpecialTokens(eos=1))


def test_without_the_library_the_command_to_install_it(monkeypatch, bpe, tmp_path):
    bpe.save(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'scaling\[bpe\]'"):
        train_tokenizer("bpe", ["abc"], 257)
    # Its hash, and so the check of a store, needs no library; nor do word starts.
    loaded = load_tokenizer("bpe", tmp_path, bpe.special)
    assert loaded.hash == bpe.hash
    assert loaded.word_starts().sum() > 1
    with pytest.raises(UserError, match=r"pip install 'scaling\[bpe\]'"):
        loaded.encode("abc")
