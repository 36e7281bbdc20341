"""Model sizes in geometric steps of their counted parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from scaling.accounting import count_parameters
from scaling.config import ModelConfig, Size
from scaling.config.grids import Ladder
from scaling.errors import UserError

_ASPECT_WEIGHT = 0.25
_WIDTH_FACTOR = 1.6
"""Largest deviation from the width of the target aspect ratio, as a factor: the aspect ratio then
deviates by about its cube, which no better parameter count compensates."""

_MAX_LAYERS, _MAX_WIDTHS = 2000, 500
"""Limits of the search for a size."""


def size_ladder(
    ladder: Ladder, model_of: Callable[[Size], ModelConfig], source: str
) -> tuple[Size, ...]:
    """The sizes of a ladder, smallest first.

    Args:
        ladder: the rule.
        model_of: gives the resolved model of a size.
        source: name of the configuration file, for messages.

    Raises:
        UserError: two rungs give the same size, or no size is close enough to a rung.
    """
    first = model_of(Size(d_model=ladder.d_head, n_layers=1, n_heads=1))

    def params(size: Size) -> int:
        return count_parameters(first.model_copy(update=size.model_dump())).non_embedding

    low, high = ladder.params
    step = (high / low) ** (1 / (ladder.count - 1))
    sizes = tuple(_closest_size(ladder, low * step**i, params) for i in range(ladder.count))
    counts = [params(size) for size in sizes]
    for i, (size, n) in enumerate(zip(sizes, counts, strict=True)):
        target = low * step**i
        if size in sizes[:i] or max(n / target, target / n) > math.sqrt(step):
            raise UserError(
                f"{source}: sizes: no width that is a multiple of d_head = {ladder.d_head} gives "
                f"{target:,.0f} parameters (the nearest, {size}, has {n:,}) as one of "
                f"{ladder.count} sizes; choose a smaller d_head, fewer sizes or larger ones"
            )
    return sizes


def _closest_size(ladder: Ladder, target: float, params: Callable[[Size], int]) -> Size:
    def distance(size: Size) -> float:
        aspect = size.d_model / size.n_layers / ladder.aspect_ratio
        return abs(math.log(params(size) / target)) + _ASPECT_WEIGHT * abs(math.log(aspect))

    return min(_candidates(ladder, target, params), key=distance)


def _candidates(
    ladder: Ladder, target: float, params: Callable[[Size], int]
) -> Iterator[Size]:
    """For widths around the target aspect ratio, the numbers of layers just below and above the
    target parameters."""
    def size(heads: int, layers: int) -> Size:
        return Size(d_model=heads * ladder.d_head, n_layers=layers, n_heads=heads)

    def at_aspect(heads: int) -> Size:
        return size(heads, _rounded(heads * ladder.d_head / ladder.aspect_ratio))

    most = 1
    while params(at_aspect(most)) < target:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if params(at_aspect(middle)) < target else (least, middle)
    widths = range(max(1, int(most / _WIDTH_FACTOR)), math.ceil(most * _WIDTH_FACTOR) + 1)
    for heads in widths[:: max(1, len(widths) // _MAX_WIDTHS)]:
        one, two = params(size(heads, 1)), params(size(heads, 2))
        layers = 1 + (target - one) / (two - one)
        for count in {_rounded(math.floor(layers)), _rounded(math.ceil(layers))}:
            yield size(heads, count)


def _rounded(layers: float) -> int:
    return round(min(max(1.0, layers), _MAX_LAYERS))
