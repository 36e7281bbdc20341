"""Special tokens: their roles, spellings and ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import count, takewhile
from typing import Any

from pydantic import model_validator

from scaling.config.base import Config, NonNegativeInt
from scaling.errors import UserError

ROLES = ("eos", "pad", "cls", "sep", "mask", "unk")
"""Roles of a single token, in the order in which their ids are assigned."""


class SpecialTokens(Config):
    """Ids of the special tokens of a vocabulary, by role; None if it has none for a role.

    Spelt `<eos>`, `<pad>`, `<cls>`, `<sep>`, `<mask>`, `<unk>` and `<extra_id_0>`, `<extra_id_1>`
    ..., or as in a published vocabulary (`USUAL_SPELLINGS`). No text is encoded to any of them but
    `unk`, not even text that spells them.
    """

    eos: NonNegativeInt
    """Ends every document."""
    pad: NonNegativeInt | None = None
    """Pads sequences; it is never attended to."""
    cls: NonNegativeInt | None = None
    """Begins the input of an encoder; its state represents the whole sequence."""
    sep: NonNegativeInt | None = None
    """Ends each of a pair of segments."""
    mask: NonNegativeInt | None = None
    """Replaces a masked token."""
    unk: NonNegativeInt | None = None
    """Represents text that the vocabulary cannot encode."""
    sentinels: tuple[NonNegativeInt, ...] = ()
    """Replace removed spans, the first sentinel the first span."""

    @model_validator(mode="after")
    def _distinct(self) -> SpecialTokens:
        ids = self.sentinels
        if len(set(ids)) != len(ids):
            raise ValueError(f"sentinels: {len(ids) - len(set(ids))} ids are repeated")
        return self

    def id(self, role: str) -> int:
        """The id of a role's token.

        Raises:
            ValueError: the vocabulary has none.
        """
        found: int | None = getattr(self, role)
        if found is None:
            raise ValueError(f"the vocabulary has no {spelling(role)}")
        return found

    def ids(self) -> tuple[int, ...]:
        """The distinct ids of all roles, in ascending order."""
        single = (getattr(self, role) for role in ROLES)
        return tuple(sorted({*(i for i in single if i is not None), *self.sentinels}))


def spelling(role: str) -> str:
    """The spelling of a role's token."""
    return f"<{role}>"


def sentinel(number: int) -> str:
    """The spelling of a sentinel, numbered from 0."""
    return f"<extra_id_{number}>"


USUAL_SPELLINGS = {
    "eos": ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "[EOS]", "[SEP]"),
    "pad": ("[PAD]", "<|pad|>", "<|padding|>"),
    "cls": ("[CLS]", "<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<|mask|>"),
    "unk": ("[UNK]", "<|unk|>"),
}
"""Spellings of each role in published vocabularies, in addition to the spelling here. BERT has no
end-of-document token, so `[SEP]` serves as one; RoBERTa and BART end documents and segments with
`</s>` and begin with `<s>`."""


def ordered_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """The distinct roles, in the order of `ROLES`.

    Raises:
        UserError: A role is unknown; the nearest one is suggested.
    """
    requested = tuple(roles)
    for role in requested:
        if role not in ROLES:
            near = get_close_matches(role, ROLES, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UserError(f"special token {role!r}: known are {', '.join(ROLES)}{hint}")
    return tuple(role for role in ROLES if role in requested)


MOST_SENTINELS = 10_000
"""Largest number of sentinels: more than any sequence has spans."""


def spellings(roles: Iterable[str], sentinels: int = 0) -> tuple[str, ...]:
    """The spellings of special tokens, in the order of their ids.

    Sentinels come last, in descending order, so that `<extra_id_0>` has the highest id of a
    vocabulary that they are appended to, as in T5 (Raffel et al. 2020, section 2.2 and its
    vocabulary).
    """
    if not 0 <= sentinels <= MOST_SENTINELS:
        raise UserError(f"sentinels = {sentinels}: a number from 0 to {MOST_SENTINELS:,} is "
                        "expected, such as T5's 100")
    return (*map(spelling, ordered_roles(roles)), *map(sentinel, reversed(range(sentinels))))


def recognise_special(ids: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `SpecialTokens` for the tokens with a known spelling.

    Args:
        ids: The id of each token.
    """
    found: dict[str, Any] = {}
    for role in ROLES:
        names = (spelling(role), *USUAL_SPELLINGS[role])
        name = next((name for name in names if name in ids), None)
        if name is not None:
            found[role] = ids[name]
    found["sentinels"] = tuple(
        ids[sentinel(k)] for k in takewhile(lambda k: sentinel(k) in ids, count())
    )
    return found
