"""Runs with a known law behind them, and the published ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]

TRUTH = {"E": 1.3, "A": 24.0, "B": 45.0, "alpha": 0.34, "beta": 0.29}
SIZES = (12_288, 49_152, 110_592, 262_144, 450_560)
TOKENS = (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)


def truth(n: object, d: object) -> np.ndarray:
    """The law behind the synthetic runs."""
    n, d = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
    return np.asarray(
        TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]
    )


@pytest.fixture
def constants() -> dict[str, float]:
    """The constants behind the synthetic runs."""
    return dict(TRUTH)


@pytest.fixture
def grid() -> Callable[..., pd.DataFrame]:
    """Makes a 5 x 5 grid of runs in our own columns, with log-normal noise."""

    def make(noise: float = 0.0, seed: int = 0, embeddings: int = 0) -> pd.DataFrame:
        n = np.repeat(SIZES, len(TOKENS))
        d = np.tile(TOKENS, len(SIZES))
        total = n + embeddings
        scatter = np.exp(noise * np.random.default_rng(seed).standard_normal(n.size))
        return pd.DataFrame({
            "run_id": [f"run{i:02d}" for i in range(n.size)], "role": "grid",
            "params_total": total, "params_non_embedding": n, "tokens": d,
            "flops_6nd": 6 * total * d, "loss": truth(total, d) * scatter, "status": "done",
        })

    return make


@pytest.fixture
def heldout_row() -> dict[str, object]:
    """A larger run that no fit may see."""
    n, d = 900_000, 6_000_000
    return {"run_id": "large", "role": "heldout", "params_total": n, "params_non_embedding": n,
            "tokens": d, "flops_6nd": 6 * n * d, "loss": float(truth(n, d)), "status": "done"}


@pytest.fixture
def reference() -> Callable[[str], Path]:
    """Finds a file of published runs. Without it the test is skipped, or fails if
    SCALING_REFERENCE_DIR says where the files should be."""

    def find(name: str) -> Path:
        given = os.environ.get("SCALING_REFERENCE_DIR")
        path = ROOT / (given or "../shared/reference") / "runs" / name
        if not path.is_file() and given:
            pytest.fail(f"{path} does not exist, and SCALING_REFERENCE_DIR is set")
        if not path.is_file():
            pytest.skip(f"no published runs in {path.parent}; set SCALING_REFERENCE_DIR")
        return path

    return find
