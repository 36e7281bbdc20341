"""YAML and `key=value` overrides in, a validated configuration out, or one clear message."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from scaling.config.base import FIELD_ERROR, LISTED, Config
from scaling.errors import UserError

C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refuses a key given
    twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is no name", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, source: str) -> Any:
    """The content of YAML text.

    Args:
        text: YAML.
        source: where it came from, for the message.

    Raises:
        UserError: it is no YAML; the message has line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where}: not valid YAML: {problem}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: there is no such file, it is no YAML, or it holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _yaml_files(path.parent), n=3, cutoff=0.4)
        hint = f"; there is {', '.join(str(path.parent / name) for name in near)}" if near else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, where a YAML file is expected") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text, where a YAML file is expected") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{path}: holds {kind}, where `key: value` lines are expected")
    return content


def _yaml_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []


def override(content: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `content` with dotted assignments laid over it.

    `schedule.kind=cosine` sets one value; the value is read as YAML, so numbers, lists and
    `null` come out as such. A part of a list is named by its place: `sizes.0.d_model=64`.

    Raises:
        UserError: an assignment has no `=`, or goes through something that holds no keys.
    """
    changed: dict[str, Any] = copy.deepcopy(content)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(
                f"{assignment}: not an override; write key=value, for example optimizer.b2=0.99"
            )
        value = parse_yaml(text, assignment)
        keys = path.split(".")
        at: Any = changed
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(at, list):
                if not key.isdigit() or int(key) >= len(at):
                    raise UserError(
                        f"{assignment}: {'.'.join(keys[:depth])} is a list of {len(at)}; "
                        f"name a place from 0 to {len(at) - 1}"
                    )
                slot: Any = int(key)
            elif isinstance(at, dict):
                slot = key
                if not last and at.get(key) is None:
                    at[key] = {}
            else:
                raise UserError(
                    f"{assignment}: {'.'.join(keys[:depth])} is {at!r} and has no key {key}"
                )
            if last:
                at[slot] = value
            else:
                at = at[slot]
    return changed


def validate(cls: type[C], content: Any, source: str) -> C:
    """A configuration from plain data.

    Args:
        cls: the configuration class.
        content: mappings, lists, strings and numbers.
        source: where it came from, for the message.

    Raises:
        UserError: naming the path to every wrong value, what was expected, and for a key that
            does not exist the nearest that does.
    """
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        lines = [_explain(cls, problem) for problem in error.errors()]
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def load(cls: type[C], path: Path, assignments: Iterable[str] = ()) -> C:
    """A configuration from a YAML file with overrides laid over it."""
    assignments = list(assignments)
    source = " ".join([str(path), *assignments])
    return validate(cls, override(read_yaml(path), assignments), source)


def json_schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a configuration class, for editors and other tools."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}


def _explain(cls: type[BaseModel], problem: Any) -> str:
    """One line for one of pydantic's errors."""
    path, classes = _walk(cls, problem["loc"])
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = sorted({name for c in classes for name in c.model_fields})
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: missing, and it has no default"
    if problem["type"] == FIELD_ERROR:
        said = problem["ctx"]
        return f"{'.'.join([*path, said['field']])}: {said['message']}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error" or isinstance(problem["input"], dict | list):
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, not {problem['input']!r}"


def _walk(
    cls: type[BaseModel], location: tuple[str | int, ...]
) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as the user wrote it, and the classes that hold its last key.

    pydantic puts the tag of a union between two keys: it picks a class, and is no part of the
    path.
    """
    path: list[str] = []
    holders: list[type[BaseModel]] = [cls]
    inner = holders
    for part in location:
        tagged = [c for c in inner if part in _tags(c)]
        fields = [c.model_fields[part] for c in inner if part in c.model_fields]
        if tagged and not fields:
            inner = tagged
            continue
        if part == LISTED and not fields:
            continue
        path.append(str(part))
        if isinstance(part, str):
            holders = inner
            inner = [c for field in fields for c in _classes(field.annotation)]
    return path, holders


def _tags(cls: type[BaseModel]) -> list[Any]:
    """What a class may be called in a union: the values of its `kind` or `rule`."""
    fields = [cls.model_fields[name] for name in ("kind", "rule") if name in cls.model_fields]
    return [value for field in fields for value in get_args(field.annotation)]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for argument in get_args(annotation) for c in _classes(argument)]
