"""Number of devices of a CPU. That results do not depend on it is tested in test_mesh.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from scaling.parallel import cpu_devices as module
from scaling.parallel.cpu_devices import available_cores, cpu_devices, divide_cores

LARGE = ("model.d_model=1024", "model.n_layers=8", "model.vocab_size=1000")  # 0.1 billion


@pytest.mark.parametrize(("changes", "cores", "expected"), [
    (("batch_sequences=12",), 1, 1),
    (("batch_sequences=12",), 2, 2),
    (("batch_sequences=12",), 8, 6),  # the largest number that divides 12
    (("batch_sequences=7",), 4, 1),
    (("batch_sequences=12", "execution.mesh.data=3"), 8, 3),
    (("batch_sequences=12", "execution.mesh.fsdp=2"), 8, 6),  # 3 x 2; 4 x 2 do not divide 12
    (("batch_sequences=12", "execution.mesh.fsdp=2"), 1, 1),  # make_mesh refuses it
    (("batch_sequences=12", "execution.mesh.data=64"), 2, 2),
    (("batch_sequences=64", *LARGE), 64, 2),  # 1.6 GB a copy
    (("batch_sequences=64", *LARGE, "execution.mesh.fsdp=4"), 64, 32),
])
def test_devices_divide_the_batch_evenly(make_run, changes, cores, expected):
    run = make_run(*changes, "tokens=100000000", "data.epochs=2000")
    assert cpu_devices([run], cores) == expected


def test_runs_of_one_process_share_its_devices(make_run):
    runs = [make_run(f"batch_sequences={n}") for n in (4, 6)]
    assert cpu_devices(runs, 4) == 2


@pytest.mark.parametrize(("changes", "expected"), [
    (("batch_sequences=12",), 3),  # of 4, the largest number that divides this process's 6
    (("batch_sequences=12", "execution.mesh.data=4"), 2),
    (("batch_sequences=12", "execution.mesh.data=2", "execution.mesh.tensor=2"), 2),
    (("batch_sequences=12", "execution.mesh.fsdp=2"), 2),  # 6 / 2 = 3 is not divided by 2
])
def test_processes_share_the_batch_and_the_mesh(make_run, changes, expected):
    run = make_run(*changes, "tokens=100000000", "data.epochs=2000")
    assert cpu_devices([run], 4, processes=2) == expected


def test_runs_of_one_process_have_room_for_the_largest(make_run):
    options = ("batch_sequences=64", "tokens=100000000", "data.epochs=2000")
    small, large = make_run(*options), make_run(*options, *LARGE)
    assert cpu_devices([small, large], 64) == cpu_devices([large, small], 64) == 2
    assert cpu_devices([small], 64) == 64


def test_devices_are_set_once_and_have_a_thread_each(make_run, monkeypatch):
    """Flags of the user stay, and so does a number of devices that the user has set."""
    set_to = {}
    config = SimpleNamespace(jax_num_cpu_devices=-1, update=lambda *words: set_to.update([words]))
    monkeypatch.setattr(module, "jax", SimpleNamespace(config=config))
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    run = make_run("batch_sequences=12", "tokens=100000000", "data.epochs=2000")
    divide_cores([run], cores=1)
    assert set_to == {"jax_num_cpu_devices": 1}
    assert os.environ["XLA_FLAGS"] == "--xla_a=1"
    divide_cores([run], cores=4, processes=2)
    assert set_to == {"jax_num_cpu_devices": 3}
    assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_cpu_multi_thread_eigen=false"
    set_to.clear()
    config.jax_num_cpu_devices = 1
    divide_cores([run], cores=4)
    assert not set_to


def test_a_process_that_has_computed_keeps_its_devices(make_run):
    script = """
import json, sys, jax
from scaling.config import RunConfig, validate
from scaling.parallel.cpu_devices import divide_cores
run = validate(RunConfig, json.loads(sys.argv[1]), "run")
print(len(jax.devices()) if sys.argv[2] == "late" else 0)
divide_cores([run])
print(len(jax.devices()))
"""
    run = make_run("batch_sequences=8", "execution.mesh.data=2").model_dump_json()
    expected = str(min(2, available_cores()))
    found = [
        subprocess.run([sys.executable, "-c", script, json.dumps(json.loads(run)), when],
                       capture_output=True, text=True, check=True, timeout=100).stdout.split()
        for when in ("early", "late")
    ]
    assert found == [["0", expected], ["1", "1"]]
