"""The held-out loss of a model, with its standard error."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Sharding

from scaling.config.objectives import Objective
from scaling.errors import UserError
from scaling.objectives import FUNCTIONS, Arrays, ObjectiveFunctions
from scaling.runs.record import HeldoutLoss, ratio_estimate
from scaling.training.step import Model, Scores, make_eval_step


def evaluate(
    model: Model, objective: Objective, arrays: Arrays, batch: int, sharding: Sharding,
    teacher: Any = None, together: int | None = None,
) -> dict[str, HeldoutLoss]:
    """The held-out loss of each part of an objective, the first part first.

    Args:
        model: the model.
        objective: what it was trained by.
        arrays: the held-out sequences, as one batch.
        batch: sequences that are evaluated at once; the last batch is padded, and its padding left
            out.
        sharding: how a batch is sharded over the devices.
        teacher: of a distillation.
        together: sequences that a loss of a whole batch compares; its standard error is over such
            groups, and sequences that fill no group are left out. By default all.

    Raises:
        UserError: there are not enough sequences for two groups.
    """
    sequences = len(arrays["ids"])
    chosen = np.arange(-(-sequences // batch) * batch) % sequences
    step = make_eval_step(objective)
    scores = []
    for start in range(0, len(chosen), batch):
        rows = chosen[start : start + batch]
        part = jax.tree.map(lambda x, rows=rows: jax.device_put(x[rows], sharding), arrays)
        scores.append(step(model, part, teacher))
    fetched = _fetch(scores)  # whose parts JAX has sorted by name
    functions = FUNCTIONS[objective.kind]
    found = {
        name: ratio_estimate(*(
            np.concatenate([each[name] for each in side])[:sequences].astype(np.float64)
            for side in ([s.losses for s in fetched], [s.weights for s in fetched])
        ))
        for name in functions.parts(objective) if name in fetched[0].losses
    }
    if functions.batch_terms is None:
        return found
    features = jax.tree.map(lambda *xs: np.concatenate(xs)[:sequences],
                            *[s.features for s in fetched])
    further = _of_groups(functions, objective, features, sequences, together or sequences)
    return {name: (found | further)[name] for name in functions.parts(objective)}


def _of_groups(
    functions: ObjectiveFunctions, objective: Objective, features: Any, sequences: int,
    together: int,
) -> dict[str, HeldoutLoss]:
    """Losses of groups of sequences: their mean and its standard error over groups."""
    groups = sequences // together
    if groups < 2:
        raise UserError(
            f"evaluation.sequences = {sequences} makes {groups} batch(es) of {together} sequences, "
            f"which the objective {objective.kind} compares with one another; a standard error "
            "needs at least 2")
    assert functions.batch_terms is not None
    batch_terms = jax.jit(partial(functions.batch_terms, objective))
    losses = [
        jax.device_get(batch_terms(
            jax.tree.map(lambda x, n=n: x[n * together : (n + 1) * together], features)))
        for n in range(groups)
    ]
    return {
        name: ratio_estimate(np.array([each[name] for each in losses], np.float64), np.ones(groups))
        for name in losses[0]
    }


def _fetch(scores: list[Scores]) -> list[Scores]:
    """The scores as numpy arrays, those of all processes on each of them."""
    if jax.process_count() > 1:
        scores = process_allgather(scores, tiled=True)
    fetched: list[Scores] = jax.device_get(scores)
    return fetched
