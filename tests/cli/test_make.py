"""make announces what it installs, and how long it takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT

TARGETS = ("install", "quickstart", "smoke", "test", "test-slow", "test-fuzz", "test-slurm",
           "test-parity", "test-prepare", "test-weights", "lint", "benchmark", "soak")


@pytest.fixture
def fresh(tmp_path):
    """A checkout without environments, and the dry run of make there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "pyproject.toml").touch()

    def make(*words: str, cwd: Path = tmp_path) -> str:
        # As if no other make had started the tests: that one's options would be in force.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        return subprocess.run(["make", *words], cwd=cwd, env=environment, capture_output=True,
                              text=True, check=True).stdout

    return make


@pytest.mark.parametrize("target", TARGETS)
def test_installations_are_announced(fresh, target):
    lines = fresh("--dry-run", target).splitlines()
    installs = [place for place, line in enumerate(lines)
                if "pip install" in line and "requirements/" in line + lines[place + 1]]
    announced = [place for place, line in enumerate(lines)
                 if line.startswith('echo "--- installing')]
    assert installs
    assert announced
    for before, place in pairwise([-1, *installs]):  # each of them
        assert any(before < one < place for one in announced), lines[place]
    for place in announced:
        text = lines[place].removeprefix('echo "').removesuffix('"')
        assert "minute" in text
        assert len(text) <= 100
    if target != "install":  # and how long the rest takes, once there is an environment
        assert any("--- " in line and "minute" in line for line in lines[installs[-1]:])


def test_installations_by_apt_get_are_announced(fresh):
    before = fresh("--dry-run", "test-slurm").partition("apt-get update")[0]
    assert re.search(r'echo "--- installing slurm-wlm and munge [^"]*minute[^"]*" && *$', before)


def test_the_help_fits_a_terminal_and_names_every_target(fresh):
    lines = fresh("help").splitlines()
    assert max(map(len, lines)) <= 80
    assert set(TARGETS) <= {line.split()[0] for line in lines}
