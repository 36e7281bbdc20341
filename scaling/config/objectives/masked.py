"""Objectives of encoders: masked language modelling, ELECTRA and DistilBERT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError
from pydantic_core import PydanticCustomError

from scaling.config.base import (
    Dimension,
    FilePath,
    Fraction,
    NonNegative,
    Positive,
    Problem,
    field_error,
)
from scaling.config.model import ModelConfig
from scaling.config.objectives.base import (
    MASK_SHARE,
    RANDOM_SHARE,
    RATE,
    ObjectiveConfig,
    OpenFraction,
)
from scaling.config.spans import n_masked

_PAIR_HEADS = {"next_sentence", "sentence_order"}


class MaskedObjective(ObjectiveConfig):
    """Base of objectives that mask tokens between <cls> and <sep>."""

    mode: ClassVar[str] = "encoder-only"
    head: ClassVar[str] = "masked_lm"

    rate: OpenFraction = RATE
    """Fraction of the tokens to predict."""

    def text_tokens(self, model: ModelConfig) -> int:
        return model.context - 2

    def n_predictions(self, model: ModelConfig) -> int:
        return n_masked(self.text_tokens(model), self.rate)

    def special_roles(self) -> tuple[str, ...]:
        return ("cls", "sep", "mask")


class Masked(MaskedObjective):
    """Masked language modelling: predict masked tokens from the rest of the sequence (Devlin et al.
    2018, section 3.1)."""

    renamed: ClassVar[dict[str, str]] = {"boundary": "span_boundary"}

    kind: Literal["masked"] = "masked"
    mask_share: Fraction = MASK_SHARE
    """Fraction of those that are replaced with <mask>."""
    random_share: Fraction = RANDOM_SHARE
    """Fraction of those that are replaced with a random token; the rest is not changed."""
    unit: Literal["token", "word", "span", "ngram"] = "token"
    """Unit of masking: single tokens, whole words, spans of geometric length (SpanBERT, Joshi et
    al. 2019, section 3.1), or n-grams of one to three words with probability proportional to 1/n
    (ALBERT, Lan et al. 2019, section 4.1)."""
    static_masks: Dimension | None = None
    """Number of fixed masks for each sequence, used in turn (BERT: 10); by default a new mask is
    drawn each time (RoBERTa, Liu et al. 2019, section 4.1)."""
    span_boundary: bool = False
    """Whether each masked token is also predicted from the two tokens outside its span (SpanBERT,
    Joshi et al. 2019, section 3.2)."""
    pairs: Literal["none", "next_sentence", "sentence_order"] = "none"
    """Classification of two segments: none, whether the second follows the first or is from another
    document (next_sentence, BERT), or whether they are in order (sentence_order, ALBERT)."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._shares()

    def _shares(self) -> Iterator[Problem]:
        if self.mask_share + self.random_share > 1:
            yield "random_share", (f"{self.random_share:g} and mask_share {self.mask_share:g} add "
                                   "up to more than 1; lower one of them")

    def text_tokens(self, model: ModelConfig) -> int:
        return model.context - (2 if self.pairs == "none" else 3)

    @property
    def reads_documents(self) -> bool:
        return self.pairs != "none"

    def special_roles(self) -> tuple[str, ...]:
        return ("cls", "sep", "mask") + (("pad",) if self.pairs != "none" else ())

    @property
    def needs_word_starts(self) -> bool:
        return self.unit != "token"

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        yield from self._pair_head(model)
        yield from self._boundary_head(model)

    def _pair_head(self, model: ModelConfig) -> Iterator[Problem]:
        heads: list[str] = [head.kind for head in model.outputs]
        if "masked_lm" not in heads:
            return
        if _PAIR_HEADS & set(heads) != _PAIR_HEADS & {self.pairs}:
            expected = "" if self.pairs == "none" else f" {self.pairs}"
            yield "model.heads", (f"with objective.pairs = {self.pairs} the model needs "
                                  f"{'the head' + expected if expected else 'no head for pairs'}, "
                                  f"and it has {', '.join(heads)}; change one of the two")
        elif self.pairs != "none" and model.n_token_types < 2:
            yield "model.n_token_types", (
                f"is {model.n_token_types}, and the two segments of a pair have two types; set it "
                "to 2")

    def _boundary_head(self, model: ModelConfig) -> Iterator[Problem]:
        heads: list[str] = [head.kind for head in model.outputs]
        if "masked_lm" not in heads:
            return
        if self.span_boundary != ("span_boundary" in heads):
            yield "objective.span_boundary", (
                "the head span_boundary and objective.span_boundary go together; add the missing "
                "one, or leave both out")
        elif self.span_boundary and self.unit not in ("span", "ngram"):
            yield "objective.unit", (f"{self.unit} has no spans, which span_boundary needs; "
                                     "choose span or ngram")


class ReplacedTokens(MaskedObjective):
    """ELECTRA (Clark et al. 2020): a small masked language model, the generator, replaces tokens,
    and the model, the discriminator, classifies every token as original or replaced. They are
    trained together and share the embedding."""

    head: ClassVar[str] = "replaced_token"

    kind: Literal["replaced_tokens"] = "replaced_tokens"
    generator_size: Annotated[Fraction, Field(gt=0)] = 0.25
    """Width, feed-forward width and number of heads of the generator, as a fraction of the
    model's."""
    weight: NonNegative = 50.0
    """Weight of the discriminator's loss, relative to the generator's."""

    def generator(self, model: ModelConfig) -> ModelConfig:
        size = self.generator_size
        heads = max(1, round(model.n_heads * size))
        d_model = round(model.d_model * size / heads) * heads
        if not d_model:
            raise field_error("objective.generator_size", f"{size:g} of the width {model.d_model} "
                              "rounds to zero; choose a larger fraction")
        values = model.model_dump(exclude={"preset"}) | {
            "d_model": d_model, "n_heads": heads, "n_kv_heads": None,
            "d_head": max(2, round(model.head_width)) if model.d_head else None,
            "d_ff": max(1, round(model.ff_width * size)),
            "d_embedding": model.embedding_width, "embedding_projection_bias": True,
            "heads": [{"kind": "masked_lm"}], "tied_head": True,
        }
        try:
            return ModelConfig.model_validate(values)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise field_error("objective.generator_size", f"{size:g} gives a generator of width "
                              f"{d_model} with {heads} heads, which is not a valid model: {why}"
                              ) from None

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        try:
            self.generator(model)
        except PydanticCustomError as error:
            yield from (error.context or {})["problems"]


class Distillation(MaskedObjective):
    """DistilBERT (Sanh et al. 2019, section 3): a masked language model is trained on the
    predictions of a larger trained teacher, on the masked tokens, and on the direction of the
    teacher's hidden states."""

    kind: Literal["distillation"] = "distillation"
    teacher: FilePath
    """Run folder of the teacher. The path is not part of a run's identity; the identity of the
    teacher's run is."""
    teacher_run: str | None = None
    """Identity of the teacher's run; by default read from its folder."""
    teacher_model: ModelConfig | None = None
    """Model configuration of the teacher; by default read from its folder."""
    temperature: Positive = 2.0
    """Temperature that divides the logits of both models in the distillation loss."""
    soft_weight: NonNegative = 5.0
    """Weight of the loss against the teacher's predictions."""
    masked_weight: NonNegative = 2.0
    """Weight of the masked language modelling loss."""
    cosine_weight: NonNegative = 1.0
    """Weight of the cosine loss between hidden states."""

    @property
    def teacher_folder(self) -> Path:
        return self.teacher

    @property
    def teacher_identity(self) -> str | None:
        return self.teacher_run

    @property
    def compares_hidden_states(self) -> bool:
        return self.cosine_weight > 0

    def evaluated_models(self) -> tuple[ModelConfig, ...]:
        return () if self.teacher_model is None else (self.teacher_model,)

    def with_teacher(self, identity: str, model: ModelConfig) -> Self:
        return self.model_copy(update={"teacher_run": identity, "teacher_model": model})
