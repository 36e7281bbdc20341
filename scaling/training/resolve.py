"""Resolution of a run: its configuration is completed from its data and from trained models, and
checked against them. JAX is not imported, so that planning and status stay fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.accounting import trained_parameters
from scaling.config import RunConfig
from scaling.data.run_data import check_fits, check_vocabulary
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.runs import RUNS
from scaling.training.initial import with_source_of
from scaling.training.teacher import with_teacher_of


def resolve(run: RunConfig, store: TokenStore, runs: Path = RUNS) -> RunConfig:
    """The run with its vocabulary size from the data, its teacher from the teacher's run, and the
    content of the model that it begins from.

    Args:
        run: a validated run.
        store: its tokens.
        runs: folder of all runs, for runs that are given by their identity.

    Raises:
        UserError: the vocabulary is smaller than the store's, the store has too little text for the
            run, the teacher or the initial model does not fit it, or nothing would be trained.
        OSError: a file of the initial model cannot be read; the error names it.
    """
    check_fits(run, store)
    if run.model.vocab_size is None:
        model = run.model.model_copy(update={"vocab_size": store.vocab_size})
        run = run.model_copy(update={"model": model})
    check_vocabulary(run, store)
    _check_trainable(run)
    found: dict[str, Any] = {"init": with_source_of(run, store, runs)}
    if run.objective.teacher_folder is not None:
        found["objective"] = with_teacher_of(run.objective, run.model)
    return run.model_copy(update=found)


def _check_trainable(run: RunConfig) -> None:
    for selection in run.trainable:
        if not trained_parameters(run.model, (selection,)):
            raise UserError(
                f"trainable: the model has no parameters with {selection}; leave that selection "
                "out, or choose another (heads may be tied to the embedding, and biases need "
                "model.use_bias: true)")
