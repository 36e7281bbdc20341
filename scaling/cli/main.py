"""The `scaling` command: its subcommands, and the handling of errors.

Subcommands import their dependencies when they run, so that `scaling fit` works without JAX and
`scaling --help` is fast.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
import warnings
from importlib import metadata
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from scaling.cli import (
    allocate,
    compare,
    data,
    fit,
    forecast,
    models,
    plot,
    predict,
    report,
    schema,
    simulate,
    sweep,
    train,
)
from scaling.cli.old_options import JsonSwitchCommand
from scaling.cli.usage import usage_message
from scaling.console import err, filter_warnings, out
from scaling.errors import DataError, UserError, command_line_options
from scaling.files import FIXES


def _show_version(requested: bool) -> None:
    if requested:
        out.print(f"scaling {metadata.version('scaling')}", markup=False)
        raise typer.Exit


_LIBRARIES = ("JAX_", "XLA_", "MPL")
"""Prefixes of the environment variables of JAX, XLA and matplotlib."""


app = typer.Typer(
    name="scaling",
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
app.command(cls=JsonSwitchCommand)(fit.fit)
app.command(cls=JsonSwitchCommand)(allocate.allocate)
app.command()(predict.predict)
app.add_typer(forecast.app, name="forecast")
app.command(cls=JsonSwitchCommand)(compare.compare)
app.command()(simulate.simulate)
app.command()(plot.plot)
app.command()(report.report)
app.command()(schema.schema)


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option(
        "--version", callback=_show_version, is_eager=True,
        help="Show the version and exit.")] = False,
) -> None:
    """Train sweeps of Transformers and fit scaling laws to their losses."""
    context.with_resource(command_line_options())


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show must not fail the command.
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # python -W or PYTHONWARNINGS shows them
        # Our own messages contain what a user has to know.
        warnings.simplefilter("ignore")
    filter_warnings()
    try:
        _check_environment()
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        _fail(str(error), status=1 if isinstance(error, DataError) else 2)
    except TyperException as error:
        if message := usage_message(error):
            _fail(message, status=error.exit_code)
        sys.exit(error.exit_code)  # the help of a command without arguments has been shown
    except BrokenPipeError:  # the reader, such as `| head`, has ended
        # The rest of the buffer must not fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        fix = FIXES.get(error.errno or 0, "choose another place")
        _fail(f"{where}{error.strerror.lower()}; {fix} and run the command again")
    except MemoryError:
        _fail("not enough memory; use fewer resamples, a smaller model or a smaller batch, or run "
              "the command on a larger machine")
    except Exception as error:
        if os.environ.get("SCALING_TRACEBACK"):
            raise
        message = " ".join(traceback.format_exception_only(error)[-1].split())
        if variable := _refused_variable(error):
            _fail(f"{variable}={os.environ[variable]:.80}: a library does not accept this "
                  f"({message:.200}); unset it, or correct it")
        _fail(f"{message}; this is a bug in scaling or in a library that it uses; "
              "SCALING_TRACEBACK=1 shows where", status=1)


def _check_environment() -> None:
    """Check environment variables that libraries read at import without a clear error.

    Raises:
        UserError: SOURCE_DATE_EPOCH is not a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None and not re.fullmatch(r"[0-9]{1,12}", epoch):
        raise UserError(f"SOURCE_DATE_EPOCH={epoch!r:.40}: a whole number of seconds since 1970 is "
                        "expected; unset it, or correct it")


def _refused_variable(error: Exception) -> str | None:
    """The environment variable that a library refused: its name or its value is in the message;
    None if the error is another."""
    message = str(error).upper()
    for name, value in os.environ.items():
        if name.startswith(_LIBRARIES) and (name in message or repr(value).upper() in message):
            return name
    return None


def _fail(message: str, status: int = 2) -> NoReturn:
    err.print(f"error: {message}", markup=False)
    sys.exit(status)


if __name__ == "__main__":
    main()
