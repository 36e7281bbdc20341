"""Step times on this machine, measured within a time budget.

    python -m scaling.sweeps.measure RUNS.json --cores 0

is the measuring process. It is set up like a worker, so that its compiled programs are in the cache
when a worker needs them. It reads indices into the file's list from standard input, one a line, and
answers with lines of JSON: the seconds per token after every step, then a line with `took`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

from scaling.accounting import run_flops_per_token
from scaling.config import RunConfig, content_hash, validate
from scaling.errors import UserError
from scaling.files import cache_folder, read_json, write_atomically
from scaling.launch.local import Share
from scaling.launch.packing import slots_of
from scaling.launch.worker import keep_to
from scaling.runs.files import is_number

BUDGET_SECONDS = 20.0
"""Time limit of a measurement by `scaling sweep plan`."""

_TICK_SECONDS = 0.2
_STEPS = 7  # of a measurement (training/profile.py), including uncounted ones

TimingCallback = Callable[[float, str], None]
"""Called with the elapsed seconds, and the model that is being timed."""


class TimedRun(NamedTuple):
    """A run whose step is timed, packed with others of its shape as in the sweep."""

    run: RunConfig
    same_shape: int
    """Number of runs of this shape."""
    pack: str | int
    """Number of runs that train concurrently (SweepConfig.pack)."""
    workers: int
    """Number of workers that share the runs."""


@dataclass(frozen=True)
class _Measurement:
    """The time of a step."""

    per_token: float
    """Seconds per token."""
    seconds: float
    """Total time, with compilation and all steps."""


def measure(
    models: Sequence[TimedRun], share: Share, divide: Sequence[RunConfig],
    budget: float | None = BUDGET_SECONDS,
    watch: TimingCallback = lambda seconds, model: None,
) -> dict[int, float]:
    """Seconds per token of the smallest model, and of the largest one that the budget allows.

    Times measured on this machine before are read from the cache.

    Args:
        models: by FLOPs per token, the smallest first.
        share: cores or GPU of one worker.
        divide: runs whose batches and parameters determine how a worker divides its cores.
        budget: seconds in total; None for no limit.
        watch: called with the progress.

    Returns:
        By index in `models`. Empty if no step of the smallest ended within the budget.

    Raises:
        UserError: a step fails.
    """
    path = cache_folder() / "step_times.json"
    known = _read_cache(path)
    keys = [_key(model, share) for model in models]
    ends = {0, len(models) - 1}
    if all(keys[place] in known for place in ends):
        return {place: known[keys[place]] for place in ends}
    with _TimingProcess(models, share, divide, budget, watch) as process:
        found = {place: _Measurement(known[key], 0.0)
                 for place, key in enumerate(keys) if key in known}
        while (place := _next(models, found, process.left())) is not None:
            measurement = process.time(place)
            if measurement is None:
                break
            found[place] = measurement
            known[keys[place]] = measurement.per_token
    with suppress(OSError):  # without the cache, only the next measurement takes longer
        write_atomically(path, json.dumps(known) + "\n")
    return {place: each.per_token for place, each in found.items()} | process.unfinished


def _next(
    models: Sequence[TimedRun], found: dict[int, _Measurement], left: float
) -> int | None:
    """The next model to measure: the smallest, then the largest that is expected to finish in the
    time left. Half of the compilation grows with the layers, and a step with its FLOPs."""
    if 0 not in found:
        return 0
    largest = max(found)
    run, measured = models[largest].run, found[largest]
    steps = _STEPS * measured.per_token * run.batch_tokens
    for place in range(len(models) - 1, largest, -1):
        other = models[place].run
        growth = run_flops_per_token(other) / run_flops_per_token(run)
        layers = max(1.0, other.model.n_layers / run.model.n_layers)
        seconds = (max(0.0, measured.seconds - steps) * (1 + layers) / 2
                   + steps * growth * other.batch_tokens / run.batch_tokens)
        if seconds <= left:
            return place
    return None


class _TimingProcess:
    """The measuring process, which is killed at the end of the `with`."""

    def __init__(
        self, models: Sequence[TimedRun], share: Share, divide: Sequence[RunConfig],
        budget: float | None, watch: TimingCallback,
    ) -> None:
        self._models, self._watch = models, watch
        self._start = time.monotonic()
        self._budget = float("inf") if budget is None else budget
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name, "errors")
        self._lines: Queue[str | None] = Queue()
        self.unfinished: dict[int, float] = {}
        """Seconds per token of a model whose measurement the end of the budget interrupted."""
        runs = Path(self._folder.name, "runs.json")
        runs.write_text(json.dumps({
            "models": [model._asdict() | {"run": model.run.model_dump(mode="json")}
                       for model in models],
            "divide": [run.model_dump(mode="json") for run in divide]}))
        command = [sys.executable, "-m", "scaling.sweeps.measure", str(runs),
                   "--cores", ",".join(map(str, share.cores))]
        command += ["--gpu", share.gpu] if share.gpu is not None else []
        with self._errors.open("wb") as errors:
            # In its own session, Ctrl-C reaches only this process, which then ends the other.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> _TimingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        with suppress(OSError):  # the rest of its buffer has no reader
            self._process.stdin.close()
        self._folder.cleanup()

    def left(self) -> float:
        """Seconds left of the budget."""
        return self._start + self._budget - time.monotonic()

    def time(self, place: int) -> _Measurement | None:
        """Measure a model; None if the budget ends first.

        Raises:
            UserError: a step fails.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended; the reason is reported below
            self._process.stdin.write(f"{place}\n")
            self._process.stdin.flush()
        model = self._models[place].run.model
        while self.left() > 0:
            self._watch(time.monotonic() - self._start, f"d_model {model.d_model} x "
                        f"{model.n_layers}")
            with suppress(Empty):
                line = self._lines.get(timeout=min(_TICK_SECONDS, max(0.0, self.left())))
                if line is None:
                    raise UserError(f"a training step could not be timed: {self._last_error()}; "
                                    "--no-measure plans without it")
                answer = json.loads(line)
                self.unfinished[place] = answer["per_token"]
                if "took" in answer:
                    return _Measurement(self.unfinished.pop(place), answer["took"])
        return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_error(self) -> str:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        prefix = f"{UserError.__module__}.{UserError.__name__}: "
        return lines[-1].removeprefix(prefix) if lines else "it ended without a message"


def _read_cache(path: Path) -> dict[str, float]:
    """Cached seconds per token by key; unreadable values are measured again."""
    with suppress(OSError, UserError):
        return {key: float(value) for key, value in read_json(path).items()
                if is_number(value) and value > 0}
    return {}


def _key(model: TimedRun, share: Share) -> str:
    """Hash of all that the time of a step depends on."""
    host = {"cores": len(share.cores), "gpu": share.gpu is not None, "node": os.uname().nodename}
    shape = model.run.model_dump(mode="json", include={
        "model", "objective", "trainable", "batch_sequences", "precision", "execution"})
    # Without packing (on a CPU, only a number packs), other runs of the shape do not matter.
    alone = model.pack == 1 or (model.pack == "auto" and share.gpu is None)
    return content_hash([host, shape, *([] if alone else model[1:])])


def main() -> None:
    """Time the models of a file; see the docstring of this module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--cores", required=True)
    parser.add_argument("--gpu")
    arguments = parser.parse_args()
    keep_to(sorted(int(core) for core in arguments.cores.split(",")), arguments.gpu)
    from scaling.parallel.cpu_devices import divide_cores
    from scaling.parallel.process import find_devices, start_process
    from scaling.training.profile import time_steps

    def run_of(content: Any) -> RunConfig:
        return validate(RunConfig, content, "run")

    content = json.loads(arguments.runs.read_text())
    models = [TimedRun(**entry | {"run": run_of(entry["run"])}) for entry in content["models"]]
    start_process()
    if all(model.pack in ("auto", 1) for model in models):  # a pack has one device
        divide_cores([run_of(entry) for entry in content["divide"]])
    find_devices()
    for line in sys.stdin:
        model, start = models[int(line)], time.perf_counter()
        per_token = 0.0
        for per_token in time_steps(model.run, slots_of(*model)):
            print(json.dumps({"per_token": per_token}), flush=True)
        took = time.perf_counter() - start
        print(json.dumps({"per_token": per_token, "took": took}), flush=True)


if __name__ == "__main__":
    main()
