"""A short soak test (benchmarks/soak.py), and a failure of each of its checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import soak_checks
from benchmarks.soak import soak
from benchmarks.soak_checks import violations
from benchmarks.soak_kills import MAX_PAUSE_FACTOR, MIN_PAUSE_FACTOR, pause_factor
from benchmarks.soak_sweep import Training, make_sweep

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
RUN_IDS = ("aa", "bb")
KILLS = 8


@pytest.mark.slow
@pytest.mark.alone
def test_a_sweep_killed_at_random_moments_gives_the_same_losses(tmp_path):
    sweep = make_sweep(tmp_path, sizes=1, rates=2, seeds=1, lengths=3, steps=1800)
    figures = soak(sweep, tmp_path, workers=2, kills=KILLS, mean_seconds=1.5, seed=0)
    assert figures["violations"] == []
    assert figures["records"] == figures["runs"] == 6
    assert figures["kills"]["done"] == KILLS


def test_kills_come_faster_the_fewer_runs_are_left():
    assert pause_factor(0, 0) == pytest.approx(1)
    assert pause_factor(0.5, 0.45) == pytest.approx(1)
    assert pause_factor(0.5, 0.2) > 1 > pause_factor(0.5, 0.6)
    assert pause_factor(0.99, 0) == MAX_PAUSE_FACTOR
    assert pause_factor(0.99, 1) == MIN_PAUSE_FACTOR


def write_lines(training: Training, run_id: str, *lines: dict[str, object]) -> None:
    with (training.runs / run_id / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def change_record(training: Training, **changes: object) -> None:
    path = training.runs / RUN_IDS[0] / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def finished(folder: Path) -> Training:
    """What a sweep of two runs leaves."""
    training = Training(folder / "soak.yaml", folder, 1)
    rows = []
    for number, run_id in enumerate(RUN_IDS):
        path = training.runs / run_id
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        record = {"run_id": run_id, "status": "done", "loss": 3.25 + number, "seconds": 1.0,
                  "flops_own": 60, "flops_shared": 40, "trunk": None}
        (path / "record.json").write_text(json.dumps(record))
        write_lines(training, run_id, {"step": 20, "loss": 4.0, "seconds": 0.5},
                    {"step": 40, "eval_loss": 3.25})
        rows.append({"run_id": run_id, "loss": record["loss"]})
    training.results.mkdir()
    pd.DataFrame(rows).to_csv(training.results / "runs.csv", index=False)
    (training.runs / "logs").mkdir()
    (folder / "launcher-0.log").write_text("soak.grid: 2 done\n")
    training.measure_disk()
    return training


@pytest.fixture
def undisturbed(tmp_path):
    return finished(tmp_path / "undisturbed")


@pytest.fixture
def disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_checks, "EXIT_SECONDS", 0.3)
    return finished(tmp_path / "disturbed")


def repeat_a_row(disturbed: Training) -> None:
    path = disturbed.results / "runs.csv"
    path.write_text(path.read_text() + "aa,3.25\n")


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def another_run(disturbed: Training) -> None:
    (disturbed.runs / "cc").mkdir()
    (disturbed.runs / "cc" / "record.json").write_text("{}")


def fail(disturbed: Training) -> None:
    (disturbed.runs / "aa" / "failure.json").write_text(json.dumps({"error": "no room"}))


def test_what_processes_say_of_themselves_may_differ(undisturbed, disturbed):
    change_record(disturbed, seconds=9.0, trunk={"run_id": "bb", "step": 4}, flops_own=90,
                  flops_shared=10)
    write_lines(disturbed, "aa", {"step": 20, "loss": 4.0, "seconds": 0.9})
    with (disturbed.runs / "aa" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')
    assert violations(undisturbed, disturbed, 2) == []


@pytest.mark.parametrize(("damage", "words"), [
    (lambda t: change_record(t, loss=3.2500000000000004), "aa: loss is 3.2500000000000004"),
    (lambda t: change_record(t, status="diverged"), "aa: its record has status diverged"),
    (lambda t: change_record(t, flops_own=59), "add up to 99, undisturbed to 100"),
    (lambda t: (t.runs / "bb" / "record.json").unlink(), "bb: has no record"),
    (another_run, "cc: has a record, but is not a run"),
    (fail, "aa: failed: no room"),
    (repeat_a_row, "a run has several rows"),
    (lambda t: write_lines(t, "bb", {"step": 20, "loss": 4.000000000000001}), "step 20 differ"),
    (lambda t: write_lines(t, "bb", {"step": 60, "loss": 3.9}), "has metrics of steps 60"),
    (lambda t: put(t.runs / "aa" / ".record.json.x1"), ".record.json.x1: a temporary file is left"),
    (lambda t: put(t.results / ".runs.csv.x1"), ".runs.csv.x1: a temporary file is left"),
    (lambda t: put(t.runs / "aa/checkpoints/7.orbax-checkpoint-tmp/state"), "left over"),
    (lambda t: put(t.runs / "trunks/ee/7/state"), "trunks are left over"),
    (lambda t: put(t.runs / "logs/w.log", "Traceback (most"), "w.log: contains a traceback"),
    (lambda t: put(t.folder / "launcher-0.log", "Traceback (most"), "contains a traceback"),
    (lambda t: setattr(t, "peak_bytes", 10**9), "bytes on disk, where at most"),
])
def test_every_check_can_fail(undisturbed, disturbed, damage, words):
    assert violations(undisturbed, disturbed, 2) == []
    damage(disturbed)
    assert any(words in sentence for sentence in violations(undisturbed, disturbed, 2))


def test_a_run_that_nobody_trained_is_missed(undisturbed, disturbed):
    assert violations(undisturbed, disturbed, 3) == ["undisturbed: 2 records of 3 runs"]


def test_share_of_the_steps_that_are_trained(disturbed):
    steps = {"aa": 60, "bb": 60, "cc": 80}
    (disturbed.runs / "bb" / "record.json").unlink()
    assert disturbed.share_trained(steps) == (60 + 40) / 200
    write_lines(disturbed, "bb", {"step": 50, "loss": 4.0, "tokens": 500})
    assert disturbed.share_trained(steps) == (60 + 50) / 200


def test_a_stray_process_is_found(undisturbed, disturbed):
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, f"{disturbed.runs}/plan"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stray:
        stray.stdout.readline()
        try:
            assert violations(undisturbed, disturbed, 2) == [
                f"process {stray.pid} is still running"]
        finally:
            stray.kill()
    assert violations(undisturbed, disturbed, 2) == []
