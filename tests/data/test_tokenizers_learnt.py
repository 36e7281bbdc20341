"""Trained WordPiece and Unigram vocabularies, and their special tokens."""

from __future__ import annotations

import inspect
import math
import textwrap
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling.data.tokenizers import load_tokenizer, train_tokenizer
from scaling.data.tokenizers.special import ROLES, sentinel, spelling
from scaling.errors import UserError

TEXTS = [
    "The cat sat on the mat; the dog, unaffable and unkind, sat on the cat's hat.",
    "Ein Café in Zürich: naïve Leute reden, und niemand hört ihnen länger zu.",
    "Numbers 1234 and 5678, x = y + 2024;\n\n\tdef walk(home): return home[0]",
    "<mask> <eos> <extra_id_0> </s> [MASK] <0x41> again and again and again",
] * 20 + inspect.getsource(textwrap).splitlines()
ALL = (*ROLES[1:], "eos")  # in another order than their ids
SENTINELS = 5
SIZES = {"byte": None, "bpe": 400, "wordpiece": 200, "unigram": 400}


@pytest.fixture(scope="module")
def learnt():
    return {kind: train_tokenizer(kind, iter(TEXTS), size, ALL, SENTINELS)
            for kind, size in SIZES.items()}


@pytest.fixture(params=list(SIZES))
def tokenizer(request, learnt):
    return learnt[request.param]


@pytest.fixture
def wordpiece(learnt):
    return learnt["wordpiece"]


@pytest.fixture
def unigram(learnt):
    return learnt["unigram"]


def test_special_tokens_are_included_in_a_fixed_order(tokenizer):
    special, size = tokenizer.special, SIZES[tokenizer.kind]
    assert tokenizer.vocab_size == (size or 256 + len(ROLES) + SENTINELS)
    roles = [getattr(special, role) for role in ROLES]
    first = 256 if tokenizer.kind == "byte" else 0
    assert roles == list(range(first, first + len(ROLES)))
    # Sentinels descend, and <extra_id_0> is the last of all special tokens.
    assert special.sentinels == tuple(roles[-1] + SENTINELS - k for k in range(SENTINELS))
    assert tokenizer.eos == special.eos
    if tokenizer.kind != "byte":
        assert tokenizer.vocab[sentinel(0)] == special.sentinels[0]
        assert tokenizer.vocab[spelling("mask")] == special.mask


def test_default_special_tokens_are_eos_and_those_the_kind_needs():
    for kind, size in {**SIZES, "wordpiece": 150}.items():
        special = train_tokenizer(kind, TEXTS, size).special
        needed = {"eos"} | ({"unk"} if kind in ("wordpiece", "unigram") else set())
        assert {role for role in ROLES if getattr(special, role) is not None} == needed, kind
        assert special.sentinels == ()


@given(text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(
    [" ", "<", "mask", ">", "<mask>", "<eos>", "<extra_id_0>", "<sep>", "again", "<pad>", "\n"]
), max_size=8).map("".join)))
@example("<mask>")
@example(" <mask> <eos>")
@example("a<eos>")
@example("<extra_id_4><cls><sep><pad>")
@settings(max_examples=80, deadline=None)
def test_no_text_becomes_a_special_token(learnt, text):
    for kind, tokenizer in learnt.items():
        forbidden = set(tokenizer.special.ids()) - {tokenizer.special.unk}
        ids = tokenizer.encode(text)
        assert not forbidden & set(ids.tolist()), kind
        if kind == "unigram":  # it has a piece for every byte
            assert tokenizer.special.unk not in ids


def test_special_tokens_are_no_text(tokenizer):
    special = tokenizer.special
    ids = [special.cls, *tokenizer.encode("the cat"), special.mask, special.sentinels[1],
           special.sep, special.pad, special.eos]
    assert tokenizer.decode(ids) == "the cat"


def test_training_is_deterministic(learnt):
    for kind in ("wordpiece", "unigram"):
        again = train_tokenizer(kind, TEXTS, SIZES[kind], ALL, SENTINELS)
        assert again.definition == learnt[kind].definition, kind
        assert again.hash == learnt[kind].hash


def test_saving_and_loading_preserves_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tokenizer.kind, tmp_path, tokenizer.special)
    assert (loaded.hash, loaded.vocab_size, loaded.special) == (
        tokenizer.hash, tokenizer.vocab_size, tokenizer.special)
    assert np.array_equal(loaded.word_starts(), tokenizer.word_starts())
    for text in TEXTS[:4]:
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()


def words(text):
    """BERT's basic tokenisation of uncased text (Devlin et al. 2019, tokenization.py)."""
    text = unicodedata.normalize("NFD", text.lower())
    word = ""
    for character in text + " ":
        category = unicodedata.category(character)
        if category == "Mn":
            continue
        mark = category[0] == "P" or (character.isascii() and not character.isalnum()
                                      and character.isprintable())
        if character.isspace() or mark:
            yield from ([word] if word else [])
            word = ""
            if mark and character != " ":
                yield character
        else:
            word += character


def greedy(word, vocab):
    """The longest piece first, from the left; one `unk` where none fits."""
    pieces, start = [], 0
    while start < len(word):
        ahead = "##" if start else ""
        end = next((end for end in range(len(word), start, -1)
                    if ahead + word[start:end] in vocab), None)
        if end is None:
            return ["<unk>"]
        pieces.append(ahead + word[start:end])
        start = end
    return pieces


@given(text=st.lists(st.sampled_from(
    ["The", "cat", "unaffable", "Zürich", "naïve", "1234", "xyzzy", ",", "'", " ", "\n", "q", "日"]
)).map("".join))
@example(" ".join(TEXTS[:4]))
@settings(max_examples=60, deadline=None)
def test_wordpiece_is_greedy_longest_match(learnt, text):
    tokenizer = learnt["wordpiece"]
    expected = [piece for word in words(text.replace("日", " 日 "))
                for piece in greedy(word, tokenizer.vocab)]
    assert tokenizer.encode(text).tolist() == [tokenizer.vocab[piece] for piece in expected]


def test_wordpiece_learns_words_and_keeps_them_apart(wordpiece):
    assert wordpiece.encode("AGAIN").tolist() == [wordpiece.vocab["again"]]
    assert wordpiece.decode(wordpiece.encode("The CAT naïve")) == "the cat naive"
    starts = wordpiece.word_starts()
    for token, number in wordpiece.vocab.items():
        assert starts[number] == (not token.startswith("##")), token
    text = "The unaffable cat, again"
    ids = wordpiece.encode(text)
    assert starts[ids].sum() == len(list(words(text)))


def test_wordpiece_omits_the_rarest_characters_of_many_scripts():
    common = [chr(code) for code in range(ord("Ѐ"), ord("ӿ")) if chr(code).islower()]
    texts = ["banana bandana band bandanas nab dab bans sand sad bad ban"] * 20 + [" ".join(common)]
    tokenizer = train_tokenizer("wordpiece", texts, 20)
    assert tokenizer.vocab_size == 20
    assert tokenizer.decode(tokenizer.encode("banana")) == "banana"
    assert set(tokenizer.encode(" ".join(common))) == {tokenizer.special.unk}
    # Of equally rare ones always the first.
    one, other = (train_tokenizer("wordpiece", texts, 28) for _ in range(2))
    assert one.definition == other.definition
    assert sum(token in common for token in one.vocab) == 2


OF_UNICODE_3 = st.characters(exclude_categories=("Cs", "Cn")).filter(
    lambda character: unicodedata.ucd_3_2_0.category(character) != "Cn")
"""Characters that every version of Unicode's tables normalises alike."""


@given(st.text(OF_UNICODE_3))
@example(" leading  and trailing ")
@example("ﬁne ①  x\n\ny日本🙂")
@settings(max_examples=100, deadline=None)
def test_unigram_keeps_the_nfkc_form(learnt, text):
    tokenizer = learnt["unigram"]
    normal = unicodedata.normalize("NFKC", text).replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode(text)) == normal


def most_likely(word, scores):
    """Viterbi's algorithm over all segmentations of a word (Kudo 2018, section 3.2)."""
    best = [(0.0, [])] + [(-math.inf, [])] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end):
            if word[start:end] in scores:
                score = best[start][0] + scores[word[start:end]]
                best[end] = max(best[end], (score, [*best[start][1], word[start:end]]))
    return best[-1]


def test_unigram_chooses_the_most_likely_segmentation(unigram):
    scores = {piece: score for piece, score in unigram.definition["model"]["vocab"]
              if not piece.startswith("<")}
    names = {number: piece for piece, number in unigram.vocab.items()}
    for word in ("again", "unaffable", "niemand", "reden", "unkind", "Numbers", "satcat"):
        pieces = [names[number] for number in unigram.encode(word).tolist()]
        assert "".join(pieces) == "▁" + word
        assert math.isclose(sum(scores[piece] for piece in pieces),
                            most_likely("▁" + word, scores)[0], rel_tol=1e-9)


def test_no_unigram_piece_spans_two_words_or_kinds_of_character(unigram):
    learnt_pieces = list(unigram.vocab)[len(ROLES) + SENTINELS + 256:]
    assert len(learnt_pieces) == SIZES["unigram"] - len(ROLES) - SENTINELS - 256
    assert any(len(piece) > 3 for piece in learnt_pieces)
    for piece in learnt_pieces:  # a run of spaces is one kind
        body = piece.removeprefix("▁") if piece.strip("▁") else ""
        assert "▁" not in body, piece
        assert len({"digit" if one.isdigit() else "letter" if one.isalpha() else "other"
                    for one in body}) <= 1, piece


def test_words_begin_at_whitespace(learnt):
    text = "cat sat\n\ton mat"
    byte = learnt["byte"]
    assert byte.word_starts()[byte.encode(text)].tolist() == [one.isspace() for one in text]
    for kind in ("bpe", "unigram"):
        tokenizer = learnt[kind]
        starts = tokenizer.word_starts()
        ids = tokenizer.encode(text)
        pieces = [tokenizer.decode([ids[0], number])[len(tokenizer.decode(ids[:1])):]
                  for number in ids[1:]]  # what each adds to the first
        assert starts[ids[1:]].tolist() == [piece[:1].isspace() for piece in pieces], kind
        assert starts[list(tokenizer.special.ids())].all()
        if kind == "unigram":  # bytes of characters without a piece
            assert starts[[tokenizer.vocab[f"<0x{byte:02X}>"] for byte in (9, 65)]].tolist() == [
                True, False]
        assert 0 < starts.sum() < tokenizer.vocab_size


def test_sentences_end_with_their_marks(learnt):
    text = "sat. mat! cat? on\nmat, cat"
    for kind, tokenizer in learnt.items():
        ends, ids = tokenizer.sentence_ends(), tokenizer.encode(text)
        pieces = [tokenizer.decode([number]) for number in ids]
        assert ends[ids].tolist() == [piece.endswith((".", "!", "?", "\n")) for piece in pieces]
        # WordPiece lacks characters that its corpus lacks, such as "!" and "?", and line feeds.
        assert ends[ids].sum() == (1 if kind == "wordpiece" else 4), kind
        special = np.array(tokenizer.special.ids())
        assert ends[special].tolist() == (special == tokenizer.eos).tolist()


@pytest.mark.parametrize(("kind", "size", "message"), [
    ("bpe", 257, r"vocab_size 257: the bytes and 3 special tokens alone are 259"),
    ("unigram", 258, r"the bytes and 4 special tokens alone are 260"),
    ("wordpiece", 3, r"vocab_size 3: 4 special tokens alone are 4 tokens"),
    ("bpe", 9999, r"BPE tokenizer .* this corpus has at most \d+ tokens; choose that or less"),
    ("wordpiece", 9999, r"WordPiece tokenizer .* has at most \d+ tokens; choose less than that"),
    ("unigram", 9999, r"Unigram tokenizer .* has at most \d+ tokens; choose less than that"),
    ("bpe", None, r"vocab_size is missing; a bpe tokenizer needs it"),
    ("byte", 300, r"vocab_size = 300, but a byte tokenizer has 259"),
    ("sentencepiece", 300, r"cannot be trained here; choose byte, bpe, wordpiece, unigram"),
])
def test_an_impossible_vocabulary_size_is_refused(kind, size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(kind, ["abc abd abc"] * 3, size, ("cls",), 1)


def test_an_unknown_role_is_refused():
    with pytest.raises(UserError, match=r"'masks': known are eos, .* did you mean mask\?"):
        train_tokenizer("byte", (), None, ("masks",))
    with pytest.raises(UserError, match=r"sentinels = -1: a number from 0 to 10,000"):
        train_tokenizer("byte", (), None, (), -1)
