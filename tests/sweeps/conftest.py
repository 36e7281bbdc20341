"""A sweep that takes seconds: two sizes by two token counts, and a held-out run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaling.config import SweepConfig, validate
from scaling.sweeps.plan import make_plan


@pytest.fixture
def sweep_content(store_path):
    return {
        "name": "tiny",
        "run": {
            "model": {"context": 16},
            "data": {"store": str(store_path)},
            "batch_sequences": 4,
            "schedule": {"kind": "wsd", "warmup_steps": 3},
            "evaluation": {"sequences": 10},
            "logging": {"every_steps": 5},
        },
        "sizes": [
            {"d_model": 8, "n_layers": 1, "n_heads": 1},
            {"d_model": 16, "n_layers": 1, "n_heads": 1},
        ],
        "grids": [{"kind": "product", "tokens": [24 * 64, 48 * 64]}],
        "learning_rate": {
            "rule": "power", "learning_rate": 1e-2, "reference_params": 1000, "exponent": -0.5,
        },
        "heldout": [{"size": {"d_model": 24, "n_layers": 1, "n_heads": 1}, "tokens": 72 * 64}],
    }


@pytest.fixture
def sweep_file(sweep_content, tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(sweep_content))
    return path


@pytest.fixture
def plan(sweep_content, tmp_path):
    return make_plan(validate(SweepConfig, sweep_content, "tiny"), "tiny", tmp_path / "runs")
