"""Configuration of one training run, and the run identity that is hashed from it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import model_validator

from scaling.config.base import (
    LARGEST_INTEGER,
    Config,
    Count,
    NonNegativeInt,
    Problem,
    SequenceCount,
)
from scaling.config.initial import NOT_IN_IDENTITY, Draw, Init, InitialModel, init_problems
from scaling.config.kernels import ATTENTION_TRAITS
from scaling.config.model import ModelConfig
from scaling.config.objective_checks import OBJECTIVE_CHECKS, Check, fill_lengths
from scaling.config.objectives import Causal, Objective
from scaling.config.trainable import EVERYTHING, Trainable, selection_problems
from scaling.config.training import (
    AdamW,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    LoggingConfig,
    Optimizer,
    Schedule,
    WarmupStableDecay,
)


class RunConfig(Config):
    """A training run: one model trained once on one token store."""

    mistaken_for: ClassVar[dict[tuple[str, ...], str]] = {
        ("sizes", "grids"): "is a sweep, where one run is expected; use `scaling sweep plan`, or a "
                            "file such as configs/runs/gpt_tiny.yaml"}

    model: ModelConfig
    """Model architecture, or a preset."""
    data: DataConfig
    """Training and validation data."""
    tokens: Count
    """Training tokens of text, counting repetitions; rounded down to whole batches."""
    batch_sequences: SequenceCount = 16
    """Sequences in a batch, over all devices."""
    seed: NonNegativeInt = 0
    """Random seed of the initial parameters, the order of the data and its corruption; each has an
    independent stream."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the operands of matrix products. Parameters, accumulations, norms and the loss are
    always float32."""
    objective: Objective = Causal()
    """Training objective; by default causal language modelling."""
    init: Init = Draw()
    """Where the run begins: `draw`, parameters drawn from the seed (the default); or those of a
    trained model: {run: FOLDER}, {checkpoint: FOLDER} or {hf: FOLDER}. Heads that it lacks are
    drawn. Optimizer, schedule and data begin at step 0 in any case."""
    trainable: Trainable = EVERYTHING
    """Parameters that are trained; the others are frozen. `all` (the default), or selections by
    part, role and layer: {parts: [head]}, {roles: [bias]}, {layers: last 2}; a list of selections
    trains the parameters of each of them."""
    optimizer: Optimizer = AdamW()
    """Optimizer, with the peak learning rate; by default AdamW."""
    schedule: Schedule = WarmupStableDecay()
    """Learning-rate schedule; by default warmup-stable-decay."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation of the held-out loss."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints during training."""
    logging: LoggingConfig = LoggingConfig()
    """Training metrics."""
    execution: ExecutionConfig = ExecutionConfig()
    """Execution of the computation: devices, memory and compilation."""

    @property
    def sequence_tokens(self) -> int:
        """Tokens of text in a sequence (`text_tokens` of the objective).

        Raises:
            ValueError: no text fits.
        """
        tokens = self.objective.text_tokens(self.model)
        if tokens < 1:
            raise ValueError("a sequence has no room for text")
        return tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens of text in a batch."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.tokens // self.batch_tokens

    @property
    def trained_tokens(self) -> int:
        """Tokens that the steps read: D in tables and laws."""
        return self.steps * self.batch_tokens

    @model_validator(mode="before")
    @classmethod
    def fill_missing(cls, content: Any) -> Any:
        """Fill in the model lengths that follow from the objective and are not given."""
        return fill_lengths(content) if isinstance(content, dict) else content

    def checks(self) -> Iterable[Iterator[Problem]]:
        for check in OBJECTIVE_CHECKS:
            yield self._objective_problems(check)
        yield _length_problems(self)
        yield self._kernel_problems()
        yield self._init_problems()
        yield self._selection_problems()

    def _kernel_problems(self) -> Iterator[Problem]:
        name = self.execution.attention
        traits = ATTENTION_TRAITS[name]
        if self.model.attention_dropout_rate and not traits.drops_weights:
            yield "execution.attention", (
                f"{name} cannot drop attention weights (dropout "
                f"{self.model.attention_dropout_rate:g}); set model.attention_dropout: 0, or "
                "choose plain")
        if self.model.positions == "transformer_xl" and not traits.adds_scores:
            yield "execution.attention", (
                f"{name} cannot compute the scores of transformer_xl positions; choose other "
                "positions, or plain")

    # These are generators: if a field is invalid, reading it ends one check only.

    def _init_problems(self) -> Iterator[Problem]:
        yield from init_problems(self.init, self.model)

    def _selection_problems(self) -> Iterator[Problem]:
        yield from selection_problems(
            self.trainable, self.model, scanned=self.execution.scan_layers)

    def _objective_problems(self, check: Check) -> Iterator[Problem]:
        yield from check(self.objective, self.model)


def check_length(run: RunConfig) -> None:
    """Check that the tokens of a run make at least one batch, and that its warm-up ends before the
    learning rate decays.

    Raises:
        ValueError: they do not.
    """
    for field, message in _length_problems(run):
        raise ValueError(f"{field}: {message}" if field else message)


def _length_problems(run: RunConfig) -> Iterator[Problem]:
    if run.tokens > LARGEST_INTEGER:  # a sweep computes them
        yield "", (f"tokens = {float(run.tokens):.3g} is more than {LARGEST_INTEGER:,}; train on "
                   "fewer")
        return
    try:
        steps = run.steps
    except ValueError:  # no text fits, which the check of lengths reports
        return
    if steps == 0:
        yield "", (f"tokens = {run.tokens:,} is less than one batch of {run.batch_tokens:,} "
                   f"(batch_sequences {run.batch_sequences} x {run.sequence_tokens} tokens); train "
                   "on more tokens, or choose a smaller batch_sequences")
        return
    schedule = run.schedule
    if any(problem for check in schedule.checks() for problem in check):
        return  # the schedule reports it
    warmup, max_warmup = schedule.warmup_steps_of(steps), schedule.max_warmup(steps)
    if warmup <= max(max_warmup, 0):
        return
    reason, cooldown_fix = "the rate decays after it", ""
    if isinstance(schedule, WarmupStableDecay):
        reason = (f"the cool-down begins after {max_warmup:,} (decay_fraction "
                  f"{schedule.decay_fraction:g})")
        cooldown_fix = ", shorten the cool-down"
    yield "", (f"schedule.warmup_steps = {warmup:,} does not fit in the {steps:,} steps that "
               f"{run.tokens:,} tokens give: {reason}; warm up for at most {max_warmup:,} steps or "
               f"for a fraction of the run (schedule.warmup: 0.02){cooldown_fix}, or train for "
               "more tokens")


_EMPTY: Mapping[str, Any] = {}

LAYOUT = 4
"""Version of the identity. It is raised when the same configuration would no longer train the same
model, for example when a default changes."""

NOT_SEMANTIC: dict[str, Any] = {
    "data": True,  # a path and a permission; the hash of the data is in the identity
    "evaluation": {"every_steps": True},
    "objective": {"teacher": True, "teacher_model": True},  # teacher_run is in the identity
    "init": NOT_IN_IDENTITY,  # the content of the trained model is in the identity
    "checkpoint": True,
    "logging": True,
    "execution": True,
}
"""Keys of a run that its losses do not depend on: True for a whole key, or some of its keys."""


def semantic(run: RunConfig, data_hash: str) -> dict[str, Any]:
    """The content that is hashed into a run's identity: everything that its losses depend on.

    It has only values that differ from their defaults, so that new keys do not change the identity
    of existing runs, and no paths, intervals or devices. The warm-up is in steps, however it was
    given.

    Args:
        run: a run with a known vocabulary size.
        data_hash: content hash of the token store's manifest.
    """
    content: dict[str, Any] = non_default(
        run, NOT_SEMANTIC | {"model": True, "init": True},
        {"schedule": run.schedule.resolved(run.steps)})
    return content | _semantic_init(run.init) | {
        "data": data_hash, "tokens": run.trained_tokens, "model": dict(semantic_model(run.model)),
        "layout": LAYOUT,
    }


def _semantic_init(init: InitialModel) -> dict[str, Any]:
    """The content of `init`; none if the parameters are drawn, so that it changes no identity of a
    run without it."""
    return {} if init.source is None else {"init": non_default(init, NOT_IN_IDENTITY)}


def non_default(
    value: Any, excluded: Mapping[str, Any] = _EMPTY, resolved: Mapping[str, Any] = _EMPTY
) -> Any:
    """A value as JSON data; of a configuration, its kind and the values that differ from their
    defaults.

    Args:
        value: a configuration, or a value of one.
        excluded: keys to leave out: True for a whole key, or some of its keys.
        resolved: values that replace those of the configuration.
    """
    if isinstance(value, tuple):
        return [non_default(each) for each in value]
    if not isinstance(value, Config):
        return value
    content = {}
    for name, (default, is_kind) in _fields(type(value)).items():
        inner, left_out = resolved.get(name, getattr(value, name)), excluded.get(name, _EMPTY)
        # With some of its keys left out, the value may differ from the default in those alone.
        if left_out is not True and (is_kind or left_out or inner != default):
            content[name] = non_default(inner, left_out)
    return content


@functools.cache
def _fields(kind: type[Config]) -> dict[str, tuple[Any, bool]]:
    """The default of each field, and whether the field is the discriminator of a union."""
    return {name: (field.get_default(call_default_factory=True),
                   get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1)
            for name, field in kind.model_fields.items()}


@functools.lru_cache(maxsize=1024)  # a sweep has few models and thousands of calls
def semantic_model(model: ModelConfig) -> dict[str, Any]:
    """The content of a model without its preset, which is only a name for values. Defaults that
    depend on other fields are resolved, so that giving them explicitly changes nothing."""
    content: dict[str, Any] = non_default(model, {"preset": True}, {
        "d_head": model.head_width, "d_ff": model.ff_width, "vocab_size": model.vocabulary,
        "n_kv_heads": model.kv_heads, "d_embedding": model.embedding_width,
        "n_encoder_layers": model.encoder_layers, "source_context": model.source_length,
        "attention": model.attention_mask, "final_norm": model.has_final_norm,
        "attention_dropout": model.attention_dropout_rate, "heads": model.outputs,
    })
    return content


def canonical_json(content: Any) -> str:
    """JSON in a canonical form: sorted keys, no spaces, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def run_identity(run: RunConfig, data_hash: str) -> str:
    """Identity of a run, which depends only on its semantic content.

    It has the first 16 of the 64 hexadecimal digits of the hash; the probability that any two of a
    million runs collide is 3e-8.
    """
    return content_hash(semantic(run, data_hash))[:16]
