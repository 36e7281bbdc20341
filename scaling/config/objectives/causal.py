"""Objectives of decoders: causal and prefix language modelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from scaling.config.base import Problem
from scaling.config.model import ModelConfig
from scaling.config.objectives.base import ObjectiveConfig


class DecoderObjective(ObjectiveConfig):
    """Base of the objectives of decoders, which predict the next token."""

    mode: ClassVar[str] = "decoder-only"
    head: ClassVar[str] = "lm"
    lookahead: ClassVar[int] = 1

    def text_tokens(self, model: ModelConfig) -> int:
        return model.context


class Causal(DecoderObjective):
    """Causal language modelling: predict each token from those before it (Radford et al. 2018,
    eq. 1)."""

    kind: Literal["causal"] = "causal"
    separate_documents: bool = False
    """Whether attention is masked between the documents of a sequence."""

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        if model.attention_mask == "prefix":
            yield "model.attention", (
                "attention: prefix and the objective prefix go together; leave attention out, or "
                "set objective.kind: prefix")


class Prefix(DecoderObjective):
    """Prefix language modelling: predict each token after a prefix with full attention, whose
    length is drawn uniformly (Raffel et al. 2020, section 3.2.3). The model's attention is
    `prefix`."""

    kind: Literal["prefix"] = "prefix"

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        if model.attention_mask != "prefix":
            yield "model.attention", (
                "attention: prefix and the objective prefix go together; set model.attention: "
                "prefix")
