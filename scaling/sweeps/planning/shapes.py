"""The models of a sweep: each is validated, counted and checked against its store once, however
many runs it has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from scaling.accounting import Parameters, count_parameters, run_flops_per_sequence
from scaling.config import RunConfig, Size, SweepConfig, override, validate
from scaling.config.grids import Counting, Cross, Point, Points
from scaling.config.sweep import ListedLearningRate
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.sweeps.planning.ladder import climb
from scaling.training.resolve import resolve

T = TypeVar("T")

_ENOUGH = 10**18
"""Tokens with which no schedule is too long; each run of a shape is checked with its own."""


@dataclass(frozen=True)
class Shape:
    """A model under one choice of what varies."""

    size: Size
    run: RunConfig
    """A resolved run of it, whose tokens and seed say nothing yet."""
    store: TokenStore
    params: Parameters
    flops_per_sequence: int

    def n(self, counting: Counting) -> int:
        """Parameters as they are to be counted."""
        return self.params.total if counting == "total" else self.params.non_embedding


@dataclass(frozen=True)
class Shapes:
    """All models of a sweep under one choice of what varies."""

    ladder: list[Shape]
    """Those of `sizes`."""
    others: dict[Size, Shape]
    """Those that points name, beside them."""

    def at(self, point: Point, source: str) -> Shape:
        """The model of a point.

        Raises:
            UserError: the ladder has no such rung.
        """
        if point.size is not None:
            return self.others[point.size]
        assert point.rung is not None
        if point.rung >= len(self.ladder):
            raise UserError(f"{source}: rung {point.rung}: sizes has {len(self.ladder)}, from 0 to "
                            f"{len(self.ladder) - 1}")
        return self.ladder[point.rung]


def shapes_of(
    sweep: SweepConfig, choice: dict[str, Any], open_store: Callable[[RunConfig], TokenStore],
    source: str,
) -> Shapes:
    """Every model that the sweep names, under one choice of what varies.

    Args:
        sweep: its configuration.
        choice: dotted keys of the run, and their values.
        open_store: gives the store of a run.
        source: where the configuration came from, for messages.

    Raises:
        UserError: a model is impossible; the message says which, and why.
    """
    content = override(sweep.run, _assignments(choice))

    def shape(size: Size, rate: float) -> Shape:
        values = {f"model.{key}": value for key, value in size.model_dump().items()}
        values |= {"tokens": _ENOUGH, "seed": 0, "optimizer.learning_rate": rate}
        where = f"{source}: run with {size}"
        run = validate(RunConfig, override(content, _assignments(values)), where)
        store = open_store(run)
        one_batch = run.model_copy(update={"tokens": run.batch_tokens})
        run = said_of(where, lambda: resolve(one_batch, store))
        return Shape(size, run, store, count_parameters(run.model), run_flops_per_sequence(run))

    sizes = sweep.sizes if isinstance(sweep.sizes, tuple) else climb(
        sweep.sizes, lambda size: shape(size, 1.0).run.model, source)
    more = [point.size for point in _points(sweep) if point.size is not None]
    named = list(dict.fromkeys([*sizes, *more]))
    rates = _listed(sweep, named, source)
    found = {size: shape(size, rates.get(size, 1.0)) for size in named}
    if not rates:
        found = {size: _with_rate(s, sweep) for size, s in found.items()}
    return Shapes([found[size] for size in sizes], found)


def _assignments(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _points(sweep: SweepConfig) -> Iterator[Point]:
    for grid in sweep.grids:
        if isinstance(grid, Points | Cross):
            yield from grid.at
    yield from sweep.heldout


def _listed(sweep: SweepConfig, sizes: list[Size], source: str) -> dict[Size, float]:
    """The listed rate of each size; nothing where a rule gives them."""
    if not isinstance(sweep.learning_rate, ListedLearningRate):
        return {}
    rates = sweep.learning_rate.rates
    if len(rates) != len(sizes):
        raise UserError(
            f"{source}: learning_rate.rates: has {len(rates)} values for {len(sizes)} sizes (those "
            "that points and heldout add counted in); give one for each"
        )
    return dict(zip(sizes, rates, strict=True))


def _with_rate(shape: Shape, sweep: SweepConfig) -> Shape:
    assert not isinstance(sweep.learning_rate, ListedLearningRate)
    # The rule goes by parameters that no vocabulary changes.
    rate = sweep.learning_rate.at(shape.params.non_embedding)
    optimizer = shape.run.optimizer.model_copy(update={"learning_rate": rate})
    run = shape.run.model_copy(update={"optimizer": optimizer})
    return Shape(shape.size, run, shape.store, shape.params, shape.flops_per_sequence)


def said_of(where: str, work: Callable[[], T]) -> T:
    """What `work` gives; what it refuses is said of the thing that `where` names.

    Raises:
        UserError: its UserError or ValueError, with `where` before it.
    """
    try:
        return work()
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
