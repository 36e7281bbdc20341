"""Parsing of the source string of a synthetic language."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from scaling.config import validate
from scaling.data.synthetic.chain import Markov, ZipfBigram
from scaling.data.synthetic.hierarchy import Hierarchy
from scaling.errors import UserError

AnyLanguage = Annotated[Markov | ZipfBigram | Hierarchy, Field(discriminator="kind")]
"""Union of the languages, for fields of a configuration."""

PREFIX = "synthetic:"
PATTERN = f"{PREFIX}KIND,OPTION=VALUE,..."

KINDS: dict[str, type[Markov | ZipfBigram | Hierarchy]] = {
    cls.model_fields["kind"].default: cls for cls in (Markov, ZipfBigram, Hierarchy)
}
"""The class of each kind of language."""

_SHORT = {"vocab_size": "vocab", "heldout_tokens": "heldout"}


def parse_language(source: str) -> Markov | ZipfBigram | Hierarchy:
    """Parse a source string such as `synthetic:markov,vocab=512,seed=1,tokens=1e9`.

    Options are the fields of the language's class, with `vocab` and `heldout` short for
    `vocab_size` and `heldout_tokens`; omitted ones have their defaults.

    Raises:
        UserError: The kind or an option is unknown, or a value is invalid.
    """
    if not source.startswith(PREFIX):
        raise UserError(f"{source}: not a synthetic language; write {PATTERN}")
    kind, *options = source.removeprefix(PREFIX).split(",")
    if kind not in KINDS:
        raise UserError(f"{source}: no synthetic language {kind!r}; {_nearest(kind, KINDS)}")
    cls = KINDS[kind]
    fields = {_SHORT.get(name, name): name for name in cls.model_fields if name != "kind"}
    content: dict[str, int | float | str] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if name not in fields:
            raise UserError(f"{source}: {kind} has no option {name!r}; {_nearest(name, fields)}")
        if not equals or not text:
            raise UserError(f"{source}: {name} has no value; write {name}=VALUE")
        if fields[name] in content:
            raise UserError(f"{source}: {name} is given twice; leave one out")
        content[fields[name]] = _number(text)
    return validate(cls, content, source)


def _number(text: str) -> int | float | str:
    """Parse an int or a float such as 1e9; other text is returned unchanged."""
    for cls in (int, float):
        try:
            return cls(text)
        except ValueError:
            pass
    return text


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return (f"did you mean {' or '.join(near)}?" if near
            else f"known are {', '.join(known)}")
