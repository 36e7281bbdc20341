"""The environment of a run: versions, commit, devices, kernels."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from scaling.config import RunConfig

PACKAGES = ("scaling", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_environment(run: RunConfig) -> dict[str, Any]:
    """Versions, the commit of this code, the devices and the kernels of a run, as plain data."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "kernels": {"attention": run.execution.attention,
                    "cross_entropy": run.execution.cross_entropy},
    }


def commit() -> str | None:
    """The git commit of this code, marked if files were changed since; None outside a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
