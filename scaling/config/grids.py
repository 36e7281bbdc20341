"""What a sweep varies: the ladder of models, and the grids of points over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from scaling.config.base import LISTED, Config, Count, Index, Positive

Counting = Literal["total", "non-embedding"]
"""Which parameters N counts: all of them (Hoffmann et al. 2022), or all but embeddings and the
vocabulary's matrix (Kaplan et al. 2020)."""

T = TypeVar("T")


def _not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    # pydantic's own min_length also complains where it is an element that is wrong.
    if not values:
        raise ValueError("is empty; list at least one")
    return values


Several = Annotated[
    tuple[T, ...], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})
]


class Size(Config):
    """One rung of the ladder; everything else of the model stays as the sweep's `run` has it."""

    d_model: Count
    n_layers: Count
    n_heads: Count
    d_ff: Count | None = None
    """Hidden width of the feed-forward layer; by default by ModelConfig's rule."""

    def __str__(self) -> str:
        return f"d_model {self.d_model} x {self.n_layers}"


class Ladder(Config):
    """Models in geometric steps of their parameters outside the embeddings, counted and not
    estimated: of the shapes whose width is a multiple of `d_head`, each rung is the one nearest in
    parameters and, with a quarter of the weight, in shape."""

    kind: Literal["ladder"]
    params: tuple[Positive, Positive]
    """Parameters outside the embeddings of the smallest and of the largest rung."""
    count: Annotated[Count, Field(ge=2)]
    """Rungs."""
    aspect: Positive = 32.0
    """Width over layers."""
    d_head: Count = 32
    """Width of a head; d_model is a multiple of it, and n_heads follows."""

    @model_validator(mode="after")
    def _rises(self) -> Ladder:
        low, high = self.params
        if low >= high:
            raise ValueError(f"params goes from {low:g} to {high:g}; put the smaller number first")
        return self


def _kind_of_sizes(value: Any) -> str:
    return "ladder" if isinstance(value, dict | Ladder) else LISTED


Sizes = Annotated[
    Annotated[Several[Size], Tag(LISTED)] | Annotated[Ladder, Tag("ladder")],
    Discriminator(_kind_of_sizes),
]


class Point(Config):
    """A model and its training tokens."""

    size: Size | None = None
    """The model; or give `rung`."""
    rung: Index | None = None
    """The model's place in `sizes`, from 0."""
    tokens: Count

    @model_validator(mode="after")
    def _names_one_model(self) -> Point:
        if (self.size is None) == (self.rung is None):
            raise ValueError("either size or rung names the model of a point; give one of them")
        return self


class Product(Config):
    """Every size trained on each number of tokens."""

    kind: Literal["product"]
    tokens: Several[Count]


class IsoFlop(Config):
    """Every size at every budget, with the tokens that spend it (Hoffmann et al. 2022, approach
    2)."""

    kind: Literal["isoflop"]
    budgets: Several[Positive]
    """Training FLOPs of a run, counted product by product (the runs table's flops_counted) and
    spent within 1%."""
    tokens_per_parameter: tuple[Positive, Positive] | None = None
    """Points outside this window are left out; by default none is."""
    counting: Counting = "total"
    """Which parameters the window is about."""


class IsoLoss(Config):
    """Every size at every loss, with the tokens at which a law predicts it; sizes that the law
    says never reach it are left out."""

    kind: Literal["isoloss"]
    losses: Several[Positive]
    """Held-out losses, nats per token."""
    law: Path
    """JSON that `scaling fit --json` wrote."""
    form: str | None = None
    """Which of its laws; by default the first of parameters and tokens."""


class Ratio(Config):
    """Every size trained on multiples of its parameters."""

    kind: Literal["ratio"]
    tokens_per_parameter: Several[Positive]
    counting: Counting = "total"
    """Which parameters are multiplied."""


class Cuts(Config):
    """Three lines through the plane of sizes and tokens, as Kaplan et al. 2020 fit them: all sizes
    at the most tokens, L(N); the largest size at all tokens, L(D); and the diagonal of efficient
    compute, L(C), which ends where the two meet."""

    kind: Literal["cuts"]
    tokens: Several[Count]
    diagonal: Positive = 0.37
    """On the diagonal tokens grow as this power of the parameters outside the embeddings. By
    default 0.27/0.73 (Kaplan et al. 2020, section 6.1: N as C^0.73, D as C^0.27); 1 keeps the ratio
    (Hoffmann et al. 2022)."""


class Points(Config):
    """Points one by one: small models trained for long, say, which a law needs and which cost
    little."""

    kind: Literal["points"]
    at: Several[Point]


class Cross(Config):
    """Learning rates by batch sizes at some points: how much the law owes to their choice."""

    kind: Literal["cross"]
    at: Several[Point]
    rate_factors: Several[Positive] = (1.0,)
    """Times the peak learning rate that the sweep's rule gives."""
    batch_sequences: tuple[Count, ...] = ()
    """Batch sizes; by default the run's alone."""


Grid = Annotated[
    Product | IsoFlop | IsoLoss | Ratio | Cuts | Points | Cross, Field(discriminator="kind")
]
