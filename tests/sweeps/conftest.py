"""Fixtures of a tiny sweep, for the tests of sweeps."""

from tests.tiny_sweep import index, plan, runs, sweep, sweep_content, sweep_file

__all__ = ["index", "plan", "runs", "sweep", "sweep_content", "sweep_file"]
