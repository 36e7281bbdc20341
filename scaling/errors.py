"""Exceptions for requests that cannot be carried out, and how their messages spell options.

This module is at the bottom of the package and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_in_command = False  # a process is either the command or a Python program


class UserError(ValueError):
    """A mistake in the user's input: the command line prints it and exits with status 2. In Python
    it is a `ValueError`, as which programs catch wrong input.

    The message names the thing, states what was expected and how to fix it. It is shown without a
    traceback, so a user who has never read the code must understand it.
    """


class DataError(UserError):
    """The request is valid, but the given data cannot answer it: too few runs, or budgets without
    an optimum. The command line prints it and exits with status 1.
    """


def option(python: str, command: str) -> str:
    """An option as the user gives it: `loss=COLUMN` in Python, `--loss COLUMN` in the command."""
    return command if _in_command else python


@contextmanager
def command_line_options() -> Iterator[None]:
    """Within it `option` returns the spelling of the command line."""
    global _in_command
    before, _in_command = _in_command, True
    try:
        yield
    finally:
        _in_command = before
