"""A vocabulary learnt from a corpus."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from scaling.data.special import Special, recognised, spelling, spellings
from scaling.data.tokenizers.base import BYTES, TITLES, Kind, Tokenizer, library
from scaling.data.tokenizers.byte_level import ALPHABET
from scaling.data.tokenizers.bytes import ByteTokenizer
from scaling.data.tokenizers.recipes import (
    BYTE_PIECES,
    bpe_definition,
    unigram_definition,
    wordpiece_definition,
)
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
"""Of the logarithm of a piece's probability, after the point."""


def train_tokenizer(
    kind: Kind,
    texts: Iterable[str],
    vocab_size: int | None,
    roles: tuple[str, ...] = ("eos",),
    sentinels: int = 0,
) -> Tokenizer:
    """Learn a vocabulary; the same texts give the same one.

    Args:
        kind: "byte", "bpe", "wordpiece" or "unigram"; bytes learn nothing and read no text.
        texts: read once, never held together.
        vocab_size: ids in all, special tokens counted in; None for bytes.
        roles: of special tokens. `eos` is always there, and so is `unk` of WordPiece, which
            writes it for a word with a character that it lacks, and of Unigram, which never does.
        sentinels: number of them.

    Raises:
        UserError: a role is unknown, the tokenizers library is missing, or the corpus has not
            enough for so large a vocabulary or too much for so small a one.
    """
    if kind == "byte":
        tokenizer = ByteTokenizer.of_roles(roles, sentinels)
        if vocab_size is not None:
            raise UserError(f"vocab_size = {vocab_size}, and bytes have {tokenizer.vocab_size} "
                            "with their special tokens; leave it out")
        return tokenizer
    if kind not in _LEARN:
        raise UserError(f"a {kind} tokenizer is not trained here; choose byte, "
                        f"{', '.join(_LEARN)}, or the file of a published one")
    if vocab_size is None:
        raise UserError(f"vocab_size is missing; a {kind} tokenizer needs it, for example 4096")
    names = spellings(("eos", *roles, *(() if kind == "bpe" else ("unk",))), sentinels)
    learn, least = _LEARN[kind]
    if vocab_size < least + len(names):
        raise UserError(f"vocab_size {vocab_size:,}: {'the bytes and ' if least else ''}"
                        f"{len(names)} special tokens are {least + len(names):,} tokens already; "
                        "ask for more than that")
    content = learn(texts, vocab_size, names)
    ids = {name: number for number, name in enumerate(names)}
    added = [added_token(name, number) for name, number in ids.items()]
    definition = definition_of(content | {"added_tokens": added})
    learnt = SubwordTokenizer(definition, Special(**recognised(ids)))
    if learnt.vocab_size < vocab_size:
        raise UserError(
            f"vocab_size {vocab_size:,}: this corpus gives a {TITLES[kind]} of no more than "
            f"{learnt.vocab_size:,} tokens; ask for that or less, or take more text"
        )
    if learnt.vocab_size > vocab_size:
        raise UserError(
            f"vocab_size {vocab_size:,}: too few for the characters of this corpus and "
            f"{len(names)} special tokens; ask for more, for example {learnt.vocab_size:,}"
        )
    return learnt


def _learnt(texts: Iterable[str], empty: dict[str, Any], trainer: str, **options: Any) -> Any:
    """The library's model of a corpus, as JSON."""
    engine = engine_of({"version": "1.0", "added_tokens": []} | empty)
    learner = getattr(library(*SUBWORDS_NEED).trainers, trainer)
    engine.train_from_iterator(texts, learner(**options, show_progress=False))
    return json.loads(engine.to_str())["model"]


def _bpe(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    model = _learnt(
        texts, bpe_definition({}, []), "BpeTrainer",
        vocab_size=vocab_size, special_tokens=list(names), initial_alphabet=sorted(ALPHABET),
    )
    return bpe_definition(model["vocab"], model["merges"])


def _wordpiece(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    # The library breaks ties between merges by id, and numbers the characters that go on a word
    # in an order of chance; given as special tokens, all that there may be, theirs is fixed.
    # Those that the corpus lacks are taken out again.
    inside = _inside_words()
    characters: Counter[str] = Counter()

    def counted() -> Iterator[str]:
        for text in texts:
            characters.update(unicodedata.normalize("NFD", text.lower()))
            yield text

    model = _learnt(
        counted(), wordpiece_definition({}, _UNK, lowercase=True), "WordPieceTrainer",
        vocab_size=2 * vocab_size + len(inside), special_tokens=[*names, *inside],
        limit_alphabet=vocab_size,
    )
    # A corpus in many scripts has more characters than there are ids, each of them twice: the
    # rarest are left to `unk`. The library would choose between equally rare ones by chance.
    vocab = model["vocab"]
    alphabet = sorted((token for token in vocab if len(token) == 1),
                      key=lambda one: (-characters[one], one))
    rare = frozenset(alphabet[vocab_size // 4 :])
    kept = [token for token in sorted(vocab, key=vocab.__getitem__)
            if token in names or (inside.get(token, token) in vocab
                                  and rare.isdisjoint(token.removeprefix("##")))]
    return wordpiece_definition(
        {token: number for number, token in enumerate(kept[:vocab_size])}, _UNK, lowercase=True)


@cache
def _inside_words() -> dict[str, str]:
    """How WordPiece writes each character that may go on a word, and the character."""
    # Punctuation (to BERT all of ASCII but letters and digits) and Chinese characters are words of
    # their own, separators and control characters are in none, and what is not its own lower case
    # without accents is not left.
    characters = (chr(code) for code in range(sys.maxunicode + 1))
    return {
        f"##{one}": one for one in characters
        if (kind := unicodedata.category(one))[0] in "LMNS" and kind != "Mn"
        and (one.isalnum() or not one.isascii())
        and unicodedata.normalize("NFD", one.lower()) == one
        and not (kind == "Lo" and unicodedata.name(one, "").startswith("CJK "))
    }


def _unigram(texts: Iterable[str], vocab_size: int, names: tuple[str, ...]) -> dict[str, Any]:
    model = _learnt(
        texts, unigram_definition([], None), "UnigramTrainer",
        vocab_size=vocab_size, special_tokens=[*names, *BYTE_PIECES], unk_token=_UNK,
    )
    # The library adds up in an order of chance, so the last digits of its scores are noise, and
    # so is the order of the characters that it puts in below all others because the corpus has
    # them: a character that scores less than every longer piece here scores as the least of them.
    fixed = len(names) + len(BYTE_PIECES)
    learnt = model["vocab"][fixed:]
    least = min((score for piece, score in learnt if len(piece) > 1), default=0.0)
    scores = {piece: round(max(score, least), _SCORE_DIGITS) for piece, score in learnt}
    pieces = [*model["vocab"][:fixed],
              *sorted(scores.items(), key=lambda one: (-one[1], one[0]))]
    return unigram_definition(pieces, names.index(_UNK))


_LEARN: dict[str, tuple[Callable[[Iterable[str], int, tuple[str, ...]], dict[str, Any]], int]] = {
    "bpe": (_bpe, BYTES),
    "wordpiece": (_wordpiece, 0),
    "unigram": (_unigram, len(BYTE_PIECES)),
}
"""How each kind learns, and the number of tokens that it has whatever the corpus."""
