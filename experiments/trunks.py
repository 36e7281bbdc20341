"""What do runs of one model on six token counts cost when they share a trunk, and is it the same?

Hypothesis: a branch that cools down from the trunk of a longer run ends at the loss of the run
trained by itself, well within the noise of the seed, since until the cool-down both are one
computation; and six token counts a factor of 1.5 apart cost half of what they cost apart.

Method: a model of configs/sweeps/quickstart.yaml on real text, with six token counts and three
seeds, trained once together, as `scaling sweep run` does, and once apart, a launch for each token
count, in another folder of runs. What the runs of the first folder paid themselves (`flops_own` of
their records) is held against what those of the second did; each loss against its twin, and the
differences against the standard deviation over seeds.

    python experiments/trunks.py                # about five minutes on two cores

Result: results/trunks/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.cli.terminal import out, progress
from scaling.config import SweepConfig, load
from scaling.files import write_atomically
from scaling.sweeps.local import launch
from scaling.sweeps.plan import PlannedRun, make_plan
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/quickstart.yaml")
SIZE = 2
TOKENS = tuple(round(600_000 / 1.5**k) for k in reversed(range(6)))
SEEDS = (0, 1, 2)
RESULTS = Path("results/trunks")
TOGETHER, APART = Path("runs/together"), Path("runs/apart")


def planned_runs(folder: Path) -> list[PlannedRun]:
    """All runs, dearest first."""
    size = load(SweepConfig, SWEEP).sizes[SIZE].model_dump(exclude_none=True)
    changes = [f"sizes={[size]}", f"grids=[{{kind: product, tokens: {list(TOKENS)}}}]",
               f"seeds={list(SEEDS)}", "heldout=[]"]
    return make_plan(load(SweepConfig, SWEEP, changes), str(SWEEP), folder).stage("grid")


def train(launches: list[list[PlannedRun]], name: str) -> None:
    """Train what is not trained yet, one launch after the other."""
    with stop_requests() as requested, progress(name, len(launches)) as bar:
        for done, runs in enumerate(launches):
            if launch(runs, None, runs[0].folder.path.parent / "logs", name, requested,
                      lambda _: None):
                raise SystemExit("stopped, all saved; the same command goes on from there")
            bar.update(done + 1)


def records(runs: list[PlannedRun]) -> pd.DataFrame:
    """What came out, by seed and tokens."""
    columns = ["seed", "tokens", "loss", "loss_se", "flops_own", "flops_shared", "trunk"]
    return pd.DataFrame([p.folder.record() for p in runs])[columns].set_index(["seed", "tokens"])


def main() -> None:
    """Train both ways, and print how they compare."""
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
    out.print(f"{len(both)} runs; together they paid {share:.1%} of the FLOPs of runs apart; the "
              f"largest difference between twins is {difference:.2g} nats/token, and the standard "
              f"deviation over seeds {noise:.4f}", markup=False)


if __name__ == "__main__":
    main()
