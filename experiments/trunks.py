"""Cost and losses of runs on six token counts that share a trunk, compared with separate runs.

Hypothesis: a branch that cools down from the trunk of a longer run reaches the loss of the same run
trained separately, well within the noise between seeds, because both are the same computation until
the cool-down; and six token counts a factor of 1.5 apart cost half as much together as separately.

Method: a model of configs/sweeps/quickstart.yaml on real text, with six token counts and three
seeds, trained once together, as by `scaling sweep run`, and once separately, with one launch per
token count, in another folder of runs. The total FLOPs of the two folders (`flops_own` of the
records, which excludes FLOPs that are shared with a trunk) are compared, and each loss with that of
the separate run; the differences are compared with the standard deviation over seeds.

    python experiments/trunks.py                # about five minutes on two cores

Result: results/trunks/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.config import SweepConfig, load
from scaling.console import out, progress
from scaling.files import write_atomically
from scaling.launch.train import train_runs
from scaling.runs.planned import GRID, PlannedRun
from scaling.sweeps.plan import make_plan
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/quickstart.yaml")
SIZE = 2  # index into the sizes of the sweep
TOKENS = tuple(round(600_000 / 1.5**k) for k in reversed(range(6)))
SEEDS = (0, 1, 2)
RESULTS = Path("results/trunks")
TOGETHER, APART = Path("runs/together"), Path("runs/apart")


def planned_runs(folder: Path) -> list[PlannedRun]:
    """The runs for all token counts and seeds, the most expensive first."""
    size = load(SweepConfig, SWEEP).sizes[SIZE].model_dump(exclude_none=True)
    overrides = [f"sizes={[size]}", f"grids=[{{kind: product, tokens: {list(TOKENS)}}}]",
                 f"seeds={list(SEEDS)}", "heldout=[]"]
    return make_plan(load(SweepConfig, SWEEP, overrides), str(SWEEP), folder).runs_of_role(GRID)


def train(launches: list[list[PlannedRun]], name: str) -> None:
    """Train the runs that are not finished, one launch after the other."""
    with stop_requests() as requested, progress(name, len(launches)) as bar:
        for done, runs in enumerate(launches):
            if train_runs(runs, None, runs[0].folder.path.parent / "logs", name, requested,
                          lambda _: None):
                raise SystemExit(
                    "stopped, with all progress saved; run the same command again to continue")
            bar.update(done + 1)


def records(runs: list[PlannedRun]) -> pd.DataFrame:
    """Losses in nats per token, and FLOPs, from the records of the runs, by seed and tokens."""
    columns = ["seed", "tokens", "loss", "loss_se", "flops_own", "flops_shared", "trunk"]
    return pd.DataFrame([p.folder.record() for p in runs])[columns].set_index(["seed", "tokens"])


def main() -> None:
    """Train together and separately, write the table, and print the comparison."""
    together, apart = planned_runs(TOGETHER), planned_runs(APART)
    train([together], "together")
    counts = sorted({p.run.trained_tokens for p in apart})
    train([[p for p in apart if p.run.trained_tokens == count] for count in counts], "apart")
    both = records(together).merge(records(apart), left_index=True, right_index=True,
                                   suffixes=("_together", "_apart"))
    both = both.drop(columns=["trunk_apart", "flops_shared_apart"]).sort_index()
    RESULTS.mkdir(parents=True, exist_ok=True)
    both["trunk_together"] = [t["run_id"] if t else "" for t in both["trunk_together"]]
    write_atomically(RESULTS / "runs.csv", both.reset_index().to_csv(index=False))
    share = both["flops_own_together"].sum() / both["flops_own_apart"].sum()
    difference = (both["loss_together"] - both["loss_apart"]).abs().max()
    noise = both["loss_apart"].groupby("tokens").std().mean()
    out.print(f"{len(both)} runs; together they need {share:.1%} of the FLOPs of separate runs; "
              f"the largest difference of losses is {difference:.2g} nats per token, and their "
              f"standard deviation over seeds is {noise:.4f} nats per token", markup=False)


if __name__ == "__main__":
    main()
