"""Error messages for configuration files, made from pydantic's errors: the path as the user wrote
it, what was expected, what was given, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from scaling.config.base import FIELD_ERROR, LARGEST_INTEGER, LIST_TAG, Config
from scaling.config.classes import classes_of, tag_field, tag_values
from scaling.config.presets import preset_values
from scaling.config.text import one_line
from scaling.errors import UserError

_NOT_GIVEN = " (not given; this is"

_EXPECTED_BY_TYPE = {
    "int": "a valid integer is expected",
    "float": "a number is expected",
    "finite_number": "a finite number is expected",
    "bool": "true or false is expected",
    "string": "text is expected",
    "path": "a path is expected",
    "tuple": "a list is expected",
    "dict": "a mapping (`key: value` lines) is expected",
    "model": "a mapping (`key: value` lines) is expected",
}
"""What is expected, by the prefix of pydantic's error type."""

_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}


def explain_errors(cls: type[BaseModel], errors: Iterable[Any], content: Any) -> list[str]:
    """A list of messages, one line for each problem.

    Args:
        cls: the class that validated the data.
        errors: pydantic's errors.
        content: the plain data.
    """
    return [line for error in errors for line in _explain(cls, error, content)]


def _explain(cls: type[BaseModel], error: Mapping[str, Any], content: Any) -> list[str]:
    path, holders, inner = _resolve_location(cls, error["loc"])
    where = ".".join(path)
    if error["type"] == FIELD_ERROR:
        return [format_problem([*path, *filter(None, field.split("."))], message, content)
                for field, message in error["ctx"]["problems"]]
    message = _message(error, path, holders, inner)
    return [f"{where}: {message}" if where else message]


def format_problem(path: list[str], message: str, content: Any) -> str:
    """The message about a field, with its path; if the user did not give the field, the message
    names the source of its value."""
    where = ".".join(path)
    return f"{where}: {message}{_value_origin(path, message, content)}" if where else message


def _value_origin(path: list[str], message: str, content: Any) -> str:
    """The source of a value that the user did not give: the default or a preset; empty for values
    that the user gave."""
    value: Any = content
    for key in path:
        if isinstance(value, list | tuple) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            break
    else:
        return ""
    # Keys of `vary` have dots; problems of a nested run already name the source of their values.
    if message.startswith("missing") or path[0] == "vary" or _NOT_GIVEN in message:
        return ""
    model = content.get("model") if isinstance(content, dict) and path[0] == "model" else content
    preset = model.get("preset") if isinstance(model, dict) else None
    if not isinstance(preset, str) or (path[0] != "model" and content is not model):
        return f"{_NOT_GIVEN} the default)"
    key = path[1] if path[0] == "model" and len(path) > 1 else path[0]
    with suppress(UserError):  # the preset does not exist
        if key in preset_values(preset):
            return f"{_NOT_GIVEN} from the preset {preset})"
    return f"{_NOT_GIVEN} the default)"


def _message(
    error: Mapping[str, Any], path: list[str], holders: list[type[BaseModel]],
    inner: list[type[BaseModel]],
) -> str:
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return f"unknown key; {suggest_key(path[-1], holders)}"
    if kind == "missing":
        return "missing, and it has no default; add it"
    if kind.startswith("union_tag") or (kind.startswith("model_") and tag_field(inner)):
        return _union_message(kind, inner, value)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = ctx[key]
        expected = f"a number {words} {bound:{',' if isinstance(bound, int) else 'g'}} is expected"
        return f"{expected}, not {format_value(value)}"
    if kind == "int_parsing_size":
        return f"an integer of at most {LARGEST_INTEGER:,} is expected, not {format_value(value)}"
    if kind == "literal_error":
        known = [word.strip() for word in ctx["expected"].replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(str(value)[:100], [w.strip("'") for w in known], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{ctx['expected']} is expected, not {format_value(value)}{hint}"
    for beginning, expected in _EXPECTED_BY_TYPE.items():
        if kind.startswith(beginning):
            return f"{expected}, not {format_value(value)}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    return message if kind == "value_error" else f"{message}, not {format_value(value)}"


def _union_message(kind: str, classes: list[type[BaseModel]], value: Any) -> str:
    """The problem of a value of a union: its tag is missing or unknown, or it is not a mapping."""
    tag, known = tag_field(classes) or "kind", [t for cls in classes for t in tag_values(cls)]
    words = ", ".join(map(repr, known))
    given = value.get(tag) if isinstance(value, dict) else value
    if isinstance(given, str):
        near = difflib.get_close_matches(given[:100], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if isinstance(value, dict):
            return f"{tag} {format_value(given)} is not one of {words}{hint}"
    if isinstance(value, dict) and tag not in value:
        return f"{tag} is missing; give one of {words}"
    example = given if isinstance(given, str) and given in known else known[0]
    if isinstance(value, dict):
        return f"{tag} is one of {words}, not {format_value(given)}"
    return (f"a mapping with the key {tag} is expected, not {format_value(value)}; {tag} is one of "
            f"{words}, for example {{{tag}: {example}}}")


def suggest_key(key: str, classes: Iterable[type[BaseModel]]) -> str:
    """The fix for an unknown key: its new name if it was renamed, the nearest known key, or the
    list of known keys."""
    classes = tuple(classes)
    for cls in classes:
        if issubclass(cls, Config) and key in cls.renamed:
            return f"it is called {cls.renamed[key]} now; rename it"
    known = sorted({name for cls in classes for name in cls.model_fields})
    near = difflib.get_close_matches(key[:100], known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def format_value(value: Any, max_length: int = 60) -> str:
    """A value as YAML text, cut to `max_length` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 200:  # str() fails for very long ones
        return "a number of more than 60 digits"
    text = f"{value:.15g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def _resolve_location(
    cls: type[BaseModel], location: tuple[str | int, ...]
) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Resolve the location of a pydantic error.

    pydantic puts the tag of a union between two keys; it selects a class and is not part of the
    path.

    Returns:
        The path as the user wrote it, the classes that may have its last key, and the classes of
        the value there.
    """
    path: list[str] = []
    holders: list[type[BaseModel]] = [cls]
    inner = holders
    for part in location:
        selected = [c for c in inner if part in tag_values(c)]
        fields = [c.model_fields[part] for c in inner if part in c.model_fields]
        if selected and not fields:
            inner = selected
            continue
        if part == LIST_TAG and not fields:
            inner = [c for c in inner if not tag_values(c)]
            continue
        path.append(one_line(str(part), 100))
        if isinstance(part, str):
            holders = inner
            inner = [c for field in fields for c in classes_of(field)]
    return path, holders, inner
