"""Configuration classes of fields and unions, looked up from plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scaling.config.base import ValidatedLater

TAGS = ("kind", "rule")
"""Discriminator fields of unions."""


def classes_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The configuration classes that a field, or an element of it, may have."""
    deferred: list[type[BaseModel]] = [
        part.cls for part in field.metadata if isinstance(part, ValidatedLater)]
    return deferred or _annotated_classes(field.annotation)


def _annotated_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for argument in get_args(annotation) for cls in _annotated_classes(argument)]


def classes_at(classes: Iterable[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    """The configuration classes that a key may have, in any of the given classes."""
    return [inner for cls in classes if key in cls.model_fields
            for inner in classes_of(cls.model_fields[key])]


def tag_values(cls: type[BaseModel]) -> list[Any]:
    """The tags of a class in a union: the values of its `kind` or `rule`."""
    fields = [cls.model_fields[name] for name in TAGS if name in cls.model_fields]
    return [value for field in fields for value in get_args(field.annotation)]


def tag_field(classes: Iterable[type[BaseModel]]) -> str | None:
    """The discriminator field of a union of these classes; None if they are not a union."""
    unions = [cls for cls in classes if tag_values(cls)]
    return next((name for name in TAGS for cls in unions if name in cls.model_fields), None)


def select_by_tag(classes: Iterable[type[BaseModel]], content: Any) -> list[type[BaseModel]]:
    """The classes that match the tag of a mapping; all classes if it has no known tag."""
    candidates = list(classes)
    name = tag_field(candidates)
    if name is None or not isinstance(content, dict):
        return candidates
    tag = content.get(name)
    return [cls for cls in candidates if tag in tag_values(cls)] or candidates
