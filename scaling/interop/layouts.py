"""Conversions between the memory layouts of Hugging Face's tensors (theirs) and our parameters, as
pairs of inverse functions.

Our linear weights are [*in, *out], where the outputs or inputs of attention are split into [heads,
width]; layers of a kind are stacked, and a layout converts one layer. Their torch Linear is [out,
in] and their Conv1D (GPT, GPT-2) is [in, out]; vectors and tables are equal on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

NumpyArray = np.ndarray[Any, Any]
TensorShape = tuple[int, ...]


class Layout(NamedTuple):
    """Conversion between the tensors of a rule on both sides. It only moves values."""

    to_ours: Callable[[Sequence[NumpyArray], Sequence[TensorShape]], list[NumpyArray]]
    """From their tensors and the shapes of our parameters to our parameters."""
    to_theirs: Callable[[Sequence[NumpyArray]], list[NumpyArray]]
    """From our parameters to their tensors."""


def _single(
    to_ours: Callable[[NumpyArray, TensorShape], NumpyArray],
    to_theirs: Callable[[NumpyArray], NumpyArray],
) -> Layout:
    """A layout between one tensor and one parameter."""
    return Layout(
        lambda theirs, shapes: [to_ours(theirs[0], shapes[0])],
        lambda ours: [to_theirs(ours[0])],
    )


def _matrix(sums: int, *, transposed: bool) -> Layout:
    """The layout of a linear weight with the given number of input axes."""
    def to_theirs(ours: NumpyArray) -> NumpyArray:
        flat = ours.reshape(math.prod(ours.shape[:sums]), -1)
        return flat.T if transposed else flat

    return _single(lambda w, shape: (w.T if transposed else w).reshape(shape), to_theirs)


TABLE = _single(lambda t, shape: t, lambda t: t)
"""Equal on both sides: embedding tables and gains."""
VECTOR = _single(lambda t, shape: t.reshape(shape), lambda t: t.reshape(-1))
"""A bias; theirs is flat where ours has axes for heads."""
LINEAR = _matrix(1, transposed=True)
"""torch's Linear [out, in]; the outputs may be heads."""
LINEAR_FROM_HEADS = _matrix(2, transposed=True)
"""torch's Linear whose inputs are heads: the output projection of attention."""
CONV1D = _matrix(1, transposed=False)
"""GPT-2's Conv1D [in, out]; the outputs may be heads."""
CONV1D_FROM_HEADS = _matrix(2, transposed=False)
"""GPT-2's Conv1D whose inputs are heads."""


def fused(part: Layout) -> Layout:
    """Several parameters (queries, keys, values) concatenated along the last axis of one tensor:
    Conv1D and vectors (GPT, GPT-2)."""
    def to_ours(theirs: Sequence[NumpyArray], shapes: Sequence[TensorShape]) -> list[NumpyArray]:
        pieces = np.split(theirs[0], len(shapes), axis=-1)
        return [part.to_ours([piece], [shape])[0]
                for piece, shape in zip(pieces, shapes, strict=True)]

    return Layout(to_ours, lambda ours: [
        np.concatenate([part.to_theirs([one])[0] for one in ours], axis=-1)])


def _from_interleaved(
    theirs: Sequence[NumpyArray], shapes: Sequence[TensorShape]
) -> list[NumpyArray]:
    heads, width = shapes[0][-2:]
    split = theirs[0].reshape(heads, len(shapes), width, -1)
    return [np.moveaxis(split[:, place], -1, 0).reshape(shape)
            for place, shape in enumerate(shapes)]


def _to_interleaved(ours: Sequence[NumpyArray]) -> list[NumpyArray]:
    heads, width = ours[0].shape[-2:]
    inputs = math.prod(ours[0].shape[:-2])
    stacked = np.stack([one.reshape(inputs, heads, width) for one in ours], axis=2)
    flat = stacked.reshape(inputs, -1).T
    return [flat if ours[0].ndim > 2 else flat.reshape(-1)]


INTERLEAVED = Layout(_from_interleaved, _to_interleaved)
"""Queries, keys and values in one torch Linear or its bias, grouped by head (GPT-NeoX)."""


def per_expert(part: Layout) -> Layout:
    """One tensor per expert, stacked in one parameter whose first axis is the expert."""
    return Layout(
        lambda theirs, shapes: [np.stack(
            [part.to_ours([one], [shapes[0][1:]])[0] for one in theirs])],
        lambda ours: [part.to_theirs([one])[0] for one in ours[0]],
    )


def one_to_one(part: Layout) -> Layout:
    """Equally many tensors and parameters, each pair in the given layout."""
    return Layout(
        lambda theirs, shapes: [part.to_ours([one], [shape])[0]
                                for one, shape in zip(theirs, shapes, strict=True)],
        lambda ours: [part.to_theirs([one])[0] for one in ours],
    )
