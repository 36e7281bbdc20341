"""Load and validate configurations from YAML files, `key=value` overrides, plain data and presets,
and export their JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from scaling.config.base import Config
from scaling.config.explain import explain_errors
from scaling.config.overrides import override, shorten
from scaling.config.partial import further_problems
from scaling.config.text import read_yaml
from scaling.errors import UserError

C = TypeVar("C", bound=Config)

_MAX_PROBLEMS = 20
"""Largest number of problems that one message lists."""


def validate(cls: type[C], content: Any, source: str) -> C:
    """Validate plain data as a configuration.

    Args:
        cls: the configuration class.
        content: mappings, lists, strings and numbers.
        source: the origin of the data, for the error message.

    Raises:
        UserError: the data is invalid. The message has the path of every invalid value, what was
            expected, and the nearest known key for an unknown one.
    """
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        lines = explain_errors(cls, error.errors(include_url=False), content)
        lines += [line for line in further_problems(cls, content) if line not in lines]
        lines = list(dict.fromkeys(lines))
        more = len(lines) - _MAX_PROBLEMS
        lines = lines[:_MAX_PROBLEMS] + ([f"and {more} more problems"] if more > 0 else [])
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def load(cls: type[C], path: Path, assignments: Iterable[str] = ()) -> C:
    """Load a configuration from a YAML file and apply overrides.

    Args:
        cls: the configuration class.
        path: the YAML file.
        assignments: overrides, each `key=value` with a dotted key.

    Raises:
        UserError: the file or an override is invalid.
    """
    assignments = list(assignments)
    content = read_yaml(path)
    for keys, other in cls.mistaken_for.items():
        if all(key in content and key not in cls.model_fields for key in keys):
            raise UserError(f"{path}: {other}")
    source = " ".join([str(path), *map(shorten, assignments)])
    return validate(cls, override(content, assignments, cls), source)


def json_schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a configuration class, for editors and other tools."""
    schema: dict[str, Any] = _standard(cls.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _standard(schema: Any) -> Any:
    """The schema with bounds under their JSON Schema names; pydantic keeps its own names for fields
    that have a validator before the bounds."""
    if isinstance(schema, list):
        return [_standard(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    number = schema.get("type") in ("integer", "number")
    return {_BOUNDS.get(key, key) if number else key: _standard(value)
            for key, value in schema.items()}
