"""Fits of simple-scaling-laws to sweeps from standard input, for `benchmarks/fit_peer.py`.

Runs under a Python 3.12 with that package, and imports nothing of this one. Each line of the input
is a JSON object with n, d, loss, and the points to predict; each line of the output one with the
medians, the ends of 90% intervals, and the seconds of processor time.
"""

import json
import sys
import time

import polars
from simple_scaling_laws import fit

for line in sys.stdin:
    sweep = json.loads(line)
    runs = polars.DataFrame({
        "training_run_id": [f"run{i}" for i in range(len(sweep["n"]))],
        "test_set_id": ["held-out"] * len(sweep["n"]),
        "model_size__n": sweep["n"], "dataset_size__d": sweep["d"],
        "test_loss__nats": sweep["loss"]})
    points = polars.DataFrame({
        "point_id": [str(i) for i in range(len(sweep["at"]))],
        "model_size__n": [n for n, _ in sweep["at"]],
        "dataset_size__d": [d for _, d in sweep["at"]]})
    start = time.process_time()
    model = fit(runs, law="separable-power", n_draws=sweep["draws"], seed=0)
    predicted = model.predict(points, quantiles=[0.05, 0.5, 0.95])
    seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "columns": predicted.columns,
                      "rows": predicted.rows()}), flush=True)
