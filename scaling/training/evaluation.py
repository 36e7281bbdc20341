"""What a model loses on text that it was not trained on, and how sure that is."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Sharding

from scaling.config.objectives import Objective
from scaling.objectives import KINDS, Arrays
from scaling.training.scores import Heldout, ratio
from scaling.training.step import Model, Scores, make_eval_step


def evaluate(
    model: Model, objective: Objective, arrays: Arrays, batch: int, sharding: Sharding,
    teacher: Any = None,
) -> dict[str, Heldout]:
    """The held-out loss of each part of an objective, the first part first.

    Args:
        model: what is scored.
        objective: what it was trained by.
        arrays: the held-out sequences, as one batch.
        batch: sequences that are scored at once; the last batch is filled up, and the filling left
            out.
        sharding: how a batch lies over the devices.
        teacher: of a distillation.
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
    return {
        name: ratio(*(
            np.concatenate([each[name] for each in side])[:sequences].astype(np.float64)
            for side in ([s.losses for s in fetched], [s.weights for s in fetched])
        ))
        for name in KINDS[objective.kind].parts(objective)
    }


def _fetch(scores: list[Scores]) -> list[Scores]:
    """The scores as numpy arrays: of several processes, each gets those of all."""
    if jax.process_count() > 1:
        scores = process_allgather(scores, tiled=True)
    return jax.device_get(scores)
