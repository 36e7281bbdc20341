"""Messages about wrong command-line words: invalid values and unknown options."""

from __future__ import annotations

from typing import Any

from typer.exceptions import TyperException

from scaling.cli.old_options import renamed

_EXPECTED = {
    "float_parsing": "a number is expected, such as 7e9",
    "int_parsing": "a whole number is expected, such as 7",
    "int_parsing_size": "a smaller whole number is expected",
    "greater_than_equal": "at least {ge} is expected",
    "less_than_equal": "at most {le} is expected",
    "greater_than": "more than {gt} is expected",
    "less_than": "less than {lt} is expected",
}
"""By pydantic's error type."""

_MAX_SHOWN = 40  # characters of a wrong word


def usage_message(error: TyperException) -> str:
    """The message of a usage error: the option, the given value and what is expected; empty if the
    error has no message."""
    ctx = getattr(error, "ctx", None)
    message = error.format_message().strip().rstrip(".")
    param, problem = getattr(error, "param", None), _problem(error)
    if param is not None and problem is not None:
        name = param.get_error_hint().strip("'")
        message = f"{name} {_shortened(problem['input'])}: {_expected(problem)}"
    elif ctx is not None and (new := renamed(ctx, getattr(error, "option_name", ""))):
        message = new
    hint = f"; see `{_command(ctx)} --help`" if ctx is not None and message else ""
    return f"{message[:1].lower()}{message[1:]}{hint}"


def _command(ctx: Any) -> str:
    """The words of a command, with `scaling` for the program, however it was started."""
    words: list[str] = []
    while ctx.parent is not None:
        words.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(["scaling", *words])


def _problem(error: TyperException) -> dict[str, Any] | None:
    """The first error of pydantic, with which Typer converts words; None if it reported none."""
    errors = getattr(error.__cause__, "errors", None)
    found: list[dict[str, Any]] = errors(include_url=False) if callable(errors) else []
    return found[0] if found else None


def _expected(problem: dict[str, Any]) -> str:
    template = _EXPECTED.get(problem["type"])
    if template is not None:
        return template.format(**problem.get("ctx", {}))
    return str(problem["msg"]).removeprefix("Value error, ").rstrip(".")


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
