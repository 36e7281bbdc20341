"""A loss that is NaN at some step: the run ends and says after which step, and what it saved before
can be read."""

from __future__ import annotations

import json
import math
import random
import time

import jax
import numpy as np
import pytest

from scaling.optim.schedule import learning_rate
from scaling.parallel import make_mesh
from scaling.runs.folder import RunFolder
from scaling.runs.record import HeldoutLoss, RunResult, make_record
from scaling.runs.state import clear_failure, folder_state
from scaling.training import session
from scaling.training.checkpoint import Checkpoints
from scaling.training.loop import Stopped, train
from scaling.training.step import init_state

STEPS, EVERY = 24, 5


@pytest.fixture
def nan_after(monkeypatch):
    """Makes the update of one step NaN, and with it all parameters and the losses of the steps
    after it."""
    def inject(steps_done):
        def rate(schedule, peak, step, steps):
            return np.nan if step == steps_done - 1 else learning_rate(schedule, peak, step, steps)

        monkeypatch.setattr(session, "learning_rate", rate)

    return inject


def refuse_constant(text):
    raise AssertionError(f"{text} is not JSON")


def checked_record(path):
    """The record as any reader of JSON sees it."""
    record = json.loads((path / "record.json").read_text(), parse_constant=refuse_constant)
    assert record["status"] == "diverged"
    assert record["loss"] is record["loss_se"] is record["bits_per_byte"] is None
    return record


def diverges_at(bad):
    """The first line of metrics of which a loss after a number of steps is part."""
    return min(STEPS, EVERY * -(-(bad + 1) // EVERY))


def test_at_any_step_the_run_ends_with_the_next_line(make_run, store, tmp_path, nan_after):
    run, path = make_run(), tmp_path / "run"
    train(run, store, tmp_path / "healthy")
    healthy = RunFolder(tmp_path / "healthy").metrics()
    seed = time.time_ns()
    bad = random.Random(seed).randrange(1, STEPS)
    nan_after(bad)
    stopped = train(run, store, path, asked_to_stop=iter([False] * (bad - 1) + [True]).__next__)
    assert stopped == Stopped(bad, STEPS), seed  # with parameters that are NaN
    record = train(run, store, path)
    assert record["steps"] == diverges_at(bad), seed
    assert checked_record(path) == record
    lines = RunFolder(path).metrics()
    before = [line for line in lines if line["step"] < record["steps"]]
    assert [line["loss"] for line in before] == [
        line["loss"] for line in healthy if "loss" in line][: len(before)]
    assert (lines[-1]["step"], lines[-1]["loss"]) == (record["steps"], None)
    now = folder_state(RunFolder(path))
    assert (now.state, now.step, now.over) == ("diverged", record["steps"], True)
    assert not clear_failure(RunFolder(path))  # a result, and no failure
    assert train(run, store, path) == record


def test_the_checkpoint_before_can_be_read(make_run, store, tmp_path, nan_after):
    run = make_run("checkpoint.every_seconds=0", "logging.every_steps=1")
    nan_after(8)
    assert train(run, store, tmp_path)["steps"] == 9
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
    ):
        state, progress = checkpoints.restore(init_state(run), 7)
    assert progress.step == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_held_out_loss_alone_that_is_no_number(make_run, store, tmp_path, nan_after):
    """Every training loss is one: it was the last update that went wrong."""
    nan_after(STEPS)
    record = train(make_run(), store, tmp_path)
    assert checked_record(tmp_path) == record
    assert record["steps"] == STEPS
    losses = [line["loss"] for line in RunFolder(tmp_path).metrics() if "loss" in line]
    assert losses
    assert None not in losses


def test_no_part_of_such_a_loss_is_recorded(make_run, store):
    scores = {"masked": HeldoutLoss(math.nan, math.nan), "next_sentence": HeldoutLoss(0.7, 0.1)}
    environment = {"device_kind": "cpu", "devices": 1, "commit": None}
    outcome = RunResult("diverged", scores, 3.0, STEPS, 1.0, 10)
    record = make_record(make_run(), store, outcome, environment)
    json.dumps(record, allow_nan=False)
    assert record["loss_masked"] is record["loss_next_sentence"] is None
