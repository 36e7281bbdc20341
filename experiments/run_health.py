"""Which unhealthy runs the health check names, and which healthy ones it should not.

Hypothesis: of runs that differ from those of the quickstart by another seed, another length, or by
a factor of two in the learning rate, none is named; runs with an eighth or eight times the rate,
without a cool-down, or that warm up for most of their length, are, and have a higher loss.

Method: the three smallest sizes of configs/sweeps/quickstart.yaml, with one change each. Every run
is added alone to results/quickstart, with its training curve and without its schedule, and the
table is checked (`scaling.laws.check_health`): `deviation` is that of its normalised curve, and
`named` whether the run is found unhealthy by it; `others` is the largest deviation of the runs of
the quickstart. `excess` is the loss relative to that of the unchanged run of the same size, length
and seed.

    scaling data prepare wheel:chitchat-dataset --out stores/chitchat-byte
    python experiments/run_health.py                    # about fifteen minutes on two cores

Result: results/run_health/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.config import SweepConfig, load
from scaling.console import out, progress
from scaling.files import write_atomically
from scaling.launch.train import train_runs
from scaling.laws import check_health
from scaling.sweeps.plan import Plan, make_plan
from scaling.sweeps.table import curves_table, runs_table
from scaling.training.signals import stop_requests

SWEEP, BASE = Path("configs/sweeps/quickstart.yaml"), Path("results/quickstart")
RESULTS = Path("results/run_health")
RULE = {"rule": "power", "learning_rate": 5.2e-3, "reference_params": 100_000, "exponent": -0.48}
SHORT, MEDIUM = [150_000, 300_000, 600_000], [300_000, 600_000]
ALL, ENDS = (0, 1, 2), (0, 2)
"""Indices of sizes in the sweep."""


def rate(factor: float) -> str:
    """The learning rate of the quickstart times a factor, as an override."""
    return f"learning_rate={RULE | {'learning_rate': float(f'{5.2e-3 * factor:.6g}')}}"


VARIATIONS: dict[str, tuple[tuple[int, ...], list[int], tuple[str, ...]]] = {
    "seed": (ALL, [*SHORT, 1_200_000], ("seeds=[1]",)),
    "length": (ALL, [200_000, 420_000, 900_000], ("seeds=[2]",)),
    "rate x 2": (ALL, SHORT, (rate(2),)),
    "rate / 2": (ALL, SHORT, (rate(0.5),)),
    "rate x 8": (ALL, MEDIUM, (rate(8),)),
    "rate / 8": (ALL, MEDIUM, (rate(0.125),)),
    "cool-down": (ENDS, MEDIUM, ("vary={schedule.decay_fraction: [0.01, 0.03, 0.05, 0.1, 0.4]}",)),
    "warm-up": (ENDS, [150_000], ("vary={schedule.warmup_steps: [58, 116, 174, 232]}",
                                  "seeds=[0, 1]")),
}
"""Sizes, tokens and overrides of the sweep, by what is changed."""


def plans() -> dict[str, Plan]:
    """The runs of each variation."""
    sizes = load(SweepConfig, SWEEP).sizes
    assert isinstance(sizes, tuple)
    made = {}
    for name, (indices, tokens, overrides) in VARIATIONS.items():
        chosen = [sizes[index].model_dump(exclude_none=True) for index in indices]
        sweep = load(SweepConfig, SWEEP, [
            f"sizes={chosen}", f"grids=[{{kind: product, tokens: {tokens}}}]", "heldout=[]",
            *overrides])
        made[name] = make_plan(sweep, str(SWEEP), Path("runs"))
    return made


def checked(name: str, plan: Plan) -> list[dict[str, object]]:
    """A row for each finished run of a variation."""
    base, base_curves = pd.read_csv(BASE / "runs.csv"), pd.read_csv(BASE / "curves.csv")
    runs, curves = runs_table(plan), curves_table(plan)
    schedule = ["warmup_fraction", "decay_fraction"]
    rows: list[dict[str, object]] = []
    for run in runs[runs["status"] == "done"].to_dict("records"):
        alone = pd.DataFrame([run]).drop(columns=schedule)
        table = pd.concat([base.drop(columns=schedule, errors="ignore"), alone])
        health = check_health(
            table, pd.concat([base_curves, curves[curves["run_id"] == run["run_id"]]]))
        others = [figure for each, figure in health.deviations.items() if each != run["run_id"]]
        rows.append({"variation": name} | {key: run[key] for key in (
            "params_non_embedding", "tokens", "seed", "lr", *schedule, "loss")} | {
            "deviation": health.deviations.get(run["run_id"]), "others": max(others),
            "named": ", ".join(each.kind for each in health.findings
                               if each.run_id == run["run_id"]),
            "others_named": sum(each.run_id != run["run_id"] for each in health.findings)})
    return rows


def with_excess(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the loss relative to the unchanged run, where there is one."""
    keys = ["params_non_embedding", "tokens", "seed"]
    unchanged = pd.concat([pd.read_csv(BASE / "runs.csv"), rows[rows["variation"] == "seed"]])
    merged = rows.merge(unchanged[[*keys, "loss"]], on=keys, how="left", suffixes=("", "_of_base"))
    merged["excess"] = merged["loss"] / merged.pop("loss_of_base") - 1
    return merged


def main() -> None:
    """Train the runs that are not finished, check each, write the table, and print a summary."""
    made = plans()
    runs = [planned for plan in made.values() for planned in plan.runs]
    with stop_requests() as requested, progress("run health", len(runs)) as bar:
        stopped_by = train_runs(runs, None, Path("runs/logs"), "run_health", requested,
                                lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, with all progress saved; run the same command again to continue")
    rows = with_excess(pd.DataFrame(
        [row for name, plan in made.items() for row in checked(name, plan)]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / "runs.csv", rows.to_csv(index=False, float_format="%.6g"))
    rows["schedule"] = rows["variation"].map({"cool-down": "decay_fraction",
                                              "warm-up": "warmup_fraction"})
    rows["value"] = [round(row[row["schedule"]], 2) if isinstance(row["schedule"], str) else ""
                     for _, row in rows.iterrows()]
    for (name, value), group in rows.groupby(["variation", "value"], sort=False):
        excess = group["excess"].mean()
        out.print(f"{name} {value}: {(group['named'] != '').sum()} of {len(group)} named; "
                  f"deviation {group['deviation'].min():.1f} to {group['deviation'].max():.1f}; "
                  f"others named {group['others_named'].sum()}"
                  + (f"; loss {excess:+.1%}" if pd.notna(excess) else ""), markup=False)


if __name__ == "__main__":
    main()
