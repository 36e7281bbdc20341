"""Which peak learning rate does each size of the quickstart want?

Hypothesis: the best rate falls with size as a power of N (parameters outside embeddings and head),
so one rule serves the whole ladder, and the held-out model with it.

Method: three sizes of configs/sweeps/quickstart.yaml, each trained on the same tokens with rates a
factor of two apart; a parabola through the losses around the best, in log rate, gives its optimum;
a line through the optima, in log-log, gives the rule.

    python experiments/learning_rate_rule.py            # about ten minutes on two cores

Result: results/learning_rate_rule/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from scaling.cli.terminal import out, progress
from scaling.config import SweepConfig, load
from scaling.files import write_atomically
from scaling.sweeps.ledger import standing
from scaling.sweeps.local import launch
from scaling.sweeps.plan import PlannedRun, make_plan
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/quickstart.yaml")
SIZES = (0, 2, 4)
TOKENS = 600_000
RATES = tuple(0.0007 * 2**k for k in range(6))
RESULTS = Path("results/learning_rate_rule")


def planned_runs() -> list[PlannedRun]:
    """Every size at every rate, dearest first."""
    runs = []
    sizes = load(SweepConfig, SWEEP).sizes
    assert isinstance(sizes, tuple)
    for number in SIZES:
        size = sizes[number].model_dump(exclude_none=True)
        for rate in RATES:
            changes = [f"sizes={[size]}", f"grids=[{{kind: product, tokens: [{TOKENS}]}}]",
                       "heldout=[]",
                       f"learning_rate={{rule: listed, rates: [{rate}]}}"]
            runs += make_plan(load(SweepConfig, SWEEP, changes), str(SWEEP), Path("runs")).runs
    return sorted(runs, key=lambda p: -p.facts["flops_counted"])


def optimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """Where the parabola through the best rate and its neighbours, in log rate, is lowest; NaN if
    the best lies at an end of the grid."""
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1):
        return float("nan")
    near = slice(best - 1, best + 2)
    square, slope, _ = np.polyfit(np.log(rates[near]), losses[near], 2)
    return float(np.exp(-slope / (2 * square)))


def main() -> None:
    """Train what is not trained yet, and print the rule."""
    runs = planned_runs()
    with stop_requests() as requested, progress("learning rates", len(runs)) as bar:
        stopped_by = launch(runs, None, Path("runs/logs"), "learning_rate_rule", requested,
                            lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, all saved; the same command goes on from there")
    rows = pd.DataFrame(
        [p.facts | {"loss": standing(p).loss, "state": standing(p).state} for p in runs]
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
