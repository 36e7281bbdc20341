"""Models in geometric steps of their counted parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from scaling.accounting import count_parameters
from scaling.config import ModelConfig, Size
from scaling.config.grids import Ladder
from scaling.errors import UserError

_WEIGHT_OF_ASPECT = 0.25
_WIDTHS = 1.6
"""How far from the width of the wanted aspect a rung may be, as a factor: an aspect is about the
cube of that off, which no gain in parameters makes up for."""


def climb(
    ladder: Ladder, model_of: Callable[[Size], ModelConfig], source: str
) -> tuple[Size, ...]:
    """The rungs of a ladder, smallest first.

    Args:
        ladder: the rule.
        model_of: the sweep's model at a size, resolved.
        source: where the configuration came from, for messages.

    Raises:
        UserError: two rungs come out as the same model, or the smallest shape is larger than a
            rung.
    """
    first = model_of(Size(d_model=ladder.d_head, n_layers=1, n_heads=1))

    def params(size: Size) -> int:
        return count_parameters(first.model_copy(update=size.model_dump())).non_embedding

    low, high = ladder.params
    step = (high / low) ** (1 / (ladder.count - 1))
    rungs = tuple(_rung(ladder, low * step**i, params) for i in range(ladder.count))
    counted = [params(size) for size in rungs]
    for i, (size, n) in enumerate(zip(rungs, counted, strict=True)):
        wanted = low * step**i
        if size in rungs[:i] or max(n / wanted, wanted / n) > math.sqrt(step):
            raise UserError(
                f"{source}: sizes: no width that is a multiple of d_head = {ladder.d_head} gives "
                f"{wanted:,.0f} parameters (the nearest, {size}, has {n:,}) as one of "
                f"{ladder.count} sizes; choose a smaller d_head, fewer sizes or larger ones"
            )
    return rungs


def _rung(ladder: Ladder, wanted: float, params: Callable[[Size], int]) -> Size:
    def off(size: Size) -> float:
        aspect = size.d_model / size.n_layers / ladder.aspect
        return abs(math.log(params(size) / wanted)) + _WEIGHT_OF_ASPECT * abs(math.log(aspect))

    return min(_candidates(ladder, wanted, params), key=off)


def _candidates(
    ladder: Ladder, wanted: float, params: Callable[[Size], int]
) -> Iterator[Size]:
    """For widths about the wanted aspect, the layers on either side of the wanted parameters."""
    def size(heads: int, layers: int) -> Size:
        return Size(d_model=heads * ladder.d_head, n_layers=layers, n_heads=heads)

    def in_aspect(heads: int) -> Size:
        return size(heads, max(1, round(heads * ladder.d_head / ladder.aspect)))

    most = 1
    while params(in_aspect(most)) < wanted:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if params(in_aspect(middle)) < wanted else (least, middle)
    for heads in range(max(1, int(most / _WIDTHS)), math.ceil(most * _WIDTHS) + 1):
        one, two = params(size(heads, 1)), params(size(heads, 2))
        layers = 1 + (wanted - one) / (two - one)
        for count in {max(1, math.floor(layers)), max(1, math.ceil(layers))}:
            yield size(heads, count)
