"""`scaling train`: from a YAML file to a record, through interruptions, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from scaling.cli.train import outcome
from tests.conftest import ROOT, assert_refused, run_content


@pytest.fixture
def run_file(store_path, tmp_path):
    path = tmp_path / "run.yaml"
    content = run_content(store_path, checkpoint={"every_seconds": 0})
    path.write_text(yaml.safe_dump(content))
    return path


def test_train_and_ask_again(scaling, run_file, tmp_path):
    first = scaling("train", run_file, "--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert (tmp_path / "runs" / record["run_id"] / "record.json").exists()
    again = scaling("train", run_file, "logging.every_steps=1", "--json")
    assert json.loads(again.stdout) == record
    assert "trained already" in again.stderr
    text = scaling("train", run_file)
    assert f"loss {record['loss']:.4f} ± {record['loss_se']:.4f} nats/token" in text.stdout


def test_a_loss_per_byte_is_said_where_there_is_one():
    record = {
        "status": "done", "loss": 2.5, "loss_se": 0.01, "target_entropy": 3.1, "tokens": 4000,
        "params_total": 900, "params_non_embedding": 500, "bits_per_byte": 1.25, "steps": 7,
    }
    assert "(the targets' frequencies alone: 3.1000), 1.2500 bits/byte, 4,000" in outcome(record)
    masked = outcome(record | {"bits_per_byte": None})
    assert "byte" not in masked
    assert "alone: 3.1000), 4,000 tokens" in masked
    assert "diverged after 7 steps" in outcome(record | {"status": "diverged", "loss": None})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.d_modle=4"], ["run.yaml", "model.d_modle: unknown key; did you mean d_model?"]),
        (["model.d_model=wide"], ["model.d_model", "integer", "'wide'"]),
        (["model.n_heads=3"], ["model.n_heads: 3 does not divide d_model = 8"]),
        (["model.context=100000", "tokens=1e8"], ["a sequence longer than the split holds"]),
        (["tokens=1e9"], ["needs 1,000,000,000 tokens", "set data.epochs to"]),
        (["data.store=nowhere"], ["nowhere: no such store", "scaling data prepare"]),
        (["execution.mesh.fsdp=999"], ["execution.mesh", "makes 999 devices, and there are"]),
        (["batch_sequences"], ["not an override", "key=value"]),
    ],
)
def test_a_mistake_ends_with_status_2(scaling, run_file, tmp_path, overrides, words):
    assert_refused(scaling("train", run_file, *overrides), *words)
    assert not list(tmp_path.glob("runs/*/record.json"))


def test_a_folder_of_another_run_is_refused_and_left_alone(scaling, run_file, tmp_path):
    assert scaling("train", run_file, "--out", "mine").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "mine").glob("*.json*")}
    refused = scaling("train", run_file, "seed=1", "--out", "mine")
    assert_refused(refused, "holds another run", "differs in seed", "--out")
    assert {p: p.read_bytes() for p in before} == before


def test_a_folder_that_cannot_be_written_is_refused(scaling, run_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_refused(scaling("train", run_file, "--out", "file/run"), "file/run", "not a directory")
    assert_refused(scaling("train", tmp_path / "nothing.yaml"), "nothing.yaml", "no such file")


def start(run_file, out, *overrides):
    command = [sys.executable, "-m", "scaling.cli.main", "train", str(run_file), "--out", out]
    return subprocess.Popen(
        [*command, *overrides], cwd=run_file.parent, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_loss(scaling, run_file, tmp_path):
    whole = json.loads(scaling("train", run_file, "--out", "whole", "--json").stdout)
    draw = random.Random(time.time_ns())
    kills = 0
    for _ in range(30):
        process = start(run_file, "hurt")
        # Half of the kills come at any moment, half soon after training has begun.
        if draw.random() < 0.5:
            metrics = tmp_path / "hurt" / "metrics.jsonl"
            size = metrics.stat().st_size if metrics.exists() else 0
            while process.poll() is None and not (
                metrics.exists() and metrics.stat().st_size > size
            ):
                time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if (tmp_path / "hurt" / "record.json").exists() or kills == 3:
            break
    assert kills > 0
    hurt = json.loads(scaling("train", run_file, "--out", "hurt", "--json").stdout)
    for key in ("loss", "loss_se", "run_id", "steps"):
        assert hurt[key] == whole[key]


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_goes_on(scaling, run_file, tmp_path):
    long = ("tokens=60_000", "checkpoint.every_seconds=60")
    process = start(run_file, "asked", *long)
    metrics = tmp_path / "asked" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, messages
    assert "the same command goes on from there" in messages
    assert "Traceback" not in messages
    stopped_at = max(int(p.name) for p in (tmp_path / "asked/checkpoints").glob("[0-9]*"))
    assert f"stopped after step {stopped_at} of 937" in messages
    again = scaling("train", run_file, "--out", "asked", *long, "--json")
    assert json.loads(again.stdout)["steps"] == 937


@pytest.mark.slow
def test_two_processes_do_not_train_one_run(scaling, run_file, tmp_path):
    from scaling.training.run_folder import RunFolder

    with RunFolder(tmp_path / "one").lock() as mine:
        assert mine
        second = scaling("train", run_file, "--out", "one")
    assert_refused(second, "another process is training this run")
    assert scaling("train", run_file, "--out", "one").returncode == 0
