"""Two launchers work on one sweep at once, and neither knows of the other."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.launch.test_kill import losses, start, workers_of

PATIENCE = 300


def assert_no_step_twice(runs, count):
    metrics = list(runs.glob("*/metrics.jsonl"))
    assert len(metrics) == count
    for path in metrics:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        steps = [(line["step"], "eval_loss" in line) for line in lines]
        assert len(steps) == len(set(steps)), path


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find the workers")
def test_two_launchers_share_a_sweep(sweep_file, sweep_content):
    """Each run is trained once, and either launcher ends when all are over."""
    sweep_content["grids"] = [{"kind": "product", "tokens": [300 * 64]}]
    sweep_content["seeds"] = [0, 1]
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    alone = start(sweep_file, "whole")
    output, _ = alone.communicate(timeout=PATIENCE)
    assert alone.returncode == 0, output
    both = [start(sweep_file, "shared") for _ in range(2)]
    for launcher in both:
        output, _ = launcher.communicate(timeout=PATIENCE)
        assert launcher.returncode == 0, output
        assert "4 done" in output
    assert losses(sweep_file, "shared") == losses(sweep_file, "whole")
    assert_no_step_twice(sweep_file.parent / "shared", count=4)
    assert not workers_of(sweep_file, "shared")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find the workers")
def test_a_launcher_takes_over_what_another_lets_go(sweep_file, sweep_content):
    """The one waits for the run that the other trains, which is then asked to stop."""
    # Long enough for the second one's worker to start, look, and end meanwhile.
    sweep_content["grids"] = [{"kind": "product", "tokens": [4000 * 64]}]
    sweep_content["run"]["data"]["epochs"] = 4
    sweep_content["run"]["logging"] = {"every_steps": 100}
    del sweep_content["sizes"][1]
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    first = start(sweep_file, "shared")
    deadline = time.monotonic() + PATIENCE
    while not list(sweep_file.parent.glob("shared/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = start(sweep_file, "shared")
    while len(pids := workers_of(sweep_file, "shared")) < 2:
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)
    while len(workers_of(sweep_file, "shared")) > 1:  # nothing is left for the second's worker
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 128 + signal.SIGINT, output
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output
    assert "1 done" in output
    assert_no_step_twice(sweep_file.parent / "shared", count=1)
