"""A synthetic language from the source string that names it."""

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
"""A language in a configuration."""

PREFIX = "synthetic:"
PATTERN = f"{PREFIX}KIND,OPTION=VALUE,..."

KINDS: dict[str, type[Markov | ZipfBigram | Hierarchy]] = {
    cls.model_fields["kind"].default: cls for cls in (Markov, ZipfBigram, Hierarchy)
}
"""Every kind of language, by name."""

_SHORT = {"vocab_size": "vocab", "heldout_tokens": "heldout"}


def parse_language(source: str) -> Markov | ZipfBigram | Hierarchy:
    """The language that `synthetic:markov,vocab=512,seed=1,tokens=1e9` names.

    Options are the fields of its class, `vocab` and `heldout` for the longer ones; one that is
    left out has its default.

    Raises:
        UserError: no such kind or option, or a value that it cannot have.
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
    """What a text says, 1e9 being as good as 1000000000; a text that is no number stays one."""
    for form in (int, float):
        try:
            return form(text)
        except ValueError:
            pass
    return text


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return (f"did you mean {' or '.join(near)}?" if near
            else f"known are {', '.join(known)}")
