"""Published shapes, by name: a YAML file for each family, beside this one.

A family holds `title`, `source`, `certainty` (how well its values are known here), `base` (keys of
a model that all its sizes have), `sizes` (keys of a model by the name of the size) and `published`
(what the paper reports of all sizes). `like` names a family whose `base` stands where this one says
nothing. In a size `shape` names the size of another family whose keys it has, and `published` is
what the paper reports: `params`, `tokens`, `batch_tokens` (where the batch grows, the largest) and
`learning_rate`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from scaling.config.base import field_error
from scaling.config.load import parse_yaml, validate
from scaling.config.presets.sweep import from_words, sweep_values
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.config.model import ModelConfig

_ANY_SIZE = "sweep"
"""The family whose sizes are a rule; those of its file are examples."""


@dataclass(frozen=True)
class Published:
    """What a paper reports of one size; None where it does not, or where it is not known here."""

    params: float | None = None
    tokens: float | None = None
    """Training tokens."""
    batch_tokens: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Family:
    """A system of the literature, and the sizes that it was published in."""

    name: str
    title: str
    source: str
    certainty: str
    sizes: dict[str, Published]

    @property
    def presets(self) -> list[str]:
        """Names of the sizes as `preset` has them, such as gpt2/124M."""
        return [f"{self.name}/{size}" for size in self.sizes]


def presets() -> dict[str, Family]:
    """Every family by its name, in alphabetical order."""
    return {name: _family(name) for name in _names()}


def family_named(name: str) -> Family:
    """A family by its name.

    Raises:
        UserError: there is none.
    """
    if name not in _names():
        hint = _did_you_mean(difflib.get_close_matches(name, _names(), n=2))
        raise UserError(f"{name}: no family of models of that name; {hint}`scaling models` lists "
                        "them")
    return _family(name)


def preset_config(name: str, **changes: Any) -> ModelConfig:
    """The model that a preset stands for.

    Args:
        name: a family and a size, such as gpt2/124M.
        changes: keys of a model laid over the preset's.

    Raises:
        UserError: there is no such preset, or the changes contradict it.
    """
    from scaling.config.model import ModelConfig  # which itself expands presets

    _values(name)  # for a message about the name alone
    return validate(ModelConfig, {"preset": name, **changes}, name)


def expand_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Keys of a model with those of its `preset`, if it names one, where none are given.

    A key that is given stands, and if it is null too; in mappings (`init`, `experts`) each key by
    itself. `preset` is kept, as a label, and to expand the result again changes nothing.

    Raises:
        PydanticCustomError: there is no such preset.
    """
    name = content.get("preset")
    if not isinstance(name, str):
        return content
    try:
        values = _values(name)
    except UserError as error:
        raise field_error("preset", str(error)) from None
    return _laid_over(values, content)


def _values(preset: str) -> dict[str, Any]:
    """Keys of a model that a preset stands for."""
    name, _, size = preset.partition("/")
    family = family_named(name)
    if name == _ANY_SIZE:
        return _laid_over(_base(name), sweep_values(size))
    if size not in family.sizes:
        said = f"{name} has no size {size}" if size else "a size is missing"
        hint = _did_you_mean(f"{name}/{near}" for near in _nearest(size, list(family.sizes)))
        raise UserError(f"{preset}: {said}; {hint}`scaling models {name}` lists its sizes")
    return _laid_over(_base(name), _shape(name, size))


def _base(name: str) -> dict[str, Any]:
    content = _content(name)
    inherited = _base(content["like"]) if "like" in content else {}
    return _laid_over(inherited, content.get("base", {}))


def _shape(name: str, size: str) -> dict[str, Any]:
    own = {key: value for key, value in _content(name)["sizes"][size].items()
           if key not in ("published", "shape")}
    like = _content(name)["sizes"][size].get("shape")
    return own if like is None else _laid_over(_shape(*like.split("/")), own)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the second where they differ; mappings within key by key."""
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _laid_over(under, value) if both else value  # type: ignore[arg-type]
    return merged


def _did_you_mean(names: Iterable[str]) -> str:
    found = list(names)
    return f"did you mean {' or '.join(found)}? " if found else ""


def _nearest(size: str, sizes: list[str]) -> list[str]:
    """The sizes nearest in number where they are numbers, or else in spelling."""
    wanted = from_words(size.upper())
    by_number = {name: number for name in sizes if (number := from_words(name))}
    if wanted and by_number:
        return sorted(by_number, key=lambda name: abs(math.log(by_number[name] / wanted)))[:2]
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
        sizes={size: Published(**_laid_over(common, keys.get("published", {})))
               for size, keys in content["sizes"].items()},
    )
