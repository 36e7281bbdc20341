"""Sizes and grids of a sweep: which models are trained, and on how many tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag

from scaling.config.base import (
    LIST_TAG,
    Config,
    Count,
    Dimension,
    FilePath,
    LayerCount,
    NonNegativeInt,
    Positive,
    Problem,
    SequenceCount,
)

CountedParams = Literal["total", "non-embedding"]
"""Parameters that N counts: all (total, Hoffmann et al. 2022), or all except the embeddings and the
output matrix of the vocabulary (non-embedding, Kaplan et al. 2020)."""

T = TypeVar("T")


def _not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    # pydantic's own min_length also reports an error if an element is invalid.
    if not values:
        raise ValueError("is empty; list at least one")
    return values


NonEmpty = Annotated[
    tuple[T, ...], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})
]


class Size(Config):
    """The size of a model; all other model keys are those of the sweep's `run`."""

    d_model: Dimension
    """Width of the residual stream."""
    n_layers: LayerCount
    """Number of blocks."""
    n_heads: Dimension
    """Number of attention heads in each block."""
    d_ff: Dimension | None = None
    """Hidden width of the feed-forward layer; by default as in the model configuration."""

    def __str__(self) -> str:
        return f"d_model {self.d_model} x {self.n_layers}"


_Params = Annotated[Positive, Field(le=1e15)]
"""A number of parameters of one model."""

_Factor = Annotated[Positive, Field(le=1e6)]


class Ladder(Config):
    """Models in geometric steps of non-embedding parameters, which are counted and not estimated.
    Among the shapes whose width is a multiple of `d_head`, each size is the nearest in parameters
    and, with a quarter of the weight, in aspect ratio."""

    renamed: ClassVar[dict[str, str]] = {"aspect": "aspect_ratio"}

    kind: Literal["ladder"]
    params: tuple[_Params, _Params]
    """Non-embedding parameters of the smallest and of the largest model."""
    count: Annotated[Count, Field(ge=2, le=100)]
    """Number of models."""
    aspect_ratio: _Factor = 32.0
    """Width divided by the number of layers."""
    d_head: Dimension = 32
    """Width of a head; d_model is a multiple of it, and n_heads is d_model / d_head."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._check_ascending()

    def _check_ascending(self) -> Iterator[Problem]:
        low, high = self.params
        if low >= high:
            yield "params", f"goes from {low:g} to {high:g}; put the smaller number first"


def _size_spec_tag(value: Any) -> str:
    return "ladder" if isinstance(value, dict | Ladder) else LIST_TAG


SizeSpec = Annotated[
    Annotated[NonEmpty[Size], Tag(LIST_TAG)] | Annotated[Ladder, Tag("ladder")],
    Discriminator(_size_spec_tag),
]


_Ratio = Annotated[Positive, Field(le=1e15)]
_Flops = Annotated[Positive, Field(le=1e40)]


class Point(Config):
    """A point of a grid: a model size and a number of training tokens."""

    size: Size | None = None
    """Model size; or give `rung`."""
    rung: NonNegativeInt | None = None
    """Index of the model in `sizes`, from 0; or give `size`."""
    tokens: Count
    """Training tokens."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._check_model()

    def _check_model(self) -> Iterator[Problem]:
        if (self.size is None) == (self.rung is None):
            yield "", "a point has either a size or a rung; give one of them"


class Product(Config):
    """Every size with every number of tokens."""

    kind: Literal["product"]
    tokens: NonEmpty[Count]
    """Training tokens."""

    def max_points(self, n_sizes: int) -> int:
        """Largest number of points for the given number of sizes; the same in all grids."""
        return n_sizes * len(self.tokens)


class IsoFlop(Config):
    """IsoFLOP profiles: every size at every compute budget, with the number of tokens that spends
    it (Hoffmann et al. 2022, approach 2)."""

    kind: Literal["isoflop"]
    budgets: NonEmpty[_Flops]
    """Training FLOPs of each run, as the runs table counts them (flops_counted, every matrix
    product), spent within 1%."""
    tokens_per_parameter: tuple[_Ratio, _Ratio] | None = None
    """Smallest and largest number of tokens per parameter; points outside are left out. By default
    none are."""
    counting: CountedParams = "total"
    """Parameters that `tokens_per_parameter` counts."""

    def max_points(self, n_sizes: int) -> int:
        return n_sizes * len(self.budgets)


class IsoLoss(Config):
    """Every size at every loss, with the number of tokens at which a law predicts it; sizes that
    never reach the loss under the law are left out."""

    kind: Literal["isoloss"]
    losses: NonEmpty[Positive]
    """Held-out losses, in nats per token."""
    law: FilePath
    """JSON file of fitted laws, written by `scaling fit --save`."""
    form: str | None = None
    """Name of the law in that file; by default the first law of parameters and tokens."""

    def max_points(self, n_sizes: int) -> int:
        return n_sizes * len(self.losses)


class Ratio(Config):
    """Every size with multiples of its number of parameters as tokens."""

    kind: Literal["ratio"]
    tokens_per_parameter: NonEmpty[_Ratio]
    """Training tokens per parameter."""
    counting: CountedParams = "total"
    """Parameters that `tokens_per_parameter` counts."""

    def max_points(self, n_sizes: int) -> int:
        return n_sizes * len(self.tokens_per_parameter)


class Cuts(Config):
    """Three lines through the plane of sizes and tokens, which Kaplan et al. 2020 fit: all sizes at
    the largest number of tokens, L(N); the largest size at all numbers of tokens, L(D); and a
    diagonal of efficient compute, L(C), which ends where the two meet."""

    kind: Literal["cuts"]
    tokens: NonEmpty[Count]
    """Training tokens."""
    diagonal: _Factor = 0.37
    """Exponent of the diagonal: tokens grow as this power of the non-embedding parameters. By
    default 0.27/0.73 (Kaplan et al. 2020, section 6.1: N as C^0.73, D as C^0.27); 1 keeps the ratio
    constant (Hoffmann et al. 2022)."""

    def max_points(self, n_sizes: int) -> int:
        return 2 * n_sizes + len(self.tokens)


class Points(Config):
    """Individual points, for example small models trained for long, which a law needs and which
    cost little."""

    kind: Literal["points"]
    at: NonEmpty[Point]
    """Points to train."""

    def max_points(self, n_sizes: int) -> int:
        return len(self.at)


class Cross(Config):
    """Learning rates x batch sizes at some points, which measures how much the law depends on
    them."""

    kind: Literal["cross"]
    at: NonEmpty[Point]
    """Points to train."""
    rate_factors: NonEmpty[_Factor] = (1.0,)
    """Factors on the peak learning rate that the sweep's rule gives."""
    batch_sequences: tuple[SequenceCount, ...] = ()
    """Batch sizes in sequences; by default the batch size of the run."""

    def max_points(self, n_sizes: int) -> int:
        return len(self.at) * len(self.rate_factors) * max(1, len(self.batch_sequences))


Grid = Annotated[
    Product | IsoFlop | IsoLoss | Ratio | Cuts | Points | Cross, Field(discriminator="kind")
]
