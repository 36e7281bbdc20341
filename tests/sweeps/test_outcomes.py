"""Progress of a launch, and the exit status of `sweep run`."""

from __future__ import annotations

import io
import re

import pytest

from scaling import console
from scaling.cli import sweep
from scaling.runs.state import RunState, record_failure, run_state
from scaling.sweeps.launch_progress import LaunchProgress
from tests.tiny_sweep import begin, end

pytestmark = pytest.mark.quick


def test_done_flops_count_shared_steps_once_and_diverged_runs_partly(plan):
    stage = plan.runs_of_role("grid")
    launch = LaunchProgress(stage)
    new = [run_state(p) for p in stage]
    start = launch.measure(new)
    assert start.flops_done == 0
    assert 0 < start.flops_total < sum(p.flops for p in stage)
    for p in stage:
        end(p)
    over = launch.measure([run_state(p) for p in stage])
    assert over.flops_done == over.flops_total == pytest.approx(start.flops_total)
    now = launch.measure([RunState("diverged", 0, None), *new[1:]])
    assert now.flops_total < start.flops_total


def test_speed_is_the_sum_over_running_runs(plan):
    stage = plan.runs_of_role("grid")
    for p in stage[:2]:
        begin(p, 5, 10, seconds_a_step=0.5)
    states = [RunState("running", 10, 3.0)] * 2 + [RunState("new", 0, None)] * 2
    assert LaunchProgress(stage).measure(states).tokens_per_second == pytest.approx(2 * 64 / 0.5)


def test_a_pipe_gets_runs_flops_speed_and_time_left(plan, monkeypatch):
    now, kept = [0.0], io.StringIO()
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "err", type(console.out)(
        file=kept, width=console._PIPE_WIDTH, highlight=False, soft_wrap=True))
    stage = plan.runs_of_role("grid")
    for p in stage[1:3]:
        begin(p, 5, 10, seconds_a_step=0.5)
    with sweep._progress_bar("tiny.grid", stage) as watch:
        for step in (0, 6, 12):
            now[0] += 20
            states = [RunState("done", stage[0].run.steps, 3.0), RunState("running", step, 3.0),
                      RunState("running", step, 3.0), RunState("diverged", 5, None)]
            watch(states)
    far = LaunchProgress(stage).measure(states)
    percent = round(100 * far.flops_done / far.flops_total)
    line = kept.getvalue().splitlines()[-1]
    assert re.fullmatch(
        rf"tiny\.grid: {percent}% of {re.escape(f'{far.flops_total:.3g}')} FLOPs, "
        r"1 of 4 runs done, 1 diverged, 256 tokens/s, [0-9]+:[0-9]{2} left", line), line
    assert percent not in (25, 50)  # neither of the runs done nor of those that are over


OUTCOMES = {
    "all diverged": (["diverged"] * 4, 1, "every run diverged, so there is no loss to fit"),
    "all failed": (["failed"] * 4, 1, "no room"),
    "diverged and failed": (["diverged", "failed"] * 2, 1, "no room"),
    "diverged and done": (["diverged", "done"] * 2, 0, ""),
    "done and failed": (["done", "done", "done", "failed"], 1, "no room"),
    "done": (["done"] * 4, 0, ""),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_exit_status_says_whether_there_is_anything_to_fit(command, plan, sweep_file, name):
    states, code, words = OUTCOMES[name]
    for planned, state in zip(plan.runs_of_role("grid"), states, strict=True):
        if state == "failed":
            planned.folder.path.mkdir(parents=True)
            record_failure(planned.folder, RuntimeError("no room"))
        else:
            end(planned, state, loss_se=0.1, bits_per_byte=5.0)
    done = command("sweep", "run", sweep_file.name, cwd=sweep_file.parent)
    assert done.code == code, done.err
    assert words in done.err
    assert (done.err == "") == (code == 0)
    assert (sweep_file.parent / "results/tiny/runs.csv").exists()
