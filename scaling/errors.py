"""Exceptions for requests that cannot be carried out.

This module is at the bottom of the package and imports nothing.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the command line prints it and exits with status 2.

    The message names the thing, states what was expected and how to fix it. It is shown without a
    traceback, so a user who has never read the code must understand it.
    """


class DataError(UserError):
    """The request is valid, but the given data cannot answer it: too few runs, or budgets without
    an optimum. The command line prints it and exits with status 1.
    """
