"""How long a sweep will take: two step times are measured, the others follow.

    python -m scaling.sweeps.cost RUNS.json --cores 0

measures each of the runs in the file and prints seconds per token as a JSON list; `Pace.measure`
calls it, so that a step is timed in a process set up as a worker is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scaling.accounting import run_flops_per_token
from scaling.accounting.hardware import peak_flops
from scaling.config import RunConfig, content_hash, validate
from scaling.errors import UserError
from scaling.files import cache_folder, write_atomically
from scaling.sweeps.ledger import Standing
from scaling.sweeps.local import Share
from scaling.sweeps.packing import seats, shape_of
from scaling.sweeps.plan import Plan
from scaling.sweeps.planning.planned import PlannedRun
from scaling.sweeps.worker import keep_to

SECONDS_PER_HOUR = 3600

START_SECONDS = 3.0
"""What a run takes besides its steps: set-up, evaluation, checkpoint; a round figure."""


@dataclass(frozen=True)
class Pace:
    """Seconds for a token as a line through two measured models."""

    seconds: float
    """For a token of no arithmetic."""
    seconds_per_flop: float

    @classmethod
    def measure(
        cls, runs: list[PlannedRun], share: Share, pack: str | int = "auto", workers: int = 1
    ) -> Pace:
        """Time the smallest and the largest model, or look up when they were timed here before.

        Args:
            runs: those of a plan.
            share: of the machine that a worker has.
            pack: how many runs of one shape train side by side (SweepConfig.pack).
            workers: that share the runs.

        Raises:
            UserError: a step cannot be taken.
        """
        ends = sorted(runs, key=lambda p: run_flops_per_token(p.run))
        pair = [ends[0], ends[-1]]
        alike = Counter(shape_of(p.run) for p in runs)
        timed = [_Timed(p.run, alike[shape_of(p.run)], pack, workers) for p in pair]
        times = _measured(timed, share)
        flops = [run_flops_per_token(p.run) for p in pair]
        if flops[0] == flops[1]:
            return cls(0.0, times[0] / flops[0])
        slope = max(0.0, (times[1] - times[0]) / (flops[1] - flops[0]))
        return cls(max(0.0, times[0] - slope * flops[0]), slope)

    @classmethod
    def modelled(cls, gpu: str, mfu: float) -> Pace:
        """The pace of an accelerator that reaches a share of its peak.

        Args:
            gpu: its name (accounting/hardware.py).
            mfu: model FLOPs utilisation, in (0, 1].

        Raises:
            UserError: no accelerator is known by the name, or the share is none.
        """
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g}: a share of the peak between 0 and 1 is expected")
        return cls(0.0, 1 / (peak_flops(gpu) * mfu))

    def seconds_of_step(self, planned: PlannedRun) -> float:
        """Estimated seconds of one step of a run."""
        per_token = self.seconds + self.seconds_per_flop * run_flops_per_token(planned.run)
        return planned.run.batch_tokens * per_token

    def seconds_left(self, planned: PlannedRun, now: Standing) -> float:
        """Estimated seconds until a run is over."""
        if now.over:
            return 0.0
        return START_SECONDS + (planned.run.steps - now.step) * self.seconds_of_step(planned)


def within_hours(plan: Plan, pace: Pace) -> Plan:
    """The plan with the sweep's max_device_hours, where it has one.

    Raises:
        UserError: they pay for no run of the grid.
    """
    hours = plan.sweep.max_device_hours
    if hours is None:
        return plan
    return plan.capped(pace.seconds_of_step, hours * SECONDS_PER_HOUR, "max_device_hours")


class _Timed(NamedTuple):
    """What a step is timed of: a run among so many of its shape, packed as the sweep asks."""

    run: RunConfig
    alike: int
    pack: str | int
    workers: int


def _measured(runs: list[_Timed], share: Share) -> list[float]:
    """Seconds per token of each run, from the cache where it has them."""
    host = {"cores": len(share.cores), "gpu": share.gpu is not None, "node": os.uname().nodename}
    # Where nothing is packed (on a CPU only for a number), it does not matter who else is alike.
    keys = [content_hash([host, _shape(run), *(
        [] if pack == 1 or (pack == "auto" and share.gpu is None) else [alike, pack, workers])])
        for run, alike, pack, workers in runs]
    path = cache_folder() / "step_times.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    missing = [run for key, run in zip(keys, runs, strict=True) if key not in known]
    if missing:
        fresh = iter(_measure(missing, share))
        known |= {key: next(fresh) for key in keys if key not in known}
        write_atomically(path, json.dumps(known) + "\n")
    return [known[key] for key in keys]


def _shape(run: RunConfig) -> dict[str, Any]:
    """What the time of a step depends on."""
    kept = {"model", "objective", "batch_sequences", "precision", "execution"}
    return run.model_dump(mode="json", include=kept)


def _measure(runs: list[_Timed], share: Share) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runs.json")
        path.write_text(json.dumps(
            [timed._asdict() | {"run": timed.run.model_dump(mode="json")} for timed in runs]))
        command = [sys.executable, "-m", "scaling.sweeps.cost", str(path)]
        command += ["--cores", ",".join(map(str, share.cores))]
        command += ["--gpu", share.gpu] if share.gpu is not None else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"a training step could not be timed: {last}")
    times: list[float] = json.loads(result.stdout)
    return times


def main() -> None:
    """Time the runs of a file; see the head of this module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--cores", required=True)
    parser.add_argument("--gpu")
    arguments = parser.parse_args()
    keep_to(sorted(int(core) for core in arguments.cores.split(",")), arguments.gpu)
    from scaling.parallel.process import start_process
    from scaling.training.cores import divide_cores
    from scaling.training.pace import time_step

    runs = [_Timed(**entry | {"run": validate(RunConfig, entry["run"], "run")})
            for entry in json.loads(arguments.runs.read_text())]
    start_process()
    if not any(timed.pack not in ("auto", 1) for timed in runs):  # a pack has one device
        divide_cores([timed.run for timed in runs])
    print(json.dumps([time_step(timed.run, seats(*timed)) for timed in runs]))


if __name__ == "__main__":
    main()
