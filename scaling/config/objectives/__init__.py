"""Training objectives, and what they need of model and text.

    base.py             what every objective declares
    causal.py           causal and prefix language modelling, of decoders
    masked.py           masked language modelling, ELECTRA and DistilBERT, of encoders
    encoder_decoder.py  span corruption, denoising and mixtures of denoisers

Their batches and losses are in scaling/objectives. To add an objective, write its class here and
enter it in the union below, then write its functions there and enter them in registry.py.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from scaling.config.objectives.base import MASK_SHARE, RANDOM_SHARE, RATE, ObjectiveConfig
from scaling.config.objectives.causal import Causal, Prefix
from scaling.config.objectives.encoder_decoder import (
    Denoising,
    Mixture,
    NoiseKind,
    SpanCorruption,
)
from scaling.config.objectives.masked import Distillation, Masked, ReplacedTokens

AnyObjective = (
    Causal | Prefix | Masked | SpanCorruption | Denoising | Mixture | ReplacedTokens | Distillation
)
Objective = Annotated[AnyObjective, Field(discriminator="kind")]

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    cls.model_fields["kind"].default: cls for cls in get_args(AnyObjective)
}
"""Objectives by their kind."""

__all__ = [
    "MASK_SHARE", "OBJECTIVES", "RANDOM_SHARE", "RATE", "Causal", "Denoising", "Distillation",
    "Masked", "Mixture", "NoiseKind", "Objective", "ObjectiveConfig", "Prefix", "ReplacedTokens",
    "SpanCorruption",
]
