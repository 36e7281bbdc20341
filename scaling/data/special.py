"""Tokens that stand for no text, each by the role that it plays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import count, takewhile
from typing import Any

from pydantic import model_validator

from scaling.config.base import Config, Index
from scaling.errors import UserError

ROLES = ("eos", "pad", "cls", "sep", "mask", "unk")
"""Every role that one token plays, in the order in which a vocabulary makes room for them."""


class Special(Config):
    """Ids of the special tokens of a vocabulary; None where it has none for a role.

    Written `<eos>`, `<pad>`, `<cls>`, `<sep>`, `<mask>`, `<unk>` and `<extra_id_0>`,
    `<extra_id_1>` ..., or as a published vocabulary writes them (`USUAL`). No text is encoded to
    any but `unk`, not even text that spells them.
    """

    eos: Index
    """Follows every document."""
    pad: Index | None = None
    """Fills a sequence up; nothing attends to it."""
    cls: Index | None = None
    """Begins what an encoder reads; its state stands for the whole."""
    sep: Index | None = None
    """Ends each of a pair of segments."""
    mask: Index | None = None
    """Stands where a token was hidden."""
    unk: Index | None = None
    """What a vocabulary that lacks some text writes for it."""
    sentinels: tuple[Index, ...] = ()
    """Stand for the spans that were taken out, the first for the first."""

    @model_validator(mode="after")
    def _distinct(self) -> Special:
        ids = self.sentinels
        if len(set(ids)) != len(ids):
            raise ValueError(f"sentinels: {len(ids) - len(set(ids))} ids are there twice")
        return self

    def ids(self) -> tuple[int, ...]:
        """Every id that plays some role, each once, in ascending order."""
        single = (getattr(self, role) for role in ROLES)
        return tuple(sorted({*(i for i in single if i is not None), *self.sentinels}))


def spelling(role: str) -> str:
    """How a role's token is written."""
    return f"<{role}>"


def sentinel(number: int) -> str:
    """How a sentinel is written, from 0 on."""
    return f"<extra_id_{number}>"


USUAL = {
    "eos": ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "[EOS]", "[SEP]"),
    "pad": ("[PAD]", "<|pad|>", "<|padding|>"),
    "cls": ("[CLS]", "<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<|mask|>"),
    "unk": ("[UNK]", "<|unk|>"),
}
"""How published vocabularies write each role, besides our own way. BERT has no end of a document
and `[SEP]` plays it; RoBERTa and BART end documents and segments with `</s>` and begin with
`<s>`."""


def chosen_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """The roles, each once, in the order of `ROLES`.

    Raises:
        UserError: one of them is none; the nearest one is offered.
    """
    wanted = tuple(roles)
    for role in wanted:
        if role not in ROLES:
            near = get_close_matches(role, ROLES, n=1)
            offer = f", did you mean {near[0]}?" if near else ""
            raise UserError(f"special token {role!r}: there are {', '.join(ROLES)}{offer}")
    return tuple(role for role in ROLES if role in wanted)


def spellings(roles: Iterable[str], sentinels: int = 0) -> tuple[str, ...]:
    """The tokens of some roles and sentinels, in the order of their ids.

    Sentinels come last and descend, so that `<extra_id_0>` of a vocabulary that they are added
    to has its highest id, as in T5 (Raffel et al. 2020, section 2.2 and its vocabulary).
    """
    if sentinels < 0:
        raise UserError(f"sentinels = {sentinels}: their number is 0 or more")
    return (*map(spelling, chosen_roles(roles)), *map(sentinel, reversed(range(sentinels))))


def recognised(ids: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `Special` that some tokens have by their usual names."""
    found: dict[str, Any] = {}
    for role in ROLES:
        name = next((name for name in (spelling(role), *USUAL[role]) if name in ids), None)
        if name is not None:
            found[role] = ids[name]
    found["sentinels"] = tuple(
        ids[sentinel(k)] for k in takewhile(lambda k: sentinel(k) in ids, count())
    )
    return found
