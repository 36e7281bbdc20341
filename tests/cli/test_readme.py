"""Every command of the README runs, in its order."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

import scaling.laws as sl
from scaling.cli.main import app
from tests.conftest import ROOT

# Small versions of the README's files: the same keys, a few seconds of work.
SMALL_RUN = {"tokens": 20_480, "batch_sequences": 4, "evaluation": {"sequences": 20}}
SMALL_SWEEP = {
    "sizes": [
        {"d_model": 8, "n_layers": 1, "n_heads": 1},
        {"d_model": 16, "n_layers": 1, "n_heads": 1},
        {"d_model": 24, "n_layers": 1, "n_heads": 1},
    ],
    "grids": [{"kind": "product", "tokens": [8_192, 16_384, 32_768]}],
    "heldout": [{"size": {"d_model": 32, "n_layers": 1, "n_heads": 1}, "tokens": 65_536}],
}


def commands() -> list[str]:
    """Lines of the README's shell blocks that call `scaling`."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("scaling ")]


def make_targets() -> set[str]:
    """Targets that README, CONTRIBUTING and CI name."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", ".ci/run")]
    return {t for text in texts for t in re.findall(r"^(?:# )?make ([a-z-]+)", text, re.MULTILINE)}


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """Every line, with few resamples; a line without an assignment has something to show."""
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sl, "fit", functools.partial(sl.fit, resamples=20))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        for statement in ast.parse(block).body:
            text = ast.unparse(statement)
            if isinstance(statement, ast.Expr) and ".save(" not in text:
                assert repr(eval(text, names))
            else:
                exec(text, names)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "own.json", "forecasts.jsonl"}


@pytest.fixture
def project(tmp_path) -> Path:
    """The files that the README's commands name, made small."""
    made_small = {"runs/gpt_tiny": SMALL_RUN, "sweeps/quickstart": SMALL_SWEEP,
                  "sweeps/isoflop": {}}
    for name, changes in made_small.items():
        content = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) | changes
        if name == "sweeps/quickstart":
            content["run"] |= {"batch_sequences": 4, "evaluation": {"sequences": 20}}
            content["run"]["model"] = {"context": 32}
        path = tmp_path / f"configs/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.mark.slow
@pytest.mark.alone
def test_every_scaling_command_runs(scaling, project):
    found = commands()
    assert len(found) >= 12
    for line in found:
        words = shlex.split(line.split(">")[0])[1:]
        result = scaling(*words, cwd=project)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr
    assert (project / "results/quickstart/report.html").exists()


def test_every_make_target_exists():
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"quickstart", "test", "lint", "smoke"} <= make_targets() <= defined


def test_every_help_has_an_example():
    def walk(command, words):
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*words, name])
        if not hasattr(command, "commands"):
            yield words

    found = list(walk(typer.main.get_command(app), []))
    assert len(found) >= 20
    for words in found:
        shown = CliRunner().invoke(app, [*words, "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.stdout, words


def test_files_and_images_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (ROOT / path).exists(), path
