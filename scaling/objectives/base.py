"""What every objective is: a way from text to arrays, and one from a model and arrays to losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32
from numpy.typing import NDArray

from scaling.config import ModelConfig
from scaling.config.objectives import Objective as ObjectiveConfig
from scaling.data.batches import Drawn, Sequences
from scaling.data.random import UInt64, sequence_keys
from scaling.data.special import Special
from scaling.models import Routing

Arrays = dict[str, Any]
"""A batch: arrays whose first axis is the sequence, by name; under `weights` a dictionary of those
that weigh the predictions of each part of the loss, which is there unless all weigh the same."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What decides, beside the text, which batches a run reads."""

    objective: ObjectiveConfig
    model: ModelConfig
    special: Special
    vocab_size: int
    """Of the text."""
    seed: int
    starts_V: NDArray[np.bool_] | None = None
    """Which tokens begin a word, for objectives that hide whole words."""
    sentence_ends_V: NDArray[np.bool_] | None = None
    """Which tokens end a sentence, for objectives that move sentences."""

    @cached_property
    def replacements(self) -> NDArray[np.int32]:
        """Ids that are text."""
        return np.setdiff1d(np.arange(self.vocab_size), self.special.ids()).astype(np.int32)

    @cached_property
    def is_text_V(self) -> NDArray[np.bool_]:
        """True for ids that are text."""
        text = np.zeros(self.vocab_size, np.bool_)
        text[self.replacements] = True
        return text

    def keys(self, drawn: Drawn, epoch_B: NDArray[np.int64] | None = None) -> UInt64:
        """A key for the noise of each sequence.

        Args:
            drawn: which sequences.
            epoch_B: which noise of a sequence; by default a new one each time it is drawn.
        """
        epoch_B = drawn.epoch_B if epoch_B is None else epoch_B
        return sequence_keys(self.seed, drawn.sequence_B, epoch_B, self.objective.kind)


class Terms(NamedTuple):
    """What a model loses on each sequence of a batch."""

    losses: dict[str, Float[Array, "B"]]
    """By part: the sum over its predictions, each times its weight; or their mean where the batch
    has no weights for the part."""
    routing: Routing | None = None
    """How experts were shared out, where there are some."""


@dataclass(frozen=True)
class Kind:
    """The functions that make an objective."""

    parts: Callable[[Any], dict[str, float]]
    """From its configuration: the parts of its loss, and the weight of each. The first is what
    tables call the loss: nats for each predicted token."""
    examples: Callable[[Setting, Sequences, Drawn], Arrays]
    """Text to a batch, a function of (seed, sequence, epoch) for each sequence."""
    terms: Callable[[Any, Any, Arrays, PRNGKeyArray | None], Terms]
    """From its configuration, a model, a batch, and a key for each sequence where there is
    dropout."""


def weighted(
    losses_BM: Float[Array, "B M"], weights_BM: Float[Array, "B M"] | None
) -> Float[Array, "B"]:
    """The losses of each sequence as `Terms` has them."""
    if weights_BM is None:
        return losses_BM.mean(axis=-1)
    return (losses_BM * weights_BM).sum(axis=-1)


def weight_sums(parts: Mapping[str, float], batch: Arrays) -> dict[str, Float[Array, "B"]]:
    """The sum of each sequence's weights, by part: what `Terms` of the batch as it is are to be
    divided by."""
    first = jax.tree.leaves(batch)[0]
    given = batch.get("weights", {})
    return {part: given[part].sum(axis=-1) if part in given else jnp.ones(len(first))
            for part in parts}


def normalised(batch: Arrays) -> Arrays:
    """The batch with the weights of each part scaled to a mean of one over its sequences, so that
    the mean of `Terms` over sequences is the mean over predictions, in whatever parts the batch is
    worked on."""
    if "weights" not in batch:
        return batch
    scaled = {part: weights_BM * (len(weights_BM) / jnp.maximum(weights_BM.sum(), 1e-9))
              for part, weights_BM in batch["weights"].items()}
    return batch | {"weights": scaled}


def cross_entropy(
    logits_BTV: Float[Array, "B T V"], targets_BT: Float[Array, "B T"]
) -> Float[Array, "B T"]:
    """-log softmax(logits)[target], in nats.

    The target's logit is found by a masked sum, not by indexing: its gradient is then arithmetic
    instead of a scatter, and it works where the vocabulary lies divided over devices.
    """
    hit_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    target_BT = jnp.where(hit_BTV, logits_BTV, 0.0).sum(axis=-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT


def uint32_keys(key_B: UInt64) -> UInt32[np.ndarray, "B 2"]:
    """A sequence's key as JAX's random numbers want it: two words of 32 bits."""
    return np.ascontiguousarray(key_B).view(np.uint32).reshape(-1, 2)
