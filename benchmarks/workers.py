"""Speed of training with one worker per core, compared with one process that has all cores.

    python benchmarks/workers.py [--rounds 3]

Trains every size of the quickstart both ways, alternately for a few seconds each, and prints tokens
per second summed over processes: medians over rounds, and their ratio. Requires the token store of
the quickstart (`make quickstart`, or the `scaling data prepare` command of its configuration).
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


def tokens_per_second(run: RunConfig, cores_of_processes: list[str]) -> float:
    """Tokens per second, summed over concurrent processes that each train the run.

    Args:
        run: the run whose steps are timed.
        cores_of_processes: the cores of each process, separated by commas.
    """
    config = run.model_dump(mode="json")
    timed = {"run": config, "same_shape": 1, "pack": 1, "workers": 1}
    content = {"models": [timed], "divide": [config]}
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runs.json")
        path.write_text(json.dumps(content))
        command = [sys.executable, "-m", "scaling.sweeps.measure", str(path), "--cores"]
        processes = [
            subprocess.Popen([*command, cores], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
            for cores in cores_of_processes
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("0\n")
            process.stdin.close()
        for process in processes:
            assert process.stdout is not None
            total += 1 / json.loads(process.stdout.read().splitlines()[-1])["per_token"]
            process.wait()
    return total


def main() -> None:
    """Print the comparison for every size of the quickstart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3,
                        help="Number of rounds; %(default)s by default.")
    rounds = parser.parse_args().rounds
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    sweep = load(SweepConfig, SWEEP)
    assert isinstance(sweep.sizes, tuple)
    for size in sweep.sizes:
        shape = [f"model.{k}={json.dumps(v)}" for k, v in size.model_dump().items()]
        other = ["model.vocab_size=257", "tokens=1e6"]
        run = validate(RunConfig, override(sweep.run, [*shape, *other]), "benchmark")
        one_per_core, one_process = [], []
        for _ in range(rounds):
            one_per_core.append(tokens_per_second(run, cores))
            one_process.append(tokens_per_second(run, [",".join(cores)]))
        ratio = median(one_per_core) / median(one_process)
        print(f"d_model {size.d_model:4} x {size.n_layers} layers: {len(cores)} workers "
              f"{median(one_per_core):10,.0f} tokens/s, one process "
              f"{median(one_process):10,.0f} tokens/s: {ratio:.2f} x", flush=True)


if __name__ == "__main__":
    main()
