"""Coverage of the 90% intervals of a fitted law.

Hypothesis: BCa intervals of the case bootstrap for alpha, beta, E and the exponent a have their
nominal coverage at every noise and design; percentile intervals over-cover where the noise is far
above Huber's delta, because the optimum of the absolute loss jumps between runs.

Method: synthetic sweeps of Chinchilla's form. Each has random constants (alpha and beta from 0.25
to 0.45, E from 1.4 to 2.0, and each of the other terms from 0.3 to 0.8 nats at 1e8 parameters or
2e9 tokens) and log-normal noise, and is fitted as by `scaling fit`; an interval covers if it
contains the constant. There are three designs and three noise levels; sweeps go through their nine
combinations cyclically.

    python experiments/interval_coverage.py             # about ten minutes on two cores

Result: results/interval_coverage/ and experiments/LOG.md.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.console import out, print_table, progress
from scaling.files import write_atomically
from scaling.laws import FORMS, Law, fit_law, from_frame

RESULTS = Path("results/interval_coverage")
SWEEPS = 504
RESAMPLES = 500
NOISE = (0.001, 0.003, 0.01)  # standard deviations of the log-loss
QUANTITIES = ("alpha", "beta", "E", "a")
METHODS = ("bca", "percentile")

Array = NDArray[np.float64]


def grid(sizes: int, tokens: int) -> tuple[Array, Array]:
    """N and D of a product grid: 1e7 to 1e9 parameters by 2e8 to 4e10 tokens."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 4e10, tokens))
    return n.ravel(), d.ravel()


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    """N and D of IsoFLOP profiles, 1e18 to 1e21 FLOP, sizes within a factor of 5 of D = 20 N."""
    c, factor = np.meshgrid(np.geomspace(1e18, 1e21, budgets), np.geomspace(1 / 5, 5, sizes))
    n = np.sqrt(c / 120) * factor
    return n.ravel(), (c / (6 * n)).ravel()


DESIGNS = {"grid 6 x 6": grid(6, 6), "IsoFLOP 6 x 7": isoflop(6, 7), "grid 5 x 4": grid(5, 4)}


def draw_constants(seed: int) -> dict[str, float]:
    """Random constants of Chinchilla's law."""
    rng = np.random.default_rng([seed, 0])
    alpha, beta = rng.uniform(0.25, 0.45, 2)
    n_term, d_term = rng.uniform(0.3, 0.8, 2)
    return {"E": rng.uniform(1.4, 2.0), "A": n_term * 1e8**alpha, "B": d_term * 2e9**beta,
            "alpha": alpha, "beta": beta}


def sweep(
    seed: int, design: str, noise: float, resamples: int
) -> tuple[dict[str, float], Law]:
    """The true constants of a synthetic sweep, including the exponent a = d log N*/d log C, and the
    law fitted to it.

    Args:
        seed: of the constants, the noise and the bootstrap.
        design: a key of DESIGNS.
        noise: standard deviation of the log-loss.
        resamples: number of bootstrap resamples.
    """
    truth = draw_constants(seed)
    n, d = DESIGNS[design]
    form = FORMS["chinchilla"]
    loss = form.loss(np.array([[truth[p] for p in form.parameters]]), {"n": n, "d": d})[0]
    loss = loss * np.exp(noise * np.random.default_rng([seed, 1]).standard_normal(len(n)))
    table = from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "sweep", n="N", d="D")
    law = fit_law(table, form, resamples=resamples, seed=seed)
    return truth | {"a": truth["beta"] / (truth["alpha"] + truth["beta"])}, law


def covers(truth: dict[str, float], law: Law) -> dict[str, list[bool]]:
    """Whether the interval of each of QUANTITIES contains the true value, by method."""
    assert law.bootstrap is not None
    alpha, beta, e = (law.form.parameters.index(p) for p in ("alpha", "beta", "E"))

    def quantities(params: Array) -> Array:
        exponent = params[:, beta] / (params[:, alpha] + params[:, beta])
        return np.column_stack([params[:, [alpha, beta, e]], exponent])

    covered = {}
    for method in METHODS:
        band = replace(law, bootstrap=replace(law.bootstrap, method=method)).band(quantities)
        assert band is not None
        covered[method] = [bool(low <= truth[q] <= high)
                           for q, low, high in zip(QUANTITIES, *band, strict=True)]
    return covered


def study(sweeps: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per sweep, method and quantity; `covered` states whether the interval covers."""
    rows = []
    combinations = list(itertools.product(DESIGNS, NOISE))
    with progress("sweeps", sweeps) as bar:
        for seed in range(sweeps):
            design, noise = combinations[seed % len(combinations)]
            truth, law = sweep(seed, design, noise, resamples)
            rows += [(seed, design, noise, method, quantity, covered)
                     for method, by_quantity in covers(truth, law).items()
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
