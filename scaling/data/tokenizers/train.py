"""Training of a tokenizer on a corpus."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from scaling.data.tokenizers.base import BYTES, TITLES, Tokenizer, TokenizerKind, import_library
from scaling.data.tokenizers.byte_level import ALPHABET
from scaling.data.tokenizers.bytes import ByteTokenizer
from scaling.data.tokenizers.recipes import (
    BYTE_PIECES,
    bpe_definition,
    unigram_definition,
    wordpiece_definition,
)
from scaling.data.tokenizers.special import SpecialTokens, recognise_special, spelling, spellings
from scaling.data.tokenizers.subwords import (
    SUBWORDS_NEED,
    SubwordTokenizer,
    added_token,
    definition_of,
    engine_of,
)
from scaling.errors import UserError

_UNK = spelling("unk")

_SCORE_DIGITS = 3
"""Decimals to which the log-probability of a piece is rounded."""


def train_tokenizer(
    kind: TokenizerKind,
    texts: Iterable[str],
    vocab_size: int | None,
    roles: tuple[str, ...] = ("eos",),
    sentinels: int = 0,
) -> Tokenizer:
    """Train a tokenizer; the result is a deterministic function of the arguments.

    Args:
        kind: "byte", "bpe", "wordpiece" or "unigram"; "byte" needs no training and reads no text.
        texts: Training texts; iterated once and not kept in memory.
        vocab_size: Number of ids, special tokens included; None for bytes.
        roles: Roles of special tokens. `eos` is always added. `unk` is always added for WordPiece,
            which uses it for words with a character outside its alphabet, and for Unigram, which
            never uses it.
        sentinels: Number of sentinels.

    Raises:
        UserError: A role is unknown, the tokenizers library is missing, or the vocabulary is too
            large or too small for the corpus.
    """
    if kind == "byte":
        tokenizer = ByteTokenizer.of_roles(roles, sentinels)
        if vocab_size is not None:
            raise UserError(f"vocab_size = {vocab_size}, but a byte tokenizer has "
                            f"{tokenizer.vocab_size} ids with its special tokens; leave it out")
        return tokenizer
    if kind not in _TRAINERS:
        raise UserError(f"a {kind} tokenizer cannot be trained here; choose byte, "
                        f"{', '.join(_TRAINERS)}, or the file of a published one")
    if vocab_size is None:
        raise UserError(f"vocab_size is missing; a {kind} tokenizer needs it, for example 4096")
    names = spellings(("eos", *roles, *(() if kind == "bpe" else ("unk",))), sentinels)
    train, n_fixed = _TRAINERS[kind]
    if vocab_size < n_fixed + len(names):
        raise UserError(f"vocab_size {vocab_size:,}: {'the bytes and ' if n_fixed else ''}"
                        f"{len(names)} special tokens alone are {n_fixed + len(names):,} tokens; "
                        "choose more")
    content = train(texts, vocab_size, names)
    ids = {name: number for number, name in enumerate(names)}
    added = [added_token(name, number) for name, number in ids.items()]
    definition = definition_of(content | {"added_tokens": added})
    trained = SubwordTokenizer(definition, SpecialTokens(**recognise_special(ids)))
    if trained.vocab_size < vocab_size:
        # WordPiece and Unigram keep fewer characters and pieces for a smaller vocabulary.
        fix = "choose that or less" if kind == "bpe" else "choose less than that"
        raise UserError(
            f"vocab_size {vocab_size:,}: a {TITLES[kind]} tokenizer trained on this corpus has at "
            f"most {trained.vocab_size:,} tokens; {fix}, or use more text"
        )
    if trained.vocab_size > vocab_size:
        raise UserError(
            f"vocab_size {vocab_size:,}: too few for the characters of this corpus and "
            f"{len(names)} special tokens; choose more, for example {trained.vocab_size:,}"
        )
    return trained


def _train_model(texts: Iterable[str], empty: dict[str, Any], trainer: str, **options: Any) -> Any:
    """Train the library's model and return it as JSON.

    Args:
        texts: Training texts.
        empty: Definition of a tokenizer with an empty vocabulary.
        trainer: Name of a class in tokenizers.trainers.
        options: Arguments of that class.
    """
    engine = engine_of({"version": "1.0", "added_tokens": []} | empty)
    trainer_class = getattr(import_library(*SUBWORDS_NEED).trainers, trainer)
    engine.train_from_iterator(texts, trainer_class(**options, show_progress=False))
    return json.loads(engine.to_str())["model"]


def _bpe(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    model = _train_model(
        texts, bpe_definition({}, []), "BpeTrainer",
        vocab_size=vocab_size, special_tokens=list(names), initial_alphabet=sorted(ALPHABET),
    )
    return bpe_definition(model["vocab"], model["merges"])


def _wordpiece(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    # The library breaks ties between merges by id, but numbers the continuation characters
    # (##x) in random order. Passing all possible ones as special tokens fixes their order; those
    # that the corpus lacks are removed afterwards.
    continuations = _continuation_characters()
    characters: Counter[str] = Counter()

    def counted() -> Iterator[str]:
        for text in texts:
            characters.update(unicodedata.normalize("NFD", text.lower()))
            yield text

    model = _train_model(
        counted(), wordpiece_definition({}, _UNK, lowercase=True), "WordPieceTrainer",
        vocab_size=2 * vocab_size + len(continuations), special_tokens=[*names, *continuations],
        limit_alphabet=vocab_size,
    )
    # A corpus in many scripts can have more characters than ids, and each needs two: the rarest
    # are left to `unk`. The library would choose between equally rare ones at random.
    vocab = model["vocab"]
    alphabet = sorted((token for token in vocab if len(token) == 1),
                      key=lambda char: (-characters[char], char))
    rare = frozenset(alphabet[vocab_size // 4 :])
    kept = [token for token in sorted(vocab, key=vocab.__getitem__)
            if token in names or (continuations.get(token, token) in vocab
                                  and rare.isdisjoint(token.removeprefix("##")))]
    return wordpiece_definition(
        {token: number for number, token in enumerate(kept[:vocab_size])}, _UNK, lowercase=True)


@cache
def _continuation_characters() -> dict[str, str]:
    """Maps ##x to x, for all characters x that can continue a word in WordPiece."""
    # Excluded: punctuation (for BERT all ASCII but letters and digits) and Chinese characters,
    # which are words of their own; separators and control characters, which are in no word; and
    # characters that normalisation to lower case without accents changes.
    characters = (chr(code) for code in range(sys.maxunicode + 1))
    return {
        f"##{char}": char for char in characters
        if (category := unicodedata.category(char))[0] in "LMNS" and category != "Mn"
        and (char.isalnum() or not char.isascii())
        and unicodedata.normalize("NFD", char.lower()) == char
        and not (category == "Lo" and unicodedata.name(char, "").startswith("CJK "))
    }


def _unigram(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    model = _train_model(
        texts, unigram_definition([], None), "UnigramTrainer",
        vocab_size=vocab_size, special_tokens=[*names, *BYTE_PIECES], unk_token=_UNK,
    )
    # The library's summation order is random, so the last digits of its scores are noise. So is
    # the order of the characters that it appends, below all other pieces, to cover the corpus:
    # their scores are raised to the lowest score of a longer piece.
    n_fixed = len(names) + len(BYTE_PIECES)
    trained = model["vocab"][n_fixed:]
    lowest = min((score for piece, score in trained if len(piece) > 1), default=0.0)
    scores = {piece: round(max(score, lowest), _SCORE_DIGITS) for piece, score in trained}
    pieces = [*model["vocab"][:n_fixed],
              *sorted(scores.items(), key=lambda item: (-item[1], item[0]))]
    return unigram_definition(pieces, names.index(_UNK))


_TRAINERS: dict[
    str, tuple[Callable[[Iterable[str], int, tuple[str, ...]], dict[str, Any]], int]
] = {
    "bpe": (_bpe, BYTES),
    "wordpiece": (_wordpiece, 0),
    "unigram": (_unigram, len(BYTE_PIECES)),
}
"""The training function of each kind, and its number of tokens that do not depend on the corpus."""
