"""The points of each kind of grid: which model on how many tokens.

Tokens are solved from counted FLOPs and counted parameters, never from 6 N D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scaling.config.grids import (
    Cross,
    Cuts,
    Grid,
    IsoFlop,
    IsoLoss,
    Point,
    Points,
    Product,
    Ratio,
)
from scaling.errors import UserError
from scaling.sweeps.planning.shapes import Shape, Shapes

BUDGET_ERROR = 0.01
"""How far from its budget a run may end, as a share: half a batch at most."""


@dataclass(frozen=True)
class Asked:
    """A point that a grid asks for."""

    shape: Shape
    tokens: int
    rate_factor: float = 1.0
    """Times the peak learning rate of the rule."""
    batch_sequences: int | None = None
    """Instead of the run's."""


def points_of(grid: Grid, shapes: Shapes, source: str) -> list[Asked]:
    """The points of a grid, in its order.

    Args:
        grid: its configuration.
        shapes: the sweep's models under one choice of what varies.
        source: names the grid in messages.

    Raises:
        UserError: no point is feasible, or a budget cannot be spent exactly enough.
    """
    ladder = shapes.ladder
    match grid:
        case Product():
            return [Asked(shape, tokens) for shape in ladder for tokens in grid.tokens]
        case IsoFlop():
            return [asked for budget in grid.budgets
                    for asked in _isoflop(grid, budget, ladder, source)]
        case IsoLoss():
            # SciPy and pandas take longer to import than most plans take.
            from scaling.sweeps.planning.isoloss import tokens_by_loss

            return [Asked(shape, tokens)
                    for shape, tokens in tokens_by_loss(grid, ladder, source)]
        case Ratio():
            return [Asked(shape, round(ratio * shape.n(grid.counting)))
                    for shape in ladder for ratio in grid.tokens_per_parameter]
        case Cuts():
            return _cuts(grid, ladder)
        case Points():
            return [Asked(shapes.at(point, source), point.tokens) for point in grid.at]
        case Cross():
            return _cross(grid, lambda point: shapes.at(point, source))


def _isoflop(grid: IsoFlop, budget: float, ladder: list[Shape], source: str) -> list[Asked]:
    found, ratios = [], []
    for shape in ladder:
        batch = shape.flops_per_sequence * shape.run.batch_sequences
        steps = round(budget / batch)
        ratios.append(budget / batch * shape.run.batch_tokens / shape.n(grid.counting))
        low, high = grid.tokens_per_parameter or (0.0, float("inf"))
        if not low <= ratios[-1] <= high:
            continue
        if batch > 2 * BUDGET_ERROR * budget:
            raise UserError(
                f"{source}: a batch of {shape.size} is {batch:.3g} FLOPs, {batch / budget:.1%} of "
                f"the budget of {budget:.3g}, which whole batches then miss by more than "
                f"{BUDGET_ERROR:.0%}; choose a smaller run.batch_sequences, a budget of at least "
                f"{batch / (2 * BUDGET_ERROR):.2g}, or a window of tokens_per_parameter that "
                "leaves the size out"
            )
        found.append(Asked(shape, steps * shape.run.batch_tokens))
    if not found:
        low, high = grid.tokens_per_parameter or (0.0, 0.0)
        raise UserError(
            f"{source}: a budget of {budget:.3g} FLOPs has no feasible point: it gives the sizes "
            f"{min(ratios):.3g} to {max(ratios):.3g} tokens per parameter, all outside the window "
            f"of {low:g} to {high:g}; widen tokens_per_parameter, or choose other sizes"
        )
    return found


def _cuts(grid: Cuts, ladder: list[Shape]) -> list[Asked]:
    largest = max(ladder, key=lambda shape: shape.params.non_embedding)
    most = max(grid.tokens)
    corner = largest.params.non_embedding
    cuts = [Asked(shape, most) for shape in ladder]
    cuts += [Asked(largest, tokens) for tokens in grid.tokens]
    cuts += [
        Asked(shape, round(most * (shape.params.non_embedding / corner) ** grid.diagonal))
        for shape in ladder
    ]
    unique = {(asked.shape.size, asked.tokens): asked for asked in cuts}  # they meet in the corner
    return list(unique.values())


def _cross(grid: Cross, shape_at: Callable[[Point], Shape]) -> list[Asked]:
    sizes: tuple[int | None, ...] = grid.batch_sequences or (None,)
    return [
        Asked(shape_at(point), point.tokens, factor, size)
        for point in grid.at for factor in grid.rate_factors for size in sizes
    ]
