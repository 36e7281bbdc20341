"""The points of each kind of grid: model shapes and their tokens.

Tokens are computed from counted FLOPs and counted parameters, never from 6 N D.
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
from scaling.sweeps.planning.shapes import ENOUGH_TOKENS, ModelShape, ModelShapes

BUDGET_ERROR = 0.01
"""Largest relative deviation of a run from its budget; the deviation is at most half a batch."""


@dataclass(frozen=True)
class GridPoint:
    """A point of a grid."""

    shape: ModelShape
    tokens: int
    rate_factor: float = 1.0
    """Multiplies the peak learning rate of the rule."""
    batch_sequences: int | None = None
    """Batch size in sequences; None for that of the run."""


def points_of(grid: Grid, shapes: ModelShapes, source: str) -> list[GridPoint]:
    """The points of a grid, in its order.

    Args:
        grid: its configuration.
        shapes: the sweep's models for one choice of the varied keys.
        source: name of the grid, for messages.

    Raises:
        UserError: no point is feasible, or a batch is too large for a budget.
    """
    ladder = shapes.ladder
    match grid:
        case Product():
            return [GridPoint(shape, tokens) for shape in ladder for tokens in grid.tokens]
        case IsoFlop():
            return [point for budget in budgets_of(grid, ladder, source)
                    for point in _isoflop(budget)]
        case IsoLoss():
            # Importing SciPy and pandas takes longer than most plans.
            from scaling.sweeps.planning.isoloss import tokens_by_loss

            return [GridPoint(shape, tokens)
                    for shape, tokens in tokens_by_loss(grid, ladder, source)]
        case Ratio():
            return [GridPoint(shape, _tokens(ratio * shape.n(grid.counting)))
                    for shape in ladder for ratio in grid.tokens_per_parameter]
        case Cuts():
            return _cuts(grid, ladder)
        case Points():
            return [GridPoint(shapes.at(point, source), point.tokens) for point in grid.at]
        case Cross():
            return _cross(grid, lambda point: shapes.at(point, source))


@dataclass(frozen=True)
class IsoFlopBudget:
    """A budget of an isoflop grid."""

    source: str
    """Name of the grid, for messages."""
    grid: IsoFlop
    flops: float
    shapes: tuple[ModelShape, ...]
    ratios: tuple[float, ...]
    """Tokens per parameter at which each size uses the budget."""

    @property
    def usable(self) -> list[ModelShape]:
        """The sizes within the window of tokens per parameter."""
        low, high = self.grid.tokens_per_parameter or (0.0, float("inf"))
        return [shape for shape, ratio in zip(self.shapes, self.ratios, strict=True)
                if low <= ratio <= high]


def budgets_of(grid: IsoFlop, ladder: list[ModelShape], source: str) -> list[IsoFlopBudget]:
    """The budgets of an isoflop grid.

    Args:
        grid: its configuration.
        ladder: the sweep's sizes.
        source: name of the grid, for messages.
    """
    return [IsoFlopBudget(source, grid, flops, tuple(ladder), tuple(
        flops / shape.flops_per_sequence * shape.run.sequence_tokens / shape.n(grid.counting)
        for shape in ladder)) for flops in grid.budgets]


def _isoflop(budget: IsoFlopBudget) -> list[GridPoint]:
    found = []
    for shape in budget.usable:
        batch = shape.flops_per_sequence * shape.run.batch_sequences
        if batch > 2 * BUDGET_ERROR * budget.flops:
            raise UserError(
                f"{budget.source}: a batch of {shape.size} takes {batch:.3g} FLOPs, more than "
                f"{2 * BUDGET_ERROR:.0%} of the budget of {budget.flops:.3g}, so whole batches "
                f"would miss it by more than {BUDGET_ERROR:.0%}; choose a smaller "
                f"run.batch_sequences, a budget of at least {batch / (2 * BUDGET_ERROR):.2g}, or a "
                "window of tokens_per_parameter that excludes the size"
            )
        found.append(GridPoint(shape, _tokens(budget.flops / batch) * shape.run.batch_tokens))
    if not found:
        low, high = budget.grid.tokens_per_parameter or (0.0, 0.0)
        raise UserError(
            f"{budget.source}: a budget of {budget.flops:.3g} FLOPs has no feasible point: it "
            f"gives the sizes {min(budget.ratios):.3g} to {max(budget.ratios):.3g} tokens per "
            f"parameter, all outside the window of {low:g} to {high:g}; widen "
            "tokens_per_parameter, or choose other sizes"
        )
    return found


def _tokens(count: float) -> int:
    """The nearest whole number; for infinity, more than any run may have."""
    return round(min(count, 10.0 * ENOUGH_TOKENS))


def _cuts(grid: Cuts, ladder: list[ModelShape]) -> list[GridPoint]:
    largest = max(ladder, key=lambda shape: shape.params.non_embedding)
    most = max(grid.tokens)
    corner = largest.params.non_embedding
    cuts = [GridPoint(shape, most) for shape in ladder]
    cuts += [GridPoint(largest, tokens) for tokens in grid.tokens]
    cuts += [
        GridPoint(shape, _tokens(most * (shape.params.non_embedding / corner) ** grid.diagonal))
        for shape in ladder
    ]
    unique = {(cut.shape.size, cut.tokens): cut for cut in cuts}  # they share the corner
    return list(unique.values())


def _cross(grid: Cross, shape_at: Callable[[Point], ModelShape]) -> list[GridPoint]:
    sizes: tuple[int | None, ...] = grid.batch_sequences or (None,)
    return [
        GridPoint(shape_at(point), point.tokens, factor, size)
        for point in grid.at for factor in grid.rate_factors for size in sizes
    ]
