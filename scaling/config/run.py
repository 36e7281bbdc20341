"""One training run, and what makes it that run."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import model_validator

from scaling.config.base import Config, Count, Index
from scaling.config.model import ModelConfig
from scaling.config.objectives import Causal, Objective, check_objective, text_tokens
from scaling.config.training import (
    AdamW,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    LoggingConfig,
    Schedule,
    WarmupStableDecay,
)


class RunConfig(Config):
    """One model trained once."""

    model: ModelConfig
    data: DataConfig
    tokens: Count
    """Training tokens of text, as often as they are read; rounded down to whole batches."""
    batch_sequences: Count = 16
    """Sequences in a batch, over all devices."""
    seed: Index = 0
    """Seeds the parameters, the order of the data and what is done to it, each with a stream of
    its own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products read. Parameters, sums, norms and the loss are float32 either way."""
    objective: Objective = Causal()
    optimizer: AdamW = AdamW()
    schedule: Schedule = WarmupStableDecay()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def sequence_tokens(self) -> int:
        """Tokens of text in a sequence (`text_tokens` of its objective)."""
        return text_tokens(self.objective, self.model)

    @property
    def batch_tokens(self) -> int:
        """Tokens of text in a batch."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.tokens // self.batch_tokens

    @property
    def trained_tokens(self) -> int:
        """Tokens that the steps really read: what tables and laws call D."""
        return self.steps * self.batch_tokens

    @model_validator(mode="after")
    def _objective_fits(self) -> RunConfig:
        check_objective(self.objective, self.model)
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> RunConfig:
        check_length(self)
        return self


def check_length(run: RunConfig) -> None:
    """Refuse a run whose tokens make no batch, or no more steps than it warms up for.

    Raises:
        ValueError: they do not.
    """
    if run.steps == 0:
        raise ValueError(
            f"tokens = {run.tokens:,} is less than one batch of {run.batch_tokens:,} "
            f"(batch_sequences {run.batch_sequences} x {run.sequence_tokens} tokens)"
        )
    if run.schedule.warmup_steps >= run.steps:
        raise ValueError(
            f"schedule.warmup_steps = {run.schedule.warmup_steps} leaves nothing of the "
            f"{run.steps} steps that {run.tokens:,} tokens give; warm up for less, or train "
            "for more"
        )


_NOTHING: Mapping[str, Any] = {}

LAYOUT = 3
"""Raised when the same configuration would no longer train the same model, as when a default
changes."""

NOT_SEMANTIC: dict[str, Any] = {
    "data": True,  # a path and a permission; what is read is in the hash
    "evaluation": {"every_steps": True},
    "objective": {"teacher": True, "teacher_model": True},  # its identity stands beside
    "checkpoint": True,
    "logging": True,
    "execution": True,
}
"""Keys of a run that its losses do not depend on, whole (True) or some of the keys within."""


def semantic(run: RunConfig, data_hash: str) -> dict[str, Any]:
    """What the losses of a run depend on: its configuration less paths, pace and devices, as far as
    it is not as it is by default. So what can be configured may grow, and runs keep their names.

    Args:
        run: a run whose vocabulary is resolved.
        data_hash: content hash of the token store's manifest.
    """
    content: dict[str, Any] = not_default(run, NOT_SEMANTIC | {"model": True})
    return content | {
        "data": data_hash, "tokens": run.trained_tokens, "model": dict(_semantic_model(run.model)),
        "layout": LAYOUT,
    }


def not_default(
    value: Any, without: Mapping[str, Any] = _NOTHING, spelt_out: Mapping[str, Any] = _NOTHING
) -> Any:
    """A value as JSON has it: of a configuration its kind, and what is not as it is by default.

    Args:
        value: a configuration, or what may stand in one.
        without: keys to leave out, whole (True) or some of the keys within.
        spelt_out: values that stand for those of the configuration.
    """
    if isinstance(value, tuple):
        return [not_default(each) for each in value]
    if not isinstance(value, Config):
        return value
    content = {}
    for name, (default, is_kind) in _fields(type(value)).items():
        inner, left_out = spelt_out.get(name, getattr(value, name)), without.get(name, _NOTHING)
        # Where keys within are left out, those alone may differ from the default.
        if left_out is not True and (is_kind or left_out or inner != default):
            content[name] = not_default(inner, left_out)
    return content


@functools.cache
def _fields(kind: type[Config]) -> dict[str, tuple[Any, bool]]:
    """Of each field its default, and whether it says what kind of configuration this is."""
    return {name: (field.get_default(call_default_factory=True),
                   get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1)
            for name, field in kind.model_fields.items()}


@functools.lru_cache(maxsize=1024)  # a sweep asks for few models, thousands of times
def _semantic_model(model: ModelConfig) -> dict[str, Any]:
    """What a model says, less its preset, which is the values that it stands for. Defaults that
    depend on other fields are spelt out, so that saying them changes nothing."""
    content: dict[str, Any] = not_default(model, {"preset": True}, {
        "d_head": model.head_width, "d_ff": model.ff_width, "vocab_size": model.vocabulary,
        "n_kv_heads": model.kv_heads, "d_embedding": model.embedding_width,
        "n_encoder_layers": model.encoder_layers, "source_context": model.source_length,
        "attention": model.sees, "final_norm": model.has_final_norm,
        "attention_dropout": model.attention_dropout_rate, "heads": model.outputs,
    })
    return content


def canonical_json(content: Any) -> str:
    """JSON that is the same for the same content: sorted keys, no spaces, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def run_identity(run: RunConfig, data_hash: str) -> str:
    """Name of a run: the same wherever, whenever and by whomever it is asked for.

    The first 16 of 64 hexadecimal digits: two of a million runs share them with odds of 3e-8.
    """
    return content_hash(semantic(run, data_hash))[:16]
