"""The batches of a run as arrays: a pure function of (store, run, step)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.config import RunConfig
from scaling.data.batches import Batches, evenly_spaced
from scaling.data.run_data import sequences_of, training_batches
from scaling.data.store import TokenStore
from scaling.objectives.base import Arrays, ExampleContext, ObjectiveFunctions
from scaling.objectives.registry import FUNCTIONS

EVALUATION_SEED = 0
"""Seeds the noise of held-out text, for all runs alike."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The training batches of a run."""

    functions: ObjectiveFunctions
    context: ExampleContext[Any]
    batches: Batches

    @classmethod
    def of(cls, run: RunConfig, store: TokenStore) -> Examples:
        """The batches of a resolved run."""
        context = _context(run, store, run.seed)
        return cls(FUNCTIONS[run.objective.kind], context, training_batches(run, store))

    def at(self, step: int, host: int = 0, hosts: int = 1) -> Arrays:
        """The part of a host in the batch of a step (see `Batches.at`)."""
        drawn = self.batches.at(step, host, hosts)
        return self.functions.examples(self.context, self.batches.sequences, drawn)


def heldout(run: RunConfig, store: TokenStore) -> Arrays:
    """The evaluation examples of a run, in one batch: sequences spread evenly over the validation
    split, with noise that does not depend on the run's seed."""
    sequences = sequences_of(run, store.split("validation"))
    drawn = evenly_spaced(sequences, run.evaluation.sequences)
    context = _context(run, store, EVALUATION_SEED)
    return FUNCTIONS[run.objective.kind].examples(context, sequences, drawn)


def target_entropy(batch: Arrays) -> float:
    """Entropy of the distribution of a batch's targets, in nats: the loss of a unigram model. The
    targets of ELECTRA are its generator's."""
    counts = np.bincount(_predicted(batch))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def bytes_per_prediction(batch: Arrays, token_bytes_V: NDArray[np.float64]) -> float:
    """Mean UTF-8 bytes of text per prediction of a batch, by which a loss in nats per prediction is
    divided to be in nats per byte of the predicted text.

    Special tokens (ends of documents, sentinels) count as predictions of no bytes.

    Args:
        batch: the predictions.
        token_bytes_V: bytes of each token (`TokenStore.token_bytes`).
    """
    return float(token_bytes_V[_predicted(batch)].mean())


def _predicted(batch: Arrays) -> NDArray[np.integer]:
    """The predicted tokens, in one dimension."""
    targets = batch["targets"] if "targets" in batch else batch["ids"][:, 1:]
    weighted = next((w > 0 for w in batch.get("weights", {}).values() if w.shape == targets.shape),
                 np.ones(targets.shape, np.bool_))
    predicted: NDArray[np.integer] = targets[weighted]
    return predicted


def _context(run: RunConfig, store: TokenStore, seed: int) -> ExampleContext[Any]:
    objective = run.objective
    words, sentences = objective.needs_word_starts, objective.needs_sentence_ends
    tokenizer = store.tokenizer() if words or sentences else None
    return ExampleContext(
        objective, run.model, store.manifest.special, store.vocab_size, seed,
        starts_V=tokenizer.word_starts() if words and tokenizer else None,
        sentence_ends_V=tokenizer.sentence_ends() if sentences and tokenizer else None,
    )
