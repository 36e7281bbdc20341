"""Checks of a configuration that has invalid fields.

pydantic runs the model validators of a class only if all of its fields are valid, so a user would
see the problems of a file one after another. Here each check runs on the valid fields, and stops
when it reads an invalid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined

from scaling.config.base import Config, ValidatedLater
from scaling.config.classes import classes_of, select_by_tag
from scaling.config.explain import explain_errors, format_problem
from scaling.config.presets import expand_preset


def further_problems(cls: type[Config], content: Any) -> list[str]:
    """Problems that the checks of a class and of its nested classes find in invalid plain data.

    Args:
        cls: the class that validated the data.
        content: plain data.
    """
    problems: list[str] = []
    if isinstance(content, dict):
        _build_partial(cls, content, [], problems, content)
    return problems


def _build_partial(
    cls: type[BaseModel], content: dict[str, Any], path: list[str], problems: list[str], root: Any
) -> BaseModel:
    """An object that has only the valid fields as attributes."""
    content = _fill_missing(cls, content)
    values: dict[str, Any] = {}
    unknown = [key for key in content if key not in cls.model_fields]
    misspelt = {near for key in unknown
                for near in difflib.get_close_matches(key[:100], cls.model_fields, n=1)}
    for name, field in cls.model_fields.items():
        with suppress(ValidationError, PydanticCustomError, ValueError, RecursionError):
            given = content.get(name, PydanticUndefined)
            if given is not PydanticUndefined:
                values[name] = _validate_field(field, given, [*path, name], problems, root)
            elif name not in misspelt and not field.is_required():
                values[name] = field.get_default(call_default_factory=True)
    partial = cls.model_construct()  # no values: a field may have the name of an argument
    partial.__dict__.clear()
    partial.__dict__.update(values)
    if isinstance(partial, Config):
        for check in partial.checks():
            problems += _run_check(check, path, root)
    return partial


def _fill_missing(cls: type[BaseModel], content: dict[str, Any]) -> dict[str, Any]:
    """The content after the class has filled in missing keys."""
    fill = getattr(cls, "fill_missing", None)
    if fill is None:
        return content
    try:
        filled: dict[str, Any] = fill(content)
        return filled
    except PydanticCustomError:
        return content


def _validate_field(
    field: FieldInfo, given: Any, path: list[str], problems: list[str], root: Any
) -> Any:
    """The validated value of a field, or a partial object.

    Raises:
        ValidationError: the value is invalid and is not a mapping of one class.
    """
    for part in field.metadata:
        if isinstance(part, ValidatedLater) and isinstance(given, dict):
            problems += deferred_problems(part, given, path)
    try:
        kind: Any = field.annotation
        whole: Any = Annotated[(kind, *field.metadata)] if field.metadata else kind
        return TypeAdapter(whole).validate_python(given)
    except ValidationError:
        inner = select_by_tag(classes_of(field), given)
        if isinstance(given, dict) and len(inner) == 1 and issubclass(inner[0], Config):
            return _build_partial(inner[0], given, path, problems, root)
        if isinstance(given, list):
            for index, each in enumerate(given):
                classes = select_by_tag(classes_of(field), each)
                if isinstance(each, dict) and len(classes) == 1:
                    _build_partial(classes[0], each, [*path, str(index)], problems, root)
        raise


def deferred_problems(
    annotation: ValidatedLater, content: dict[str, Any], path: list[str]
) -> list[str]:
    """Problems of plain data that is validated later, when its missing keys are known."""
    content = _without_deferred(annotation, content)
    try:
        annotation.cls.model_validate(content)
    except ValidationError as error:
        errors = [e for e in error.errors(include_url=False)
                  if not (e["type"] == "missing" and _is_deferred(e["loc"], annotation))]
        lines = explain_errors(annotation.cls, errors, content)
        lines += [line for line in further_problems(annotation.cls, content) if line not in lines]
        return [".".join([*path, line]) for line in lines]
    return []


def _without_deferred(annotation: ValidatedLater, content: dict[str, Any]) -> dict[str, Any]:
    """The content without a preset's values of deferred keys, which will be replaced."""
    model = content.get("model")
    if not isinstance(model, dict):
        return content
    with suppress(PydanticCustomError):  # no such preset, which the class reports
        expanded = expand_preset(model)
        deferred = {key.removeprefix("model.") for key in annotation.missing} | {"preset"}
        kept = {key: value for key, value in expanded.items() if key not in deferred or (
            key in model and key != "preset")}
        return content | {"model": kept}
    return content


def _is_deferred(location: tuple[str | int, ...], annotation: ValidatedLater) -> bool:
    path = ".".join(map(str, location))
    return any(key == path or key.startswith(f"{path}.") for key in annotation.missing)


def _run_check(check: Iterator[tuple[str, str]], path: list[str], root: Any) -> list[str]:
    """The problems that a check yields until it reads a field that is absent."""
    lines = []
    with suppress(AttributeError, TypeError, ValueError, PydanticCustomError, ValidationError):
        for field, message in check:
            lines.append(format_problem([*path, *filter(None, field.split("."))], message, root))
    return lines
