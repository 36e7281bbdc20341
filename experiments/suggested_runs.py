"""Held-out error of suggested runs at a tenth of the cost of a full grid.

Hypothesis: a law fitted to the runs that `suggest` chooses, at a tenth of the cost of a full grid,
predicts larger runs better than the law fitted to the whole grid: a higher held-out R2 of the
log-loss.

Method: synthetic laws of Chinchilla's form with random constants (alpha and beta from 0.25 to 0.45,
E from 1.4 to 2.0, and each of the other terms from 0.3 to 0.8 nats at 1e8 parameters or 2e9
tokens). The full grid is 8 sizes from 1e7 to 1e9 parameters by 8 token counts from 2e8 to 4e10; its
losses have log-normal noise. Chinchilla's law is fitted to

- the full grid;
- the cheapest tenth: the runs in the order of their cost until a tenth of the grid's is spent;
- a random tenth: the runs in random order, each if the tenth still covers it;
- the suggested tenth: the cheapest runs up to 1% of the grid's cost, then what `suggest` chooses
  among the rest, in two batches with a fit in between, for the loss of one run in the middle of the
  held-out ones;
- the same with up to four seeds of a run, at the same cost;
- the suggested three tenths, of one seed.

The 9 held-out runs have 2 to 8 times the largest N and D of the grid. Their losses are without
noise, so R2 = 1 is a perfect prediction. Besides laws that are as assumed, four cases are not:
noise that grows towards small runs (as C^-0.15), 5% of outliers, small runs whose loss is too high
(2% at the smallest run, decreasing as C^-0.3), and losses of another law (the q-family's).

    OMP_NUM_THREADS=1 python experiments/suggested_runs.py    # three minutes on one core

Result (results/suggested_runs/, medians over 60 laws a case): the hypothesis is wrong. If the law
is as assumed, R2 is 0.990 for the full grid and 0.977 for the suggested tenth, 0.987 with up to
four seeds; these are better than the grid for 35% and 43% of the laws. A grid contains every run of
its subsets, so under a true law and equal noise a subset cannot do better on average. The suggested
tenth is better than the cheapest one in all cases but the first (0.898 and 0.832 with noise that
grows, 0.983 and 0.969 with outliers; 0.977 and 0.982 in the first), and than the random one in the
first three (0.774 and 0.952 with growing noise and outliers, 0.974 in the first). Where the law
does not hold at small runs, all tenths are far behind the grid, and the suggested one (0.557) is
behind the random one (0.773): its 42 runs (random: 26) include the 27 cheapest as the pilot, and
the choice takes the law for true; more seeds make it worse. Under another law no design predicts
the larger runs (R2 below zero), and the full grid, then the random tenth, are the least wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import scaling.laws as sl
from scaling.console import out, print_table, progress
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.laws import FORMS, Fit, Law, from_frame
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.variables import six_nd

RESULTS = Path("results/suggested_runs")
LAWS = 60
NOISE = 0.003  # standard deviation of the log-loss
CASES = ("as assumed", "noise grows as C^-0.15", "5% of outliers", "small runs too high",
         "another law")
SEEDS = 4      # of every run of the grid; the full grid and all other designs use the first
SHARE, LARGE_SHARE, PILOT_SHARE = 0.1, 0.3, 0.01  # of the cost of the full grid
BATCHES = 2    # of a suggestion
AT = {"n": 4e9, "d": 1.6e11}
"""The run whose loss the suggestions aim at, in the middle of the held-out ones."""
DESIGNS = ("full grid", "cheapest tenth", "random tenth", "suggested tenth",
           "suggested tenth, up to 4 seeds", "suggested three tenths")
_STARTS = 6    # of each fit
_MAX_RUNS = 100  # of a batch

Array = NDArray[np.float64]

FORM = FORMS["chinchilla"]
N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(2e8, 4e10, 8)))
C = six_nd(N, D)
POINTS = len(C)
BY_COST = np.argsort(C, kind="stable")
HELDOUT = dict(zip(("n", "d"), (axis.ravel() for axis in np.meshgrid(
    [2e9, 4e9, 8e9], [8e10, 1.6e11, 3.2e11])), strict=True))


def draw_losses(case: str, seed: int) -> tuple[Array, Array]:
    """Log-losses of a random law: of the grid, [S * R] for S seeds one after the other, with noise;
    and of the held-out runs, without."""
    rng = np.random.default_rng([seed, CASES.index(case)])
    alpha, beta = rng.uniform(0.25, 0.45, 2)
    n_term, d_term = rng.uniform(0.3, 0.8, 2)
    params = [rng.uniform(1.4, 2.0), n_term * 1e8**alpha, d_term * 2e9**beta, alpha, beta]
    form = FORM
    if case == "another law":
        form, params = FORMS["q-family"], [*params, rng.uniform(0.5, 0.9)]
    grid, heldout = (np.log(form.loss(np.array([params]), values)[0])
                     for values in ({"n": N, "d": D}, HELDOUT))
    sd = NOISE * (C.max() / C) ** (0.15 if case.startswith("noise grows") else 0.0)
    y = np.tile(grid, (SEEDS, 1)) + sd * rng.standard_normal((SEEDS, POINTS))
    if case == "5% of outliers":
        y += (rng.random(y.shape) < 0.05) * rng.exponential(0.05, y.shape)
    if case == "small runs too high":
        y += 0.02 * (C.min() / C) ** 0.3
    return y.ravel(), heldout


def fit_all(y_BR: Array, w_BR: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Chinchilla's law fitted to each row of log-losses with weights of 0 or 1, all at once: the
    parameters, [B, P], and whether the fit converged, [B]."""
    x = np.tile(FORM.coordinates({"n": N, "d": D}), (SEEDS, 1))
    centre = x.mean(axis=0)
    x = x - centre
    starts = FORM.starts(x[:POINTS], np.exp(y_BR[0, :POINTS]))
    starts = starts[np.linspace(0, len(starts) - 1, _STARTS).astype(int)]
    fits = len(y_BR)
    ends = minimise(FORM, x, np.tile(y_BR, (_STARTS, 1)), np.tile(w_BR, (_STARTS, 1)),
                    np.repeat(starts, fits, axis=0), FORM.robust.adapted(NOISE))
    best = np.argmin(ends.value.reshape(_STARTS, fits), axis=0) * fits + np.arange(fits)
    return FORM.to_params(ends.theta[best], centre), ends.converged[best]


def cheapest(share: float) -> NDArray[np.bool_]:
    """The runs of the first seed in the order of their cost, up to a share of the grid's, [S * R].
    """
    chosen = np.zeros(SEEDS * POINTS, dtype=bool)
    chosen[BY_COST[np.cumsum(C[BY_COST]) <= share * C.sum()]] = True
    return chosen


def random_share(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Runs of the first seed in random order, each if a tenth of the cost still covers it,
    [S * R]."""
    chosen, left = np.zeros(SEEDS * POINTS, dtype=bool), SHARE * C.sum()
    for run in rng.permutation(POINTS):
        if C[run] <= left:
            chosen[run] = True
            left -= C[run]
    return chosen


def suggested(
    y_BR: Array, share: float, seeds: int, watch: Callable[[], None]
) -> NDArray[np.bool_]:
    """The runs that are chosen for each law, [B, S * R]: a pilot, then suggestions in batches.
    `watch` is called after every suggestion."""
    chosen = np.tile(cheapest(PILOT_SHARE), (len(y_BR), 1))
    frame = pd.DataFrame({"n": np.tile(N, SEEDS), "d": np.tile(D, SEEDS)})
    cost = np.tile(C, SEEDS)
    for batch in range(BATCHES):
        params, _ = fit_all(y_BR, chosen.astype(float))
        for row, mine in enumerate(chosen):
            table = from_frame(frame.assign(loss=np.exp(y_BR[row]))[mine], "runs", n="n", d="d")
            law = Law(form=FORM, convention={"n": "total"},
                      params=dict(zip(FORM.parameters, params[row].tolist(), strict=True)))
            free = np.flatnonzero(~mine[:seeds * POINTS])
            budget = (share * C.sum() - cost[mine].sum()) / (BATCHES - batch)
            try:
                runs = sl.suggest(Fit(law, law.residual_loss, table), "loss", budget, at=AT,
                                  candidates=frame.iloc[free].assign(run_id=free),
                                  max_runs=_MAX_RUNS).runs
            except UserError:  # no candidate is within the budget, or the law has no such loss
                runs = ()
            mine[[int(run.run_id or 0) for run in runs]] = True
            watch()
    return chosen


def study(laws: int) -> pd.DataFrame:
    """One row for each case, law and design: R2 and the root mean square error of the held-out
    log-losses, both NaN if the fit did not converge, the number of runs and the cost."""
    tables = []
    with progress("suggestions", len(CASES) * laws * BATCHES * 3) as bar:
        done = 0

        def watch() -> None:
            nonlocal done
            done += 1
            bar.update(done)

        for case in CASES:
            drawn = [draw_losses(case, seed) for seed in range(laws)]
            y, heldout = (np.array(each) for each in zip(*drawn, strict=True))
            first = np.arange(SEEDS * POINTS) < POINTS
            chosen = dict(zip(DESIGNS, (
                np.tile(first, (laws, 1)), np.tile(cheapest(SHARE), (laws, 1)),
                np.array([random_share(np.random.default_rng([seed, 99])) for seed in range(laws)]),
                suggested(y, SHARE, 1, watch), suggested(y, SHARE, SEEDS, watch),
                suggested(y, LARGE_SHARE, 1, watch)), strict=True))
            for design, runs in chosen.items():
                params, converged = fit_all(y, runs.astype(float))
                errors = np.log(FORM.loss(params, HELDOUT)) - heldout
                spread = ((heldout - heldout.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
                r2 = 1 - (errors**2).sum(axis=1) / spread
                rmse = np.sqrt((errors**2).mean(axis=1))
                tables.append(pd.DataFrame({
                    "case": case, "law": np.arange(laws), "design": design,
                    "r2": np.where(converged, r2, np.nan),
                    "rmse": np.where(converged, rmse, np.nan), "runs": runs.sum(axis=1),
                    "cost": (runs * np.tile(C, SEEDS)).sum(axis=1) / C.sum()}))
    return pd.concat(tables, ignore_index=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By case and design: the mean number of runs and share of the cost, the median and the lower
    quartile of R2, the median error, and the share of laws with a higher R2 than the full grid."""
    full = rows[rows["design"] == "full grid"].set_index(["case", "law"])["r2"]
    better = rows["r2"].to_numpy() > full.loc[
        pd.MultiIndex.from_frame(rows[["case", "law"]])].to_numpy()
    groups = rows.assign(better=better, failed=rows["r2"].isna()).groupby(
        ["case", "design"], sort=False)
    return pd.DataFrame({
        "runs": groups["runs"].mean(), "cost": groups["cost"].mean(),
        "r2_median": groups["r2"].median(), "r2_lower_quartile": groups["r2"].quantile(0.25),
        "rmse_median": groups["rmse"].median(), "better_than_full_grid": groups["better"].mean(),
        "not_converged": groups["failed"].mean()}).reset_index()


def main() -> None:
    """Run the study, write its tables and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", type=int, default=LAWS,
                        help="Number of random laws of each case; %(default)s by default.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="Folder of the tables; %(default)s by default.")
    arguments = parser.parse_args()
    table = summary(study(arguments.laws))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "r2.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.4g"))
    print_table(f"held-out log-loss, {arguments.laws} laws a case", list(table.columns),
                [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row]
                 for row in table.itertuples(index=False)])
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()
