"""Training FLOPs of a run, including the generator or teacher of its objective."""

from __future__ import annotations

import functools
from fractions import Fraction

from scaling.accounting.flops import FORWARD_AND_BACKWARD, forward_flops_per_sequence
from scaling.config import ModelConfig, RunConfig
from scaling.config.objectives import ObjectiveConfig


def run_flops_per_sequence(run: RunConfig) -> int:
    """Training FLOPs per sequence of a run with a known vocabulary size.

    Heads over the vocabulary are counted at the positions where the objective computes them. The
    training of a generator (ELECTRA) and the forward pass of a teacher (distillation) are included.
    """
    return _flops_per_sequence(run.objective, run.model)


@functools.lru_cache(maxsize=1024)  # a sweep has few models and thousands of calls
def _flops_per_sequence(objective: ObjectiveConfig, model: ModelConfig) -> int:
    count, generator = objective.n_predictions(model), objective.generator(model)
    trained = [model] if generator is None else [model, generator]
    return FORWARD_AND_BACKWARD * sum(_forward_flops(each, count) for each in trained) + sum(
        _forward_flops(each, count) for each in objective.evaluated_models())


def _forward_flops(model: ModelConfig, predictions: int) -> int:
    return sum(forward_flops_per_sequence(model, predictions).values())


def run_flops_per_token(run: RunConfig) -> int:
    """Training FLOPs per token of text: `flops_counted` of a run is this times its tokens."""
    return _rounded(run_flops_per_sequence(run), run.sequence_tokens)


@functools.lru_cache(maxsize=1024)
def _rounded(total: int, parts: int) -> int:
    return round(Fraction(total, parts))
