"""Packages import from lower layers only, no files import each other in a circle, and light imports
stay light. Imports inside functions and under TYPE_CHECKING count like all others."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from scaling.config.objectives import OBJECTIVES

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
SCALING = ROOT / "scaling"

LAYERS = (
    {"cli"},
    {"sweeps"},
    {"launch"},
    {"training"},
    {"interop", "objectives"},
    {"models"},
    {"report", "runs", "parallel"},
    {"figures", "data", "accounting", "optim"},
    {"laws", "config", "console"},
    {"outputs", "plugins"},
    {"files", "file_lock"},
    {"errors"},
)
"""Packages from the top down; a package imports from lower layers only."""

LAWS_ALONE = {"laws", "outputs", "files", "file_lock", "errors"}
"""All that `scaling.laws` imports: it serves tables that this package did not make."""

LONGEST, SHORT, MOST_SHORT = 400, 40, 30
"""Most lines of a file; lines below which it is short; fewer files than this may be short, those
named `__init__` aside."""


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def imports() -> dict[str, set[str]]:
    """The modules of this package that each of them imports, wherever in it."""
    files = {module_of(path): path for path in SCALING.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= inside & files.keys()
                if inside - files.keys():
                    found[name].add(node.module or "")
        found[name] &= files.keys() - {name}
    return found


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer_of(package: str) -> int:
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


def test_every_package_has_its_layer():
    packages = {package_of(module) for module in imports()} - {""}
    assert packages == set().union(*LAYERS)


@pytest.mark.parametrize("package", sorted(set().union(*LAYERS)))
def test_a_package_imports_from_lower_layers(package):
    for module, imported in imports().items():
        for other in imported if package_of(module) == package else ():
            target = package_of(other)
            assert target in ("", package) or layer_of(target) > layer_of(package), (
                f"{module}: {other}")


def test_laws_stand_alone():
    for module, imported in imports().items():
        if package_of(module) == "laws":
            assert {package_of(other) for other in imported} <= LAWS_ALONE, module


def test_no_files_import_each_other_in_a_circle():
    left = {module: set(imported) for module, imported in imports().items()}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in free}
    # What is left imports something in a circle, or is in one itself.
    assert not left


def test_files_are_read_in_one_sitting_and_are_no_crumbs():
    lengths = {path: len(path.read_text().splitlines()) for path in SCALING.rglob("*.py")
               if path.name != "__init__.py"}
    assert {str(path) for path, lines in lengths.items() if lines > LONGEST} == set()
    assert sum(lines < SHORT for lines in lengths.values()) < MOST_SHORT


def test_a_class_name_means_one_thing():
    names = Counter(
        node.name for path in SCALING.rglob("*.py") for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scaling.laws", {"jax", "pydantic", "matplotlib", "yaml", "rich", "typer", "scipy.stats",
                          "scipy.optimize", "scipy.signal", "scipy.interpolate"}),
        ("scaling.cli.main", {"jax", "flax", "pandas", "matplotlib", "tensorflow"}),
        ("scaling.sweeps.plan", {"jax", "flax", "orbax", "tensorflow"}),
        ("scaling.launch.registry", {"jax", "submitit", "matplotlib", "tensorflow"}),
        ("scaling.launch.piece_worker", {"jax", "submitit", "matplotlib", "tensorflow"}),
        ("scaling.training.loop", {"tensorflow", "seqio", "tokenizers", "matplotlib"}),
    ],
)
def test_what_an_import_does_not_drag_in(module, heavy):
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    dragged_in = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert dragged_in.split() == []


def test_no_code_asks_for_the_kind_of_an_objective():
    """What distinguishes objectives are their methods (scaling/config/objectives/base.py)."""
    kinds = "|".join(cls.__name__ for cls in OBJECTIVES.values())
    for path in SCALING.rglob("*.py"):
        if path.is_relative_to(SCALING / "config"):
            continue
        assert not re.search(rf"isinstance\([^)]*\b({kinds})\b", path.read_text()), path
