"""Reading tokenizers from files: published vocabularies, and those saved in a store."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.data.tokenizers.base import (
    LARGEST_FILE,
    TITLES,
    TOKENIZER_FILE,
    Tokenizer,
    TokenizerKind,
)
from scaling.data.tokenizers.bytes import ByteTokenizer
from scaling.data.tokenizers.ranks import parse_ranks
from scaling.data.tokenizers.recipes import wordpiece_definition
from scaling.data.tokenizers.sentence_piece import (
    SPECIAL_TYPES,
    SentencePieceTokenizer,
    parse_pieces,
)
from scaling.data.tokenizers.special import (
    SpecialTokens,
    ordered_roles,
    recognise_special,
    spellings,
)
from scaling.data.tokenizers.subwords import SubwordTokenizer, added_token, definition_of
from scaling.errors import UserError
from scaling.files import read_bytes

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError,
           RecursionError)
"""Exceptions that parsing a file of another format, or a damaged one, can raise."""


_ERROR_CHARACTERS = 300
"""Number of characters of such an error that are shown."""


def read_tokenizer(
    path: str | Path, sentinels: int = 0, roles: tuple[str, ...] = ()
) -> Tokenizer:
    """Read a published vocabulary.

    The suffix determines the format: `.tiktoken`, GPT-2's ranks, with `<|endoftext|>` after them;
    `.txt`, BERT's vocabulary with one token per line, uncased unless some token has a capital;
    `.json`, a tokenizer.json of the tokenizers library with a BPE, WordPiece or Unigram model;
    `.model`, a SentencePiece model.

    Args:
        path: The file.
        sentinels: Number of sentinels. If the file has none, they are added after its ids,
            `<extra_id_0>` last, as T5 adds them after the pieces of its `.model`.
        roles: Special tokens to add after its ids, before the sentinels, for roles that the file
            has no token for.

    Raises:
        UserError: The file is missing, damaged or in none of these formats, or none of its tokens
            ends a document and `roles` does not contain "eos".
    """
    path = Path(path)
    if path.suffix not in (*_PARSERS, MODEL):
        raise UserError(f"{path}: the name of a tokenizer file ends with "
                        f"{', '.join(_PARSERS)} or {MODEL}; name such a file")
    try:
        content = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    request = _Request(path, sentinels, ordered_roles(roles))
    with _damage_reported(path, f"not a {path.suffix} tokenizer file"):
        if path.suffix == MODEL:
            return _check_hashable(_sentencepiece(content, request))
        return _check_hashable(_subwords(definition_of(_PARSERS[path.suffix](content)), request))


def load_tokenizer(kind: TokenizerKind, folder: Path, special: SpecialTokens) -> Tokenizer:
    """Load the tokenizer that was saved in a folder; no library is needed before encoding.

    Args:
        kind: Kind of the saved tokenizer.
        folder: Folder passed to `save`.
        special: Special tokens of the saved tokenizer.

    Raises:
        UserError: Its file is missing or damaged.
    """
    if kind == "byte":
        return ByteTokenizer(special)
    path = folder / TOKENIZER_FILE
    try:
        text = read_bytes(path, LARGEST_FILE)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so this folder has no {TITLES[kind]} tokenizer"
                        ) from None
    with _damage_reported(path, f"not a {TITLES[kind]} tokenizer"):
        content = json.loads(text)
        if kind == "sentencepiece":
            model = base64.b64decode(content["model"], validate=True)
            pieces = parse_pieces(model)
            return _check_hashable(SentencePieceTokenizer(model, pieces, special, str(path)))
        tokenizer = SubwordTokenizer(definition_of(content), special, str(path))
        if tokenizer.kind != kind:
            raise ValueError(f"it is a {TITLES[tokenizer.kind]}")
        if special.ids()[-1] >= tokenizer.vocab_size:
            raise ValueError(f"it has {tokenizer.vocab_size} ids, but a special token has the id "
                             f"{special.ids()[-1]}")
        return _check_hashable(tokenizer)


@contextmanager
def _damage_reported(path: Path, problem: str) -> Iterator[None]:
    """Turn exceptions of parsing a file into a UserError."""
    try:
        yield
    except UserError:
        raise  # which says what is wrong
    except _DAMAGE as error:
        message = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {problem} ({message[:_ERROR_CHARACTERS]})") from None


def _check_hashable(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer after hashing its content, which fails for a NaN score."""
    _ = tokenizer.hash
    return tokenizer


@dataclass(frozen=True)
class _Request:
    """The arguments of `read_tokenizer`."""

    path: Path
    sentinels: int
    roles: tuple[str, ...]

    def special(self, names: Mapping[str, int], size: int) -> tuple[dict[str, int], SpecialTokens]:
        """The special tokens to add, with their ids, and the roles of all special tokens.

        Args:
            names: The ids of existing tokens that may be special.
            size: Number of ids of the vocabulary.
        """
        found = recognise_special(names)
        n_sentinels = len(found["sentinels"])
        if 0 < n_sentinels < self.sentinels:
            raise UserError(f"{self.path}: it has {n_sentinels} sentinels of its own, fewer than "
                            f"the requested {self.sentinels}; request no more than it has")
        missing = [role for role in self.roles if role not in found]
        added = spellings(missing, 0 if n_sentinels else self.sentinels)
        new = {name: size + k for k, name in enumerate(added)}
        found = recognise_special({**names, **new})
        if "eos" not in found:
            raise UserError(
                f"{self.path}: none of its tokens ends a document (found "
                f"{', '.join(names) or 'no special token'}); add the role eos to its special tokens"
            )
        return new, SpecialTokens(**found)


def _subwords(definition: dict[str, Any], request: _Request) -> SubwordTokenizer:
    model, added = definition["model"], definition["added_tokens"]
    plain = SubwordTokenizer(definition, SpecialTokens(eos=0))  # for its vocabulary
    names = {one["content"]: one["id"] for one in added}
    if model.get("unk_token") in plain.vocab:
        names[model["unk_token"]] = plain.vocab[model["unk_token"]]
    new, special = request.special(names, plain.vocab_size)
    added = [*added, *(added_token(name, number) for name, number in new.items())]
    return SubwordTokenizer(definition | {"added_tokens": added}, special, str(request.path))


def _sentencepiece(content: bytes, request: _Request) -> SentencePieceTokenizer:
    pieces = parse_pieces(content)
    names = {piece.text: k for k, piece in enumerate(pieces) if piece.type in SPECIAL_TYPES}
    _, special = request.special(names, len(pieces))
    return SentencePieceTokenizer(content, pieces, special, str(request.path))


def _json(content: bytes) -> Any:
    parsed = json.loads(content)
    if "model" not in parsed:
        raise ValueError("it has no model")
    return parsed


def _wordpiece(content: bytes) -> dict[str, Any]:
    # Not splitlines: some of BERT's tokens are line separators in Unicode.
    tokens = [line.removesuffix("\r") for line in content.decode("utf-8").split("\n")]
    if not tokens[-1]:
        tokens.pop()
    vocab = {token: number for number, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ValueError(f"{len(tokens) - len(vocab)} of its lines are repeated")
    roles = recognise_special(vocab)
    if "unk" not in roles:
        raise ValueError("it has no [UNK], which WordPiece needs for words that it cannot encode")
    special = sorted({*roles.pop("sentinels"), *roles.values()})
    lowercase = all(token == token.lower() for number, token in enumerate(tokens)
                    if number not in special)
    return wordpiece_definition(vocab, tokens[roles["unk"]], lowercase) | {
        "added_tokens": [added_token(tokens[number], number) for number in special]
    }


MODEL = ".model"

_PARSERS: dict[str, Callable[[bytes], Any]] = {
    ".tiktoken": parse_ranks, ".txt": _wordpiece, ".json": _json}
"""By suffix, a function from the content of a file to that of a tokenizer.json."""
