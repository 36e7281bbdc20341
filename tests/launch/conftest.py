"""Fixtures of a tiny sweep, of a Slurm cluster and of another package's launcher, for the tests of
launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaling.data.sources import known_sources
from scaling.launch import registry
from tests.conftest import ROOT
from tests.launch.slurm.cluster import START_SECONDS, STOP_SECONDS, processes_of
from tests.launch.toy.toy_plugin import register
from tests.tiny_sweep import index, plan, runs, sweep, sweep_content, sweep_file

__all__ = ["index", "plan", "runs", "sweep", "sweep_content", "sweep_file"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Path]:
    """Two nodes of two cores; SLURM_CONF is set while it is there."""
    root = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).parent / "slurm" / "cluster.py"
    with (root / "cluster.err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), str(root), "2", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(root / "slurm.conf"))
        try:
            assert process.stdout.readline() == "ready\n", (root / "cluster.err").read_text()
            yield root
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(START_SECONDS + 4 * STOP_SECONDS)
    assert not list(processes_of(root / "slurm.conf"))


def forget_plugins() -> None:
    """Entry points are read once in a process."""
    registry._registered.cache_clear()
    known_sources.cache_clear()


@pytest.fixture
def toy(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """The folder of an installed package with a launcher and a source (toy/toy_plugin.py), on the
    path of this process and of those that it starts."""
    installed = tmp_path_factory.mktemp("installed")
    register(installed)
    folders = [str(installed), str(ROOT / "tests/launch/toy")]
    for folder in folders:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, str(ROOT)]))
    forget_plugins()
    yield installed
    if (plugin := sys.modules.pop("toy_plugin", None)) is not None:
        for process in plugin._children.values():
            process.kill()
            process.wait()
    forget_plugins()
