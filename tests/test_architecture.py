"""Imports between the rooms go one way, and the light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SCALING = Path(__file__).parents[1] / "scaling"
BELOW_ALL = {"errors", "files"}
MAY_IMPORT = {
    "config": set(),
    "accounting": {"config"},
    "data": {"config"},
    "parallel": {"config"},
    "models": {"config", "parallel"},
    "interop": {"config", "models"},
    "objectives": {"config", "data", "models"},
    "training": {"config", "accounting", "data", "models", "objectives", "parallel"},
    "sweeps": {"config", "accounting", "data", "laws", "parallel", "training"},
    "laws": set(),
    "figures": {"laws"},
    "report": {"laws", "figures"},
}


def imported(path: Path) -> set[str]:
    """Rooms of ours that a file imports, wherever in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "scaling" and len(parts) > 1:
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_go_one_way(room):
    files = list((SCALING / room).rglob("*.py"))
    assert files
    for path in files:
        extra = imported(path) - MAY_IMPORT[room] - BELOW_ALL - {room}
        assert not extra, f"{path} imports {extra}"


def test_every_room_is_listed():
    rooms = {p.name for p in SCALING.iterdir() if (p / "__init__.py").exists()}
    assert rooms == {*MAY_IMPORT, "cli"}
    assert {p.stem for p in SCALING.glob("*.py")} == {"__init__", *BELOW_ALL}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scaling.laws", {"jax", "pydantic", "matplotlib", "yaml"}),
        ("scaling.cli.main", {"jax", "flax", "pandas", "matplotlib", "tensorflow"}),
        ("scaling.sweeps.plan", {"jax", "flax", "orbax", "tensorflow"}),
        ("scaling.training.loop", {"tensorflow", "seqio", "tokenizers", "matplotlib"}),
    ],
)
def test_what_an_import_does_not_drag_in(module, heavy):
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    dragged_in = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert dragged_in.split() == []
