"""The `scaling` command: an index of its subcommands, and the one place where errors end.

Subcommands import what they need when they run, so that `scaling fit` works without JAX and
`scaling --help` is quick.
"""

from __future__ import annotations

import sys

import typer

from scaling.cli import (
    allocate,
    compare,
    data,
    fit,
    models,
    results,
    schema,
    simulate,
    sweep,
    train,
)
from scaling.cli.terminal import err
from scaling.errors import UserError
from scaling.files import NO_ROOM

app = typer.Typer(
    name="scaling",
    help="Train sweeps of Transformers and turn their losses into scaling laws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command()(models.models)
app.command()(train.train)
app.add_typer(sweep.app, name="sweep")
app.command()(fit.fit)
app.command()(allocate.allocate)
app.command()(compare.compare)
app.command()(simulate.simulate)
app.command()(results.plot)
app.command()(results.report)
app.command()(schema.schema)


def main() -> None:
    """Run the command line; exit status 2 and one message for a user's mistake."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        mend = NO_ROOM.get(error.errno or 0, "choose another place")
        _fail(f"{error.filename}: {error.strerror.lower()}; {mend} and run the command again")


def _fail(message: str) -> None:
    err.print(f"error: {message}", markup=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
