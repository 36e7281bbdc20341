"""Objectives of encoder-decoders: span corruption (T5), denoising (BART), mixtures (UL2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scaling.config.base import LARGEST_DIMENSION, Positive, Problem
from scaling.config.model import ModelConfig
from scaling.config.objectives.base import RATE, ObjectiveConfig, OpenFraction, length_of
from scaling.config.spans import (
    MODES,
    UL2,
    Denoiser,
    mixture_text_length,
    noise_counts,
    span_lengths,
)


class EncoderDecoderObjective(ObjectiveConfig):
    """Base of the objectives of encoder-decoders, whose decoder generates text."""

    mode: ClassVar[str] = "encoder-decoder"
    head: ClassVar[str] = "lm"


class SpanCorruption(EncoderDecoderObjective):
    """Span corruption: generate the spans that were replaced with sentinels (Raffel et al. 2020,
    section 3.1.4)."""

    kind: Literal["span_corruption"] = "span_corruption"
    rate: OpenFraction = RATE
    """Fraction of the tokens that is removed."""
    mean_span: Annotated[Positive, Field(ge=1)] = 3.0
    """Mean length of a span in tokens."""

    def text_tokens(self, model: ModelConfig) -> int:
        return span_lengths(model.source_length, self.rate, self.mean_span)[0]

    def special_roles(self) -> tuple[str, ...]:
        return ("pad",)

    def n_sentinels(self, model: ModelConfig) -> int:
        return noise_counts(self.text_tokens(model), self.rate, self.mean_span)[1]

    @classmethod
    def missing_lengths(
        cls, objective: Mapping[str, Any], given: Mapping[str, Any], shape: Mapping[str, Any]
    ) -> dict[str, int]:
        """The targets follow from what the encoder reads."""
        source = length_of(shape.get("source_context"), LARGEST_DIMENSION)
        if given.get("context") is not None or not source:
            return {}
        noise = cls.model_validate(objective)
        targets = span_lengths(source, noise.rate, noise.mean_span)[1]
        return {"context": targets} if 0 < targets <= LARGEST_DIMENSION else {}

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        try:
            if self.text_tokens(model) < 2:
                return  # the check of all objectives reports it
        except ValueError:
            return
        _, targets = span_lengths(model.source_length, self.rate, self.mean_span)
        if targets > LARGEST_DIMENSION:
            yield "objective.rate", (f"{self.rate} gives {targets:,} targets for the "
                                     f"{model.source_length} tokens of the encoder; lower it")
        elif model.context == targets:
            return
        elif model.source_context is None:
            yield "model.context", (
                f"{model.context} is the length of the targets, which follows from the length of "
                "the encoder's sequence; give the latter as model.source_context, and leave "
                "context out")
        else:
            yield "model.context", (
                f"is {model.context}, and {model.source_length} corrupted tokens have {targets} "
                f"targets; set it to {targets}, or leave it out")


NoiseKind = Literal["permutation", "masking", "deletion", "infilling", "rotation"]
"""Noise functions, in the order in which they are applied."""


class Denoising(EncoderDecoderObjective):
    """Denoising: generate the original text from a corrupted one (BART, Lewis et al. 2019, section
    2.2)."""

    kind: Literal["denoising"] = "denoising"
    noises: tuple[NoiseKind, ...] = ("permutation", "infilling")
    """Noise functions that are applied to the text, always in this order: permutation shuffles
    sentences, masking replaces tokens with <mask>, deletion removes tokens, infilling replaces each
    span with one <mask>, rotation starts the text at another token."""
    rate: OpenFraction = 0.3
    """Fraction of the tokens that masking, deletion and infilling each affect."""
    mean_span: Positive = 3.0
    """Mean length in tokens of an infilling span, which follows a Poisson distribution."""

    def text_tokens(self, model: ModelConfig) -> int:
        return model.context - 1

    def special_roles(self) -> tuple[str, ...]:
        return ("cls", "mask", "pad")

    @property
    def needs_sentence_ends(self) -> bool:
        return "permutation" in self.noises

    @classmethod
    def missing_lengths(
        cls, objective: Mapping[str, Any], given: Mapping[str, Any], shape: Mapping[str, Any]
    ) -> dict[str, int]:
        """The encoder reads one token more than there are targets."""
        targets = length_of(shape.get("context"), LARGEST_DIMENSION)
        if given.get("source_context") is None and targets:
            return {"source_context": targets + 1}
        source = length_of(given.get("source_context"), LARGEST_DIMENSION)
        if given.get("context") is None and source > 1:
            return {"context": source - 1}
        return {}

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        if model.source_length != model.context + 1:
            yield "model.source_context", (
                f"is {model.source_length}, and the {model.context} targets, the last of them eos, "
                f"are corrupted between <cls> and eos; set it to {model.context + 1}, or leave it "
                "out")


class Mixture(EncoderDecoderObjective):
    """UL2's mixture of denoisers (Tay et al. 2022, section 3.1): short spans at a low rate, long or
    many spans, or the end of the text from its beginning, each with a token that names the mode."""

    kind: Literal["mixture"] = "mixture"
    denoisers: tuple[Denoiser, ...] = UL2
    """Denoisers of the mixture; by default the seven of UL2."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._some()

    def _some(self) -> Iterator[Problem]:
        if not self.denoisers:
            yield "denoisers", "is empty; give at least one, or leave it out for those of UL2"

    def text_tokens(self, model: ModelConfig) -> int:
        return mixture_text_length(model.source_length, model.context, self.denoisers)

    def special_roles(self) -> tuple[str, ...]:
        return ("pad",)

    def n_sentinels(self, model: ModelConfig) -> int:
        """The sentinels of spans, and one for each mode."""
        length = self.text_tokens(model)
        spans = (noise_counts(length, d.rate, d.mean_span)[1]
                 for d in self.denoisers if d.mean_span is not None)
        return max(spans, default=1) + len(MODES)
