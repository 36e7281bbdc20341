"""A sweep: a base run, the models and grids that are trained, and what it may cost."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from scaling.config.base import Config, Count, Index, Positive, Real, field_error
from scaling.config.grids import Cross, Grid, Point, Several, Sizes

DECIDED = ("tokens", "seed", "optimizer.learning_rate", "model.d_model", "model.n_layers",
           "model.n_heads", "model.d_ff")
"""Keys of a run that the sweep's own lists decide."""


class PowerLearningRate(Config):
    """Learning rate from the size: learning_rate * (N / reference_params) ** exponent, with N the
    parameters outside embeddings and head."""

    rule: Literal["power"] = "power"
    learning_rate: Positive
    """Peak learning rate at `reference_params`."""
    reference_params: Count
    """Parameters outside embeddings and head at which `learning_rate` was found."""
    exponent: Real
    """Negative: larger models want smaller rates."""

    def at(self, params_non_embedding: int) -> float:
        """Peak learning rate for a model of this size, to 6 digits: a power's last bit differs
        between machines, and with it a run's identity would."""
        ratio = params_non_embedding / self.reference_params
        return float(f"{self.learning_rate * ratio**self.exponent:.6g}")


class ListedLearningRate(Config):
    """One learning rate for each of `sizes`, then for each other size of the grids' points and of
    `heldout`, in their order."""

    rule: Literal["listed"]
    rates: tuple[Positive, ...]


LearningRateRule = Annotated[PowerLearningRate | ListedLearningRate, Field(discriminator="rule")]


class SweepConfig(Config):
    """A sweep: one base run, and what varies."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Letters, digits, dot, dash and underscore; results go to results/NAME."""
    run: dict[str, Any]
    """What all runs share: a run configuration less model sizes, tokens, seed and learning rate."""
    sizes: Sizes
    """The models: a list, or a rule that makes one (`kind: ladder`)."""
    grids: Several[Grid]
    """Which points are trained; those of all grids together, each once."""
    seeds: Several[Index] = (0,)
    """Every point is trained with each."""
    vary: dict[str, Several[Any]] = Field(default={})
    """Further keys of the run, dotted (`objective`, `data.store`, `optimizer.b2`), each with the
    values it takes; crossed with one another and with every grid."""
    learning_rate: LearningRateRule
    """How each size gets its peak learning rate; a constant rate for all sizes bends the law."""
    heldout: tuple[Point, ...] = ()
    """Larger runs, kept out of every fit, and trained after the law has predicted their losses."""
    max_flops: Positive | None = None
    """Most training FLOPs of the whole sweep, done or not, what runs share counted once; runs that
    no longer fit, in the order of `priority`, are not trained."""
    max_device_hours: Positive | None = None
    """Most hours of one device, by the time of a step as measured (or modelled: `plan --gpu`)."""
    priority: Literal["cheapest", "dearest", "order"] = "cheapest"
    """Which runs the budgets go to first: the cheapest or the dearest, or as the grids have them;
    the grid's before the held-out ones in any case."""

    pack: Literal["auto"] | Count = "auto"
    """How many runs of one shape train side by side on a device: as many as are worth it and as its
    memory holds (one on a CPU), or so many."""

    @field_validator("pack", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and value is not True and value > 0):
            return value
        raise ValueError("auto is expected, or how many runs train side by side (1: each by "
                         f"itself), not {json.dumps(value)}")

    @model_validator(mode="after")
    def _says_nothing_twice(self) -> SweepConfig:
        lists = {"seeds": self.seeds} | {f"vary.{key}": v for key, v in self.vary.items()}
        if isinstance(self.sizes, tuple):
            lists["sizes"] = self.sizes
        for number, grid in enumerate(self.grids):
            lists |= {f"grids.{number}.{name}": value for name, value in grid if name not in
                      ("params", "at") and isinstance(value, tuple)}
        for name, values in lists.items():
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                raise field_error(name, f"holds {repeated[0]} twice")
        return self

    @model_validator(mode="after")
    def _varies_what_is_free(self) -> SweepConfig:
        for key in self.vary:
            if any(_overlap(key, other) for other in DECIDED):
                raise field_error(f"vary.{key}", "is decided by the sweep's own sizes, grids, "
                                  "seeds and learning_rate; leave it out")
            both = [other for other in self.vary if other != key and _overlap(key, other)]
            if both:
                raise field_error(f"vary.{key}", f"and vary.{both[0]} set the same thing; keep one")
            crossed = any(isinstance(g, Cross) and g.batch_sequences for g in self.grids)
            if crossed and key == "batch_sequences":
                raise field_error(f"vary.{key}", "a cross grid sets batch_sequences too; keep one")
        return self


def _overlap(key: str, other: str) -> bool:
    """Whether one dotted key is the other, or holds it."""
    shorter, longer = sorted((key.split("."), other.split(".")), key=len)
    return longer[: len(shorter)] == shorter
