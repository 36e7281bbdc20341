"""What every objective consists of: a function from text to a batch of arrays, and a function from
a model and a batch to losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32
from numpy.typing import NDArray

from scaling.config import ModelConfig
from scaling.config.objectives import ObjectiveConfig
from scaling.data.batches import SequenceBatch, SequenceDataset
from scaling.data.random import UInt64, sequence_keys
from scaling.data.tokenizers.special import SpecialTokens
from scaling.models import Routing

Arrays = dict[str, Any]
"""A batch: arrays by name, whose first axis is the sequence.

`targets` has the predicted tokens; without it they are `ids[:, 1:]`. `weights` is a dictionary of
the weights of the predictions of each part of the loss; it is absent if all weights are equal.
Statistics of the targets (examples.py) count the predictions of the first weights that have the
shape of the targets. All other names are chosen by the objective, and read by its `terms` only."""


AnObjective = TypeVar("AnObjective", bound=ObjectiveConfig, covariant=True)


@dataclass(frozen=True, eq=False)
class ExampleContext(Generic[AnObjective]):
    """What an objective needs to make batches from sequences of text."""

    objective: AnObjective
    model: ModelConfig
    special: SpecialTokens
    vocab_size: int
    """Token ids of the text's vocabulary."""
    seed: int
    starts_V: NDArray[np.bool_] | None = None
    """True for tokens that begin a word, for objectives that mask whole words."""
    sentence_ends_V: NDArray[np.bool_] | None = None
    """True for tokens that end a sentence, for objectives that permute sentences."""

    @cached_property
    def replacements(self) -> NDArray[np.int32]:
        """Ids of text tokens, from which random replacements are drawn."""
        return np.setdiff1d(np.arange(self.vocab_size), self.special.ids()).astype(np.int32)

    @cached_property
    def is_text_V(self) -> NDArray[np.bool_]:
        """True for ids of text tokens."""
        text = np.zeros(self.vocab_size, np.bool_)
        text[self.replacements] = True
        return text

    def keys(self, drawn: SequenceBatch, epoch_B: NDArray[np.int64] | None = None) -> UInt64:
        """A key for the noise of each sequence.

        Args:
            drawn: the sequences.
            epoch_B: numbers the noise of a sequence; by default its epoch, so that the noise is
                new each time.
        """
        epoch_B = drawn.epoch_B if epoch_B is None else epoch_B
        return sequence_keys(self.seed, drawn.sequence_B, epoch_B, self.objective.kind)


class LossTerms(NamedTuple):
    """Losses of a model on each sequence of a batch."""

    losses: dict[str, Float[Array, " B"]]
    """By part: the weighted sum over its predictions; or their mean if the batch has no weights for
    the part."""
    routing: Routing | None = None
    """Router statistics of a model with experts."""
    features: Any = None
    """Features of each sequence, arrays [B, ...], of an objective with a loss of whole batches."""


@dataclass(frozen=True)
class ObjectiveFunctions:
    """The functions of an objective."""

    parts: Callable[[Any], dict[str, float]]
    """From its configuration: the parts of its loss, and the weight of each. The first is the loss
    of the runs table, in nats per predicted token."""
    examples: Callable[[ExampleContext[Any], SequenceDataset, SequenceBatch], Arrays]
    """Text to a batch, a function of (seed, sequence, epoch) for each sequence."""
    terms: Callable[[Any, Any, Arrays, PRNGKeyArray | None], LossTerms]
    """From its configuration, a model, a batch, and a key for each sequence if there is dropout."""
    batch_terms: Callable[[Any, Any], dict[str, Float[Array, ""]]] | None = None
    """From its configuration and the features of all sequences of a batch: the parts of the loss
    that compare sequences with one another, such as a contrastive loss."""


def weighted(
    losses_BM: Float[Array, "B M"], weights_BM: Float[Array, "B M"] | None
) -> Float[Array, " B"]:
    """Losses of predictions summed over each sequence, as in `LossTerms`."""
    if weights_BM is None:
        return losses_BM.mean(axis=-1)
    return (losses_BM * weights_BM).sum(axis=-1)


def weight_sums(parts: Mapping[str, float], batch: Arrays) -> dict[str, Float[Array, " B"]]:
    """The sum of the weights of each sequence, by part: the denominators of `LossTerms`."""
    first = jax.tree.leaves(batch)[0]
    given = batch.get("weights", {})
    return {part: jnp.sum(given[part], axis=-1) if part in given else jnp.ones(len(first))
            for part in parts}


def normalised(batch: Arrays) -> Arrays:
    """The batch with the weights of each part scaled so that they sum to one on average over its
    sequences: the mean of `LossTerms` over sequences is then the mean over predictions, in any
    split into microbatches."""
    if "weights" not in batch:
        return batch
    scaled = {part: weights_BM * (len(weights_BM) / jnp.maximum(weights_BM.sum(), 1e-9))
              for part, weights_BM in batch["weights"].items()}
    return batch | {"weights": scaled}


def uint32_keys(key_B: UInt64) -> UInt32[np.ndarray, "B 2"]:
    """Keys of sequences as the data of JAX keys: two words of 32 bits."""
    return np.ascontiguousarray(key_B).view(np.uint32).reshape(-1, 2)
