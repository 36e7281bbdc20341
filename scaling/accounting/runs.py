"""How much arithmetic a run takes: that of its model, and of what its objective trains or asks
beside."""

from __future__ import annotations

import functools
from fractions import Fraction

from scaling.accounting.flops import FORWARD_AND_BACKWARD, forward_flops_per_sequence
from scaling.config import ModelConfig, RunConfig
from scaling.config.objectives import (
    Distillation,
    Objective,
    ReplacedTokens,
    generator_of,
    predictions,
)


def run_flops_per_sequence(run: RunConfig) -> int:
    """FLOPs of training on one sequence, for a run that is resolved.

    Heads over the vocabulary are counted at the positions where the objective computes them; beside
    the model a generator is trained (ELECTRA), or a teacher is asked (distillation).
    """
    return _flops_per_sequence(run.objective, run.model)


@functools.lru_cache(maxsize=1024)  # a sweep asks for few models, thousands of times
def _flops_per_sequence(objective: Objective, model: ModelConfig) -> int:
    asked = predictions(objective, model)
    total = FORWARD_AND_BACKWARD * sum(forward_flops_per_sequence(model, asked).values())
    if isinstance(objective, ReplacedTokens):
        generator = generator_of(objective, model)
        total += FORWARD_AND_BACKWARD * sum(forward_flops_per_sequence(generator, asked).values())
    if isinstance(objective, Distillation) and objective.teacher_model is not None:
        total += sum(forward_flops_per_sequence(objective.teacher_model, asked).values())
    return total


def run_flops_per_token(run: RunConfig) -> int:
    """FLOPs for one token of text that is trained on: `flops_counted` of a run is this times its
    tokens."""
    return _rounded(run_flops_per_sequence(run), run.sequence_tokens)


@functools.lru_cache(maxsize=1024)
def _rounded(total: int, parts: int) -> int:
    return round(Fraction(total, parts))
