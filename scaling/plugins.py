"""Members that other packages register by entry points: sources of text, launchers."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TypeVar

from scaling.errors import UserError

Member = TypeVar("Member")


def load_entry_point(entry: EntryPoint, expected: type[Member], noun: str) -> Member:
    """The value of an entry point.

    Args:
        entry: the entry point.
        expected: class of the value.
        noun: what it is, for messages.

    Raises:
        UserError: it cannot be loaded, or is something else.
    """
    try:
        value = entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"the {noun} {entry.name} ({entry.value}) cannot be loaded: {error}; "
                        "install the package that registers it again, or remove it") from None
    if not isinstance(value, expected):
        raise UserError(f"the {noun} {entry.name} ({entry.value}) is a {type(value).__name__}, "
                        f"but a {expected.__module__}.{expected.__name__} is expected")
    return value
