"""Speed of a Chinchilla fit and of its bootstrap: ours against a loop over scipy, in one run.

    python benchmarks/fit.py [--runs CSV --n COLUMN --c COLUMN] [--rounds 5] [--json FILE]

The loop is common practice: L-BFGS-B from each of Hoffmann et al.'s 4,500 starts, analytic gradient
included, and BFGS from the optimum for every resample. It would take minutes, so a sample of its
starts and resamples is timed and scaled up. Printed are medians over rounds. Without `--runs` the
data are 240 synthetic runs about Besiroglu et al.'s law.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from scaling.laws import FORMS, RunsTable, fit_law, from_frame, published, read
from scaling.laws.evidence.refit import prepare
from scaling.laws.fitting.bootstrap import BootstrapProblem, refit_resamples
from scaling.laws.forms.losses import DELTA

RESAMPLES = 4000
SAMPLE = 40  # of the loop's starts and resamples in a round
GRID = (range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5))  # Hoffmann et al. 2022, D.2: a, b, e, alpha, beta


def synthetic() -> RunsTable:
    """240 runs of 5e7 to 1e10 parameters and 5e8 to 5e11 tokens, 0.3% of noise."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([5e7, 5e8]), np.log([1e10, 5e11]), (240, 2))).T
    law = published()["besiroglu2024"].law
    assert law is not None
    loss = law.loss({"n": n, "d": d}) * np.exp(0.003 * rng.standard_normal(240))
    return from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "synthetic", n="N", d="D")


def objective(theta: Any, x: Any, y: Any, weights: Any) -> tuple[float, Any]:
    """Sum of Huber's loss and its gradient, as published replications write them."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x[:, 0], b - beta * x[:, 1], np.full(len(y), e)])
    total = logsumexp(terms, axis=0)
    share = np.exp(terms - total)
    r = y - total
    near = np.minimum(np.abs(r), DELTA)
    slope = -weights * np.clip(r, -DELTA, DELTA)
    gradient = [share[0], share[1], share[2], -share[0] * x[:, 0], -share[1] * x[:, 1]]
    return float((weights * near * (np.abs(r) - near / 2)).sum()), np.array(gradient) @ slope


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--n")
    parser.add_argument("--c")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = (read(arguments.runs, n=arguments.n, c=arguments.c) if arguments.runs else synthetic())
    form = FORMS["chinchilla"]
    x, y = form.coordinates(table.values), np.log(table.loss)
    ones = np.ones(len(y))
    starts = list(itertools.product(*GRID))
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"fit": [], "bootstrap": [], "scipy fit": [],
                                     "scipy bootstrap": []}

    def clock(name: str, began: float, scale: float = 1.0) -> None:
        times[name].append((time.perf_counter() - began) * scale)

    for _ in range(arguments.rounds):
        began = time.perf_counter()
        law = fit_law(table, form, resamples=0)
        clock("fit", began)
        theta = form.from_params(law.point)[0]
        laid = prepare(table, form)
        problem = BootstrapProblem(
            form, laid.x, laid.y, laid.runs.n, laid.theta, laid.starts, laid.robust)
        began = time.perf_counter()
        again = refit_resamples(problem, "case", RESAMPLES, 0)
        clock("bootstrap", began)
        began = time.perf_counter()
        for place in rng.choice(len(starts), SAMPLE, replace=False):
            minimize(objective, starts[place], args=(x, y, ones), jac=True, method="L-BFGS-B")
        clock("scipy fit", began, len(starts) / SAMPLE)
        first = theta[[1, 2, 0, 3, 4]]
        began = time.perf_counter()
        for _ in range(SAMPLE):
            weights = rng.multinomial(len(y), ones / len(y)).astype(float)
            minimize(objective, first, args=(x, y, weights), jac=True, method="BFGS")
        clock("scipy bootstrap", began, RESAMPLES / SAMPLE)
    seconds = {name: median(values) for name, values in times.items()}
    agree = float(law.convergence["start_agreement"] or 0)
    print(f"{len(y)} runs; every start of ours within 1e-6 of the best: {agree:.0%}; "
          f"{len(again)} of {RESAMPLES} resamples converged")
    print(f"fit, all starts      {seconds['fit']:7.2f} s   scipy, {len(starts)} starts "
          f"{seconds['scipy fit']:7.1f} s   {seconds['scipy fit'] / seconds['fit']:6.0f} x")
    print(f"{RESAMPLES} resamples       {seconds['bootstrap']:7.2f} s   scipy "
          f"{seconds['scipy bootstrap']:21.1f} s   "
          f"{seconds['scipy bootstrap'] / seconds['bootstrap']:6.0f} x")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"runs": len(y), "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
