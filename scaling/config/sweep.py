"""Configuration of a sweep: a base run, model sizes, grids, learning-rate rule, and budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from scaling.config.base import (
    Config,
    Count,
    Name,
    NonNegativeInt,
    Positive,
    Problem,
    Real,
    ValidatedLater,
)
from scaling.config.explain import format_value
from scaling.config.grids import Cross, Grid, NonEmpty, Point, SizeSpec
from scaling.config.partial import deferred_problems
from scaling.config.run import RunConfig
from scaling.config.text import one_line

SWEPT_KEYS = ("tokens", "seed", "optimizer.learning_rate", "model.d_model", "model.n_layers",
              "model.n_heads", "model.d_ff")
"""Keys of a run that the sweep's sizes, grids, seeds and learning rate set."""


class PowerLearningRate(Config):
    """Peak learning rate as a power law of the size: learning_rate * (N / reference_params) **
    exponent, where N is the parameters without embeddings and head."""

    rule: Literal["power"] = "power"
    learning_rate: Positive
    """Peak learning rate at `reference_params`."""
    reference_params: Count
    """Number of parameters, without embeddings and head, at which `learning_rate` was found."""
    exponent: Annotated[Real, Field(ge=-10, le=10)]
    """Exponent of the power law; negative if larger models need smaller rates."""

    def at(self, params_non_embedding: int) -> float:
        """Peak learning rate for a model of this size, rounded to 6 digits, since the last bit of a
        power differs between machines and the run's identity would too.

        Raises:
            ValueError: the rate is zero or infinite.
        """
        ratio = params_non_embedding / self.reference_params
        rate = float(f"{self.learning_rate * ratio**self.exponent:.6g}")
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate: the rule gives {rate:g} for {params_non_embedding:,} "
                             "non-embedding parameters; check learning_rate, exponent and "
                             "reference_params")
        return rate


class ListedLearningRate(Config):
    """A list of peak learning rates, one for each of `sizes`, then for each other size of the
    grids' points and of `heldout`, in order."""

    rule: Literal["listed"]
    rates: tuple[Positive, ...]
    """Peak learning rates."""


class ConstantLearningRate(Config):
    """The same peak learning rate for all sizes, which may also be given as a plain number."""

    rule: Literal["constant"]
    learning_rate: Positive
    """Peak learning rate."""

    def at(self, params_non_embedding: int) -> float:
        """Peak learning rate for a model of this size."""
        return self.learning_rate


def _constant_rule(value: Any) -> Any:
    """Convert a plain number to a constant rule."""
    if isinstance(value, dict | Config):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("a learning rate (a positive number) or a rule, such as {rule: power, "
                         f"...}}, is expected, not {format_value(value)}")
    return {"rule": "constant", "learning_rate": value}


_Rule = Annotated[
    PowerLearningRate | ListedLearningRate | ConstantLearningRate, Field(discriminator="rule")
]

_MAX_PACKED = 10_000

MAX_RUNS = 100_000
"""Largest number of runs of a sweep."""

_KEY = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}")
"""A dotted key of a run."""


class SweepConfig(Config):
    """A sweep: a base run, and what varies between its runs."""

    mistaken_for: ClassVar[dict[tuple[str, ...], str]] = {
        ("model", "data"): "is one run, where a sweep is expected; use `scaling train`, or a file "
                           "such as configs/sweeps/quickstart.yaml"}

    name: Name
    """Name of the sweep: at most 64 letters, digits, dots, dashes and underscores. Results are
    written to results/NAME."""
    run: Annotated[dict[str, Any], ValidatedLater(RunConfig, SWEPT_KEYS)]
    """Base run: a run configuration without model sizes, tokens, seed and learning rate."""
    sizes: SizeSpec
    """Model sizes: a list, or a rule that generates one (`kind: ladder`)."""
    grids: NonEmpty[Grid]
    """Grids of points to train; a point of several grids is trained once."""
    seeds: NonEmpty[NonNegativeInt] = (0,)
    """Seeds; every point is trained with each seed."""
    vary: dict[str, NonEmpty[Any]] = Field(default={})
    """Further dotted keys of the run (`objective`, `data.store`, `optimizer.b2`), each with a list
    of values; crossed with one another and with every grid. By default none."""
    learning_rate: Annotated[
        _Rule, BeforeValidator(_constant_rule, json_schema_input_type=Positive | _Rule)]
    """Peak learning rate of each size: a rule, or one number for all sizes, which biases the law if
    the sizes differ widely."""
    heldout: tuple[Point, ...] = ()
    """Larger runs that are left out of every fit, and trained after the law has predicted their
    losses; by default none."""
    max_flops: Positive | None = None
    """Budget of training FLOPs for the whole sweep, finished runs included and shared steps counted
    once; runs that exceed it, in the order of `priority`, are not trained. By default unlimited."""
    max_device_hours: Positive | None = None
    """Budget in hours of one device, from the time of a step that is measured on this machine (or
    modelled by `plan --gpu`); refused where the workers of another launcher train. By default
    unlimited."""
    priority: Literal["cheapest", "most_expensive", "order"] = "cheapest"
    """Order in which runs are added until the budgets are spent: cheapest first, most expensive
    first, or the order of the grids; runs of the grids always come before held-out runs."""

    pack: Literal["auto"] | Count = "auto"
    """Number of runs of the same shape that are trained together on a device; `auto` is as many as
    pay off and fit in its memory (one on a CPU)."""

    @field_validator("pack", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        if isinstance(value, str | int) and (value == "auto" or (
                isinstance(value, int) and value is not True and 0 < value <= _MAX_PACKED)):
            return value
        raise ValueError("auto, or the number of runs that are trained together (from 1 to "
                         f"{_MAX_PACKED:,}), is expected, not {format_value(value)}")

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._check_duplicates()
        yield self._check_varied_keys()
        yield self._check_run_count()
        yield self._check_run()

    def _check_duplicates(self) -> Iterator[Problem]:
        lists = {"seeds": self.seeds} | {f"vary.{one_line(key)}": v for key, v in self.vary.items()}
        if isinstance(self.sizes, tuple):
            lists["sizes"] = self.sizes
        for number, grid in enumerate(self.grids):
            lists |= {f"grids.{number}.{name}": value for name, value in grid if name not in
                      ("params", "at") and isinstance(value, tuple)}
        for name, values in lists.items():
            if (duplicate := _first_duplicate(values)) is not None:
                yield name, f"lists {str(duplicate)[:100]} twice; keep one"

    def _check_varied_keys(self) -> Iterator[Problem]:
        for key in self.vary:
            where = f"vary.{one_line(key)}"
            if not _KEY.fullmatch(key):
                yield where, ("is not a key of a run; write names of letters, digits and "
                              "underscores separated by dots, such as optimizer.b2")
                continue
            if any(_overlap(key, other) for other in SWEPT_KEYS):
                yield where, ("is set by the sweep's sizes, grids, seeds and learning_rate; leave "
                              "it out")
            both = [other for other in self.vary if other != key and _overlap(key, other)]
            if both:
                yield where, f"and vary.{one_line(both[0])} set the same key; keep one"
            crossed = any(isinstance(g, Cross) and g.batch_sequences for g in self.grids)
            if crossed and key == "batch_sequences":
                yield where, "a cross grid sets batch_sequences too; keep one"

    def _check_run_count(self) -> Iterator[Problem]:
        n_sizes = len(self.sizes) if isinstance(self.sizes, tuple) else self.sizes.count
        points = sum(grid.max_points(n_sizes) for grid in self.grids)
        choices = math.prod(len(values) for values in self.vary.values())
        n_runs = choices * (points * len(self.seeds) + len(self.heldout))
        if n_runs > MAX_RUNS:
            yield "", (f"grids, seeds and vary give {n_runs:,} runs, and a sweep has at most "
                       f"{MAX_RUNS:,}; list fewer of them")

    def _check_run(self) -> Iterator[Problem]:
        """Problems of the base run that do not depend on the size. Those that depend on the size,
        or on varied keys, are found when the models are planned."""
        for key in SWEPT_KEYS:
            if _has_key(self.run, key.split(".")):
                yield f"run.{key}", ("is set by the sweep's sizes, grids, seeds and learning_rate; "
                                     "leave it out")
        if not self.vary:
            for line in deferred_problems(ValidatedLater(RunConfig, SWEPT_KEYS), self.run, ["run"]):
                field, _, message = line.partition(": ")
                yield field, message


def _first_duplicate(values: tuple[Any, ...]) -> Any:
    """The first value that occurs twice; None if all are different."""
    seen = set()
    for value in values:
        text = f"{type(value).__name__} {value!r}"
        if text in seen:
            return value
        seen.add(text)
    return None


def _has_key(content: Any, keys: list[str]) -> bool:
    return not keys or (isinstance(content, dict) and keys[0] in content
                        and _has_key(content[keys[0]], keys[1:]))


def _overlap(key: str, other: str) -> bool:
    """Whether one dotted key is the other or a prefix of it."""
    shorter, longer = sorted((key.split("."), other.split(".")), key=len)
    return longer[: len(shorter)] == shorter
