"""Entry point of the installed command: Ctrl-C during imports ends it without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Import and run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from scaling.cli.main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
