"""What a model learns to do, and what that asks of the model and of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from scaling.config.base import Config, Count, Fraction, NonNegative, Positive, field_error
from scaling.config.model import ModelConfig
from scaling.config.spans import UL2, Denoiser, hidden_tokens, mixture_text, span_lengths

Share = Annotated[Fraction, Field(gt=0, lt=1)]

# Devlin et al. 2018, section 3.1; the rate is that of ELECTRA, DistilBERT and T5 too.
RATE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.8, 0.1


class Causal(Config):
    """Predict each token from those before it (Radford et al. 2018, eq. 1)."""

    kind: Literal["causal"] = "causal"
    separate_documents: bool = False
    """Whether the documents of a sequence do not see each other."""


class Prefix(Config):
    """Predict each token after a prefix, all of which every token sees; the prefix's length is
    drawn uniformly (Raffel et al. 2020, section 3.2.3). The model's attention is `prefix`."""

    kind: Literal["prefix"] = "prefix"


class Masked(Config):
    """Find tokens that were hidden (Devlin et al. 2018, section 3.1), from all that is left."""

    kind: Literal["masked"] = "masked"
    rate: Share = RATE
    """The part of the tokens to be found."""
    mask_share: Fraction = MASK_SHARE
    """The part of those that the token <mask> stands for."""
    random_share: Fraction = RANDOM_SHARE
    """The part that a random token stands for; the rest is left as it is."""
    unit: Literal["token", "word", "span", "ngram"] = "token"
    """What is hidden together: nothing, whole words, spans of geometric length (SpanBERT, Joshi et
    al. 2019, section 3.1), or one to three words, n of them with odds 1/n (ALBERT, Lan et al. 2019,
    section 4.1)."""
    static_masks: Count | None = None
    """How many masks a sequence has, which are used in turn (BERT had 10); by default a new one
    each time (RoBERTa, Liu et al. 2019, section 4.1)."""
    boundary: bool = False
    """Whether each hidden token is also found from its span's two outer neighbours (SpanBERT,
    section 3.2)."""
    pairs: Literal["none", "next_sentence", "sentence_order"] = "none"
    """What is to be said of two segments: whether the second follows the first or is of another
    document, or whether they are in order (ALBERT)."""

    @model_validator(mode="after")
    def _shares(self) -> Masked:
        if self.mask_share + self.random_share > 1:
            raise field_error("random_share", f"{self.random_share:g}, with mask_share "
                              f"{self.mask_share:g}, is more than all hidden tokens")
        return self


class SpanCorruption(Config):
    """Write the spans that sentinels stand for (Raffel et al. 2020, section 3.1.4)."""

    kind: Literal["span_corruption"] = "span_corruption"
    rate: Share = RATE
    """The part of the tokens that is taken out."""
    mean_span: Annotated[Positive, Field(ge=1)] = 3.0
    """Mean tokens of a span."""


Noise = Literal["permutation", "masking", "deletion", "infilling", "rotation"]
"""In the order in which they are applied."""


class Denoising(Config):
    """Write the whole text from a spoilt one (BART, Lewis et al. 2019, section 2.2)."""

    kind: Literal["denoising"] = "denoising"
    noises: tuple[Noise, ...] = ("permutation", "infilling")
    """What is done to the text: sentences change places, tokens become <mask>, tokens go, spans
    become one <mask> each, the text starts at another token. Whatever their order here, they are
    done in this one."""
    rate: Share = 0.3
    """The part of the tokens that masking, deletion and infilling each take."""
    mean_span: Positive = 3.0
    """Mean tokens of a span of infilling, whose length is a Poisson number."""


class Mixture(Config):
    """UL2's mixture of denoisers (Tay et al. 2022, section 3.1): short spans at a low rate, long or
    many spans, or the end of the text from its beginning, each with a token that says which."""

    kind: Literal["mixture"] = "mixture"
    denoisers: tuple[Denoiser, ...] = UL2

    @model_validator(mode="after")
    def _some(self) -> Mixture:
        if not self.denoisers:
            raise field_error("denoisers", "none; give at least one, or leave it out for UL2's")
        return self


class ReplacedTokens(Config):
    """ELECTRA (Clark et al. 2020): a small masked language model fills hidden tokens in, and the
    model says of every token whether it was replaced. Both are trained together, and share the
    embedding."""

    kind: Literal["replaced_tokens"] = "replaced_tokens"
    rate: Share = RATE
    """The part of the tokens that the generator fills in."""
    generator_size: Annotated[Fraction, Field(gt=0)] = 0.25
    """Width, hidden width and heads of the generator, as a part of the model's."""
    weight: NonNegative = 50.0
    """Weight of the discriminator's loss; the generator's is 1."""


class Distillation(Config):
    """DistilBERT (Sanh et al. 2019, section 3): a masked language model learns from a larger one
    that was trained before: its predictions, the hidden tokens, and the direction of its hidden
    states."""

    kind: Literal["distillation"] = "distillation"
    teacher: Path
    """Folder of the teacher's run. The path is no part of a run's identity: the teacher's is."""
    teacher_run: str | None = None
    """The teacher's identity, found in its folder."""
    teacher_model: ModelConfig | None = None
    """Its model, found there too."""
    rate: Share = RATE
    temperature: Positive = 2.0
    """Divides both models' logits where they are compared."""
    soft_weight: NonNegative = 5.0
    masked_weight: NonNegative = 2.0
    cosine_weight: NonNegative = 1.0


Objective = Annotated[
    Causal | Prefix | Masked | SpanCorruption | Denoising | Mixture | ReplacedTokens | Distillation,
    Field(discriminator="kind"),
]

_NEEDS: dict[str, tuple[str, str]] = {
    "causal": ("decoder-only", "lm"),
    "prefix": ("decoder-only", "lm"),
    "masked": ("encoder-only", "masked_lm"),
    "span_corruption": ("encoder-decoder", "lm"),
    "denoising": ("encoder-decoder", "lm"),
    "mixture": ("encoder-decoder", "lm"),
    "replaced_tokens": ("encoder-only", "replaced_token"),
    "distillation": ("encoder-only", "masked_lm"),
}
"""The mode and the head of each kind."""


def check_objective(objective: Objective, model: ModelConfig) -> None:
    """Refuse a model that cannot be trained by an objective.

    Raises:
        PydanticCustomError: naming the field.
    """
    mode, head = _NEEDS[objective.kind]
    if model.mode != mode:
        fitting = [kind for kind, (other, _) in _NEEDS.items() if other == model.mode]
        raise field_error("objective.kind", f"{objective.kind} trains {mode} models, and this one "
                          f"is {model.mode}; choose {' or '.join(fitting)}")
    heads: list[str] = [head.kind for head in model.outputs]
    if head not in heads:
        raise field_error("model.heads", f"the objective {objective.kind} needs the head {head}, "
                          f"and the model has {', '.join(heads)}")
    prefix = model.sees == "prefix"
    if mode == "decoder-only" and prefix != (objective.kind == "prefix"):
        raise field_error("model.attention", "prefix and the objective prefix go together")
    if isinstance(objective, Masked):
        _check_masked(objective, model, heads)
    if isinstance(objective, ReplacedTokens):
        generator_of(objective, model)
    if isinstance(objective, Denoising) and model.source_length != model.context + 1:
        raise field_error("model.source_context", f"{model.source_length}, where {model.context} "
                          "targets, the last of them eos, are spoilt between <cls> and eos; set it "
                          f"to {model.context + 1}")
    try:
        room = text_tokens(objective, model) >= 2
    except ValueError:
        room = False
    if not room:
        raise field_error("model.context", f"{model.context} leaves no room for text beside the "
                          "special tokens")
    if isinstance(objective, SpanCorruption):
        _, targets = span_lengths(model.source_length, objective.rate, objective.mean_span)
        if model.context != targets:
            raise field_error("model.context", f"{model.context}, where {model.source_length} "
                              f"corrupted tokens have {targets} targets; set it to {targets}")


def _check_masked(objective: Masked, model: ModelConfig, heads: list[str]) -> None:
    pairs = {"next_sentence", "sentence_order"}
    said = pairs & set(heads)
    if said != pairs & {objective.pairs}:
        wanted = "" if objective.pairs == "none" else f" {objective.pairs}"
        raise field_error("model.heads", f"with objective.pairs = {objective.pairs} the model has "
                          f"{'the head' + wanted if wanted else 'no head for pairs'}, not "
                          f"{', '.join(heads)}")
    if objective.pairs != "none" and model.n_types < 2:
        raise field_error("model.n_types", f"{model.n_types}, and the two segments of a pair have "
                          "two types")
    if objective.boundary != ("span_boundary" in heads):
        raise field_error("objective.boundary", "the head span_boundary and objective.boundary go "
                          "together")
    if objective.boundary and objective.unit not in ("span", "ngram"):
        raise field_error("objective.unit", f"{objective.unit} has no spans, and boundary asks for "
                          "span or ngram")


def text_tokens(objective: Objective, model: ModelConfig) -> int:
    """Tokens of text that a sequence takes from the store: what is counted as training tokens.

    They are the tokens that a decoder predicts, and otherwise those that a sequence has room for
    beside the special ones: of a pair of segments and of documents that end early, the most.
    """
    if isinstance(objective, Causal | Prefix):
        return model.context
    if isinstance(objective, Masked):
        return model.context - (2 if objective.pairs == "none" else 3)
    if isinstance(objective, ReplacedTokens | Distillation):
        return model.context - 2
    if isinstance(objective, SpanCorruption):
        return span_lengths(model.source_length, objective.rate, objective.mean_span)[0]
    if isinstance(objective, Denoising):
        return model.context - 1
    return mixture_text(model.source_length, model.context, objective.denoisers)


def predictions(objective: Objective, model: ModelConfig) -> int:
    """Positions of a sequence at which the heads over the vocabulary are computed."""
    if isinstance(objective, Masked | ReplacedTokens | Distillation):
        return hidden_tokens(text_tokens(objective, model), objective.rate)
    return model.context


def generator_of(objective: ReplacedTokens, model: ModelConfig) -> ModelConfig:
    """The generator that is trained beside a model.

    Raises:
        PydanticCustomError: the model cannot be made so much smaller.
    """
    size = objective.generator_size
    heads = max(1, round(model.n_heads * size))
    d_model = round(model.d_model * size / heads) * heads
    if not d_model:
        raise field_error("objective.generator_size", f"{size:g} of a width of {model.d_model} is "
                          "nothing; take a larger part")
    values = model.model_dump(exclude={"preset"}) | {
        "d_model": d_model, "n_heads": heads, "n_kv_heads": None,
        "d_head": max(2, round(model.head_width)) if model.d_head else None,
        "d_ff": max(1, round(model.ff_width * size)),
        "d_embedding": model.embedding_width, "embedding_bias": True,
        "heads": [{"kind": "masked_lm"}], "tied_head": True,
    }
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise field_error("objective.generator_size", f"{size:g} makes a generator of width "
                          f"{d_model} with {heads} heads, which is no model: {why}") from None
