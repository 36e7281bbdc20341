"""Options with one meaning in all commands."""

from __future__ import annotations

from typing import Annotated

import typer

JsonSwitch = Annotated[bool, typer.Option(
    "--json", help="Print JSON, and nothing else, on standard output.")]
