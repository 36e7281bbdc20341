"""`scaling train`: from a YAML file to a record, through interruptions, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
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


@pytest.fixture
def train(command, tmp_path):
    """`scaling train` in this process, in the folder of the test."""
    def run(*words):
        return command("train", *words, cwd=tmp_path)
    return run


def test_train_and_repeat_the_command(scaling, command, run_file, tmp_path):
    first = scaling("train", run_file, "--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert (tmp_path / "runs" / record["run_id"] / "record.json").exists()
    again = command("train", run_file, "logging.every_steps=1", "--json", cwd=tmp_path)
    assert json.loads(again.out) == record
    assert "trained already" in again.err
    text = command("train", run_file)
    assert f"loss {record['loss']:.4f} ± {record['loss_se']:.4f} nats/token" in text.out


def test_a_run_begins_from_another_by_its_identity(train, run_file, tmp_path):
    """The losses say so: fine-tuning goes on from where the other ended."""
    first = json.loads(train(run_file, "--json").out)
    some = "trainable={roles: [gain, hidden]}"
    tuned = train(run_file, f"init.run={first['run_id']}", some, "--json")
    assert tuned.code == 0, tuned.err
    record = json.loads(tuned.out)
    assert record["init"] == {"run_id": first["run_id"], "step": first["steps"]}
    assert record["params_trained"] < record["params_total"]
    assert record["loss"] < first["loss"]
    wide = train(run_file, f"init.run={first['run_id']}", "model.d_model=16")
    assert_refused(wide, f"init.run = runs/{first['run_id']}", "d_model is 8 there and 16 here")
    mine = train(run_file, "--out", f"runs/{record['run_id']}")
    assert_refused(mine, "belongs to another run", "differs in init.run_id", "trainable")


def test_the_loss_per_byte_is_shown_if_known():
    record = {
        "status": "done", "loss": 2.5, "loss_se": 0.01, "target_entropy": 3.1, "tokens": 4000,
        "params_total": 900, "params_non_embedding": 500, "bits_per_byte": 1.25, "steps": 7,
    }
    assert "(unigram entropy of the targets: 3.1000), 1.2500 bits/byte, 4,000" in outcome(record)
    masked = outcome(record | {"bits_per_byte": None})
    assert "byte" not in masked
    assert "targets: 3.1000), 4,000 tokens" in masked
    assert "diverged after 7 steps" in outcome(record | {"status": "diverged", "loss": None})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.d_modle=4"], ["run.yaml", "model.d_modle: unknown key; did you mean d_model?"]),
        (["model.d_model=wide"], ["model.d_model", "integer", "'wide'"]),
        (["model.n_heads=3"], ["model.n_heads: 3 does not divide d_model = 8"]),
        (["model.context=100000", "tokens=1e8"], ["is shorter than a sequence"]),
        (["tokens=1e9"], ["needs 1,000,000,000 tokens", "set data.epochs to"]),
        (["data.store=nowhere"], ["nowhere: no such store", "scaling data prepare"]),
        (["execution.mesh.fsdp=999"], ["execution.mesh", "makes 999 devices, and there are"]),
        (["batch_sequences"], ["not an override", "key=value"]),
    ],
)
def test_a_mistake_ends_with_status_2(train, run_file, tmp_path, overrides, words):
    assert_refused(train(run_file, *overrides), *words)
    assert not list(tmp_path.glob("runs/*/record.json"))


def test_a_folder_of_another_run_is_refused_and_left_alone(train, run_file, tmp_path):
    assert train(run_file, "--out", "mine").code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "mine").glob("*.json*")}
    refused = train(run_file, "seed=1", "--out", "mine")
    assert_refused(refused, "belongs to another run", "differs in seed", "--out")
    assert {p: p.read_bytes() for p in before} == before


def test_a_folder_that_cannot_be_written_is_refused(train, run_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_refused(train(run_file, "--out", "file/run"), "file/run", "not a directory")
    assert_refused(train(tmp_path / "nothing.yaml"), "nothing.yaml", "no such file")


def test_a_run_that_diverges_ends_with_status_1(train, run_file, tmp_path):
    for words in (["--json"], []):  # trained, and repeated from the record
        done = train(run_file, "optimizer.learning_rate=1e30", "--out", "d", *words)
        assert done.code == 1, done.err
        assert "Traceback" not in done.err
        assert "diverged after" in done.err
        assert "try a smaller optimizer.learning_rate" in done.err
        record = json.loads((tmp_path / "d" / "record.json").read_text())
        assert record["status"] == "diverged"
        assert (json.loads(done.out) == record) if words else done.out == ""


def test_a_run_that_is_too_large_is_refused_with_the_available_memory(train, run_file, tmp_path):
    done = train(run_file, "model.d_model=131072")
    assert_refused(done, "needs at least", "this machine has")
    assert not list(tmp_path.glob("runs/*/record.json"))


def start(run_file, out, *overrides):
    command = [sys.executable, "-m", "scaling.cli.main", "train", str(run_file), "--out", out]
    return subprocess.Popen(
        [*command, *overrides], cwd=run_file.parent, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.alone
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
@pytest.mark.alone
def test_a_stopped_run_saves_and_continues(scaling, run_file, tmp_path):
    long = ("tokens=60_000", "checkpoint.every_seconds=60")
    process = start(run_file, "asked", *long)
    metrics = tmp_path / "asked" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, messages
    assert "the same command continues" in messages
    assert "Traceback" not in messages
    stopped_at = max(int(p.name) for p in (tmp_path / "asked/checkpoints").glob("[0-9]*"))
    assert f"stopped after step {stopped_at} of 937" in messages
    again = scaling("train", run_file, "--out", "asked", *long, "--json")
    assert json.loads(again.stdout)["steps"] == 937


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_do_not_train_one_run(scaling, run_file, tmp_path):
    from scaling.runs.folder import RunFolder

    with RunFolder(tmp_path / "one").lock() as mine:
        assert mine
        second = scaling("train", run_file, "--out", "one")
    assert_refused(second, "another process is training this run")
    assert scaling("train", run_file, "--out", "one").returncode == 0


@pytest.mark.parametrize("name", ["runs.csv", "notes", ".git"])
def test_a_run_does_not_use_a_folder_with_other_files(command, run_file, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    done = command("train", run_file, "--out", tmp_path / "mine")
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert name in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]


INTERRUPTED = """
import gc, importlib.abc, os, signal, sys
from scaling.cli.main import main

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "jax":
            sys.meta_path.remove(self)
            gc.callbacks.append(interrupt)
            gc.collect()

def interrupt(phase, info):
    gc.callbacks.remove(interrupt)
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # Python runs the handler here
        pass

sys.meta_path.insert(0, Watch())
sys.argv = ["scaling", "train", sys.argv[1], "--out", sys.argv[2]]
main()
"""


def test_an_interruption_during_the_import_of_jax_is_not_lost(run_file, tmp_path):
    """In a callback of the garbage collector, where an exception is printed and forgotten."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, run_file, tmp_path / "out"],
                          capture_output=True, text=True, timeout=200, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.splitlines()[-1] == "stopped before the first step"
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_a_run_does_not_follow_a_link_to_other_files(command, run_file, tmp_path):
    (tmp_path / "docs/7").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "docs/7/text").write_text("mine")
    command("train", run_file, cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(run)
    run.symlink_to("../docs")
    assert "7; " in assert_one_error(command("train", run_file))
    run.unlink()
    run.mkdir()
    (run / "checkpoints").symlink_to("../../docs")
    assert "checkpoints: is in the place of a file or folder" in assert_one_error(
        command("train", run_file))
    assert [path.name for path in (tmp_path / "docs").rglob("*")] == ["7", "text"]


def assert_one_error(done) -> str:
    assert done.code == 2
    (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    return line
