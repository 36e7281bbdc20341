"""Presets: published model families, with one YAML file for each family in this folder.

A file has `title`, `source`, `certainty` (how reliable its values are), `base` (model keys of all
sizes), `sizes` (model keys of each size, by name) and `published` (what the paper reports for all
sizes). `like` names a family whose `base` is inherited. In a size, `shape` names a size of another
family whose keys are inherited, and `published` is what the paper reports: `params`, `tokens`,
`batch_tokens` (the largest, if the batch size grows) and `learning_rate`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from scaling.config.base import field_error
from scaling.config.presets.sweep import parse_count, sweep_values
from scaling.config.text import one_line, parse_yaml
from scaling.errors import UserError

_ANY_SIZE_FAMILY = "sweep"
"""The family that has any size, by a rule; the sizes in its file are examples."""


@dataclass(frozen=True)
class PublishedSize:
    """What a paper reports for one size; None if it does not, or if the value is not known here."""

    params: float | None = None
    """Number of parameters."""
    tokens: float | None = None
    """Training tokens."""
    batch_tokens: float | None = None
    """Batch size in tokens."""
    learning_rate: float | None = None
    """Peak learning rate."""


@dataclass(frozen=True)
class Family:
    """A published model family and its sizes."""

    name: str
    title: str
    source: str
    certainty: str
    sizes: dict[str, PublishedSize]

    @property
    def presets(self) -> list[str]:
        """Preset names of the sizes, such as gpt2/124M."""
        return [f"{self.name}/{size}" for size in self.sizes]


def presets() -> dict[str, Family]:
    """All families by name, in alphabetical order."""
    return {name: _family(name) for name in _names()}


def family_named(name: str) -> Family:
    """The family with this name.

    Raises:
        UserError: there is none.
    """
    if name not in _names():
        hint = _did_you_mean(difflib.get_close_matches(name, _names(), n=2))
        raise UserError(f"{one_line(name)}: no such family of models; {hint}`scaling models` lists "
                        "them")
    return _family(name)


def expand_preset(content: dict[str, Any]) -> dict[str, Any]:
    """The keys of a model with the missing ones filled in from its `preset`, if it has one.

    Given keys are kept, also if they are null; mappings (`init`, `experts`) are merged key by key.
    `preset` is kept as a label, and expanding the result again changes nothing.

    Raises:
        PydanticCustomError: there is no such preset.
    """
    name = content.get("preset")
    if not isinstance(name, str):
        return content
    try:
        values = preset_values(name)
    except UserError as error:
        raise field_error("preset", str(error)) from None
    return _merge(values, content)


def preset_values(preset: str) -> dict[str, Any]:
    """The model keys of a preset.

    Raises:
        UserError: there is no such preset.
    """
    name, _, size = preset.partition("/")
    family = family_named(name)
    if name == _ANY_SIZE_FAMILY:
        return _merge(_base(name), sweep_values(size))
    if size not in family.sizes:
        problem = f"{name} has no size {one_line(size)}" if size else "a size is missing"
        hint = _did_you_mean(f"{name}/{near}" for near in _nearest(size, list(family.sizes)))
        raise UserError(
            f"{one_line(preset)}: {problem}; {hint}`scaling models {name}` lists its sizes")
    return _merge(_base(name), _shape(name, size))


def _base(name: str) -> dict[str, Any]:
    content = _content(name)
    inherited = _base(content["like"]) if "like" in content else {}
    return _merge(inherited, content.get("base", {}))


def _shape(name: str, size: str) -> dict[str, Any]:
    own = {key: value for key, value in _content(name)["sizes"][size].items()
           if key not in ("published", "shape")}
    like = _content(name)["sizes"][size].get("shape")
    return own if like is None else _merge(_shape(*like.split("/")), own)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping `base` updated with `changes`; nested mappings are merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        inherited = base.get(key)
        both = isinstance(value, Mapping) and isinstance(inherited, Mapping)
        merged[key] = _merge(inherited, value) if both else value  # type: ignore[arg-type]
    return merged


def _did_you_mean(names: Iterable[str]) -> str:
    found = list(names)
    return f"did you mean {' or '.join(found)}? " if found else ""


def _nearest(size: str, sizes: list[str]) -> list[str]:
    """The nearest sizes by number of parameters, or by spelling if they are not numbers."""
    target = parse_count(size.upper())
    by_number = {name: number for name in sizes if (number := parse_count(name))}
    if target and by_number:
        return sorted(by_number, key=lambda name: abs(math.log(by_number[name] / target)))[:2]
    return difflib.get_close_matches(size, sizes, n=2, cutoff=0.4) or sizes[:3]


@cache
def _names() -> list[str]:
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


@cache
def _content(name: str) -> dict[str, Any]:
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = parse_yaml(text, f"{name}.yaml")
    return content


@cache
def _family(name: str) -> Family:
    content = _content(name)
    common = content.get("published", {})
    return Family(
        name=name, title=content["title"], source=content["source"],
        certainty=content["certainty"],
        sizes={size: PublishedSize(**_merge(common, keys.get("published", {})))
               for size, keys in content["sizes"].items()},
    )
