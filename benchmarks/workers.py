"""How to share two cores: one worker a core, or one process with all of them?

    python benchmarks/workers.py

Trains the same models both ways for a few seconds at a time, in turns, and prints tokens per second
summed over processes: medians over rounds, and the ratio. The quickstart's store has to be there
(`make quickstart`, or the `scaling data prepare` of its configuration).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from scaling.config import RunConfig, SweepConfig, load, override, validate

SWEEP = Path(__file__).parents[1] / "configs/sweeps/quickstart.yaml"


def tokens_per_second(run: RunConfig, splits: list[str]) -> float:
    """Sum over processes that train side by side, each on its cores."""
    plain = run.model_dump(mode="json")
    timed = {"run": plain, "same_shape": 1, "pack": 1, "workers": 1}
    content = {"models": [timed], "divide": [plain]}
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runs.json")
        path.write_text(json.dumps(content))
        command = [sys.executable, "-m", "scaling.sweeps.measure", str(path), "--cores"]
        started = [
            subprocess.Popen([*command, cores], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
            for cores in splits
        ]
        for process in started:
            assert process.stdin is not None
            process.stdin.write("0\n")
            process.stdin.close()
        for process in started:
            assert process.stdout is not None
            total += 1 / json.loads(process.stdout.read().splitlines()[-1])["per_token"]
            process.wait()
    return total


def main() -> None:
    """Print the comparison for every size of the quickstart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    sweep = load(SweepConfig, SWEEP)
    assert isinstance(sweep.sizes, tuple)
    for size in sweep.sizes:
        shape = [f"model.{k}={json.dumps(v)}" for k, v in size.model_dump().items()]
        more = ["model.vocab_size=257", "tokens=1e6"]
        run = validate(RunConfig, override(sweep.run, [*shape, *more]), "benchmark")
        apart, together = [], []
        for _ in range(rounds):
            apart.append(tokens_per_second(run, cores))
            together.append(tokens_per_second(run, [",".join(cores)]))
        ratio = median(apart) / median(together)
        print(f"d_model {size.d_model:4} x {size.n_layers}: {len(cores)} workers "
              f"{median(apart):10,.0f} tokens/s, one process {median(together):10,.0f}: "
              f"{ratio:.2f} x", flush=True)


if __name__ == "__main__":
    main()
