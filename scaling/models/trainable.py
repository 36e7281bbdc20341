"""The trained parameters of a model as a tree of their own.

`trained_of` takes them out of a model: what is differentiated, has an optimizer state and is
updated. `with_trained` puts them back; all other parameters are those of the model, unchanged. They
are chosen by the metadata of the parameters (params.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Shaped

from scaling.config import EVERYTHING, ModelConfig, ParamSelection, is_trained
from scaling.models.params import Module, ParamInfo, is_param, map_params, with_value


def trained_of(
    model: Module, config: ModelConfig, trainable: tuple[ParamSelection, ...]
) -> Module:
    """The trained parameters of a model: the model itself if all are trained.

    Otherwise it has the structure of the model, with None in place of frozen parameters. Of a
    parameter that is stacked over layers it has the rows of the trained ones, and `info.layers`
    says which.

    Args:
        model: the model, or a tree of the same structure.
        config: its configuration.
        trainable: RunConfig.trainable.
    """
    if trainable == EVERYTHING:
        return model

    def trained(param: nnx.Param[Any]) -> nnx.Param[Any]:
        info: ParamInfo = param.info
        assert info.part is not None
        of_layer = [is_trained(trainable, config, info.part, info.role, layer)
                    for layer in info.layers or (None,)]
        if all(of_layer):
            return param
        if not any(of_layer) or info.layers is None:
            return with_value(param, None)
        rows = [row for row, chosen in enumerate(of_layer) if chosen]
        return with_value(param, take_rows(param[...], rows),
                          layers=tuple(info.layers[row] for row in rows))

    return map_params(trained, model)


def with_trained(model: Module, trained: Module) -> Module:
    """The model with its trained parameters replaced by those of `trained_of`."""
    def merged(param: nnx.Param[Any], new: nnx.Param[Any]) -> nnx.Param[Any]:
        if new.get_value() is None:
            return param
        if new.info == param.info:
            return new
        return with_value(param, _with_rows(param, new))

    whole: Module = jax.tree.map(merged, model, trained, is_leaf=is_param)
    return whole


def take_rows(
    x_LX: Shaped[Array, "L ..."], rows: Sequence[int]
) -> Shaped[Array, "R ..."]:
    """Rows of a stacked parameter, as slices: the axis of layers is never sharded, and a slice of a
    concatenation is found by XLA, which then computes no gradient of the rows that it leaves
    out."""
    return _joined([jax.lax.slice_in_dim(x_LX, start, stop) for start, stop in _ranges(rows)])


def _with_rows(param: nnx.Param[Any], new: nnx.Param[Any]) -> Array:
    """A stacked parameter with some of its rows replaced."""
    old_LX, new_RX = param[...], new[...]
    place = {layer: row for row, layer in enumerate(new.info.layers)}
    pieces = []
    for replaced, group in groupby(enumerate(param.info.layers), lambda row: row[1] in place):
        rows = list(group)
        first = place[rows[0][1]] if replaced else rows[0][0]
        pieces.append(jax.lax.slice_in_dim(
            new_RX if replaced else old_LX, first, first + len(rows)))
    return _joined(pieces)


def _joined(pieces: list[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)


def _ranges(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows as ranges of consecutive ones: start and stop of each."""
    for _, group in groupby(enumerate(rows), lambda each: each[1] - each[0]):
        run = [row for _, row in group]
        yield run[0], run[-1] + 1
