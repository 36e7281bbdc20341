"""The batches of a run as arrays: a pure function of (store, run, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.config import RunConfig
from scaling.config.objectives import Denoising, Masked
from scaling.data.batches import Batches, evenly
from scaling.data.reading import sequences_of, training_batches
from scaling.data.store import TokenStore
from scaling.objectives.base import Arrays, Kind, Setting
from scaling.objectives.kinds import KINDS

EVALUATION_SEED = 0
"""Of what is done to held-out text: the same for all runs, whatever their own seed."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What a run trains on."""

    kind: Kind
    setting: Setting
    batches: Batches

    @classmethod
    def of(cls, run: RunConfig, store: TokenStore) -> Examples:
        """Those of a resolved run."""
        setting = _setting(run, store, run.seed)
        return cls(KINDS[run.objective.kind], setting, training_batches(run, store))

    def at(self, step: int, host: int = 0, hosts: int = 1) -> Arrays:
        """One host's part of the batch of one step (see `Batches.at`)."""
        drawn = self.batches.at(step, host, hosts)
        return self.kind.examples(self.setting, self.batches.sequences, drawn)


def heldout(run: RunConfig, store: TokenStore) -> Arrays:
    """What a run is evaluated on, in one batch: sequences that lie evenly over the validation
    split, and the same noise whatever the run's seed."""
    sequences = sequences_of(run, store.split("validation"))
    drawn = evenly(sequences, run.evaluation.sequences)
    setting = _setting(run, store, EVALUATION_SEED)
    return KINDS[run.objective.kind].examples(setting, sequences, drawn)


def target_entropy(batch: Arrays) -> float:
    """Entropy of the distribution of a batch's targets, nats: what a model loses that knows how
    often each token is asked for and nothing else. ELECTRA's are its generator's."""
    targets = batch["targets"] if "targets" in batch else batch["ids"][:, 1:]
    asked = next((w > 0 for w in batch.get("weights", {}).values() if w.shape == targets.shape),
                 np.ones(targets.shape, np.bool_))
    counts = np.bincount(targets[asked])
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _setting(run: RunConfig, store: TokenStore, seed: int) -> Setting:
    objective = run.objective
    words = isinstance(objective, Masked) and objective.unit != "token"
    sentences = isinstance(objective, Denoising) and "permutation" in objective.noises
    tokenizer = store.tokenizer() if words or sentences else None
    return Setting(
        objective, run.model, store.manifest.special, store.vocab_size, seed,
        starts_V=tokenizer.word_starts() if words and tokenizer else None,
        sentence_ends_V=tokenizer.sentence_ends() if sentences and tokenizer else None,
    )
