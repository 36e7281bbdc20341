"""The Slurm launcher against a real Slurm: what is pre-empted comes back, and the losses stay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scaling.errors import UserError
from scaling.sweeps.slurm import cancel, living, sbatch_options
from tests.conftest import assert_refused
from tests.sweeps.slurm.cluster import START_SECONDS, STOP_SECONDS, processes_of

CLUSTER = Path(__file__).parent / "slurm" / "cluster.py"
missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
with_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing), reason=f"needs Slurm (make test-slurm): no {missing}"),
]


def slurm_test(test):
    for mark in with_slurm:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Path]:
    """Two nodes of two cores; SLURM_CONF is set while it is there."""
    root = tmp_path_factory.mktemp("slurm")
    with (root / "cluster.err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(CLUSTER), str(root), "2", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(root / "slurm.conf"))
        try:
            assert process.stdout.readline() == "ready\n", (root / "cluster.err").read_text()
            yield root
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(START_SECONDS + 4 * STOP_SECONDS)
    assert not list(processes_of(root / "slurm.conf"))


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def restarts(job: str) -> int:
    words = dict(w.partition("=")[::2] for w in slurm("scontrol", "show", "job", job).split())
    return int(words["Restarts"])


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, slurm("squeue")
        time.sleep(0.1)


def losses(results: Path) -> dict[str, tuple[str, str]]:
    """Exact text of each grid run's loss and standard error."""
    table = pd.read_csv(results / "runs.csv", dtype=str)
    table = table[table["role"] == "grid"]
    assert set(table["status"]) == {"done"}
    return {row.run_id: (row.loss, row.loss_se) for row in table.itertuples()}


@slurm_test
def test_an_array_of_workers_preempted_and_drained_gives_the_losses_of_a_local_sweep(
    cluster, scaling, sweep_file, sweep_content
):
    sweep_content["tokens"] = [n * 64 for n in (250, 300)]
    sweep_content["seeds"] = [0, 1, 2]
    sweep_content["run"]["data"]["epochs"] = 10
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    whole = scaling("sweep", "run", sweep_file, "--runs", "whole", "--out", "local")
    assert whole.returncode == 0, whole.stderr
    by_slurm = ("sweep", "run", sweep_file, "--launcher", "slurm", "--partition", "debug",
                "--workers", 3, "--out", "by-slurm")
    submitted = scaling(*by_slurm, "--no-wait")
    assert submitted.returncode == 0, submitted.stderr
    folder = sweep_file.parent
    (array,) = json.loads((folder / "runs/logs/tiny.grid.slurm.json").read_text())["jobs"]
    until(lambda: len(list(folder.glob("runs/*/metrics.jsonl"))) >= 3)
    slurm("scontrol", "requeue", f"{array}_0")
    slurm("scancel", "--signal=USR2", f"{array}_1")
    slurm("scancel", "--signal=TERM", f"{array}_2")
    slurm("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    try:
        again = scaling(*by_slurm)
    finally:
        slurm("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert again.returncode == 0, again.stderr
    assert "nothing submitted" in again.stderr
    assert "12 done" in again.stdout
    assert losses(folder / "by-slurm") == losses(folder / "local")
    assert [restarts(f"{array}_{i}") for i in range(3)] == [1, 1, 1]
