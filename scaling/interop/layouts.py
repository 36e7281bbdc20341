"""How one library's tensor lies in memory against ours: pairs of functions that undo each other.

Ours: a linear map is [*in, *out], attention's outputs or inputs split into [heads, width], and the
layers of a kind are stacked (a layout sees one layer). Theirs: torch's Linear is [out, in], its
Conv1D (GPT, GPT-2) [in, out], vectors and tables as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Tensor = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Between the tensors of a rule on both sides. Neither function changes a number."""

    to_ours: Callable[[Sequence[Tensor], Sequence[Shape]], list[Tensor]]
    """Their tensors, and the shapes that ours have: ours."""
    to_theirs: Callable[[Sequence[Tensor]], list[Tensor]]
    """Our tensors: theirs."""


def _each(
    to_ours: Callable[[Tensor, Shape], Tensor], to_theirs: Callable[[Tensor], Tensor]
) -> Layout:
    """One tensor for one."""
    return Layout(
        lambda theirs, shapes: [to_ours(theirs[0], shapes[0])],
        lambda ours: [to_theirs(ours[0])],
    )


def _matrix(sums: int, *, transposed: bool) -> Layout:
    """A linear map with so many axes that are summed."""
    def to_theirs(ours: Tensor) -> Tensor:
        flat = ours.reshape(math.prod(ours.shape[:sums]), -1)
        return flat.T if transposed else flat

    return _each(lambda w, shape: (w.T if transposed else w).reshape(shape), to_theirs)


TABLE = _each(lambda t, shape: t, lambda t: t)
"""The same on both sides: tables of embeddings, gains."""
VECTOR = _each(lambda t, shape: t.reshape(shape), lambda t: t.reshape(-1))
"""A bias, whose heads they write one after the other."""
LINEAR = _matrix(1, transposed=True)
"""torch's Linear [out, in]; the outputs may be heads."""
LINEAR_FROM_HEADS = _matrix(2, transposed=True)
"""torch's Linear whose inputs are heads: attention's output."""
CONV1D = _matrix(1, transposed=False)
"""GPT-2's Conv1D [in, out]; the outputs may be heads."""
CONV1D_FROM_HEADS = _matrix(2, transposed=False)
"""GPT-2's Conv1D whose inputs are heads."""


def fused(part: Layout) -> Layout:
    """Several of ours (queries, keys, values) side by side along the last axis of one of theirs:
    Conv1D and vectors (GPT, GPT-2)."""
    def to_ours(theirs: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        pieces = np.split(theirs[0], len(shapes), axis=-1)
        return [part.to_ours([piece], [shape])[0]
                for piece, shape in zip(pieces, shapes, strict=True)]

    return Layout(to_ours, lambda ours: [
        np.concatenate([part.to_theirs([one])[0] for one in ours], axis=-1)])


def _from_interleaved(theirs: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
    heads, width = shapes[0][-2:]
    split = theirs[0].reshape(heads, len(shapes), width, -1)
    return [np.moveaxis(split[:, place], -1, 0).reshape(shape)
            for place, shape in enumerate(shapes)]


def _to_interleaved(ours: Sequence[Tensor]) -> list[Tensor]:
    heads, width = ours[0].shape[-2:]
    inputs = math.prod(ours[0].shape[:-2])
    stacked = np.stack([one.reshape(inputs, heads, width) for one in ours], axis=2)
    flat = stacked.reshape(inputs, -1).T
    return [flat if ours[0].ndim > 2 else flat.reshape(-1)]


INTERLEAVED = Layout(_from_interleaved, _to_interleaved)
"""Queries, keys and values in one torch Linear or its bias, those of a head one after the other,
then the next head's (GPT-NeoX)."""


def per_expert(part: Layout) -> Layout:
    """Many of theirs, one for each expert, to one of ours with the expert as the first axis."""
    return Layout(
        lambda theirs, shapes: [np.stack(
            [part.to_ours([one], [shapes[0][1:]])[0] for one in theirs])],
        lambda ours: [part.to_theirs([one])[0] for one in ours[0]],
    )


def beside(part: Layout) -> Layout:
    """As many of theirs as of ours, each in the layout."""
    return Layout(
        lambda theirs, shapes: [part.to_ours([one], [shape])[0]
                                for one, shape in zip(theirs, shapes, strict=True)],
        lambda ours: [part.to_theirs([one])[0] for one in ours],
    )
