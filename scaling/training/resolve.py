"""A run's configuration, completed from its data and checked against it. No JAX here: planning
and status stay quick."""

from __future__ import annotations

from scaling.config import RunConfig
from scaling.data.batches import check_fits, sequence_count
from scaling.data.store import TokenStore
from scaling.errors import UserError


def resolve(run: RunConfig, store: TokenStore) -> RunConfig:
    """The run with what it takes from the data filled in, and checked against the data.

    Raises:
        UserError: the vocabulary is too small for the store, or the store too small for the run.
    """
    check_fits(store, run.model.context, run.trained_tokens, run.data.epochs)
    heldout = sequence_count(store.manifest.validation.tokens, run.model.context)
    if min(heldout, run.evaluation.sequences) < 2:
        raise UserError(
            f"{store.path}: {heldout} held-out sequence(s) of context {run.model.context}, and "
            f"evaluation.sequences = {run.evaluation.sequences}; a standard error needs at least 2"
        )
    if run.model.vocab_size is None:
        model = run.model.model_copy(update={"vocab_size": store.vocab_size})
        return run.model_copy(update={"model": model})
    if run.model.vocab_size < store.vocab_size:
        raise UserError(
            f"model.vocab_size = {run.model.vocab_size} is smaller than the {store.vocab_size} "
            f"token ids of {store.path}; leave it out to take the store's"
        )
    return run
