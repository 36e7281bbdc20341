"""BPE, WordPiece and Unigram vocabularies, in the file format of the tokenizers library.

The library itself is imported when a text is encoded or decoded; a vocabulary's size, hash and
beginnings of words do without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.data.special import Special, recognised
from scaling.data.tokenizers.base import (
    METASPACE,
    SENTENCE_ENDS,
    TOKENIZER_FILE,
    WHITE_PIECES,
    Ids,
    Kind,
    library,
    text_ids,
    token_dtype,
)
from scaling.data.tokenizers.byte_level import WHITE_CHARACTERS, written
from scaling.errors import UserError

KINDS: dict[str, Kind] = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
"""Of the library's models."""

GPT2_CUTS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
"""Letters, digits, other characters and white space apart, a space in front belonging to what
follows, so that no token spans two of them (Radford et al. 2019, section 2.2)."""

SUBWORDS_NEED = ("tokenizers", "a BPE, WordPiece or Unigram vocabulary", "'scaling[bpe]'")
"""Arguments of `library`."""


@dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A vocabulary and what is done to a text before it is cut into it."""

    definition: Mapping[str, Any] = field(repr=False)
    """The content of a tokenizer.json, as `definition_of` gives it."""
    special: Special

    @property
    def kind(self) -> Kind:
        return KINDS[self.definition["model"]["type"]]

    @cached_property
    def vocab(self) -> dict[str, int]:
        """The id of each token, those that were added to the model's own counted in."""
        added = {str(one["content"]): int(one["id"]) for one in self.definition["added_tokens"]}
        return _model_vocab(self.definition["model"]) | added

    @cached_property
    def vocab_size(self) -> int:
        return max(self.vocab.values()) + 1

    @property
    def eos(self) -> int:
        return self.special.eos

    @cached_property
    def hash(self) -> str:
        # What a library's next version writes with an empty value, and what our first BPE had
        # without saying so, is left out: the same ids keep the same hash.
        definition, model = self.definition, self.definition["model"]
        cuts = definition["pre_tokenizer"]
        said = recognised(self.vocab).items() >= self.special.model_dump(exclude_none=True).items()
        parts = {
            **{key: value for key, value in model.items() if key != "type"},
            "normalizer": definition["normalizer"],
            "pre_tokenizer": None if self.kind == "bpe" and cuts == GPT2_CUTS else [cuts],
            "added": {token: number for token, number in self.vocab.items()
                      if token not in _model_vocab(model)},
            "matched": [one for one in definition["added_tokens"] if not one["special"]],
            "special": None if said else self.special.model_dump(exclude_none=True),
        }
        return content_hash({"kind": self.kind} | {key: v for key, v in parts.items() if v})

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        dtype = token_dtype(self.vocab_size)
        encoded = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype) for one in encoded]

    def decode(self, ids: ArrayLike) -> str:
        no_text = [self.vocab[token] for token in self._no_text]
        known = text_ids(ids, self.vocab_size, no_text).tolist()
        return str(self._engine.decode(known, skip_special_tokens=False))

    def word_starts(self) -> NDArray[np.bool_]:
        begins = self._begins_word()
        starts = np.zeros(self.vocab_size, np.bool_)
        starts[[number for token, number in self.vocab.items() if begins(token)]] = True
        starts[list(self.special.ids())] = True
        return starts

    def sentence_ends(self) -> NDArray[np.bool_]:
        # Byte-level vocabularies write a line's end with a letter of their own, others single
        # bytes by their numbers.
        byte_level = "ByteLevel" in _steps(self.definition)
        marks = tuple(written(SENTENCE_ENDS.encode()) if byte_level else SENTENCE_ENDS)
        numbers = {f"<0x{byte:02X}>" for byte in SENTENCE_ENDS.encode()}
        ends = np.zeros(self.vocab_size, np.bool_)
        ends[[number for token, number in self.vocab.items()
              if token.endswith(marks) or token in numbers]] = True
        ends[self.eos] = True
        return ends

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json, in the format of the tokenizers library."""
        text = json.dumps(self.definition, ensure_ascii=False, indent=1)
        (folder / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")

    def _begins_word(self) -> Callable[[str], bool]:
        model = self.definition["model"]
        if model.get("end_of_word_suffix"):
            raise UserError(
                f"this BPE writes {model['end_of_word_suffix']!r} where a word ends, so its tokens "
                "do not tell where one begins; whole words need a vocabulary that does"
            )
        if self.kind == "wordpiece":
            inside = str(model["continuing_subword_prefix"])
            return lambda token: not token.startswith(inside)
        spaces = WHITE_CHARACTERS if "ByteLevel" in _steps(self.definition) else {METASPACE}
        return lambda token: (
            token[:1] in spaces or token[:1].isspace() or token in WHITE_PIECES
        )

    @cached_property
    def _no_text(self) -> frozenset[str]:
        """Tokens that no text may be encoded to, even if it spells them."""
        control = {one["content"] for one in self.definition["added_tokens"] if one["special"]}
        roles = set(self.special.ids())
        control |= {token for token, number in self.vocab.items() if number in roles}
        return frozenset(token for token in control if self.vocab[token] != self.special.unk)

    @cached_property
    def _engine(self) -> Any:
        """The library's tokenizer of a definition in which the special tokens are spelt with a
        space in front: there they keep their ids, and no text is cut into one, because a space
        never gets as far as the model."""
        hidden = {token: f" {token}" for token in self._no_text}
        model = dict(self.definition["model"])
        vocab = model["vocab"]
        model["vocab"] = (
            [[hidden.get(token, token), score] for token, score in vocab]
            if isinstance(vocab, list)
            else {hidden.get(token, token): number for token, number in vocab.items()}
        )
        if model.get("unk_token") in hidden:  # an end of a document that is said to be unk
            model["unk_token"] = hidden[model["unk_token"]]
        added = [
            one | {"content": hidden.get(one["content"], one["content"]),
                   "special": one["content"] in hidden}
            for one in self.definition["added_tokens"]
        ]
        engine = engine_of(dict(self.definition) | {"model": model, "added_tokens": added})
        engine.encode_special_tokens = True  # as the text that they are in a document
        if wrong := [one for one in added if engine.token_to_id(one["content"]) != one["id"]]:
            raise UserError(f"the token {wrong[0]['content'].strip()!r} has the id "
                            f"{wrong[0]['id']}, which leaves a gap in the vocabulary; number the "
                            "added tokens on from the model's own")
        return engine


def engine_of(definition: Mapping[str, Any]) -> Any:
    """The library's own tokenizer of a definition.

    Raises:
        UserError: the library is missing, or it refuses the definition.
    """
    tokenizers = library(*SUBWORDS_NEED)
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library has no class of its own for it
        raise UserError(f"the tokenizers library refuses this vocabulary ({error}); "
                        "read one that it wrote itself, or install its newest version") from None


def definition_of(content: Any) -> dict[str, Any]:
    """What decides the ids and the text, out of the content of a tokenizer.json.

    What is put around a text, cut off it or filled up belongs to the objectives, and is left out.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no such content.
    """
    if content["model"].get("type", "BPE") not in KINDS:
        raise ValueError(f"its model is {content['model']['type']}, and none of {', '.join(KINDS)}")
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": int(one["id"]), "content": str(one["content"])}
            | {flag: bool(one.get(flag, False))
               for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            for one in content.get("added_tokens", [])
        ],
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "post_processor": None,
        "decoder": content.get("decoder"),
        "model": {"type": "BPE"} | content["model"],
    }
    model, vocab = definition["model"], _model_vocab(definition["model"])
    if not vocab or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"its ids are not 0 to {len(vocab) - 1}, each once")
    if model["type"] == "BPE":
        # Old files have "left right" for [left, right].
        pairs = [tuple(one.split(" ")) if isinstance(one, str) else one for one in model["merges"]]
        model["merges"] = [[str(left), str(right)] for left, right in pairs]
    return definition


def added_token(content: str, number: int) -> dict[str, Any]:
    """A special token as a tokenizer.json lists it."""
    return {"id": number, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True}


def _model_vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {str(token): number for number, (token, _) in enumerate(vocab)}
    return {str(token): int(number) for token, number in vocab.items()}


def _steps(definition: Mapping[str, Any]) -> set[str]:
    """The types of the steps by which a text is cut and put together again."""

    def types(step: Any) -> list[str]:
        if not isinstance(step, dict):
            return []
        inner = [*step.get("pretokenizers", []), *step.get("decoders", [])]
        return [step.get("type", ""), *(name for one in inner for name in types(one))]

    return {*types(definition["pre_tokenizer"]), *types(definition["decoder"])}
