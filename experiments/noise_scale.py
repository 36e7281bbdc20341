"""What a fit may know of the noise: standard errors of the runs, and replicate seeds.

Hypotheses: where some runs have a larger standard error than the others, predictions are more
accurate if the fit uses it; a delta of the adaptive loss from replicate seeds is as good as one
from the residuals.

Method: synthetic sweeps of Chinchilla's law (E 1.7, A 400, B 410, alpha .34, beta .28), 5 sizes
from 1e7 to 1e9 by 5 token counts from 1e9 to 1e11, with .4% of log-normal noise, fitted as by
`scaling fit`; the loss is predicted at 1e10 parameters and 1e12 tokens.

- Standard errors: in 30% of the runs the noise is five times as large. They are fitted without the
  column `loss_se`, and with it.
- Replicates: two seeds of each run, without and with 5% of outliers of 4%. Delta is twice the
  residuals' scale, as in every fit, or twice the scale of the differences between seeds.

    OMP_NUM_THREADS=1 python experiments/noise_scale.py    # two minutes on one core

Result: results/noise_scale/errors.csv, and experiments/LOG.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.console import out, print_table, progress
from scaling.files import write_atomically
from scaling.laws import FORMS, Law, ResidualLoss, fit_law, from_frame
from scaling.laws.forms.losses import WIDTH

RESULTS = Path("results/noise_scale")
SWEEPS = 200
NOISE, OUTLIER = 0.004, 0.04
_TRUTH = np.array([[1.7, 400.0, 410.0, 0.34, 0.28]])
_AT = {"n": np.array([1e10]), "d": np.array([1e12])}

Array = NDArray[np.float64]


def runs(seeds: int = 1) -> tuple[Array, Array, Array]:
    """N, D and the true loss of each run."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    n, d = n.ravel().repeat(seeds), d.ravel().repeat(seeds)
    return n, d, FORMS["chinchilla"].loss(_TRUTH, {"n": n, "d": d})[0]


def error(law: Law) -> float:
    """The relative error of the law's prediction."""
    return float(law.loss(_AT)[0] / FORMS["chinchilla"].loss(_TRUTH, _AT)[0, 0] - 1)


def with_standard_errors(seed: int) -> dict[str, float]:
    """Errors of fits without and with the standard errors of noisy runs."""
    rng = np.random.default_rng([seed, 0])
    n, d, loss = runs()
    sd = np.where(rng.random(n.size) < 0.3, 5 * NOISE, NOISE)
    loss = loss * np.exp(sd * rng.standard_normal(n.size))
    frame = pd.DataFrame({"N": n, "D": d, "loss": loss})
    found = {}
    for name, table in (("without", frame), ("with", frame.assign(loss_se=sd * loss))):
        read = from_frame(table, "sweep", n="N", d="D")
        found[f"{name} standard errors"] = error(fit_law(read, "chinchilla", resamples=0))
    return found


def with_replicates(seed: int, outliers: float) -> dict[str, float]:
    """Errors of fits with delta from the residuals, and from the differences between seeds."""
    rng = np.random.default_rng([seed, 1])
    n, d, loss = runs(seeds=2)
    z = NOISE * rng.standard_normal(n.size)
    z += (rng.random(n.size) < outliers) * OUTLIER * rng.standard_normal(n.size)
    loss = loss * np.exp(z)
    between = np.log(loss[::2] / loss[1::2])
    sd = 1.4826 * float(np.median(np.abs(between))) / np.sqrt(2)
    table = from_frame(pd.DataFrame({"N": n, "D": d, "loss": loss}), "sweep", n="N", d="D")
    what = f"{outliers:.0%} outliers"
    return {
        f"scale of residuals, {what}": error(fit_law(table, "chinchilla", resamples=0)),
        f"scale of replicates, {what}": error(fit_law(
            table, "chinchilla", robust=ResidualLoss("huber", WIDTH * sd), resamples=0)),
    }


def study(sweeps: int) -> pd.DataFrame:
    """The root mean square and the median absolute error of each fit, in percent."""
    rows = []
    with progress("sweeps", sweeps) as bar:
        for seed in range(sweeps):
            rows.append(with_standard_errors(seed) | with_replicates(seed, 0.0)
                        | with_replicates(seed, 0.05))
            bar.update(seed + 1)
    errors = 100 * pd.DataFrame(rows)
    return pd.DataFrame({"fit": errors.columns, "rms, %": np.sqrt((errors**2).mean()).to_numpy(),
                         "median, %": errors.abs().median().to_numpy(), "sweeps": sweeps})


def main() -> None:
    """Run the study, write its table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=SWEEPS,
                        help="Number of synthetic sweeps; %(default)s by default.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="Folder of errors.csv; %(default)s by default.")
    arguments = parser.parse_args()
    table = study(arguments.sweeps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "errors.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.3f"))
    print_table(f"errors of the predicted loss, {arguments.sweeps} sweeps", list(table.columns), [
        [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        for row in table.itertuples(index=False)])
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()
