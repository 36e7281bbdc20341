"""A run's configuration, completed from its data and checked against it. No JAX here: planning
and status stay quick."""

from __future__ import annotations

from typing import Any

from scaling.config import RunConfig
from scaling.config.objectives import Distillation
from scaling.data.reading import check_fits
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.training.teacher import described


def resolve(run: RunConfig, store: TokenStore) -> RunConfig:
    """The run with what it takes from the data, and from the run of its teacher, filled in, and
    checked against them.

    Raises:
        UserError: the vocabulary is too small for the store, the store too small for the run, or
            the teacher is none for it.
    """
    check_fits(run, store)
    filled: dict[str, Any] = {}
    if run.model.vocab_size is None:
        filled["model"] = run.model.model_copy(update={"vocab_size": store.vocab_size})
    elif run.model.vocab_size < store.vocab_size:
        raise UserError(
            f"model.vocab_size = {run.model.vocab_size} is smaller than the {store.vocab_size} "
            f"token ids of {store.path}; leave it out to take the store's"
        )
    if isinstance(run.objective, Distillation):
        model = filled.get("model", run.model)
        filled["objective"] = described(run.objective, model)
    return run.model_copy(update=filled)
