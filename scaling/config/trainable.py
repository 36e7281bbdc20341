"""Which parameters a run trains: a filter by what they are, never by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag

from scaling.config.base import LIST_TAG, Config, LayerIndex, Problem
from scaling.config.explain import format_value
from scaling.config.model import ModelConfig

Role = Literal["embedding", "position", "hidden", "readout", "gain", "bias"]
"""What a parameter does: a table of token (or segment) vectors; a table of position vectors; a
matrix between activations; a matrix to logits; a factor of a norm; a bias, which includes the
learned biases of attention logits."""

Part = Literal["embedding", "encoder", "decoder", "head"]
"""Part of a model that has a parameter: the table of token embeddings; the encoder or the decoder,
with its positions, token types and norms; the heads, with the pooler. A head that is tied to the
embedding has no matrix of its own."""

_COUNTED = re.compile(r"(first|last) ([1-9][0-9]{0,3})")


def _layers(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple):
        return value
    if not isinstance(value, str) or not _COUNTED.fullmatch(value):
        raise ValueError("a list of layers, such as [0, 1], or a number of them, such as `last 2` "
                         f"or `first 2`, is expected, not {format_value(value)}")
    return value


_Layers = Annotated[
    Annotated[tuple[LayerIndex, ...], Tag(LIST_TAG)] | Annotated[str, Tag("counted")],
    Discriminator(lambda value: "counted" if isinstance(value, str) else LIST_TAG),
]


def _distinct(values: Any) -> Any:
    """The values sorted, so that their order has no effect on a run's identity."""
    if values is None or isinstance(values, str):
        return values
    if not values:
        raise ValueError("is empty; list at least one, or leave it out")
    if len(set(values)) < len(values):
        raise ValueError("lists a value twice; keep one")
    return tuple(sorted(values))


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))


class ParamSelection(Config):
    """A set of parameters: those that meet every criterion that is given."""

    parts: Annotated[tuple[Part, ...] | None, AfterValidator(_distinct)] = None
    """Parts of the model: embedding, encoder, decoder, head; by default all."""
    roles: Annotated[tuple[Role, ...] | None, AfterValidator(_distinct)] = None
    """Roles: embedding, position, hidden, readout, gain, bias; by default all."""
    layers: Annotated[_Layers | None, BeforeValidator(_layers), AfterValidator(_distinct)] = None
    """Layers of the encoder and of the decoder: a list, counted from 0, or `first N` or `last N`.
    Parameters outside the layers are then left out. By default all parameters."""

    def __str__(self) -> str:
        given = {name: value for name, value in self if value is not None}
        shown = (f"{name}: {value if isinstance(value, str) else f'[{_listed(value)}]'}"
                 for name, value in given.items())
        return f"{{{', '.join(shown)}}}"

    def chosen_layers(self, n_layers: int) -> frozenset[int] | None:
        """The chosen layers of a side with `n_layers` layers; None if layers are no criterion."""
        if isinstance(self.layers, str):
            match = _COUNTED.fullmatch(self.layers)
            assert match is not None
            count = min(int(match[2]), n_layers)
            first = 0 if match[1] == "first" else n_layers - count
            return frozenset(range(first, first + count))
        return None if self.layers is None else frozenset(self.layers)

    def selects(self, part: Part, role: Role, layer: int | None, n_layers: int) -> bool:
        """Whether it has a parameter.

        Args:
            part: part of the model.
            role: role of the parameter.
            layer: its layer; None outside the layers.
            n_layers: number of layers of the part.
        """
        layers = self.chosen_layers(n_layers)
        return ((self.parts is None or part in self.parts)
                and (self.roles is None or role in self.roles)
                and (layers is None or layer in layers))


EVERYTHING = (ParamSelection(),)
"""All parameters are trained."""


def _as_list(content: Any) -> Any:
    if content == "all":
        return EVERYTHING
    if isinstance(content, dict | ParamSelection):
        return (content,)
    if not isinstance(content, list | tuple):
        raise ValueError("all, a selection such as {parts: [head]}, or a list of selections is "
                         f"expected, not {format_value(content)}")
    if not content:
        raise ValueError("is empty, so nothing would be trained; list a selection, or leave it out")
    return content


def _simplified(selections: tuple[ParamSelection, ...]) -> tuple[ParamSelection, ...]:
    """All parameters as one selection, however that was given."""
    return EVERYTHING if ParamSelection() in selections else tuple(dict.fromkeys(selections))


Trainable = Annotated[
    tuple[ParamSelection, ...], AfterValidator(_simplified),
    BeforeValidator(_as_list, json_schema_input_type=(
        Literal["all"] | ParamSelection | list[ParamSelection])),
]
"""The parameters that are trained: those of any of the selections."""


def layers_of(model: ModelConfig, part: Part) -> int:
    """Number of layers of a part of a model."""
    return {"encoder": model.encoder_layers, "decoder": model.decoder_layers}.get(part, 0)


def is_trained(
    trainable: tuple[ParamSelection, ...], model: ModelConfig, part: Part, role: Role,
    layer: int | None,
) -> bool:
    """Whether a parameter is trained.

    Args:
        trainable: RunConfig.trainable.
        model: the model.
        part: part of the model.
        role: role of the parameter.
        layer: its layer; None outside the layers and if layers share it.
    """
    n_layers = layers_of(model, part)
    return any(selection.selects(part, role, layer, n_layers) for selection in trainable)


def selection_problems(
    trainable: tuple[ParamSelection, ...], model: ModelConfig, *, scanned: bool
) -> Iterator[Problem]:
    """Whether the parts and layers of the selections exist in the model.

    Args:
        trainable: RunConfig.trainable.
        model: the model.
        scanned: whether layers are scanned (ExecutionConfig.scan_layers).
    """
    sides: list[Part] = [part for part in ("encoder", "decoder") if layers_of(model, part)]
    for selection in trainable:
        for part in selection.parts or ():
            if part in ("encoder", "decoder") and part not in sides:
                yield "trainable", (f"parts has {part}, and a {model.mode} model has none; choose "
                                    f"among {', '.join([*sides, 'embedding', 'head'])}")
        layers = selection.layers
        if layers is None:
            continue
        if model.share_layers != "none":
            yield "trainable", (
                "layers cannot be told apart in this model, since they share parameters "
                f"(share_layers: {model.share_layers}); choose parts or roles instead")
        if scanned:
            yield "execution.scan_layers", (
                "one program serves all scanned layers, and trainable has some of them only; set "
                "it to false")
        for part in sides:
            count = layers_of(model, part)
            most = int(layers.split()[1]) if isinstance(layers, str) else max(layers) + 1
            if part in (selection.parts or sides) and most > count:
                yield "trainable", (f"{selection}: the {part} has {count} layers, from 0 to "
                                    f"{count - 1}; choose among them")
