"""A grid of runs: sizes x tokens x seeds, and the larger models that test the law."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from scaling.config.base import Config, Count, Index, Positive, Real


class Size(Config):
    """One rung of the ladder; everything else of the model stays as the sweep's `run` has it."""

    d_model: Count
    n_layers: Count
    n_heads: Count
    d_ff: Count | None = None
    """Hidden width of the feed-forward layer; by default by ModelConfig's rule."""


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
    """One learning rate for each of `sizes`, then of `points`, then of `heldout`."""

    rule: Literal["listed"]
    rates: tuple[Positive, ...]


LearningRateRule = Annotated[PowerLearningRate | ListedLearningRate, Field(discriminator="rule")]


class Point(Config):
    """One run by itself: a size and its training tokens."""

    size: Size
    tokens: Count


class SweepConfig(Config):
    """A sweep: one base run, and what varies."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Letters, digits, dot, dash and underscore; results go to results/NAME."""
    run: dict[str, Any]
    """What all runs share: a run configuration less model sizes, tokens, seed and learning rate."""
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """The ladder of models."""
    tokens: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Training tokens; every size is trained on each."""
    seeds: Annotated[tuple[Index, ...], Field(min_length=1)] = (0,)
    learning_rate: LearningRateRule
    """How each size gets its peak learning rate; a constant rate for all sizes bends the law."""
    points: tuple[Point, ...] = ()
    """Further runs for the fit, outside the rectangle of sizes and tokens: small models trained for
    long, say, which a law needs and which cost little."""
    heldout: tuple[Point, ...] = ()
    """Larger runs, kept out of every fit, and trained after the law has predicted their losses."""

    @model_validator(mode="after")
    def _grid_is_a_grid(self) -> SweepConfig:
        for name in ("sizes", "tokens", "seeds"):
            values = getattr(self, name)
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                raise ValueError(f"{name} holds {repeated[0]} twice")
        if isinstance(self.learning_rate, ListedLearningRate):
            wanted = len(self.sizes) + len(self.points) + len(self.heldout)
            if len(self.learning_rate.rates) != wanted:
                raise ValueError(
                    f"learning_rate.rates has {len(self.learning_rate.rates)} values for "
                    f"{wanted} sizes (those of points and heldout counted in)"
                )
        return self
