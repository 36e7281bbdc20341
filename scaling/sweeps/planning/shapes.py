"""The models of a sweep: each is validated, counted and checked against its store once for all of
its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scaling.accounting import ParameterCounts, count_parameters, run_flops_per_sequence
from scaling.config import RunConfig, Size, SweepConfig, override_values, validate
from scaling.config.grids import CountedParams, Cross, Point, Points
from scaling.config.sweep import ListedLearningRate
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.sweeps.planning.size_ladder import size_ladder
from scaling.training.resolve import resolve

T = TypeVar("T")

ENOUGH_TOKENS = 10**18
"""Placeholder with which every schedule is short enough, and more tokens than any run may have;
each run of a shape is checked with its own tokens."""


@dataclass(frozen=True)
class ModelShape:
    """A model of a sweep for one choice of the varied keys."""

    size: Size
    run: RunConfig
    """A resolved run with this model, with placeholders for tokens and seed."""
    store: TokenStore
    params: ParameterCounts
    flops_per_sequence: int

    def n(self, counting: CountedParams) -> int:
        """Number of parameters under a counting convention."""
        return self.params.total if counting == "total" else self.params.non_embedding


@dataclass(frozen=True)
class ModelShapes:
    """All models of a sweep for one choice of the varied keys."""

    ladder: list[ModelShape]
    """The models of `sizes`."""
    by_size: dict[Size, ModelShape]
    """All models, including those that only points name."""

    def at(self, point: Point, source: str) -> ModelShape:
        """The model of a point.

        Raises:
            UserError: the ladder has no such rung.
        """
        if point.size is not None:
            return self.by_size[point.size]
        assert point.rung is not None
        if point.rung >= len(self.ladder):
            raise UserError(f"{source}: rung {point.rung}: sizes has {len(self.ladder)} rungs, "
                            f"from 0 to {len(self.ladder) - 1}")
        return self.ladder[point.rung]


def model_shapes(
    sweep: SweepConfig, choice: dict[str, Any], open_store: Callable[[RunConfig], TokenStore],
    source: str, runs_folder: Path,
) -> ModelShapes:
    """All models of a sweep for one choice of the varied keys.

    Args:
        sweep: its configuration.
        choice: dotted keys of the run and their values.
        open_store: opens the store of a run.
        source: name of the configuration file, for messages.
        runs_folder: folder of all runs.

    Raises:
        UserError: a model is impossible; the message names it and the reason.
    """
    content = override_values(sweep.run, choice, RunConfig)

    def shape(size: Size, rate: float) -> ModelShape:
        values = {f"model.{key}": value for key, value in size.model_dump().items()}
        values |= {"tokens": ENOUGH_TOKENS, "seed": 0, "optimizer.learning_rate": rate}
        where = f"{source}: run with {size}"
        run = validate(RunConfig, override_values(content, values), where)
        store = open_store(run)
        one_batch = run.model_copy(update={"tokens": run.batch_tokens})
        run = with_error_prefix(where, lambda: resolve(one_batch, store, runs_folder))
        return ModelShape(
            size, run, store, count_parameters(run.model), run_flops_per_sequence(run))

    sizes = sweep.sizes if isinstance(sweep.sizes, tuple) else size_ladder(
        sweep.sizes, lambda size: shape(size, 1.0).run.model, source)
    point_sizes = [point.size for point in _points(sweep) if point.size is not None]
    all_sizes = list(dict.fromkeys([*sizes, *point_sizes]))
    rates = _listed_rates(sweep, all_sizes, source)
    found = {size: shape(size, rates.get(size, 1.0)) for size in all_sizes}
    if not rates:
        found = {
            size: with_error_prefix(source, lambda s=s: _with_rate(s, sweep))  # type: ignore[misc]
            for size, s in found.items()}
    return ModelShapes([found[size] for size in sizes], found)


def _points(sweep: SweepConfig) -> Iterator[Point]:
    for grid in sweep.grids:
        if isinstance(grid, Points | Cross):
            yield from grid.at
    yield from sweep.heldout


def _listed_rates(sweep: SweepConfig, sizes: list[Size], source: str) -> dict[Size, float]:
    """The listed learning rate of each size; empty if the sweep has a rule."""
    if not isinstance(sweep.learning_rate, ListedLearningRate):
        return {}
    rates = sweep.learning_rate.rates
    if len(rates) != len(sizes):
        raise UserError(
            f"{source}: learning_rate.rates: has {len(rates)} values for {len(sizes)} sizes "
            "(including those of points and heldout); give one for each"
        )
    return dict(zip(sizes, rates, strict=True))


def _with_rate(shape: ModelShape, sweep: SweepConfig) -> ModelShape:
    """The shape with the learning rate of the sweep's rule."""
    assert not isinstance(sweep.learning_rate, ListedLearningRate)
    # The rule uses the parameter count that does not depend on the vocabulary.
    rate = sweep.learning_rate.at(shape.params.non_embedding)
    optimizer = shape.run.optimizer.model_copy(update={"learning_rate": rate})
    run = shape.run.model_copy(update={"optimizer": optimizer})
    return ModelShape(shape.size, run, shape.store, shape.params, shape.flops_per_sequence)


def with_error_prefix(prefix: str, function: Callable[[], T]) -> T:
    """The result of `function`.

    Raises:
        UserError: its UserError or ValueError, with the prefix.
    """
    try:
        return function()
    except (UserError, ValueError) as error:
        raise UserError(f"{prefix}: {error}") from None
