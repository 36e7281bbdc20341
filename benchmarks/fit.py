"""Speed of a Chinchilla fit and of its bootstrap, compared with a loop over scipy's optimizers.

    python benchmarks/fit.py [--runs CSV --n COLUMN --c COLUMN] [--rounds 5] [--json FILE]

The loop is the usual implementation: L-BFGS-B with the analytic gradient from each of the 4,500
starts of Hoffmann et al., and BFGS from the optimum for every resample. Since it takes minutes,
only a random sample of its starts and resamples is timed, and the time is scaled up. Printed are
medians over rounds, in seconds; a fit of ours also tests the residuals and each term. Without
`--runs`, the data are 240 synthetic runs with the losses of the law of Besiroglu et al. and 0.3% of
noise.
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

from scaling.laws import FORMS, ResidualLoss, RunsTable, fit_law, from_frame, published, read
from scaling.laws.evidence.refit import prepare
from scaling.laws.fitting.bootstrap import BootstrapProblem, refit_resamples
from scaling.laws.fitting.search import search
from scaling.laws.forms.losses import DELTA

RESAMPLES = 4000
SAMPLE = 40  # starts of the loop that are timed in a round, and resamples
GRID = (range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5))  # Hoffmann et al. 2022, D.2: a, b, e, alpha, beta


def synthetic() -> RunsTable:
    """240 runs of 5e7 to 1e10 parameters on 5e8 to 5e11 tokens; losses have 0.3% of log-normal
    noise."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([5e7, 5e8]), np.log([1e10, 5e11]), (240, 2))).T
    law = published()["besiroglu2024"].law
    assert law is not None
    loss = law.loss({"n": n, "d": d}) * np.exp(0.003 * rng.standard_normal(240))
    return from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "synthetic", n="N", d="D")


def objective(theta: Any, x: Any, y: Any, weights: Any) -> tuple[float, Any]:
    """Weighted Huber loss of the log-loss and its gradient, as in published replications.

    Args:
        theta: a = log A, b = log B, e = log E, alpha, beta.
        x: log N and log D, [run, 2].
        y: log of the losses, [run].
        weights: weight of each run, [run].
    """
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x[:, 0], b - beta * x[:, 1], np.full(len(y), e)])
    total = logsumexp(terms, axis=0)
    share = np.exp(terms - total)
    r = y - total
    clipped = np.minimum(np.abs(r), DELTA)
    slope = -weights * np.clip(r, -DELTA, DELTA)
    gradient = [share[0], share[1], share[2], -share[0] * x[:, 0], -share[1] * x[:, 1]]
    value = (weights * clipped * (np.abs(r) - clipped / 2)).sum()
    return float(value), np.array(gradient) @ slope


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, metavar="CSV",
                        help="Table of runs; by default 240 synthetic runs.")
    parser.add_argument("--n", metavar="COLUMN",
                        help="Column of --runs with the numbers of parameters.")
    parser.add_argument("--c", metavar="COLUMN",
                        help="Column of --runs with the training compute in FLOPs.")
    parser.add_argument("--rounds", type=int, default=5,
                        help="Number of rounds; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="Also write the median seconds to FILE.")
    arguments = parser.parse_args()
    table = (read(arguments.runs, n=arguments.n, c=arguments.c) if arguments.runs else synthetic())
    form = FORMS["chinchilla"]
    hoffmann = ResidualLoss("huber")  # the objective of the loop
    x, y = form.coordinates(table.values), np.log(table.loss)
    ones = np.ones(len(y))
    starts = list(itertools.product(*GRID))
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"starts": [], "fit": [], "bootstrap": [], "scipy starts": [],
                                     "scipy bootstrap": []}

    def record(name: str, start: float, scale: float = 1.0) -> None:
        times[name].append((time.perf_counter() - start) * scale)

    for _ in range(arguments.rounds):
        start = time.perf_counter()
        law = fit_law(table, form, robust=hoffmann, resamples=0)
        record("fit", start)
        start = time.perf_counter()
        search(form, x - x.mean(axis=0), y, table.loss, hoffmann)
        record("starts", start)
        theta = form.from_params(law.point)[0]
        prepared = prepare(table, form, hoffmann)
        problem = BootstrapProblem(form, prepared.x, prepared.y, np.arange(len(y)), prepared.theta,
                                   prepared.starts, prepared.robust)
        start = time.perf_counter()
        refitted = refit_resamples(problem, "case", RESAMPLES, 0)
        record("bootstrap", start)
        start = time.perf_counter()
        for index in rng.choice(len(starts), SAMPLE, replace=False):
            minimize(objective, starts[index], args=(x, y, ones), jac=True, method="L-BFGS-B")
        record("scipy starts", start, len(starts) / SAMPLE)
        optimum = theta[[1, 2, 0, 3, 4]]
        start = time.perf_counter()
        for _ in range(SAMPLE):
            weights = rng.multinomial(len(y), ones / len(y)).astype(float)
            minimize(objective, optimum, args=(x, y, weights), jac=True, method="BFGS")
        record("scipy bootstrap", start, RESAMPLES / SAMPLE)
    seconds = {name: median(values) for name, values in times.items()}
    agreement = float(law.convergence["start_agreement"] or 0)
    print(f"{len(y)} runs; {agreement:.0%} of our starts end within 1e-6 of the best; "
          f"{len(refitted)} of {RESAMPLES} resamples converged")
    print(f"all starts           {seconds['starts']:7.2f} s   scipy, {len(starts)} starts "
          f"{seconds['scipy starts']:7.1f} s   "
          f"{seconds['scipy starts'] / seconds['starts']:6.0f} x")
    print(f"fit with diagnosis   {seconds['fit']:7.2f} s")
    print(f"{RESAMPLES} resamples       {seconds['bootstrap']:7.2f} s   scipy "
          f"{seconds['scipy bootstrap']:21.1f} s   "
          f"{seconds['scipy bootstrap'] / seconds['bootstrap']:6.0f} x")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"runs": len(y), "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
