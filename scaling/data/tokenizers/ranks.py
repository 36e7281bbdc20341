"""GPT-2's vocabulary from a file of ranks (tiktoken): each line has a token in base64 and its id.

The file has no merges, but they can be derived: ids ascend in the order in which the tokens were
learnt, so a token was merged from the two tokens that remain after its bytes are merged by lower
ids only.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from typing import Any

from scaling.data.tokenizers.base import BYTES
from scaling.data.tokenizers.byte_level import to_characters
from scaling.data.tokenizers.recipes import bpe_definition
from scaling.data.tokenizers.subwords import added_token

_LONGEST = 1000
"""Largest length of a token in base64: the time to derive its merge is quadratic in it, and
GPT-2's longest has 172."""

END_OF_TEXT = "<|endoftext|>"
"""GPT-2's end of text, with the id after the tokens of the file."""


def parse_ranks(content: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json with these ranks, and the end of text after them.

    Raises:
        ValueError: The ranks are not those of a byte-level BPE with GPT-2's pre-tokenizer.
    """
    ranks: dict[bytes, int] = {}
    for line in content.splitlines():
        token, number = line.split()
        if len(token) > _LONGEST:
            raise ValueError(f"a token has {len(token):,} characters, more than {_LONGEST:,}")
        ranks[base64.b64decode(token, validate=True)] = int(number)
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"its ranks are not 0 to {len(ranks) - 1}, each once")
    if missing := [byte for byte in range(BYTES) if bytes([byte]) not in ranks]:
        raise ValueError(f"it has no token for the byte {missing[0]}")
    if invalid := next((token for token in ranks if not _is_one_word(token)), None):
        raise ValueError(f"the token {invalid!r} is impossible with GPT-2's pre-tokenizer, and the "
                         "file does not specify another; use the tokenizer.json of this vocabulary")
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [[to_characters(half) for half in _merged_pair(token, ranks)]
              for token in ordered if len(token) > 1]
    vocab = {to_characters(token): number for token, number in ranks.items()}
    return bpe_definition(vocab | {END_OF_TEXT: len(ranks)}, merges) | {
        "added_tokens": [added_token(END_OF_TEXT, len(ranks))]
    }


def _merged_pair(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this token."""
    last = ranks[token]
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        rank, place = min(
            (ranks.get(parts[k] + parts[k + 1], last), k) for k in range(len(parts) - 1)
        )
        if rank == last:
            raise ValueError(f"the token {token!r} is not a merge of two with lower ranks")
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _is_one_word(token: bytes) -> bool:
    """Whether GPT-2's pre-tokenizer can leave these bytes in one word: characters of one category,
    with a space in front unless they are whitespace, or a contraction."""
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return True  # part of a character
    body = text[1:] if text[0] == " " and not text.isspace() else text
    return len({_category(char) for char in body}) <= 1 or bool(_CONTRACTION.fullmatch(body))


_CONTRACTION = re.compile("'(?:[stmd]|re?|ve?|ll?)")


def _category(character: str) -> str:
    if character.isspace():
        return "white"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")
