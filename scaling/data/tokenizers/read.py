"""Published vocabularies, and those that a store keeps."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.data.special import Special, chosen_roles, recognised, spellings
from scaling.data.tokenizers.base import TITLES, TOKENIZER_FILE, Kind, Tokenizer
from scaling.data.tokenizers.bytes import ByteTokenizer
from scaling.data.tokenizers.ranks import parse_ranks
from scaling.data.tokenizers.recipes import wordpiece_definition
from scaling.data.tokenizers.sentence_piece import NO_TEXT, SentencePieceTokenizer, parse_pieces
from scaling.data.tokenizers.subwords import SubwordTokenizer, added_token, definition_of
from scaling.errors import UserError

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What a file that is something else raises while it is taken apart."""


def read_tokenizer(
    path: str | Path, sentinels: int = 0, roles: tuple[str, ...] = ()
) -> Tokenizer:
    """A published vocabulary.

    By the end of the file's name: `.tiktoken`, GPT-2's ranks with `<|endoftext|>` after them;
    `.txt`, BERT's vocabulary, one token a line, of lower-cased text without accents unless some
    token has a capital; `.json`, a tokenizer.json of the tokenizers library with a BPE, a
    WordPiece or a Unigram model; `.model`, a SentencePiece model.

    Args:
        path: the file.
        sentinels: their number. Those that the file lacks are added after its ids, `<extra_id_0>`
            last, as T5's are after the pieces of its `.model`.
        roles: special tokens that are added after its ids, before the sentinels, where the file
            has none that plays the role.

    Raises:
        UserError: no such file, none of these formats, damaged, or no token of it ends a
            document and `roles` has no "eos".
    """
    path = Path(path)
    if path.suffix not in (*_PARSERS, MODEL):
        raise UserError(f"{path}: the name of a tokenizer's file ends with "
                        f"{', '.join(_PARSERS)} or {MODEL}; name such a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    request = _Request(path, sentinels, chosen_roles(roles))
    try:
        if path.suffix == MODEL:
            return _sentencepiece(content, request)
        return _subwords(definition_of(_PARSERS[path.suffix](content)), request)
    except _DAMAGE as error:
        raise UserError(f"{path}: not a tokenizer's {path.suffix} file "
                        f"({type(error).__name__}: {error})") from None


def load_tokenizer(kind: Kind, folder: Path, special: Special) -> Tokenizer:
    """The tokenizer that was saved in a folder; no library is needed before encoding.

    Args:
        kind, special: those of the tokenizer that was saved.

    Raises:
        UserError: its file is missing or damaged.
    """
    if kind == "byte":
        return ByteTokenizer(special)
    path = folder / TOKENIZER_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if kind == "sentencepiece":
            model = base64.b64decode(content["model"], validate=True)
            return SentencePieceTokenizer(model, parse_pieces(model), special)
        tokenizer = SubwordTokenizer(definition_of(content), special)
        if tokenizer.kind != kind:
            raise ValueError(f"it is a {TITLES[tokenizer.kind]}")
        if special.ids()[-1] >= tokenizer.vocab_size:
            raise ValueError(f"it has {tokenizer.vocab_size} ids, and a special token is "
                             f"{special.ids()[-1]}")
        return tokenizer
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so this folder has no {TITLES[kind]} tokenizer"
                        ) from None
    except _DAMAGE as error:
        raise UserError(f"{path}: not a {TITLES[kind]} tokenizer "
                        f"({type(error).__name__}: {error})") from None


@dataclass(frozen=True)
class _Request:
    """What is wanted of a file."""

    path: Path
    sentinels: int
    roles: tuple[str, ...]

    def special(self, names: Mapping[str, int], size: int) -> tuple[dict[str, int], Special]:
        """The special tokens to add to a vocabulary of `size` ids in which `names` may play a
        role, and the roles of all."""
        found = recognised(names)
        has = len(found["sentinels"])
        if 0 < has < self.sentinels:
            raise UserError(f"{self.path}: it has {has} sentinels of its own; ask for no more "
                            f"than that, not for {self.sentinels}")
        missing = [role for role in self.roles if role not in found]
        added = spellings(missing, 0 if has else self.sentinels)
        new = {name: size + k for k, name in enumerate(added)}
        found = recognised({**names, **new})
        if "eos" not in found:
            raise UserError(
                f"{self.path}: no token of it ends a document (found "
                f"{', '.join(names) or 'no special token'}); add the role eos to its special tokens"
            )
        return new, Special(**found)


def _subwords(definition: dict[str, Any], request: _Request) -> SubwordTokenizer:
    model, added = definition["model"], definition["added_tokens"]
    plain = SubwordTokenizer(definition, Special(eos=0))  # for its vocabulary
    names = {one["content"]: one["id"] for one in added}
    if model.get("unk_token") in plain.vocab:
        names[model["unk_token"]] = plain.vocab[model["unk_token"]]
    new, special = request.special(names, plain.vocab_size)
    added = [*added, *(added_token(name, number) for name, number in new.items())]
    return SubwordTokenizer(definition | {"added_tokens": added}, special)


def _sentencepiece(content: bytes, request: _Request) -> SentencePieceTokenizer:
    pieces = parse_pieces(content)
    names = {piece.text: k for k, piece in enumerate(pieces) if piece.type in NO_TEXT}
    _, special = request.special(names, len(pieces))
    return SentencePieceTokenizer(content, pieces, special)


def _json(content: bytes) -> Any:
    parsed = json.loads(content)
    if "model" not in parsed:
        raise ValueError("it has no model")
    return parsed


def _wordpiece(content: bytes) -> dict[str, Any]:
    # Not splitlines: BERT has tokens that are line ends to Unicode.
    tokens = [line.removesuffix("\r") for line in content.decode("utf-8").split("\n")]
    if not tokens[-1]:
        tokens.pop()
    vocab = {token: number for number, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ValueError(f"{len(tokens) - len(vocab)} of its lines are there twice")
    roles = recognised(vocab)
    if "unk" not in roles:
        raise ValueError("it has no [UNK], which WordPiece writes for a word that it lacks")
    special = sorted({*roles.pop("sentinels"), *roles.values()})
    lowercase = all(token == token.lower() for number, token in enumerate(tokens)
                    if number not in special)
    return wordpiece_definition(vocab, tokens[roles["unk"]], lowercase) | {
        "added_tokens": [added_token(tokens[number], number) for number in special]
    }


MODEL = ".model"

_PARSERS: dict[str, Callable[[bytes], Any]] = {
    ".tiktoken": parse_ranks, ".txt": _wordpiece, ".json": _json}
"""From the content of a file to that of a tokenizer.json, by the end of the file's name."""
