"""A folder with input for every command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli import unprivileged
from tests.conftest import run_content, write_corpus


@pytest.fixture(scope="session")
def done_once(tmp_path_factory) -> Path:
    """A folder in which every command has run once."""
    place: Path = tmp_path_factory.mktemp("done")
    for name in ("work/stores", "cache", "home", "temporary"):
        (place / name).mkdir(parents=True)
    work = place / "work"
    write_corpus(work / "corpus.jsonl", 100)
    run = run_content(Path("store"))
    (work / "run.yaml").write_text(yaml.safe_dump(run))
    sizes = [{"d_model": width, "n_layers": 1, "n_heads": 1} for width in (8, 16)]
    sweep = {
        "name": "sweep", "sizes": sizes,
        "run": {key: run[key] for key in ("data", "batch_sequences", "schedule", "evaluation")}
        | {"model": {"context": 16}},
        "grids": [{"kind": "product", "tokens": [24 * 64, 48 * 64]}],
        "learning_rate": {"rule": "power", "learning_rate": 1e-2, "reference_params": 1000,
                          "exponent": 0},
    }
    (work / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    made = unprivileged.run([
        ["data", "prepare", "jsonl:corpus.jsonl#text", "--out", "store"],
        ["train", "run.yaml"],
        ["sweep", "run", "sweep.yaml", "--out", "results", "--workers", "1"],
        ["fit", "results", "--law", "kaplan-d", "--bootstrap", "20", "--save", "results/laws.json"],
    ], work, environment(place))
    assert [status for status, *_ in made] == [0] * 4, made
    return place


@pytest.fixture
def place(done_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    return Path(shutil.copytree(done_once, tmp_path / "place"))


def environment(place: Path) -> dict[str, str]:
    """Environment with every folder that a command uses by default inside the place."""
    names = {"SCALING_CACHE": "cache", "HOME": "home", "TMPDIR": "temporary", "WANDB_DIR": "home"}
    return {**os.environ, **{name: str(place / folder) for name, folder in names.items()}}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}
