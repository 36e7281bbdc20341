"""Parameters between another library's named tensors and our modules: the tables of
`scaling.interop.family`, read both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.family import Family, Tensors, names_of
from scaling.interop.layouts import Layout, Shape, Tensor


class _Place(NamedTuple):
    """One of our parameters, or one layer of a stack of them."""

    path: str
    layer: int | None
    shape: Shape


class _Match(NamedTuple):
    """A rule for one layer."""

    theirs: list[str]
    ours: list[_Place]
    layout: Layout


def leaves(module: Any) -> dict[str, Any]:
    """The arrays of a module by path, such as `encoder.stack.kinds.0.attention.query.weight`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(module)
    return {_dotted(path): leaf for path, leaf in flat}


def filled(module: Any, values: Mapping[str, Any]) -> Any:
    """The module with the arrays at these paths."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values[_dotted(path)], module)


def read(
    family: Family, config: ModelConfig, module: Any, tensors: Mapping[str, Tensor]
) -> Tensors:
    """Their tensors as values of our parameters, by path.

    Args:
        family: what the tensors are.
        config: our model's configuration.
        module: the model, or its shapes.
        tensors: theirs, by name.

    Raises:
        UserError: tensors are missing, are left over, or have another shape than the configuration
            says.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves(module).items()}
    tensors = {_now(family, name): tensor for name, tensor in tensors.items()}
    matches = list(_matches(family, config, shapes))
    used = {name for match in matches for name in match.theirs}
    for copy, original in family.second_names.items():
        if copy in tensors and copy not in used:
            tensors.setdefault(original, tensors[copy])
    values: Tensors = {}
    done: dict[str, set[int | None]] = {}
    missing = []
    for match in matches:
        absent = [name for name in match.theirs if name not in tensors]
        if absent:
            if absent != match.theirs or not _may_be_drawn(family, match.ours[0].path):
                missing += absent
            continue
        theirs = [tensors[name] for name in match.theirs]
        _check_shapes(family, match, theirs)
        ours = match.layout.to_ours(theirs, [place.shape for place in match.ours])
        for place, value in zip(match.ours, ours, strict=True):
            if place.path not in values:
                values[place.path] = np.empty(shapes[place.path], value.dtype)
            values[place.path][... if place.layer is None else place.layer] = value
            done.setdefault(place.path, set()).add(place.layer)
    if missing:
        raise UserError(f"{family.architecture}: the weights lack {_some(missing)}; take a "
                        "complete copy of the model, or mend its configuration if that says too "
                        "many layers")
    _check_rest(family, config, tensors, used)
    unfilled = [path for path, shape in shapes.items() if not _complete(done.get(path), shape)
                and not _may_be_drawn(family, path)]
    assert not unfilled, f"{family.architecture}: no rule fills {_some(unfilled)}"
    return values


def write(
    family: Family, config: ModelConfig, module: Any, *, copies: bool = True
) -> Tensors:
    """Our parameters (or gradients, which are laid out like them) as their tensors, by name.

    Args:
        family: what to write.
        config: the model's configuration.
        module: the model, or a pytree like it.
        copies: whether tensors with two names are written under both.
    """
    ours = {path: np.asarray(leaf) for path, leaf in leaves(module).items()}
    shapes = {path: value.shape for path, value in ours.items()}
    tensors: Tensors = {}
    written: set[str] = set()
    for match in _matches(family, config, shapes):
        written.update(place.path for place in match.ours)
        values = [ours[place.path] if place.layer is None else ours[place.path][place.layer]
                  for place in match.ours]
        for name, value in zip(match.theirs, match.layout.to_theirs(values), strict=True):
            tensors[name] = np.ascontiguousarray(value)
    lost = [path for path in ours.keys() - written if not _may_be_drawn(family, path)]
    assert not lost, f"{family.architecture}: no rule writes {_some(lost)}"
    if copies:
        for copy, original in family.second_names.items():
            if original in tensors:
                tensors.setdefault(copy, tensors[original])
        for name, shape in family.noughts.items():
            tensors[name] = np.zeros(shape(config), np.float32)
    return tensors


def _matches(
    family: Family, config: ModelConfig, shapes: Mapping[str, Shape]
) -> Iterator[_Match]:
    """The rules that hold for a model, one for each layer."""
    experts = range(config.experts.count if config.experts else 0)
    for rule in family.rules:
        ours, theirs = names_of(rule.ours), names_of(rule.theirs)
        by_side = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        count = by_side[ours[0].partition(".")[0]] if "{layer}" in ours[0] else 1
        for layer in range(count):
            found = [_place(path, layer, config.period, shapes) for path in ours]
            places = [place for place in found if place is not None]
            if len(places) < len(ours):
                continue
            if rule.unless and _place(rule.unless, layer, config.period, shapes):
                continue
            named = [name.replace("{layer}", str(layer)) for name in theirs]
            named = [each for name in named for each in (
                [name.replace("{expert}", str(expert)) for expert in experts]
                if "{expert}" in name else [name])]
            yield _Match(named, places, rule.layout)


def _place(
    path: str, layer: int, period: int, shapes: Mapping[str, Shape]
) -> _Place | None:
    """Where a layer's parameter is, if the model has it."""
    if "{layer}" not in path:
        return _Place(path, None, shapes[path]) if path in shapes else None
    path = path.replace("{layer}", f"kinds.{layer % period}")
    return _Place(path, layer // period, shapes[path][1:]) if path in shapes else None


def _check_shapes(family: Family, match: _Match, theirs: list[Tensor]) -> None:
    """Tensors are as large as the configuration says, and numbers with a fraction."""
    nought = [np.broadcast_to(np.float32(0), place.shape) for place in match.ours]
    for name, tensor, wanted in zip(
            match.theirs, theirs, match.layout.to_theirs(nought), strict=True):
        if tensor.shape != wanted.shape:
            raise UserError(f"{family.architecture}: {name} has the shape {list(tensor.shape)}, "
                            f"where its configuration says {list(wanted.shape)}; the two do not "
                            "belong together, so take both from the same model")
        if tensor.dtype.kind != "f":
            raise UserError(f"{family.architecture}: {name} holds {tensor.dtype}, where float32 is "
                            "expected: the weights are quantised; take the model as it was before")


def _check_rest(
    family: Family, config: ModelConfig, tensors: Mapping[str, Tensor], used: set[str]
) -> None:
    """Tensors that no rule reads are known, or an error."""
    left = []
    for name in tensors.keys() - used:
        if name in family.copies:
            original = tensors[family.copies[name]]
            if not np.array_equal(tensors[name], original):
                raise UserError(f"{family.architecture}: {name} and {family.copies[name]} are one "
                                f"tensor in a model of this configuration, and here they differ; "
                                f"{_parted(family, name)}")
        elif name in family.noughts:
            if np.any(tensors[name]):
                raise UserError(f"{family.architecture}: {name} is not nought, and our model has "
                                "nothing like it; add it to the logits yourself, or set it to 0")
        elif name not in family.spares and not any(
                re.fullmatch(pattern, name) for pattern in family.ignored):
            left.append(name)
    if left:
        raise UserError(f"{family.architecture}: the weights also hold {_some(sorted(left))}, for "
                        "which a model of this configuration has no place; check that the "
                        "configuration belongs to them")


def _parted(family: Family, copy: str) -> str:
    """What to do about a copy with other values than the original."""
    if any(copy in names_of(rule.theirs) for rule in family.rules):
        return "say tie_word_embeddings: false in the configuration if it has both"
    return ("ours has a place for one alone: set it to the other, if only that was trained, or "
            "choose another model")


def _may_be_drawn(family: Family, path: str) -> bool:
    return path.startswith(family.drawn)


def _complete(layers: set[int | None] | None, shape: Shape) -> bool:
    return layers is not None and (None in layers or len(layers) == shape[0])


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _now(family: Family, name: str) -> str:
    """A tensor's name as it is today."""
    for pattern, replacement in family.older.items():
        name = re.sub(pattern, replacement, name)
    return name


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
