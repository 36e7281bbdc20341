"""One training run, and what makes it that run."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any, Literal

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


LAYOUT = 2
"""Raised when the same configuration would no longer train the same model, as when a default of
the model changes."""

NOT_SEMANTIC: dict[str, Any] = {
    "data": True,  # a path and a permission; what is read is in the hash
    "evaluation": {"every_steps"},
    "checkpoint": True,
    "logging": True,
    "execution": True,
}
"""Keys of a run that its losses do not depend on, whole (True) or some of the keys within."""

_SAID_APART = {"model": True, "objective": True}


def semantic(run: RunConfig, data_hash: str) -> dict[str, Any]:
    """What the losses of a run depend on: its configuration less paths, pace and devices.

    Args:
        run: a run whose vocabulary is resolved.
        data_hash: content hash of the token store's manifest.
    """
    content = run.model_dump(mode="json", exclude=NOT_SEMANTIC | _SAID_APART)
    content["data"] = data_hash
    content["tokens"] = run.trained_tokens
    content["model"] = dict(_semantic_model(run.model))
    content["objective"] = _said(run.objective, exclude={"teacher", "teacher_model"})
    content["layout"] = LAYOUT
    return content


def _said(choice: Any, exclude: set[str] | None = None) -> dict[str, Any]:
    """A kind, and what of it is not as it is by default."""
    said: dict[str, Any] = choice.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
    return {"kind": choice.kind} | said


@functools.lru_cache(maxsize=1024)  # a sweep asks for few models, thousands of times
def _semantic_model(model: ModelConfig) -> dict[str, Any]:
    """The model's values that are not the default ones: what it may be configured with can grow,
    and runs keep their names. Defaults that depend on other fields are spelt out, so that saying
    them changes nothing; a preset is the values that it stands for."""
    spelt_out = {
        "preset": None, "d_head": model.head_width, "d_ff": model.ff_width,
        "vocab_size": model.vocabulary, "n_kv_heads": model.kv_heads,
        "d_embedding": model.embedding_width, "n_encoder_layers": model.encoder_layers,
        "source_context": model.source_length, "attention": model.sees,
        "final_norm": model.has_final_norm,
        "attention_dropout": model.attention_dropout_rate,
        "heads": [_said(head) for head in model.outputs],
    }
    defaults = {name: field.default for name, field in ModelConfig.model_fields.items()}
    plain = {name: value.model_dump(mode="json") if isinstance(value, Config) else value
             for name, value in defaults.items()}
    content = model.model_dump(mode="json") | spelt_out
    return {name: value for name, value in content.items()
            if name not in plain or value != plain[name]}


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
