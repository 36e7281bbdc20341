"""Conversion between named tensors of Hugging Face (theirs) and the parameters of our modules, by
the rules of an architecture (`scaling.interop.architecture`), in both directions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.architecture import HFArchitecture, Tensors, as_names
from scaling.interop.layouts import Layout, NumpyArray, TensorShape

_MAX_SHOWN_SIZE = 2**24
"""Number of values of a parameter up to which an error message has the expected shape."""


class _ParamSlot(NamedTuple):
    """One of our parameters, or one layer of a stacked parameter."""

    path: str
    layer: int | None
    shape: TensorShape


class _Match(NamedTuple):
    """A rule applied to one layer."""

    theirs: list[str]
    ours: list[_ParamSlot]
    layout: Layout


def arrays_by_path(module: Any) -> dict[str, Any]:
    """The arrays of a module by path, such as `encoder.layers.kinds.0.attention.query.weight`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(module)
    return {_dotted(path): leaf for path, leaf in flat}


def with_arrays(module: Any, values: Mapping[str, Any]) -> Any:
    """The module with its arrays replaced by the values at their paths."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values[_dotted(path)], module)


def tensors_to_params(
    architecture: HFArchitecture,
    config: ModelConfig,
    module: Any,
    tensors: Mapping[str, NumpyArray],
) -> Tensors:
    """Convert their tensors to values of our parameters, by path.

    Args:
        architecture: the class of the tensors.
        config: our model's configuration.
        module: the model, or its shapes.
        tensors: their tensors, by name.

    Raises:
        UserError: tensors are missing, are left over, or do not have the shapes that the
            configuration gives.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in arrays_by_path(module).items()}
    tensors = {_current_name(architecture, name): tensor for name, tensor in tensors.items()}
    _check_counts(architecture, config, len(tensors))
    matches = list(_matches(architecture, config, shapes))
    used = {name for match in matches for name in match.theirs}
    for alias, original in architecture.alternatives.items():
        if alias in tensors and alias not in used:
            tensors.setdefault(original, tensors[alias])
    # Checked before memory is allocated by the sizes in the configuration.
    matches = _available_matches(architecture, matches, tensors)
    for match in matches:
        _check_shapes(architecture, match, [tensors[name] for name in match.theirs])
    values: Tensors = {}
    filled: dict[str, set[int | None]] = {}
    for match in matches:
        theirs = [tensors[name] for name in match.theirs]
        ours = match.layout.to_ours(theirs, [slot.shape for slot in match.ours])
        for slot, value in zip(match.ours, ours, strict=True):
            if slot.path not in values:
                values[slot.path] = np.empty(shapes[slot.path], value.dtype)
            values[slot.path][... if slot.layer is None else slot.layer] = value
            filled.setdefault(slot.path, set()).add(slot.layer)
    _check_unused(architecture, config, tensors, used)
    unfilled = [path for path, shape in shapes.items() if not _is_filled(filled.get(path), shape)
                and not _is_optional(architecture, path)]
    assert not unfilled, f"{architecture.name}: no rule fills {_first_names(unfilled)}"
    return values


def _check_counts(architecture: HFArchitecture, config: ModelConfig, tensors: int) -> None:
    """Check that there are at least as many tensors as layers and experts, before the names of all
    tensors are generated."""
    counts = {"experts": config.experts.count if config.experts else 0}
    if any("{layer}" in name for rule in architecture.rules for name in as_names(rule.theirs)):
        counts["layers"] = max(config.encoder_layers, config.decoder_layers)
    for kind, count in counts.items():
        if count > tensors:
            raise UserError(f"{architecture.name}: its configuration has {count:,} {kind}, and "
                            f"its weights have {tensors:,} tensors; take both from the same model")


def _available_matches(
    architecture: HFArchitecture, matches: list[_Match], tensors: Mapping[str, NumpyArray]
) -> list[_Match]:
    """The matches whose tensors are present.

    Raises:
        UserError: tensors of parameters that are not optional are missing.
    """
    present, missing = [], []
    for match in matches:
        absent = [name for name in match.theirs if name not in tensors]
        if not absent:
            present.append(match)
        elif absent != match.theirs or not _is_optional(architecture, match.ours[0].path):
            missing += absent
    if missing:
        raise UserError(f"{architecture.name}: the weights lack {_first_names(missing)}; take a "
                        "complete copy of the model, or fix its configuration if that has too many "
                        "layers")
    return present


def params_to_tensors(
    architecture: HFArchitecture, config: ModelConfig, module: Any, *, aliases: bool = True
) -> Tensors:
    """Convert our parameters (or gradients, which have the same structure) to their tensors, by
    name.

    Args:
        architecture: the class of the tensors.
        config: the model's configuration.
        module: the model, or a pytree with the same structure.
        aliases: whether tensors with two names are returned under both.
    """
    ours = {path: np.asarray(leaf) for path, leaf in arrays_by_path(module).items()}
    shapes = {path: value.shape for path, value in ours.items()}
    tensors: Tensors = {}
    written: set[str] = set()
    for match in _matches(architecture, config, shapes):
        written.update(slot.path for slot in match.ours)
        values = [ours[slot.path] if slot.layer is None else ours[slot.path][slot.layer]
                  for slot in match.ours]
        for name, value in zip(match.theirs, match.layout.to_theirs(values), strict=True):
            tensors[name] = np.ascontiguousarray(value)
    unwritten = [path for path in ours.keys() - written if not _is_optional(architecture, path)]
    assert not unwritten, f"{architecture.name}: no rule writes {_first_names(unwritten)}"
    if aliases:
        for alias, original in architecture.alternatives.items():
            if original in tensors:
                tensors.setdefault(alias, tensors[original])
        for name, shape in architecture.zeros.items():
            tensors[name] = np.zeros(shape(config), np.float32)
    return tensors


def _matches(
    architecture: HFArchitecture, config: ModelConfig, shapes: Mapping[str, TensorShape]
) -> Iterator[_Match]:
    """The rules that apply to a model, one match for each layer."""
    experts = range(config.experts.count if config.experts else 0)
    for rule in architecture.rules:
        ours, theirs = as_names(rule.ours), as_names(rule.theirs)
        by_side = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        count = by_side[ours[0].partition(".")[0]] if "{layer}" in ours[0] else 1
        for layer in range(count):
            found = [_param_slot(path, layer, config.period, shapes) for path in ours]
            slots = [slot for slot in found if slot is not None]
            if len(slots) < len(ours):
                continue
            if rule.unless and _param_slot(rule.unless, layer, config.period, shapes):
                continue
            named = [name.replace("{layer}", str(layer)) for name in theirs]
            named = [each for name in named for each in (
                [name.replace("{expert}", str(expert)) for expert in experts]
                if "{expert}" in name else [name])]
            yield _Match(named, slots, rule.layout)


def _param_slot(
    path: str, layer: int, period: int, shapes: Mapping[str, TensorShape]
) -> _ParamSlot | None:
    """The slot of a layer's parameter; None if the model does not have it."""
    if "{layer}" not in path:
        return _ParamSlot(path, None, shapes[path]) if path in shapes else None
    path = path.replace("{layer}", f"kinds.{layer % period}")
    return _ParamSlot(path, layer // period, shapes[path][1:]) if path in shapes else None


def _check_shapes(architecture: HFArchitecture, match: _Match, theirs: list[NumpyArray]) -> None:
    """Check that tensors have the shapes that the configuration gives, and floating-point
    values."""
    sizes = sum(math.prod(slot.shape) for slot in match.ours)
    if sizes > max(sum(tensor.size for tensor in theirs), _MAX_SHOWN_SIZE):
        raise UserError(f"{architecture.name}: {match.theirs[0]} has the shape "
                        f"{list(theirs[0].shape)}, and its configuration gives {sizes:,} values; "
                        "take configuration and weights from the same model")
    zeros = [np.broadcast_to(np.float32(0), slot.shape) for slot in match.ours]
    for name, tensor, expected in zip(
            match.theirs, theirs, match.layout.to_theirs(zeros), strict=True):
        if tensor.shape != expected.shape:
            raise UserError(f"{architecture.name}: {name} has the shape {list(tensor.shape)}, and "
                            f"its configuration gives {list(expected.shape)}; take configuration "
                            "and weights from the same model")
        if tensor.dtype.kind != "f":
            raise UserError(f"{architecture.name}: {name} has values of type {tensor.dtype}, where "
                            "float32 is expected: the weights are quantised; take the model from "
                            "before quantisation")


def _check_unused(
    architecture: HFArchitecture,
    config: ModelConfig,
    tensors: Mapping[str, NumpyArray],
    used: set[str],
) -> None:
    """Check that every tensor that no rule reads is known not to be needed."""
    unknown = []
    for name in tensors.keys() - used:
        if name in architecture.aliases:
            original = tensors[architecture.aliases[name]]
            if not np.array_equal(tensors[name], original):
                raise UserError(f"{architecture.name}: {name} and {architecture.aliases[name]} are "
                                f"one tensor in a model of this configuration, and here they "
                                f"differ; {_differing_alias_fix(architecture, name)}")
        elif name in architecture.zeros:
            if np.any(tensors[name]):
                raise UserError(f"{architecture.name}: {name} is not zero, and our model has no "
                                "such parameter; add it to the logits yourself, or set it to 0")
        elif name not in architecture.fallbacks and not any(
                re.fullmatch(pattern, name) for pattern in architecture.ignored):
            unknown.append(name)
    if unknown:
        raise UserError(f"{architecture.name}: the weights also have "
                        f"{_first_names(sorted(unknown))}, which a model of this configuration "
                        "does not have; check that the configuration belongs to the weights")


def _differing_alias_fix(architecture: HFArchitecture, alias: str) -> str:
    """The fix for an alias whose values differ from those of the original."""
    if any(alias in as_names(rule.theirs) for rule in architecture.rules):
        return "set tie_word_embeddings: false in the configuration if it has both"
    return ("our model has one parameter for both: set it to the other, if only that was trained, "
            "or choose another model")


def _is_optional(architecture: HFArchitecture, path: str) -> bool:
    return path.startswith(architecture.optional)


def _is_filled(layers: set[int | None] | None, shape: TensorShape) -> bool:
    return layers is not None and (None in layers or len(layers) == shape[0])


def _first_names(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _current_name(architecture: HFArchitecture, name: str) -> str:
    """The current name of a tensor that may have a name from an older version."""
    for pattern, replacement in architecture.renamed.items():
        name = re.sub(pattern, replacement, name)
    return name


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
