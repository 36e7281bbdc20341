"""The one exception that means "you asked for something that cannot be done".

It stands at the root of the package, below every room, and imports nothing.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: the command line prints it and exits with status 2.

    The message names the thing, says what was expected, and says how to mend it. It is shown
    as it is, with no traceback, so it has to make sense to somebody who never read the code.
    """
