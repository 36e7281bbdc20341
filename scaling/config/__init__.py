"""Frozen, validated configuration: reads YAML, writes canonical JSON, computes run identities."""

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
