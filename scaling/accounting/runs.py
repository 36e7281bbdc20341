"""Training FLOPs of a run, including the generator or teacher of its objective."""

from __future__ import annotations

import functools
from fractions import Fraction

from scaling.accounting.flops import forward_flops_per_sequence
from scaling.accounting.trained import training_flops_per_sequence
from scaling.config import ModelConfig, ParamSelection, RunConfig
from scaling.config.objectives import ObjectiveConfig


def run_flops_per_sequence(run: RunConfig) -> int:
    """Training FLOPs per sequence of a run with a known vocabulary size.

    Heads over the vocabulary are counted at the positions where the objective computes them. The
    training of a generator (ELECTRA) and the forward pass of a teacher (distillation) are included.
    If only some parameters are trained, the forward pass of all is counted, and the backward pass
    that these need (trained.py). `flops_6nd` stays 6 N D with all parameters.
    """
    return _flops_per_sequence(run.objective, run.model, run.trainable)


@functools.lru_cache(maxsize=1024)  # a sweep has few models and thousands of calls
def _flops_per_sequence(
    objective: ObjectiveConfig, model: ModelConfig, trainable: tuple[ParamSelection, ...]
) -> int:
    count, generator = objective.n_predictions(model), objective.generator(model)
    trained = [model] if generator is None else [model, generator]
    return sum(training_flops_per_sequence(each, trainable, count) for each in trained) + sum(
        sum(forward_flops_per_sequence(each, count).values())
        for each in objective.evaluated_models())


def run_flops_per_token(run: RunConfig) -> int:
    """Training FLOPs per token of text: `flops_counted` of a run is this times its tokens."""
    return _rounded(run_flops_per_sequence(run), run.sequence_tokens)


@functools.lru_cache(maxsize=1024)
def _rounded(total: int, parts: int) -> int:
    return round(Fraction(total, parts))
