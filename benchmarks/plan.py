"""Time to plan a sweep of 10,000 runs, and to read the states of its runs once all are finished.

    python benchmarks/plan.py [--json results/benchmarks/plan.json]

Prints seconds, medians over rounds, and their ratio to reading 10,000 small JSON files in the same
rounds, which depends less on other load on the machine. `run_state` is the time to read the states
of all runs; `plan --no-measure` and `status` are whole `scaling sweep` commands, including imports
and the printed table. The store and the records are made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from scaling.config import SweepConfig, validate
from scaling.data.prepare import prepare
from scaling.files import write_atomically
from scaling.runs.state import run_state
from scaling.sweeps.plan import Plan, make_plan

SIZES, TOKENS, SEEDS = 20, 50, 10  # numbers of values in the product


def sweep_content(store: Path) -> dict[str, Any]:
    """The configuration of a sweep: a product of sizes, token counts and seeds."""
    return {
        "name": "big",
        "run": {"model": {"context": 16}, "data": {"store": str(store)}, "batch_sequences": 4,
                "schedule": {"kind": "wsd", "warmup_steps": 3}},
        "sizes": [{"d_model": 8 * k, "n_layers": 1 + k // 4, "n_heads": k}
                  for k in range(1, SIZES + 1)],
        "grids": [{"kind": "product", "tokens": [64 * (20 + k) for k in range(TOKENS)]}],
        "seeds": list(range(SEEDS)),
        "learning_rate": {"rule": "power", "learning_rate": 1e-2, "reference_params": 1000,
                          "exponent": -0.5},
    }


def write_records(plan: Plan) -> None:
    """Write the smallest files of a finished run for every run of a plan."""
    for planned in plan.runs:
        planned.folder.path.mkdir(parents=True)
        record = planned.facts | {"status": "done", "loss": 3.0, "loss_se": 0.1, "steps": 20}
        planned.folder.record_path.write_text(json.dumps(record, indent=2) + "\n")
        content = {"run_id": planned.run_id, "config": planned.run.model_dump(mode="json")}
        planned.folder.config_path.write_text(json.dumps(content, indent=2) + "\n")


def seconds(task: Callable[[], object]) -> float:
    """Seconds that a task takes."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3,
                        help="Number of rounds; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.jsonl").write_text("".join(
            json.dumps({"text": f"the quick brown fox jumps over {k} lazy dogs"}) + "\n"
            for k in range(4000)))
        prepare(f"jsonl:{folder}/text.jsonl#text", "byte", None, folder / "store", 0.1)
        content = sweep_content(folder / "store")
        sweep = validate(SweepConfig, content, "big")
        (folder / "big.yaml").write_text(yaml.safe_dump(content))

        def sweep_command(*options: str) -> None:
            subprocess.run(
                [sys.executable, "-m", "scaling.cli.main", "sweep", *options], check=True,
                cwd=folder, stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})

        plan = make_plan(sweep, "big", folder / "runs")
        write_records(plan)
        small = folder / "small"
        small.mkdir()
        paths = [small / f"{k}.json" for k in range(len(plan.runs))]
        for path in paths:
            path.write_text(json.dumps({"loss": 3.0, "steps": 20}))
        tasks: dict[str, Callable[[], object]] = {
            "small JSON files": lambda: [json.loads(path.read_text()) for path in paths],
            "make_plan": lambda: make_plan(sweep, "big", folder / "runs"),
            "run_state": lambda: [run_state(planned) for planned in plan.runs],
            "plan --no-measure": lambda: sweep_command("plan", "big.yaml", "--no-measure"),
            "status": lambda: sweep_command("status", "big.yaml"),
        }
        times: dict[str, list[float]] = {label: [] for label in tasks}
        for _ in range(rounds):
            for label, task in tasks.items():
                times[label].append(seconds(task))
    baseline = median(times["small JSON files"])
    print(f"{len(plan.runs):,} runs, {rounds} rounds")
    if arguments.json is not None:
        figures = {"runs": len(plan.runs), "rounds": rounds,
                   "seconds": {label: round(median(values), 3) for label, values in times.items()}}
        write_atomically(arguments.json, json.dumps(figures, indent=2) + "\n")
    for label, values in times.items():
        print(f"{label:18} {median(values):6.2f} s  {median(values) / baseline:6.1f} x")


if __name__ == "__main__":
    main()
