"""Published vocabularies: GPT-2's ranks, BERT's list, a tokenizer.json, a SentencePiece model."""

from __future__ import annotations

import base64
import json
import struct
import sys
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling.data.tokenizers import load_tokenizer, read_tokenizer
from scaling.errors import UserError

BERT = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", ",", "the", "un",
        "##aff", "##able", "##a", "##b", "walk", "##ing", "na", "##ive", "[", "]", "mask", "\u2028"]

GPT2_TOKENS = [bytes([byte]) for byte in range(256)] + [
    b"in", b" t", b"he", b" the", b"ing", b"'s", "é".encode(), b"12", b"  ",
    b"bc", b"ab", b"abc"]  # the last was merged from a and bc, whose rank is the lower


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


def rank_lines(tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % k for k, token in enumerate(tokens))


@pytest.fixture(scope="module")
def gpt2(folder):
    return read_tokenizer(write(folder / "small.tiktoken", rank_lines(GPT2_TOKENS)))


@pytest.fixture(scope="module")
def bert(folder):
    return read_tokenizer(write(folder / "vocab.txt", "\n".join(BERT) + "\n"))


def lowest_rank_first(word: bytes) -> list[int]:
    """Encoding by ranks: merge the adjacent pair whose token has the lowest rank."""
    parts = [bytes([byte]) for byte in word]
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        ranks = [GPT2_TOKENS.index(pair) for pair in joined if pair in GPT2_TOKENS]
        if not ranks:
            return [GPT2_TOKENS.index(part) for part in parts]
        k = joined.index(GPT2_TOKENS[min(ranks)])
        parts[k : k + 2] = [joined[k]]


@given(st.lists(st.sampled_from(
    ["the", " the", "thing", " thinning", "é", " hé", "'s", " ", "\n", "12", "!", "abc", "cab"])))
@example(["the", " thing", "'s", " é", "  ", "12", "abc"])
@settings(max_examples=60, deadline=None)
def test_merges_are_derived_from_ranks(gpt2, words):
    engine = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = dict(zip(sorted(byte_characters(), key=ord), range(256), strict=True))
    assert len(letters) == 256
    text = "".join(words)
    cut = [text[start:stop] for _, (start, stop) in engine.pre_tokenize_str(text)]
    expected = [number for word in cut for number in lowest_rank_first(word.encode())]
    assert gpt2.encode(text).tolist() == expected
    assert gpt2.decode(gpt2.encode(text)) == text


def byte_characters():
    return tokenizers.pre_tokenizers.ByteLevel.alphabet()


def test_every_byte_is_its_rank(gpt2):
    """The byte-to-character table of byte-level BPE equals the library's."""
    for byte in range(256):
        library = tokenizers.decoders.ByteLevel()
        token = next(token for token, number in gpt2.vocab.items() if number == byte)
        shown = library.decode([token])
        assert shown == (chr(byte) if byte < 128 else "\ufffd")
    assert set(byte_characters()) == {t for t, n in gpt2.vocab.items() if n < 256}


def test_gpt2_ends_documents_with_the_id_after_its_ranks(gpt2, folder):
    assert gpt2.kind == "bpe"
    assert gpt2.special.ids() == (len(GPT2_TOKENS),) == (gpt2.eos,)
    assert gpt2.vocab_size == len(GPT2_TOKENS) + 1
    assert gpt2.eos not in gpt2.encode("a<|endoftext|> <|endoftext|>")
    more = read_tokenizer(folder / "small.tiktoken", sentinels=2, roles=("mask", "eos", "pad"))
    size = gpt2.vocab_size
    assert (more.special.pad, more.special.mask, more.special.sentinels) == (
        size, size + 1, (size + 3, size + 2))
    assert (more.eos, more.vocab_size) == (gpt2.eos, size + 4)
    text = "the <mask> <extra_id_0>"
    assert more.encode(text).tolist() == gpt2.encode(text).tolist()
    assert more.hash != gpt2.hash


def test_ranks_with_another_pre_tokenizer_are_refused(folder):
    path = write(folder / "other.tiktoken", rank_lines([*GPT2_TOKENS, b".\n"]))
    with pytest.raises(UserError, match=r"impossible with GPT-2's pre-tokenizer"):
        read_tokenizer(path)


def test_bert_matches_the_librarys_bert(bert, folder):
    library = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    for text in ("Unaffable, the NAÏVE walking!", "ab unab walk\u3000the", "the日mask", "xyzzy"):
        assert bert.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
    special = bert.special
    assert (special.pad, special.unk, special.cls, special.sep, special.mask) == (0, 2, 3, 4, 5)
    assert special.eos == special.sep  # BERT has no other
    assert bert.vocab_size == len(BERT)
    assert bert.encode("[MASK]").tolist() == [BERT.index(one) for one in ("[", "mask", "]")]
    assert bert.word_starts().tolist() == [not token.startswith("##") for token in BERT]


def test_a_vocabulary_with_capitals_is_of_cased_text(folder):
    cased = read_tokenizer(write(folder / "cased.txt", "\n".join([*BERT, "The", "naï"]) + "\n"))
    assert cased.encode("The naï").tolist() == [len(BERT), len(BERT) + 1]
    assert cased.encode("THE").tolist() == [cased.special.unk]


def unigram_json(pieces, **more):
    return json.dumps({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0,
                                         "direction": "Right"},
        "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                          "split": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                    "split": True},
        "added_tokens": [
            {"id": k, "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for k, (piece, _) in enumerate(pieces) if piece.startswith("<") and len(piece) > 1],
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces}, **more})


PIECES = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁the", -3.0], ["s", -4.0],
          ["<", -5.0], ["/", -5.0], [">", -5.0], ["<extra_id_1>", 0.0], ["<extra_id_0>", 0.0]]


def test_a_unigram_file_keeps_its_ids_and_is_not_cut_off(folder, tmp_path):
    tokenizer = read_tokenizer(write(folder / "unigram.json", unigram_json(PIECES)), sentinels=2)
    special = tokenizer.special
    assert (special.pad, special.eos, special.unk, special.sentinels) == (0, 1, 2, (10, 9))
    # The library itself finds </s> in its vocabulary, at no cost.
    assert tokenizer.encode("the </s> the").tolist() == [4, 3, 6, 7, 5, 8, 4]
    assert tokenizer.decode([4, 1, 4]) == "the the"
    assert np.flatnonzero(tokenizer.word_starts()).tolist() == [0, 1, 2, 3, 4, 9, 10]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer("unigram", tmp_path, special)
    assert loaded.hash == tokenizer.hash
    assert loaded.encode("the thes").tolist() == tokenizer.encode("the thes").tolist()
    with pytest.raises(UserError, match=r"has 2 sentinels of its own, fewer than the requested"):
        read_tokenizer(folder / "unigram.json", sentinels=3)


def test_without_an_end_token_the_message_lists_those_found(folder):
    nameless = [["<pad>", 0.0], ["<s>", 0.0], ["<unk>", 0.0], *PIECES[3:]]
    path = write(folder / "endless.json", unigram_json(nameless))
    with pytest.raises(UserError, match=r"ends a document \(found <pad>, <s>, <unk>.*role eos"):
        read_tokenizer(path)
    tokenizer = read_tokenizer(path, roles=("eos",))
    assert tokenizer.eos == len(PIECES) == tokenizer.vocab_size - 1
    assert tokenizer.special.cls == 1


def test_word_starts_are_refused_if_the_vocabulary_marks_word_ends(folder):
    model = {"type": "BPE", "vocab": {"a</w>": 0, "a": 1, "</s>": 2}, "merges": [],
             "end_of_word_suffix": "</w>"}
    content = json.loads(unigram_json(PIECES[:0])) | {"model": model}
    path = write(folder / "ends.json", json.dumps(content))
    with pytest.raises(UserError, match=r"marks the ends of words \('</w>'\)"):
        read_tokenizer(path, roles=("eos",)).word_starts()
    assert read_tokenizer(path, roles=("eos",)).token_bytes()[:2].tolist() == [2, 1]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.bin", "", r"ends with \.tiktoken, \.txt, \.json or \.model"),
    ("a.tiktoken", "QQ== 0\n", r"a\.tiktoken: not .*\(ValueError: it has no token for the byte 0"),
    ("a.tiktoken", "QQ== 0\nQg== 2\n", r"ranks are not 0 to 1"),
    ("a.tiktoken", "???", r"not a \.tiktoken tokenizer file"),
    ("b.tiktoken", rank_lines([*GPT2_TOKENS[:256], b"abc"]),
     r"not a merge of two with lower ranks"),
    ("a.txt", "[PAD]\n[SEP]\n", r"has no \[UNK\]"),
    ("a.txt", "[UNK]\n[SEP]\na\na\n", r"1 of its lines are repeated"),
    ("a.txt", b"\xff\xfe", r"not a \.txt tokenizer file \(UnicodeDecodeError"),
    ("a.json", "{}", r"has no model"),
    ("a.json", '{"model": {"type": "WordLevel", "vocab": {}}}',
     r"not one of BPE, WordPiece, Unigram"),
    ("a.model", b"\x0a\x7fno", r"not a \.model tokenizer file"),
    ("a.model", b"", r"has no piece"),
])
def test_a_file_of_another_format_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_tokenizer(write(tmp_path / name, content))


def test_an_added_token_that_leaves_a_gap_is_refused_by_name(tmp_path, gpt2):
    definition = dict(gpt2.definition)
    definition["added_tokens"] = [definition["added_tokens"][0] | {"id": 0, "content": "<eos>"}]
    path = write(tmp_path / "a.json", json.dumps(definition))
    with pytest.raises(UserError, match="leaves a gap in the vocabulary") as error:
        read_tokenizer(path).encode("the")
    assert str(error.value).startswith(f"{path}: ")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"none\.model: cannot be read \(No such file"):
        read_tokenizer(tmp_path / "none.model")


def protocol_piece(text, score, kind):
    """A piece as defined in sentencepiece_model.proto: text 1, score 2, type 3 (1 by default)."""
    data = text.encode()
    body = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", score)
    body += b"" if kind == 1 else b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body


MODEL = b"".join(protocol_piece(*piece) for piece in [
    ("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁the", -1.0, 1), ("s", -2.0, 1),
    ("▁", -3.0, 1), ("<mask>", 0.0, 4), ("<", -4.0, 1), ("m", -4.0, 1), ("a", -4.0, 1),
    ("k", -4.0, 1), (">", -4.0, 1), ("z", -4.0, 1),
]) + b"\x12\x02\x18\x01"  # a trainer's setting: a Unigram model


def test_a_sentencepiece_file_and_t5s_sentinels_after_it(folder, tmp_path):
    path = write(folder / "t5.model", MODEL)
    tokenizer = read_tokenizer(path, sentinels=100, roles=("cls",))
    special = tokenizer.special
    assert (special.pad, special.eos, special.unk, special.mask, special.cls) == (0, 1, 2, 6, 13)
    # T5: 32,000 pieces, <extra_id_0> is 32,099 and <extra_id_99> 32,000; here cls is the 13th.
    assert special.sentinels == tuple(range(113, 13, -1))
    assert tokenizer.vocab_size == 114
    starts = tokenizer.word_starts()
    assert np.flatnonzero(~starts).tolist() == [4, 7, 8, 9, 10, 11, 12]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer("sentencepiece", tmp_path, special)
    assert (loaded.hash, loaded.vocab_size) == (tokenizer.hash, tokenizer.vocab_size)
    assert read_tokenizer(path).hash != tokenizer.hash
    (tmp_path / "tokenizer.json").write_text('{"model": "AAAA"}')
    with pytest.raises(UserError, match=r"not a SentencePiece tokenizer"):
        load_tokenizer("sentencepiece", tmp_path, special)


def test_bytes_of_tokens_are_those_that_the_vocabulary_writes(folder, bert):
    """The metaspace counts one byte, and so does the space that WordPiece drops."""
    pieces = read_tokenizer(write(folder / "bytes.model", MODEL), sentinels=1).token_bytes()
    assert pieces.tolist() == [0, 0, 0, 4, 1, 1, 0, *[1] * 6, 0]
    unigram = [*PIECES[:3], ["<0xE6>", -9.0], ["▁日", -3.0], ["é", -4.0]]
    content = json.loads(unigram_json(unigram))
    content["added_tokens"].pop()  # the byte, which text may have
    path = write(folder / "bytes.json", json.dumps(content))
    assert read_tokenizer(path).token_bytes()[3:].tolist() == [1, 4, 2]
    sizes = dict(zip(BERT, bert.token_bytes().tolist(), strict=True))
    assert {token: sizes[token] for token in ("[CLS]", "the", "##aff", "!", "##a")} == {
        "[CLS]": 0, "the": 4, "##aff": 3, "!": 2, "##a": 1}
    assert not bert.keeps_bytes


def test_sentencepiece_cuts_its_own_files(folder):
    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    tokenizer = read_tokenizer(write(folder / "own.model", MODEL), sentinels=3)
    plain = library.SentencePieceProcessor(model_proto=MODEL)
    assert plain.encode("thes the") == tokenizer.encode("thes the").tolist() == [3, 4, 3]
    assert 6 in plain.encode("the <mask>")  # which the file lets text spell
    ids = tokenizer.encode("the <mask> </s>").tolist()
    assert not {0, 1, 6} & set(ids)
    assert tokenizer.decode([*ids[:8], tokenizer.eos, *tokenizer.special.sentinels]) == "the <mask>"
    pieces = [plain.id_to_piece(k) for k in range(plain.get_piece_size())]
    assert [piece.text for piece in tokenizer.pieces] == pieces


def test_without_sentencepiece_the_command_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    tokenizer = read_tokenizer(write(folder / "no.model", MODEL))
    with pytest.raises(UserError, match=r"pip install sentencepiece"):
        tokenizer.encode("the")
