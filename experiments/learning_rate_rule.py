"""The optimal peak learning rate as a function of model size, for the quickstart sweep.

Hypothesis: the optimal rate decreases as a power of N (parameters outside embeddings and head), so
one rule applies to all sizes of the sweep and to the held-out model.

Method: three sizes of configs/sweeps/quickstart.yaml, each trained on the same tokens with rates a
factor of two apart; a parabola through the losses around the best, in log rate, gives the optimal
rate; a line through the optima, in log-log, gives the rule.

    python experiments/learning_rate_rule.py            # about ten minutes on two cores

Result: results/learning_rate_rule/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from scaling.config import SweepConfig, load
from scaling.console import out, progress
from scaling.files import write_atomically
from scaling.launch.train import train_runs
from scaling.runs.planned import PlannedRun
from scaling.runs.state import run_state
from scaling.sweeps.plan import make_plan
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/quickstart.yaml")
SIZES = (0, 2, 4)
TOKENS = 600_000
RATES = tuple(0.0007 * 2**k for k in range(6))
RESULTS = Path("results/learning_rate_rule")


def planned_runs() -> list[PlannedRun]:
    """Every size at every rate, the most expensive first."""
    runs = []
    sizes = load(SweepConfig, SWEEP).sizes
    assert isinstance(sizes, tuple)
    for index in SIZES:
        size = sizes[index].model_dump(exclude_none=True)
        for rate in RATES:
            overrides = [f"sizes={[size]}", f"grids=[{{kind: product, tokens: [{TOKENS}]}}]",
                         "heldout=[]",
                         f"learning_rate={{rule: listed, rates: [{rate}]}}"]
            runs += make_plan(load(SweepConfig, SWEEP, overrides), str(SWEEP), Path("runs")).runs
    return sorted(runs, key=lambda p: -p.facts["flops_counted"])


def optimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """The minimum of the parabola through the best rate and its neighbours, in log rate; NaN if
    the best rate is at an end of the grid."""
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1):
        return float("nan")
    near = slice(best - 1, best + 2)
    square, slope, _ = np.polyfit(np.log(rates[near]), losses[near], 2)
    return float(np.exp(-slope / (2 * square)))


def main() -> None:
    """Train the runs that are not finished, and print the rule."""
    runs = planned_runs()
    with stop_requests() as requested, progress("learning rates", len(runs)) as bar:
        stopped_by = train_runs(runs, None, Path("runs/logs"), "learning_rate_rule", requested,
                                lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, all progress saved; run the same command to continue")
    rows = pd.DataFrame(
        [p.facts | {"loss": run_state(p).loss, "state": run_state(p).state} for p in runs]
    ).sort_values(["params_non_embedding", "lr"])
    RESULTS.mkdir(parents=True, exist_ok=True)
    columns = ["params_non_embedding", "tokens", "lr", "loss", "state"]
    write_atomically(RESULTS / "runs.csv", rows[columns].to_csv(index=False))
    sizes, best = [], []
    for size, group in rows.groupby("params_non_embedding"):
        losses = group["loss"].astype(float).fillna(np.inf).to_numpy()
        rate = optimum(group["lr"].to_numpy(), losses)
        pairs = "  ".join(f"{r:.0e}: {x:.4f}" for r, x in zip(group["lr"], losses, strict=True))
        out.print(f"N = {size:>9,}  {pairs}  optimum {rate:.2e}", markup=False)
        if np.isfinite(rate):
            sizes.append(float(size))
            best.append(rate)
    exponent, constant = np.polyfit(np.log(sizes), np.log(best), 1)
    at = np.exp(constant + exponent * np.log(100_000))
    out.print(f"rule: {at:.2e} * (N / 100,000) ** {exponent:.3f}", markup=False)


if __name__ == "__main__":
    main()
