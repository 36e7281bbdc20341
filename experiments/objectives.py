"""Accuracy of predictions beyond the runs, by the objective of the fit.

Hypothesis: Huber's loss with Hoffmann's delta of 1e-3 is nearly an absolute loss where runs scatter
by .4%, and wastes data; a delta that follows the noise is as accurate as least squares where the
noise is normal, and more accurate where it is not. A median of bagged fits and weakly informed
exponents gain little more.

Method: synthetic sweeps of Chinchilla's form over 5 x 5 sizes and tokens with two seeds, and noise
of .4% that is normal, has Student's t distribution with three degrees of freedom, or has 5% of
outliers of up to tens of standard deviations on one side. Each sweep has random constants:
exponents and terms scatter by 15 and 30% about Hoffmann's. Every estimator predicts the loss at ten
times the largest N and D. (experiments/interval_coverage.py has the intervals.)

Published runs: with `--reference DIR`, Chinchilla's law by rolling origin: fitted to the runs of
low compute, predicting the rest, at three cuts (`scaling fit --rolling c`).

    python experiments/objectives.py                    # 20 minutes on one core
    python experiments/objectives.py --reference DIR    # a minute

Result: results/objectives/ and experiments/LOG.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from scaling.console import out, print_table, progress
from scaling.files import write_atomically
from scaling.laws import FORMS, ResidualLoss, fit_law, from_frame, read
from scaling.laws.evidence import rolling_origin
from scaling.laws.forms.losses import residual_scale
from scaling.laws.table import RunsTable

RESULTS = Path("results/objectives")
SWEEPS = 200
RESAMPLES = 300
NOISE = 0.004  # standard deviation of the log-loss
KINDS = ("normal", "Student's t, 3", "5% outliers")
OBJECTIVES = {"Hoffmann's Huber": ResidualLoss("huber"), "adaptive": ResidualLoss("adaptive"),
              "least squares": ResidualLoss("squared")}
NARROW = 1.345       # standard deviations, the usual delta of robust regression
PRIOR = (0.3, 0.5)   # median of the exponents, and the standard deviation of their logarithms
_MIN_POINTS = 60     # of a table of IsoFLOP points
TARGET = {"n": np.array([3e9]), "d": np.array([6e10])}

Array = NDArray[np.float64]


def constants(seed: int, kind: str) -> Array:
    """E, A at 5e7 parameters, B at 1e9 tokens, alpha and beta of a synthetic sweep."""
    return _constants(np.random.default_rng([seed, KINDS.index(kind)]))


def _constants(rng: np.random.Generator) -> Array:
    e, alpha, beta = np.array([1.69, 0.34, 0.28]) * np.exp(0.15 * rng.standard_normal(3))
    a, b = np.array([0.7, 0.8]) * np.exp(0.3 * rng.standard_normal(2))
    return np.array([e, a, b, alpha, beta])


def loss_of(constants: Array, n: Array, d: Array) -> Array:
    """The true loss."""
    e, a, b, alpha, beta = constants
    return np.asarray(e + a * (n / 5e7) ** -alpha + b * (d / 1e9) ** -beta)


def sweep(seed: int, kind: str) -> tuple[RunsTable, float]:
    """The runs of a synthetic sweep, and the true loss at the target."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    true = _constants(rng)
    n, d = (axis.ravel().repeat(2) for axis in np.meshgrid(
        np.geomspace(1e7, 3e8, 5), np.geomspace(2e8, 6e9, 5)))
    z = rng.standard_normal(n.size)
    if kind == KINDS[1]:
        z = rng.standard_t(3, n.size) / np.sqrt(3)
    if kind == KINDS[2]:
        z += (rng.random(n.size) < 0.05) * 10 * np.abs(rng.standard_normal(n.size))
    frame = pd.DataFrame({"n": n, "d": d, "loss": loss_of(true, n, d) * np.exp(NOISE * z)})
    return (from_frame(frame, "sweep", n="n", d="d"),
            float(loss_of(true, TARGET["n"], TARGET["d"])[0]))


def estimates(table: RunsTable) -> dict[str, float]:
    """Predicted loss at the target by estimator."""
    found = {}
    for name, robust in OBJECTIVES.items():
        law = fit_law(table, "chinchilla", robust=robust, resamples=RESAMPLES)
        found[name] = float(law.loss(TARGET)[0])
        samples = law.form.loss(law.samples, TARGET)[:, 0]
        found[f"median of resamples, {name}"] = float(np.median(samples))
    found[f"delta {NARROW} sd"] = _narrow(table)
    found["informed exponents"] = _informed(table)
    return found


def _narrow(table: RunsTable) -> float:
    """Huber's loss whose delta is `NARROW` standard deviations of its own residuals."""
    robust = ResidualLoss("adaptive")
    for _ in range(6):
        law = fit_law(table, "chinchilla", robust=robust, resamples=0)
        r = np.log(table.loss) - np.log(law.loss(table.values))
        robust = ResidualLoss("huber", NARROW * residual_scale(r, 5))
    return float(law.loss(TARGET)[0])


def _informed(table: RunsTable) -> float:
    """The adaptive loss with a normal prior of the logarithms of the exponents."""
    law = fit_law(table, "chinchilla", resamples=0)
    form, delta = law.form, float(law.convention["delta"])
    scale = delta / 2
    x = form.coordinates(table.values)
    centre = x.mean(axis=0)
    y = np.log(table.loss)
    terms = float(table.loss.mean()) * np.array([0.5, 0.3, 0.2])
    start = np.concatenate([np.log(terms), np.maximum(law.point[0, 3:], 0.05)])

    def residuals(theta: Array) -> Array:
        r = (y - form.predict(theta[None], x - centre)[0]) / scale
        size = np.abs(r)
        k = delta / scale
        huber = np.sign(r) * np.where(size <= k, size, np.sqrt(np.maximum(
            2 * k * size - k**2, 0)))  # half its square is Huber's loss
        exponents = np.log(np.maximum(theta[3:], 1e-6) / PRIOR[0]) / PRIOR[1]
        return np.concatenate([huber, exponents])

    theta = least_squares(residuals, start, xtol=1e-12, ftol=1e-12, max_nfev=2000).x
    target = form.coordinates(TARGET) - centre
    return float(np.exp(form.predict(theta[None], target)[0, 0]))


def study(sweeps: int) -> pd.DataFrame:
    """One row for each sweep and estimator."""
    rows = []
    with progress("sweeps", sweeps * len(KINDS)) as bar:
        for kind in KINDS:
            for seed in range(sweeps):
                table, truth = sweep(seed, kind)
                rows += [(kind, name, value / truth - 1)
                         for name, value in estimates(table).items()]
                bar.update(KINDS.index(kind) * sweeps + seed + 1)
    return pd.DataFrame(rows, columns=["noise", "estimator", "error"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute and root mean square error, in percent."""
    groups = rows.assign(absolute=rows["error"].abs(), square=rows["error"] ** 2).groupby(
        ["noise", "estimator"], sort=False)
    mean = groups[["absolute", "square"]].mean()
    return pd.DataFrame({
        "mean_error_percent": 100 * mean["absolute"],
        "rms_error_percent": 100 * np.sqrt(mean["square"]),
        "sweeps": groups.size()}).reset_index()


def published(reference: Path) -> pd.DataFrame:
    """Mean absolute error, in percent, of runs beyond three cuts of C in published tables."""
    gadre = pd.read_csv(reference / "gadre2024_overtraining_104runs.csv")
    porian = pd.read_csv(reference / "porian2024_isoflop_points.csv")
    settings = ["dataset", "hparams", "warmup", "decay", "param_count", "val"]
    tables = {
        "Epoch's 245 points of Hoffmann": read(
            reference / "epoch2024_chinchilla_fig4_245pts.csv", n="Model Size", c="Training FLOP"),
        "Takano's 234": read(reference / "kyotakano_chinchilla_234pts.csv", n="N", d="D", c="C"),
        **{f"Gadre, {name}": from_frame(rows, str(name), n="N", d="D", loss="loss_c4_val")
           for name, rows in gadre.groupby("dataset_name")},
        **{f"Porian, {' '.join(map(str, name))}": from_frame(
            rows, "points", n="n", d="tokens", loss="loss")
           for name, rows in porian.groupby(settings) if len(rows) >= _MIN_POINTS},
    }
    form = FORMS["chinchilla"]
    rows = []
    for name, table in tables.items():
        for objective, robust in OBJECTIVES.items():
            for each in rolling_origin(table, [form], "c", robust=robust).forecasts:
                rows.append((name, table.loss.size, objective, each.cut, each.n_fitted,
                             each.n_predicted, None if each.mean is None else 100 * each.mean))
    return pd.DataFrame(rows, columns=["runs", "number", "objective", "cut_flop", "fitted",
                                       "predicted", "mean_error_percent"])


def main() -> None:
    """Run the study, write its table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=SWEEPS,
                        help="Number of synthetic sweeps of each noise; %(default)s by default.")
    parser.add_argument("--reference", type=Path, metavar="DIR",
                        help="Instead, predict the published runs in this folder.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="Folder of the tables; %(default)s by default.")
    arguments = parser.parse_args()
    if arguments.reference is not None:
        table, name = published(arguments.reference), "published.csv"
    else:
        table, name = summary(study(arguments.sweeps)), "synthetic.csv"
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / name, table.to_csv(index=False, float_format="%.4g"))
    print_table("", list(table.columns), [
        [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row]
        for row in table.itertuples(index=False)], left=("noise", "estimator", "runs", "objective"))
    out.print(f"wrote {arguments.out / name}", markup=False)


if __name__ == "__main__":
    main()
