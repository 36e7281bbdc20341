"""Frozen, validated configuration: YAML in, canonical JSON and a run's identity out."""

from scaling.config.base import Config
from scaling.config.grids import Point, Size
from scaling.config.load import json_schema, load, override, read_yaml, validate
from scaling.config.model import ModelConfig
from scaling.config.run import RunConfig, canonical_json, content_hash, run_identity, semantic
from scaling.config.sweep import SweepConfig
from scaling.config.training import (
    AdamW,
    Cosine,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    MeshConfig,
    WarmupStableDecay,
)

__all__ = [
    "AdamW", "Config", "Cosine", "DataConfig", "EvaluationConfig", "ExecutionConfig",
    "MeshConfig", "ModelConfig", "Point", "RunConfig", "Size", "SweepConfig", "WarmupStableDecay",
    "canonical_json", "content_hash", "json_schema", "load", "override", "read_yaml",
    "run_identity", "semantic", "validate",
]
