"""What a session asks of its driver and writes: a driver whose steps have losses of our choice, and
a clock that we wind, so that each number is known by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.objectives import Examples
from scaling.optim.schedule import learning_rate
from scaling.parallel import make_mesh
from scaling.runs.folder import RunFolder
from scaling.runs.trunk import step_folders
from scaling.training import loop, packed, profile, session
from scaling.training.loop import Stopped, train_steps
from scaling.training.step import StepMetrics, step_seeds


@pytest.fixture
def clock(monkeypatch):
    """Seconds, of both clocks of a session."""
    now = [0.0]
    told = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: 1000 + now[0])
    monkeypatch.setattr(session, "time", told)
    return now


def drive(steps, losses, clock):
    """Answer each request with the loss of its step, two seconds later; of the steps from the 15th
    on, four.

    Returns:
        The requests, and the result of the run.
    """
    requests = []
    try:
        request = next(steps)
        while True:
            requests.append(request)
            loss = np.float32(losses[int(request.seeds[2])])
            clock[0] += 2.0 if request.seeds[2] < 15 else 4.0
            metrics = StepMetrics(loss, {"causal": loss}, 10 * loss)
            request = steps.send(lambda metrics=metrics: metrics)
    except StopIteration as end:
        return requests, end.value


LOSSES = [1 + step / 8 for step in range(24)]  # floats of 32 bits have them exactly


def test_a_line_is_about_the_steps_since_the_one_before(make_run, store, tmp_path, clock):
    """Stopped after seven steps, between two lines, and gone on with."""
    run = make_run("checkpoint.every_seconds=1e9", seed=2**40 + 5)
    path, reports = tmp_path / "run", []

    def start(stop=99):
        calls = iter(range(1, 100))
        return train_steps(
            run, store, path, asked_to_stop=lambda: next(calls) == stop, report=reports.append
        )

    first, stopped = drive(start(7), LOSSES, clock)
    assert stopped == Stopped(7, 24)
    clock[0] += 1e6  # nobody's time
    (path / ".record.json.0123abcd").write_text("of a process that was killed")
    second, record = drive(start(), LOSSES, clock)
    assert not (path / ".record.json.0123abcd").exists()
    examples = Examples.of(run, store)
    for step, request in enumerate(first + second):
        rate = learning_rate(run.schedule, run.optimizer.learning_rate, step, 24)
        numbers = [rate, 0.9, 0.95, 1e-8, 0.1, 1.0]
        np.testing.assert_array_equal(request.numbers, np.array(numbers, np.float32))
        np.testing.assert_array_equal(request.seeds, step_seeds(run, step))
        if step in (0, 6, 7, 23):
            np.testing.assert_array_equal(request.batch["ids"], examples.at(step)["ids"])
    lines = [each for each in RunFolder(path).metrics() if "loss" in each]
    assert [each["step"] for each in lines] == [5, 10, 15, 20, 24]
    for line, begin in zip(lines, (0, 5, 10, 15, 20), strict=True):
        done = line["step"]
        rate = learning_rate(run.schedule, run.optimizer.learning_rate, done - 1, 24)
        assert line == {
            "step": done,
            "tokens": done * 64,
            "loss": np.mean(LOSSES[begin:done]),
            "learning_rate": float(np.float32(rate)),
            "grad_norm": 10 * LOSSES[done - 1],
            "seconds": 2.0 * done + 2.0 * max(0, done - 15),
            "data_wait_seconds": line["data_wait_seconds"],
        }
    assert [each.step for each in reports] == [5, 10, 15, 20, 24]
    assert {each.steps for each in reports} == {24}
    assert [each.loss for each in reports] == [each["loss"] for each in lines]
    assert [each.tokens_per_second for each in reports] == [32.0] * 3 + [16.0] * 2
    assert (record["seconds"], record["tokens_per_second"]) == (66.0, 23.3)
    assert (record["eval_sequences"], record["packed"]) == (10, 1)


@pytest.mark.parametrize(("every", "kept"), [(6, ["9", "11"]), (6.1, ["8", "11"]), (1e9, ["11"])])
def test_checkpoints_are_as_far_apart_as_is_asked(make_run, store, tmp_path, clock, every, kept):
    """Six seconds are up after three steps of two seconds, and then counted anew."""
    run = make_run(f"checkpoint.every_seconds={every}", f"tokens={11 * 64}")
    drive(train_steps(run, store, tmp_path), LOSSES, clock)
    found = [path.name for path in step_folders(tmp_path / "checkpoints")]
    assert found == kept


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([1.99 * math.log(257)] * 10, None),
        ([2.01 * math.log(257)] * 10, 5),
        ([30.0, 1, 1, 1, 1] * 2, None),  # the mean of the steps counts
        ([1.0] * 5 + [1, 1, 60, 1, 1], 10),
        ([1.0] * 7 + [math.nan] * 3, 10),
        ([1.0] * 9 + [math.inf], 10),
    ],
)
def test_a_run_diverges_at_twice_the_loss_of_a_guess(
    make_run, store, tmp_path, clock, losses, steps
):
    run = make_run("tokens=640")
    requests, record = drive(train_steps(run, store, tmp_path), losses, clock)
    assert record["status"] == ("done" if steps is None else "diverged")
    assert len(requests) == record["steps"] == (steps or 10)
    assert ("eval_loss" in RunFolder(tmp_path).last_metrics()) == (steps is None)


@pytest.mark.parametrize("width", [1, 2])
def test_a_run_is_trained_by_what_it_says(make_run, store, tmp_path, monkeypatch, width):
    """Alone and side by side: its objective, microbatches, optimizer and trained parameters."""
    run = make_run(
        "optimizer={kind: lion}",
        "objective={kind: causal, separate_documents: true}",
        "execution.microbatch_sequences=2",
        "trainable={layers: [1]}",
        "tokens=128",
        "schedule.warmup_steps=1",
    )
    asked = []

    def make(objective, at_once, **how):
        def step(states, batch, numbers, seeds, teacher):
            loss = np.full(np.shape(numbers)[:-1], 2.0, np.float32)
            return states, StepMetrics(loss, {"causal": loss}, loss)

        asked.append((objective, at_once, how))
        return step

    monkeypatch.setattr(loop, "make_train_step", make)
    monkeypatch.setattr(packed, "make_train_step", make)
    if width == 1:
        assert loop.train(run, store, tmp_path)["status"] == "done"
    else:
        mesh, ended = make_mesh(run.execution.mesh), []
        courses = iter([train_steps(run, store, tmp_path, mesh=mesh, packed=width)])
        with jax.set_mesh(mesh):
            packed.drive_together(width, lambda: next(courses, None), ended.append)
        assert [record["packed"] for record in ended] == [2]
    expected = {"optimizer": "lion", "trainable": run.trainable} | (
        {"packed": True} if width > 1 else {}
    )
    assert asked
    assert all(each == (run.objective, 2, expected) for each in asked)


def test_the_time_of_a_step_is_a_median(make_run, monkeypatch):
    """After a step that compiles and one that warms up, which counts until there is another."""
    run = make_run(
        "optimizer={kind: lion}", "trainable={layers: [1]}", "execution.microbatch_sequences=2"
    )
    now, calls = [0.0], []
    durations = [100.0, 50.0, 3.0, 9.0, 4.0, 7.0, 5.0]

    def step(state, batch, numbers, seeds, teacher):
        now[0] += durations[len(calls)]
        calls.append((state, batch["ids"].shape, numbers.shape, seeds.shape))
        return "after", 0

    made = []
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(profile, "init_state", lambda run: "before")
    monkeypatch.setattr(profile, "copies", lambda slots, state: (slots, state))
    monkeypatch.setattr(
        profile, "make_train_step", lambda *given, **how: made.append((given, how)) or step
    )
    medians = np.array([50.0, 3.0, 6.0, 4.0, 5.5, 5.0])
    np.testing.assert_allclose(list(profile.time_steps(run)), medians / 64)
    assert [call[0] for call in calls] == ["before"] + ["after"] * 6
    assert calls[0][1:] == ((4, 17), (5,), (3,))
    calls.clear()
    np.testing.assert_allclose(list(profile.time_steps(run, slots=3)), medians / 64 / 3)
    assert calls[0] == ((3, "before"), (3, 4, 17), (3, 5), (3, 3))
    how = {"optimizer": "lion", "trainable": run.trainable}
    assert made == [((run.objective, 2), how | {"packed": together}) for together in (False, True)]


def test_a_pack_looks_for_runs_now_and_then(monkeypatch):
    """At most every half a second, and for a twentieth of the time, unless all slots are free."""
    now, took, looked = [100.0], [0.1], []
    monkeypatch.setattr(packed, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def next_run():
        looked.append(now[0])
        now[0] += took[0]

    pack = packed._Pack(2, next_run, lambda result: None)
    assert not pack.fill()
    assert not pack.fill()
    assert len(looked) == 2, "with nothing to do it looks each time"
    pack.slots[0].steps = iter(())
    now[0] += 100
    assert pack.fill()
    for later, duration, searches in ((1.9, 0, 0), (2.1, 0, 1), (0.4, 0, 0), (0.6, 0, 1)):
        now[0], took[0], before = looked[-1] + later, duration, len(looked)
        assert pack.fill()
        assert len(looked) - before == searches, later
    pack.slots[1].steps = iter(())
    now[0] += 100
    assert pack.fill()
    assert looked[-1] < now[0], "no slot is free"
