"""Two processes that train a run together stop after the same step, and one of them writes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.parallel import process

PROGRAM = Path(__file__).parent / "two_processes.py"


def start(port: int, folder: Path, store: Path, steps: int) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(port), str(i), str(folder), str(store), str(steps)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[dict[str, object]]:
    ends = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


@pytest.mark.slow
@pytest.mark.alone
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(store_path, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics = tmp_path / "run/metrics.jsonl"
    processes = start(port, tmp_path / "run", store_path, steps=20_000)
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)
        ends = finish(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert ends[0] == ends[1]
    assert 0 < ends[0]["step"] < 20_000
    (saved,) = (tmp_path / "run/checkpoints").glob("[0-9]*")
    assert int(saved.name) == ends[0]["step"]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert sorted(set(steps)) == steps


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_lose_what_one_loses(make_run, store, store_path, tmp_path):
    from scaling.training.loop import train

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = finish(start(port, tmp_path / "two", store_path, steps=24))
    run = make_run(data={"store": str(store_path), "epochs": 1000})
    alone = train(run, store, tmp_path / "one")
    assert ends[0]["loss"] == ends[1]["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert ends[0]["run_id"] == alone["run_id"]


@pytest.mark.parametrize("index", [0, 1])
def test_the_coordinator_listens_where_it_is_reached_and_nowhere_else(monkeypatch, index):
    asked = {}
    monkeypatch.setattr(process.jax.distributed, "initialize",
                        lambda *words, **options: asked.update(options))
    monkeypatch.setattr(process.jax.config, "update", lambda *_: None)
    process.join_processes("127.0.0.1:61000", 2, index)
    assert asked["coordinator_bind_address"] == "127.0.0.1:61000"
    assert not asked["coordinator_bind_address"].startswith(("0.0.0.0", "[::]", ":"))
