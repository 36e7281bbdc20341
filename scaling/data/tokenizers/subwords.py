"""BPE, WordPiece and Unigram tokenizers, in the file format of the tokenizers library.

The library is imported when a text is encoded or decoded; the size, hash and word starts of a
vocabulary do not need it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.config import content_hash
from scaling.data.tokenizers.base import (
    LARGEST_ID,
    LONGEST_TOKEN,
    METASPACE,
    SENTENCE_ENDS,
    TOKENIZER_FILE,
    WHITE_PIECES,
    TokenIds,
    TokenizerKind,
    import_library,
    library_errors,
    piece_bytes,
    silenced_stderr,
    token_dtype,
    without_special,
)
from scaling.data.tokenizers.byte_level import WHITE_CHARACTERS, to_characters
from scaling.data.tokenizers.special import SpecialTokens, recognise_special
from scaling.errors import UserError

KINDS: dict[str, TokenizerKind] = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
"""The kind of each model type of the library."""

GPT2_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
"""GPT-2's pre-tokenizer: separates letters, digits, other characters and whitespace, with a leading
space belonging to what follows, so that no token spans two of them (Radford et al. 2019,
section 2.2)."""

SUBWORDS_NEED = ("tokenizers", "a BPE, WordPiece or Unigram vocabulary", "'scaling[bpe]'")
"""Arguments of `import_library`."""

_LIBRARY = SUBWORDS_NEED[0]

_TEST_IDS = 1000


@dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A subword vocabulary with its normaliser, pre-tokenizer and decoder."""

    definition: Mapping[str, Any] = field(repr=False)
    """The content of a tokenizer.json, as returned by `definition_of`."""
    special: SpecialTokens
    source: str = "this vocabulary"
    """The file of the vocabulary, for messages."""

    @property
    def kind(self) -> TokenizerKind:
        return KINDS[self.definition["model"]["type"]]

    @cached_property
    def vocab(self) -> dict[str, int]:
        """The id of each token, of the model and of the added tokens."""
        added = {str(token["content"]): int(token["id"])
                 for token in self.definition["added_tokens"]}
        return _model_vocab(self.definition["model"]) | added

    @cached_property
    def vocab_size(self) -> int:
        return max(self.vocab.values()) + 1

    @property
    def eos(self) -> int:
        return self.special.eos

    @cached_property
    def hash(self) -> str:
        # Empty values are left out, since another version of the library may add such fields, and
        # so are GPT-2's pre-tokenizer and special tokens with known spellings: vocabularies with
        # equal ids keep their hash.
        definition, model = self.definition, self.definition["model"]
        pre_tokenizer = definition["pre_tokenizer"]
        is_default = self.kind == "bpe" and pre_tokenizer == GPT2_PRE_TOKENIZER
        special = self.special.model_dump(exclude_none=True)
        is_implied = recognise_special(self.vocab).items() >= special.items()
        parts = {
            **{key: value for key, value in model.items() if key != "type"},
            "normalizer": definition["normalizer"],
            "pre_tokenizer": None if is_default else [pre_tokenizer],
            "added": {token: number for token, number in self.vocab.items()
                      if token not in _model_vocab(model)},
            "matched": [token for token in definition["added_tokens"] if not token["special"]],
            "special": None if is_implied else special,
        }
        return content_hash({"kind": self.kind} | {key: v for key, v in parts.items() if v})

    def encode(self, text: str) -> TokenIds:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        dtype = token_dtype(self.vocab_size)
        engine = self._engine
        with library_errors(_LIBRARY, self.source):
            encoded = engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype) for encoding in encoded]

    def decode(self, ids: ArrayLike) -> str:
        special = [self.vocab[token] for token in self._control_tokens]
        text_ids = without_special(ids, self.vocab_size, special).tolist()
        engine = self._engine
        with library_errors(_LIBRARY, self.source):
            return str(engine.decode(text_ids, skip_special_tokens=False))

    def word_starts(self) -> NDArray[np.bool_]:
        begins_word = self._begins_word()
        starts = np.zeros(self.vocab_size, np.bool_)
        starts[[number for token, number in self.vocab.items() if begins_word(token)]] = True
        starts[list(self.special.ids())] = True
        return starts

    def sentence_ends(self) -> NDArray[np.bool_]:
        # Byte-level vocabularies have their own character for a line feed, and others may have
        # byte-fallback pieces.
        byte_level = "ByteLevel" in _component_types(self.definition)
        marks = tuple(to_characters(SENTENCE_ENDS.encode()) if byte_level else SENTENCE_ENDS)
        byte_pieces = {f"<0x{byte:02X}>" for byte in SENTENCE_ENDS.encode()}
        ends = np.zeros(self.vocab_size, np.bool_)
        ends[[number for token, number in self.vocab.items()
              if token.endswith(marks) or token in byte_pieces]] = True
        ends[self.eos] = True
        return ends

    @property
    def keeps_bytes(self) -> bool:
        decoder = self.definition["decoder"]
        return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"

    def token_bytes(self) -> NDArray[np.int64]:
        # In the byte-level alphabet a character is a byte; added tokens are not in that alphabet.
        added = {str(token["content"]) for token in self.definition["added_tokens"]}
        size_of = len if self.keeps_bytes else self._nominal_bytes
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, number in self.vocab.items():
            sizes[number] = (len(token.encode("utf-8", "surrogatepass")) if token in added
                             else size_of(token))
        sizes[[self.vocab[token] for token in self._control_tokens]] = 0
        return sizes

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json, in the format of the tokenizers library."""
        text = json.dumps(self.definition, ensure_ascii=False, indent=1)
        (folder / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")

    def _nominal_bytes(self, token: str) -> int:
        model = self.definition["model"]
        prefix = model.get("continuing_subword_prefix") or ""
        suffix = model.get("end_of_word_suffix") or ""
        rest = token.removeprefix(prefix)
        # If the vocabulary has no spaces in its tokens, one is counted per word.
        space = (self.kind == "wordpiece" and rest == token) or (
            suffix != "" and token.endswith(suffix))
        return piece_bytes(rest.removesuffix(suffix)) + space

    def _begins_word(self) -> Callable[[str], bool]:
        model = self.definition["model"]
        if model.get("end_of_word_suffix"):
            raise UserError(
                f"{self.source}: this BPE marks the ends of words ({model['end_of_word_suffix']!r})"
                ", but whole words need a vocabulary that marks their beginnings; choose another"
            )
        if self.kind == "wordpiece":
            prefix = str(model["continuing_subword_prefix"])
            return lambda token: not token.startswith(prefix)
        byte_level = "ByteLevel" in _component_types(self.definition)
        spaces = WHITE_CHARACTERS if byte_level else {METASPACE}
        return lambda token: (
            token[:1] in spaces or token[:1].isspace() or token in WHITE_PIECES
        )

    @cached_property
    def _control_tokens(self) -> frozenset[str]:
        """Tokens that no text may be encoded to, even if it spells them."""
        control = {token["content"] for token in self.definition["added_tokens"]
                   if token["special"]}
        roles = set(self.special.ids())
        control |= {token for token, number in self.vocab.items() if number in roles}
        return frozenset(token for token in control if self.vocab[token] != self.special.unk)

    @cached_property
    def _engine(self) -> Any:
        """The library's tokenizer, with a leading space in the spelling of special tokens. They
        keep their ids, but no text is encoded to them, since a space never reaches the model."""
        hidden = {token: f" {token}" for token in self._control_tokens}
        model = dict(self.definition["model"])
        vocab = model["vocab"]
        model["vocab"] = (
            [[hidden.get(token, token), score] for token, score in vocab]
            if isinstance(vocab, list)
            else {hidden.get(token, token): number for token, number in vocab.items()}
        )
        if model.get("unk_token") in hidden:  # the unk of the model may be its end of a document
            model["unk_token"] = hidden[model["unk_token"]]
        added = [
            token | {"content": hidden.get(token["content"], token["content"]),
                     "special": token["content"] in hidden}
            for token in self.definition["added_tokens"]
        ]
        definition = dict(self.definition) | {"model": model, "added_tokens": added}
        engine = engine_of(definition, self.source)
        engine.encode_special_tokens = True  # their spelling in a document is ordinary text
        with library_errors(_LIBRARY, self.source), silenced_stderr():
            _smoke_test(engine, self.vocab_size)
        if wrong := [token for token in added
                     if engine.token_to_id(token["content"]) != token["id"]]:
            raise UserError(f"{self.source}: the token {wrong[0]['content'].strip()!r} has the "
                            f"id {wrong[0]['id']}, which leaves a gap in the vocabulary; number "
                            "the added tokens consecutively after those of the model")
        return engine


def engine_of(definition: Mapping[str, Any], source: str = "this vocabulary") -> Any:
    """The tokenizers.Tokenizer of a definition.

    Raises:
        UserError: The library is missing, or it rejects the definition.
    """
    tokenizers = import_library(*SUBWORDS_NEED)
    with library_errors(_LIBRARY, source), silenced_stderr():
        return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _smoke_test(engine: Any, vocab_size: int) -> None:
    """Encode and decode a little, so that a panic of the library happens here, with standard error
    silenced. Exceptions are ignored, since they may concern these texts only."""
    with suppress(Exception):
        engine.encode_batch_fast(["", " some text\n", "\u00e9 12."], add_special_tokens=False)
    with suppress(Exception):
        engine.decode(list(range(min(vocab_size, _TEST_IDS))), skip_special_tokens=False)


def definition_of(content: Any) -> dict[str, Any]:
    """The parts of a tokenizer.json that determine ids and text, validated.

    Post-processing, truncation and padding belong to the objectives and are removed.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is not the content of a tokenizer.json.
    """
    if content["model"].get("type", "BPE") not in KINDS:
        raise ValueError(f"its model is {content['model']['type']}, not one of {', '.join(KINDS)}")
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": int(token["id"]), "content": str(token["content"])}
            | {flag: bool(token.get(flag, False))
               for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            for token in content.get("added_tokens", [])
        ],
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "post_processor": None,
        "decoder": content.get("decoder"),
        "model": {"type": "BPE"} | content["model"],
    }
    model, vocab = definition["model"], _model_vocab(definition["model"])
    _check_parts(definition)
    if max(map(len, [*vocab, *(token["content"] for token in definition["added_tokens"])]),
           default=0) > LONGEST_TOKEN:
        raise ValueError(f"a token has more than {LONGEST_TOKEN:,} characters")
    if not vocab or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"its ids are not 0 to {len(vocab) - 1}, each once")
    if model["type"] == "BPE":
        # Old files have "left right" instead of [left, right].
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge
                 for merge in model["merges"]]
        model["merges"] = [[str(left), str(right)] for left, right in pairs]
    return definition


def _check_parts(definition: Mapping[str, Any]) -> None:
    """Validate the parts that this module uses before the library has parsed them."""
    model, _ = definition["model"], _component_types(definition)
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if not isinstance(model.get(name), str | None):
            raise TypeError(f"model.{name} is not a string")
    if model["type"] == "WordPiece" and model.get("continuing_subword_prefix") is None:
        raise ValueError("model.continuing_subword_prefix is missing")
    if isinstance(model["vocab"], list) and not all(
        isinstance(token, str) and math.isfinite(score) for token, score in model["vocab"]
    ):
        raise ValueError("its vocabulary is not a list of tokens with finite scores")
    if wrong := [token for token in definition["added_tokens"]
                 if not 0 <= token["id"] < LARGEST_ID]:
        raise ValueError(f"the id {wrong[0]['id']} of an added token is out of range")


def added_token(content: str, number: int) -> dict[str, Any]:
    """The entry of a special token in the added_tokens of a tokenizer.json."""
    return {"id": number, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True}


def _model_vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {str(token): number for number, (token, _) in enumerate(vocab)}
    return {str(token): int(number) for token, number in vocab.items()}


def _component_types(definition: Mapping[str, Any]) -> set[str]:
    """The types of the components of the pre-tokenizer and the decoder."""

    def types(component: Any) -> list[str]:
        if not isinstance(component, dict):
            return []
        inner = [*component.get("pretokenizers", []), *component.get("decoders", [])]
        return [str(component.get("type", "")), *(name for each in inner for name in types(each))]

    return {*types(definition["pre_tokenizer"]), *types(definition["decoder"])}
