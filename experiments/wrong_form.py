"""Coverage of the 90% prediction interval where the form of the law is wrong.

Hypothesis: where the runs follow another form than the one fitted, its interval covers far fewer
than 90% of larger runs, however many resamples it has; a warning of lack of fit or of a pattern of
the residuals says so. The interval of a form that was chosen by its predictions includes the
choice, and covers more.

Method: synthetic sweeps of E + [(A/N^alpha)^(1/q) + (B/D^beta)^(1/q)]^q with the random constants
of interval_coverage.py. With q = 1 it is Chinchilla's law; with q = 0.35 no law of the three forms
but the q-family is right. Each sweep is fitted with every form, and with the form left open, and
each predicts new runs: of 10 times the largest N and D, and of 100 times the largest compute at 20
tokens per parameter. An interval covers if it contains the loss of the new run, with its noise.
With the form left open, the prediction is that of the best form, and the interval that of the
weighted mixture of all three.

    python experiments/wrong_form.py             # ten minutes on one core

Result: results/wrong_form/ and experiments/LOG.md.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from interval_coverage import DESIGNS, draw_constants
from numpy.typing import NDArray

import scaling.laws as sl
from scaling.console import out, print_table, progress
from scaling.files import write_atomically
from scaling.laws.fit_runs import best_of
from scaling.laws.forms.catalogue import CHOSEN_FROM

RESULTS = Path("results/wrong_form")
SWEEPS = 240
RESAMPLES = 200
NOISE = 0.004  # standard deviation of the log-loss
POWERS = (1.0, 0.35)
FITTED_TO = ("grid 5 x 5, 2 seeds", "IsoFLOP 6 x 7")
CHOSEN = "chosen"
SIGNS = ("lack of fit", "residuals follow")
"""Of warnings that the form is wrong."""

Array = NDArray[np.float64]


def loss_of(truth: dict[str, float], q: float, n: Array, d: Array) -> Array:
    """Loss of the q-family whose terms are of the size of Chinchilla's."""
    form = sl.FORMS["q-family"]
    params = np.array([[{**truth, "q": q}[name] for name in form.parameters]])
    return np.asarray(form.loss(params, {"n": n, "d": d})[0])


def study(sweeps: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per sweep, fit and new run: whether the fit warns that the form is wrong, whether its
    interval covers, the relative error of the prediction, and the relative width of the
    interval."""
    rows = []
    cells = list(itertools.product(POWERS, FITTED_TO))
    with progress("sweeps", sweeps) as bar:
        for seed in range(sweeps):
            q, design = cells[seed % len(cells)]
            truth = draw_constants(seed, design)
            n, d = DESIGNS[design]
            c = 100 * float((6 * n * d).max())
            new = {"10 N, 10 D": (10 * n.max(), 10 * d.max()),
                   "100 C": (np.sqrt(c / 120), np.sqrt(c / 120) * 20)}
            rng = np.random.default_rng([seed, 2])
            noise = np.exp(NOISE * rng.standard_normal(len(n) + len(new)))
            table = sl.read(pd.DataFrame({
                "N": n, "D": d, "loss": loss_of(truth, q, n, d) * noise[:len(n)]}), n="N", d="D")
            fits = {name: sl.fit(table, name, resamples=resamples, seed=seed)
                    for name in CHOSEN_FROM}
            fits[CHOSEN] = best_of([*fits.values()])
            warned = {name: any(sign in warning for warning in fit.warnings for sign in SIGNS)
                      for name, fit in fits.items()}
            for k, (where, (new_n, new_d)) in enumerate(new.items()):
                at = np.array([new_n]), np.array([new_d])
                measured = float(loss_of(truth, q, *at)[0] * noise[len(n) + k])
                for name, fit in fits.items():
                    value, low, high = fit.predict(n=new_n, d=new_d, interval="prediction")
                    rows.append((seed, q, design, name, where, warned[name],
                                 low <= measured <= high,
                                 abs(value / measured - 1), (high - low) / measured))
            bar.update(seed + 1)
    return pd.DataFrame(rows, columns=[
        "seed", "q", "design", "fitted", "predicted", "warned", "covered", "error", "width"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage, mean error, median width and share of fits that warn, in percent, by the true q and
    the fitted form, for both designs and each alone."""
    every = pd.concat([rows.assign(design="all"), rows])
    table = every.groupby(["q", "design", "fitted", "predicted"], sort=False).agg(
        coverage=("covered", "mean"), error=("error", "mean"), width=("width", "median"),
        warned=("warned", "mean"), sweeps=("seed", "nunique")).reset_index()
    percents = ("coverage", "error", "width", "warned")
    return table.assign(**{name: 100 * table[name] for name in percents})


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
    print_table(f"coverage of 90% prediction intervals, {arguments.sweeps} sweeps",
                list(table.columns), [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row]
                                      for row in table.itertuples(index=False)])
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()
