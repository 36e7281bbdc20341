"""Frozen, validated configuration: reads YAML, writes canonical JSON, computes run identities.

    run.py           `RunConfig`: one training run, and its identity
    sweep.py, grids.py
                     `SweepConfig`: a base run, model sizes and grids
    architecture.py, parts.py, model.py
                     the architecture of a Transformer, its parts, and checks of their values
    presets, zoo.py  published model families, and their configurations
    objectives, objective_checks.py, spans.py
                     objectives, checks of them with their model, and lengths that follow from them
    training.py      data, optimizer, schedule, evaluation, checkpoints, execution
    kernels.py       names and traits of the kernels of attention and cross-entropy
    base.py          `Config`, the base class, and types of fields
    text.py, overrides.py, load.py
                     YAML, `key=value` overrides, and validation
    classes.py, partial.py, explain.py
                     error messages: classes of a key, checks beside invalid fields, explanations
"""

from scaling.config.base import Config
from scaling.config.grids import Point, Size
from scaling.config.initial import Draw, FromCheckpoint, FromHuggingFace, FromRun, InitialModel
from scaling.config.load import json_schema, load, validate
from scaling.config.model import ModelConfig
from scaling.config.overrides import override, override_values
from scaling.config.run import (
    RunConfig,
    canonical_json,
    content_hash,
    run_identity,
    semantic,
    semantic_model,
)
from scaling.config.sweep import SweepConfig
from scaling.config.text import read_yaml
from scaling.config.trainable import EVERYTHING, ParamSelection, is_trained
from scaling.config.training import (
    AdamW,
    Cosine,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    Lion,
    MeshConfig,
    WarmupStableDecay,
)

__all__ = [
    "EVERYTHING", "AdamW", "Config", "Cosine", "DataConfig", "Draw", "EvaluationConfig",
    "ExecutionConfig", "FromCheckpoint", "FromHuggingFace", "FromRun", "InitialModel", "Lion",
    "MeshConfig", "ModelConfig", "ParamSelection", "Point", "RunConfig", "Size", "SweepConfig",
    "WarmupStableDecay", "canonical_json", "content_hash", "is_trained", "json_schema", "load",
    "override", "override_values", "read_yaml", "run_identity", "semantic", "semantic_model",
    "validate",
]
