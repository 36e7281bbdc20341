"""Accuracy, interval width and speed of fits, beside simple-scaling-laws on the same sweeps.

    python benchmarks/fit_peer.py --python PYTHON [--sweeps 60] [--json FILE]

PYTHON is an interpreter (3.12 or newer) with that package installed: `python3.12 -m venv peer;
peer/bin/pip install simple-scaling-laws`. The sweeps are those of experiments/objectives.py with
normal noise of 0.4%: 5 x 5 sizes and tokens, two seeds, constants that scatter. Both packages fit
Chinchilla's form with as many resamples, one sweep after the other in turn, and predict the loss at
10 and at 100 times the largest N and D. Printed are the mean absolute error of the prediction, the
mean width of the 90% interval of the law and its coverage, and seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from experiments.objectives import KINDS, constants, loss_of, sweep
from scaling.laws import fit

WORKER = Path(__file__).with_name("fit_peer_worker.py")
RESAMPLES = 300
BEYOND = (10, 100)
LARGEST = 3e8, 6e9  # N and D of the sweeps


def ours(table: Any, points: list[tuple[float, float]]) -> tuple[list[tuple[float, ...]], float]:
    """Value and ends of the interval at each point, and seconds of processor time."""
    start = time.process_time()
    fitted = fit(table, "chinchilla", resamples=RESAMPLES)
    n, d = zip(*points, strict=True)
    found = fitted.predict(n=list(n), d=list(d), interval="confidence")
    rows = [tuple(map(float, row)) for row in found[["value", "low", "high"]].to_numpy()]
    return rows, time.process_time() - start


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, metavar="PYTHON",
                        help="Interpreter that has simple-scaling-laws.")
    parser.add_argument("--sweeps", type=int, default=60,
                        help="Number of sweeps; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    points = [(times * LARGEST[0], times * LARGEST[1]) for times in BEYOND]
    found: dict[str, list[Any]] = {"scaling": [], "simple-scaling-laws": []}
    with subprocess.Popen([arguments.python, "-W", "ignore", str(WORKER)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for seed in range(arguments.sweeps):
            table, _ = sweep(seed, KINDS[0])
            truth = [float(loss_of(constants(seed, KINDS[0]), np.array([n]), np.array([d]))[0])
                     for n, d in points]
            peer.stdin.write(json.dumps({
                "n": table.n.tolist(), "d": table.d.tolist(), "loss": table.loss.tolist(),
                "at": points, "draws": RESAMPLES}) + "\n")
            peer.stdin.flush()
            answer = json.loads(peer.stdout.readline())
            place = [answer["columns"].index(f"test_loss__nats__{name}")
                     for name in ("median", "q050", "q950")]
            rows = [tuple(row[i] for i in place) for row in answer["rows"]]
            found["simple-scaling-laws"].append((truth, rows, answer["seconds"]))
            found["scaling"].append((truth, *ours(table, points)))
        peer.stdin.close()
    figures: dict[str, Any] = {"sweeps": arguments.sweeps, "resamples": RESAMPLES}
    for name, results in found.items():
        figures[name] = {"seconds": median(seconds for _, _, seconds in results)}
        for i, times in enumerate(BEYOND):
            at = [(truth[i], *rows[i]) for truth, rows, _ in results]
            figures[name][f"at {times} times"] = {
                "error_percent": 100 * mean(abs(value / true - 1) for true, value, _, _ in at),
                "width_percent": 100 * mean((high - low) / true for true, _, low, high in at),
                "coverage_percent": 100 * mean(low <= true <= high for true, _, low, high in at)}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
