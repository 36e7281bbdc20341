"""A sweep that takes seconds: two sizes by two token counts, and a held-out run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from scaling.config import SweepConfig, override, validate
from scaling.sweeps.index import index_of
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


@pytest.fixture
def sweep(sweep_content):
    def make(*overrides: str) -> SweepConfig:
        return validate(SweepConfig, override(sweep_content, overrides), "tiny")

    return make


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def index(sweep, runs):
    (runs / "logs").mkdir()  # a launcher has been there
    return index_of(sweep(), "tiny", runs)


def begin(planned, *steps, seconds_a_step=0.5):
    """Metrics of a run that has got to these steps."""
    planned.folder.path.mkdir(parents=True, exist_ok=True)
    with planned.folder.metrics_path.open("a") as file:
        for step in steps:
            file.write(json.dumps({
                "step": step, "tokens": step * 64, "loss": 5.0 - step / 100,
                "seconds": step * seconds_a_step}) + "\n")


def end(planned, status="done", **further):
    """The record of a run that is over."""
    planned.folder.path.mkdir(parents=True, exist_ok=True)
    loss = 3.5 if status == "done" else None
    planned.folder.record_path.write_text(json.dumps(
        {"status": status, "steps": planned.run.steps, "loss": loss, "tokens_per_second": 7.0}
        | further))
