"""The optimal peak learning rate as a function of model size, for the quickstart sweep.

Hypothesis: the optimal rate decreases as a power of N (parameters outside embeddings and head), so
one rule applies to all sizes of the sweep and to the held-out model.

Method: three sizes of configs/sweeps/quickstart.yaml, each trained on the same tokens with rates a
factor of two apart. The optimal rate of a size is the minimum of the parabola through the lowest
loss and its two neighbours, as a function of the log rate; the rule is the straight line through
the logarithms of the optimal rates, as a function of log N.

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
    """A run for every size and rate, the most expensive first."""
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


def optimal_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate at the minimum of the parabola through the lowest loss and its two neighbours, as a
    function of the log rate; NaN if the lowest loss is at an end of the grid."""
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1):
        return float("nan")
    fitted = slice(best - 1, best + 2)
    quadratic, linear, _ = np.polyfit(np.log(rates[fitted]), losses[fitted], 2)
    return float(np.exp(-linear / (2 * quadratic)))


def main() -> None:
    """Train the runs that are not finished, write the table, and print the rule."""
    runs = planned_runs()
    with stop_requests() as requested, progress("learning rates", len(runs)) as bar:
        stopped_by = train_runs(runs, None, Path("runs/logs"), "learning_rate_rule", requested,
                                lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, with all progress saved; run the same command again to continue")
    rows = pd.DataFrame(
        [p.facts | {"loss": run_state(p).loss, "state": run_state(p).state} for p in runs]
    ).sort_values(["params_non_embedding", "lr"])
    RESULTS.mkdir(parents=True, exist_ok=True)
    columns = ["params_non_embedding", "tokens", "lr", "loss", "state"]
    write_atomically(RESULTS / "runs.csv", rows[columns].to_csv(index=False))
    sizes, optimal_rates = [], []
    for size, group in rows.groupby("params_non_embedding"):
        losses = group["loss"].astype(float).fillna(np.inf).to_numpy()
        rate = optimal_rate(group["lr"].to_numpy(), losses)
        pairs = "  ".join(f"{r:.0e}: {x:.4f}" for r, x in zip(group["lr"], losses, strict=True))
        out.print(f"N = {size:>9,}  loss by rate: {pairs}  optimal rate {rate:.2e}", markup=False)
        if np.isfinite(rate):
            sizes.append(float(size))
            optimal_rates.append(rate)
    exponent, constant = np.polyfit(np.log(sizes), np.log(optimal_rates), 1)
    reference_rate = np.exp(constant + exponent * np.log(100_000))
    out.print(f"rule: {reference_rate:.2e} * (N / 100,000) ** {exponent:.3f}", markup=False)


if __name__ == "__main__":
    main()
