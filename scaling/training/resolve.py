"""Resolution of a run: its configuration is completed from its data, and checked against them. JAX
is not imported, so that planning and status stay fast."""

from __future__ import annotations

from typing import Any

from scaling.config import RunConfig
from scaling.data.run_data import check_fits, check_vocabulary
from scaling.data.store import TokenStore
from scaling.training.teacher import with_teacher_of


def resolve(run: RunConfig, store: TokenStore) -> RunConfig:
    """The run with its vocabulary size from the data, and its teacher from the teacher's run.

    Raises:
        UserError: the vocabulary is smaller than the store's, the store has too little text for the
            run, or the teacher does not fit it.
    """
    check_fits(run, store)
    filled: dict[str, Any] = {}
    if run.model.vocab_size is None:
        filled["model"] = run.model.model_copy(update={"vocab_size": store.vocab_size})
    check_vocabulary(run, store)
    if run.objective.teacher_folder is not None:
        filled["objective"] = with_teacher_of(run.objective, filled.get("model", run.model))
    return run.model_copy(update=filled)
