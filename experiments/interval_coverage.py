"""Coverage of the 90% intervals of a fitted law.

Hypothesis: BCa intervals of the bootstrap have their nominal coverage for the parameters and the
exponent a at every noise and design; less so for what is extrapolated. Intervals that are not
widened for the fitted parameters cover less.

Method: synthetic sweeps of Chinchilla's form. Each has random constants (alpha and beta from 0.25
to 0.45, E from 1.4 to 2.0, and each of the other terms from 0.3 to 0.8 nats at 1e8 parameters or
2e9 tokens) and log-normal noise, and is fitted as by `scaling fit`; an interval covers if it
contains the constant, or the true loss or N* beyond the runs. Sweeps go through the combinations of
designs and noise levels cyclically. Some designs are special: the ladder has E near zero, and the
rows of the clustered ones are checkpoints of each run, which share most of the noise; these are
fitted with the wild cluster bootstrap, too.

    OMP_NUM_THREADS=1 python experiments/interval_coverage.py    # about 50 minutes on one core

Result: results/interval_coverage/ and experiments/LOG.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.console import out, print_table, progress
from scaling.files import write_atomically
from scaling.laws import FORMS, Law, fit_law, from_frame
from scaling.laws.table import RunsTable

RESULTS = Path("results/interval_coverage")
SWEEPS = 5760
RESAMPLES = 400
NOISE = (0.001, 0.003, 0.01)  # standard deviations of the log-loss
QUANTITIES = ("alpha", "beta", "E", "a", "loss at 10 N, 10 D", "loss at 100 C", "N* at 100 C")
METHODS = ("bca", "percentile", "bca, not widened", "percentile, not widened")
LADDER = "ladder of 16, E near 0"
ROWS = {f"{side} x {side} runs, {rows} rows each": rows
        for side, rows in ((5, 3), (5, 20), (3, 20))}
OWN_NOISE = 0.3  # share of the noise that is a row's own

Array = NDArray[np.float64]


def grid(sizes: int, tokens: int, seeds: int = 1) -> tuple[Array, Array]:
    """N and D of a product grid: 1e7 to 1e9 parameters by 2e8 to 4e10 tokens."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 4e10, tokens))
    return n.ravel().repeat(seeds), d.ravel().repeat(seeds)


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    """N and D of IsoFLOP profiles, 1e18 to 1e21 FLOP, sizes within a factor of 5 of D = 20 N."""
    c, factor = np.meshgrid(np.geomspace(1e18, 1e21, budgets), np.geomspace(1 / 5, 5, sizes))
    n = np.sqrt(c / 120) * factor
    return n.ravel(), (c / (6 * n)).ravel()


def ladder(sizes: int, ratios: int) -> tuple[Array, Array]:
    """N and D of sizes from 1e7 to 1e9, each at 5 to 160 tokens per parameter."""
    n, ratio = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(5, 160, ratios))
    return n.ravel(), (n * ratio).ravel()


DESIGNS = {
    "grid 6 x 6": grid(6, 6), "IsoFLOP 6 x 7": isoflop(6, 7), "grid 5 x 4": grid(5, 4),
    "grid 5 x 5, 2 seeds": grid(5, 5, 2), LADDER: ladder(4, 4),
    **{name: grid(*(3, 3) if name.startswith("3 x 3") else (5, 5)) for name in ROWS},
}


def draw_constants(seed: int, design: str) -> dict[str, float]:
    """Random constants of Chinchilla's law."""
    rng = np.random.default_rng([seed, 0])
    alpha, beta = rng.uniform(0.25, 0.45, 2)
    n_term, d_term = rng.uniform(0.3, 0.8, 2)
    e = rng.uniform(1.4, 2.0)
    return {"E": 0.02 * e if design == LADDER else e, "A": n_term * 1e8**alpha,
            "B": d_term * 2e9**beta, "alpha": alpha, "beta": beta}


def sweep(
    seed: int, design: str, noise: float
) -> tuple[dict[str, float], RunsTable]:
    """The true constants and the runs of a synthetic sweep.

    Args:
        seed: of the constants and the noise.
        design: a key of DESIGNS.
        noise: standard deviation of the log-loss.
    """
    truth = draw_constants(seed, design)
    n, d = DESIGNS[design]
    rng = np.random.default_rng([seed, 1])
    z = rng.standard_normal(len(n))
    run = np.arange(len(n))
    if design in ROWS:  # checkpoints at the last 70 to 100% of the tokens
        rows = ROWS[design]
        share = np.tile(np.linspace(0.7, 1, rows), len(n))
        n, run, z = n.repeat(rows), run.repeat(rows), z.repeat(rows)
        d = d.repeat(rows) * share
        z = np.sqrt(1 - OWN_NOISE**2) * z + OWN_NOISE * rng.standard_normal(len(n))
    form = FORMS["chinchilla"]
    loss = form.loss(np.array([[truth[p] for p in form.parameters]]), {"n": n, "d": d})[0]
    frame = pd.DataFrame({"N": n, "D": d, "loss": loss * np.exp(noise * z), "group": run})
    return truth, from_frame(frame, "sweep", n="N", d="D",
                             cluster="group" if design in ROWS else None)


def quantities(design: str) -> Callable[[Array], Array]:
    """QUANTITIES as a function of parameters, [B, P] to [B, Q]."""
    n, d = (float(values.max()) for values in DESIGNS[design])
    c = 100 * float((6 * DESIGNS[design][0] * DESIGNS[design][1]).max())
    form = FORMS["chinchilla"]

    def of(params: Array) -> Array:
        e, _, _, alpha, beta = params.T
        optimum = form.optimum(params, c)
        assert optimum is not None
        at = {"n": np.array([10 * n]), "d": np.array([10 * d])}
        a, b = params[:, 1], params[:, 2]
        with np.errstate(all="ignore"):
            best = e + a * optimum**-alpha + b * (c / (6 * optimum)) ** -beta
        return np.column_stack([alpha, beta, e, beta / (alpha + beta),
                                form.loss(params, at)[:, 0], best, optimum])

    return of


def covers(
    truth: dict[str, float], law: Law, design: str, methods: Sequence[str] = METHODS
) -> dict[str, list[bool]]:
    """Whether the interval of each of QUANTITIES contains the true value, by method."""
    assert law.bootstrap is not None
    of = quantities(design)
    right = of(np.array([[truth[p] for p in law.form.parameters]]))[0]
    covered = {}
    for method in methods:
        kind = method.split(",")[0]
        widening = 1.0 if method.endswith("not widened") else law.bootstrap.widening
        band = replace(law, bootstrap=replace(
            law.bootstrap, method=kind, widening=widening)).band(of)  # type: ignore[arg-type]
        assert band is not None
        covered[method] = [bool(low <= value <= high)
                           for value, low, high in zip(right, *band, strict=True)]
    return covered


def study(sweeps: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per sweep, method and quantity; `covered` states whether the interval covers."""
    rows = []
    combinations = list(itertools.product(DESIGNS, NOISE))
    with progress("sweeps", sweeps) as bar:
        for seed in range(sweeps):
            design, noise = combinations[seed % len(combinations)]
            truth, table = sweep(seed, design, noise)
            found = covers(truth, fit_law(table, "chinchilla", resamples=resamples, seed=seed),
                           design)
            if design in ROWS:
                wild = fit_law(table, "chinchilla", resamples=resamples, seed=seed, by="wild")
                found |= {f"{method}, wild": covered for method, covered
                          in covers(truth, wild, design, METHODS[:2]).items()}
            rows += [(seed, design, noise, method, quantity, covered)
                     for method, by_quantity in found.items()
                     for quantity, covered in zip(QUANTITIES, by_quantity, strict=True)]
            bar.update(seed + 1)
    return pd.DataFrame(
        rows, columns=["seed", "design", "noise", "method", "quantity", "covered"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage of every quantity by method, for all sweeps, each design and each noise level (the
    column `cell`)."""
    tables = [rows.assign(cell="all")]
    tables += [rows.assign(cell=rows["design"]),
               rows.assign(cell="noise " + (100 * rows["noise"]).map("{:g}%".format))]
    table = pd.concat(tables).pivot_table(
        index=["method", "cell"], columns="quantity", values="covered", sort=False)
    counts = pd.concat(tables).groupby(["method", "cell"], sort=False)["seed"].nunique()
    return table[list(QUANTITIES)].assign(sweeps=counts).reset_index()


def main() -> None:
    """Run the study, write its table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=SWEEPS,
                        help="Number of synthetic sweeps; %(default)s by default.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="Folder of coverage.csv; %(default)s by default.")
    arguments = parser.parse_args()
    table = summary(study(arguments.sweeps))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "coverage.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.3f"))
    print_table(f"coverage of 90% intervals, {arguments.sweeps} sweeps", list(table.columns),
                [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
                 for row in table.itertuples(index=False)])
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()
