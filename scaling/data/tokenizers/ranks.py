"""GPT-2's vocabulary from a file of ranks: each line some bytes in base64, and their id.

The file has no merges, and they follow from it: the ids rise in the order in which the tokens
were learnt, so a token was merged from the two that merging its bytes by lower ids alone leaves.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from typing import Any

from scaling.data.tokenizers.base import BYTES
from scaling.data.tokenizers.byte_level import written
from scaling.data.tokenizers.recipes import bpe_definition
from scaling.data.tokenizers.subwords import added_token

END_OF_TEXT = "<|endoftext|>"
"""Which GPT-2 has after the tokens of the file."""


def parse_ranks(content: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json with these ranks and the end of text after them.

    Raises:
        ValueError: the ranks are no byte-level BPE, or not one with GPT-2's cuts.
    """
    ranks: dict[bytes, int] = {}
    for line in content.splitlines():
        token, number = line.split()
        ranks[base64.b64decode(token, validate=True)] = int(number)
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"its ranks are not 0 to {len(ranks) - 1}, each once")
    if missing := [byte for byte in range(BYTES) if bytes([byte]) not in ranks]:
        raise ValueError(f"it has no token for the byte {missing[0]}")
    if whole := next((token for token in ranks if not _one_cut(token)), None):
        raise ValueError(f"the token {whole!r} is not cut as GPT-2 cuts, and the file does not say "
                         "how; take the tokenizer.json of this vocabulary")
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [[written(half) for half in _halves(token, ranks)]
              for token in ordered if len(token) > 1]
    vocab = {written(token): number for token, number in ranks.items()} | {END_OF_TEXT: len(ranks)}
    return bpe_definition(vocab, merges) | {
        "added_tokens": [added_token(END_OF_TEXT, len(ranks))]
    }


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this one."""
    last = ranks[token]
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        rank, place = min(
            (ranks.get(parts[k] + parts[k + 1], last), k) for k in range(len(parts) - 1)
        )
        if rank == last:
            raise ValueError(f"the token {token!r} is no merge of two with lower ranks")
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _one_cut(token: bytes) -> bool:
    """Whether GPT-2's cuts may leave some bytes together: characters of one category, with a
    space in front if they are not white space, or a contraction."""
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return True  # a piece of a character
    body = text[1:] if text[0] == " " and not text.isspace() else text
    return len({_category(one) for one in body}) <= 1 or bool(_CONTRACTION.fullmatch(body))


_CONTRACTION = re.compile("'(?:[stmd]|re?|ve?|ll?)")


def _category(character: str) -> str:
    if character.isspace():
        return "white"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")
