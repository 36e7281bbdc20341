"""Overrides: `key=value` assignments that are applied to plain data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from scaling.config.classes import TAGS, classes_at, select_by_tag, tag_field, tag_values
from scaling.config.presets import expand_preset
from scaling.config.text import MAX_DEPTH, parse_yaml
from scaling.errors import UserError

_MAX_SHOWN = 80  # characters of an assignment in an error message

_ENCODER_DECODER_KEYS = ("n_encoder_layers", "source_context")
"""Keys of a model that only encoder-decoders have."""

_ALTERNATIVES = {"warmup": "warmup_steps", "warmup_steps": "warmup"}
"""Keys that set the same value in different units; setting one removes the other."""


class _Assignment(NamedTuple):
    keys: list[str]
    value: Any
    shown: str


def override(
    content: dict[str, Any], assignments: Iterable[str], cls: type[BaseModel] | None = None
) -> dict[str, Any]:
    """A copy of `content` with dotted assignments applied.

    `schedule.kind=cosine` sets one value. Values are read as YAML, so numbers, lists and `null` are
    converted. Elements of a list are addressed by index: `sizes.0.d_model=64`.

    Args:
        content: plain data.
        assignments: overrides, each `key=value`.
        cls: the class that the data will be validated as. If it is given, keys that no longer apply
            are removed unless an assignment sets them: when the kind (of a schedule, objective,
            grid or head) changes, the keys that the new kind does not have; when the preset or mode
            of a model changes, the keys of other modes; and of `warmup` and `warmup_steps` the one
            that is not set.

    Raises:
        UserError: an assignment has no `=`, or its key leads through a value without keys.
    """
    return _apply(content, [_parse(assignment) for assignment in assignments], cls)


def override_values(
    content: dict[str, Any], values: Mapping[str, Any], cls: type[BaseModel] | None = None
) -> dict[str, Any]:
    """A copy of `content` with values set by dotted keys, as in `override` but without parsing.

    Raises:
        UserError: a key leads through a value without keys.
    """
    return _apply(content, [_Assignment(key.split("."), copy.deepcopy(value), shorten(key))
                            for key, value in values.items()], cls)


def _apply(
    content: dict[str, Any], assignments: list[_Assignment], cls: type[BaseModel] | None
) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(content)
    for assignment in assignments:
        _assign(changed, assignment, [] if cls is None else [cls], assignments)
    return changed


def shorten(assignment: str) -> str:
    """An assignment, cut to a length that fits in an error message."""
    long = len(assignment) > _MAX_SHOWN
    return f"{assignment[:_MAX_SHOWN]}..." if long else assignment


def _parse(assignment: str) -> _Assignment:
    path, equals, text = assignment.partition("=")
    shown = shorten(assignment)
    if not equals or not path:
        raise UserError(
            f"{shown}: not an override; write key=value, for example optimizer.b2=0.99")
    keys = path.split(".")
    if len(keys) > MAX_DEPTH:
        raise UserError(f"{shown}: a key of {len(keys):,} parts; no key has more than {MAX_DEPTH}")
    if not all(keys):
        raise UserError(f"{shown}: a part of the key is empty; write key.key=value with one dot "
                        "between names")
    return _Assignment(keys, parse_yaml(text, shown), shown)


def _assign(
    content: dict[str, Any], assignment: _Assignment, classes: list[type[BaseModel]],
    assignments: list[_Assignment],
) -> None:
    at: Any = content
    keys, value, shown = assignment
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(at, list):
            slot: Any = _list_index(at, assignment, depth)
        elif isinstance(at, dict):
            slot, classes = key, select_by_tag(classes, at) if not last else classes
            if last:
                _drop_stale_keys(at, keys, value, classes, assignments)
            elif at.get(key) is None:
                at[key] = {}
            classes = classes_at(classes, key)
        else:
            raise UserError(f"{shown}: {'.'.join(keys[:depth])} is {shorten(repr(at))} and has no "
                            f"key {shorten(key)}; set {'.'.join(keys[:depth])} itself")
        if last:
            at[slot] = value
        else:
            at = at[slot]


def _list_index(at: list[Any], assignment: _Assignment, depth: int) -> int:
    key, where = assignment.keys[depth], ".".join(assignment.keys[:depth])
    if not at:
        raise UserError(f"{assignment.shown}: {where} is an empty list; set {where}=[...]")
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(at)):
        raise UserError(f"{assignment.shown}: {where} is a list of {len(at)}; give an index from 0 "
                        f"to {len(at) - 1}")
    return int(key)


def _drop_stale_keys(
    at: dict[str, Any], keys: list[str], value: Any, classes: list[type[BaseModel]],
    assignments: list[_Assignment],
) -> None:
    """Remove keys that no longer apply after the kind, preset or mode of a mapping changes."""
    key = keys[-1]
    if at.get(key) == value:
        return
    assigned = {other.keys[len(keys) - 1] for other in assignments
                if len(other.keys) >= len(keys) and other.keys[:len(keys) - 1] == keys[:-1]}
    if key in TAGS and tag_field(classes) == key:
        new = [cls for cls in classes if value in tag_values(cls)]
        # A key that no kind has is kept, and validation reports it.
        known = {name for cls in classes for name in cls.model_fields}
        drop = known - {name for cls in new for name in cls.model_fields} if new else set()
    elif key in _ALTERNATIVES and any(key in cls.model_fields for cls in classes):
        drop = {_ALTERNATIVES[key]}
    elif key in ("preset", "mode") and any(cls.__name__ == "ModelConfig" for cls in classes):
        model = _expanded(at | {key: value})
        if model.get("mode", "decoder-only") != "encoder-decoder":
            at.update({name: None for name in _ENCODER_DECODER_KEYS
                       if name in model and name not in assigned})
        return
    else:
        return
    for name in drop - assigned:
        at.pop(name, None)


def _expanded(model: dict[str, Any]) -> dict[str, Any]:
    try:
        return expand_preset(model)
    except PydanticCustomError:  # no such preset, which validation reports
        return {}
