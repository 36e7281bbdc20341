"""`scaling sweep`: plan, run, status, retry, export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import slurm as cluster
from scaling.cli.suggest import suggest
from scaling.cli.terminal import err, out, print_json, print_table, progress
from scaling.cli.train import SIGNAL_EXIT
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.sweeps.ledger import Standing
    from scaling.sweeps.plan import Plan, PlannedRun

app = typer.Typer(
    help="Plan a grid of runs, train it, and gather the losses.", no_args_is_help=True
)
app.command()(suggest)

SweepFile = Annotated[
    Path, typer.Argument(help="YAML of a sweep, such as configs/sweeps/quickstart.yaml")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value laid over it, such as tokens=[1e6,2e6]")
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", help="where run folders are; all sweeps share them")
]
Results = Annotated[
    Path | None, typer.Option("--out", help="results folder; by default results/NAME")
]
Workers = Annotated[
    int | None,
    typer.Option(help="worker processes; by default one for each GPU, or each core", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
RUNS = Path("runs")


def _plan(config: Path, overrides: list[str] | None, runs: Path) -> Plan:
    from scaling.config import SweepConfig, load
    from scaling.sweeps.plan import make_plan

    return make_plan(load(SweepConfig, config, overrides or ()), str(config), runs)


def _results(plan: Plan, folder: Path | None) -> Path:
    return folder or Path("results", plan.sweep.name)


@app.command()
def plan(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    workers: Workers = None,
    measure: Annotated[
        bool, typer.Option(help="time a step of the smallest and the largest model")
    ] = True,
    json_output: AsJson = False,
) -> None:
    """Show every run of a sweep: size, tokens, FLOPs, estimated time, and what is done already.

    Example: `scaling sweep plan configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.cost import Pace
    from scaling.sweeps.ledger import standing
    from scaling.sweeps.local import shares

    planned = _plan(config, overrides, runs)
    parts = shares(workers, len(planned.stage("grid")))
    pace = Pace.measure(planned.runs, parts[0]) if measure else None
    rows: list[dict[str, Any]] = []
    for p in planned.runs:
        now = standing(p)
        left = pace.seconds_left(p, now) if pace else None
        model = p.run.model
        rows.append({
            "run_id": p.run_id, "role": p.role, "d_model": model.d_model,
            "n_layers": model.n_layers, **{k: p.facts[k] for k in (
                "params_non_embedding", "params_total", "tokens", "epochs", "lr", "flops_6nd",
                "flops_counted")},
            "steps": p.run.steps, "state": now.state, "seconds_left": left,
        })
    counts = Counter(row["state"] for row in rows)
    flops = sum(row["flops_counted"] for row in rows)
    left = sum(row["seconds_left"] for row in rows) if pace else None
    if json_output:
        print_json({"runs": rows, "states": counts, "flops_counted": flops, "seconds_left": left,
                    "workers": len(parts)})
        return
    print_table(
        f"{planned.sweep.name}: {len(rows)} runs on {planned.store.path}",
        ["run", "role", "d x layers", "N (no emb.)", "N (all)", "tokens", "epochs", "lr", "6ND",
         "FLOPs", "time", "state"],
        [[
            row["run_id"], row["role"], f"{row['d_model']} x {row['n_layers']}",
            f"{row['params_non_embedding']:,}", f"{row['params_total']:,}", f"{row['tokens']:,}",
            f"{row['epochs']:.3f}", f"{row['lr']:.2e}", f"{row['flops_6nd']:.2e}",
            f"{row['flops_counted']:.2e}", _clock(row["seconds_left"]), row["state"],
        ] for row in rows],
    )
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    out.print(f"{states}; {flops:.3g} counted FLOPs in all", markup=False)
    if left is not None:
        out.print(
            f"about {_clock(left / len(parts))} left with {len(parts)} worker(s), from a step "
            "timed alone (workers side by side are slower)", markup=False,
        )


@app.command()
def run(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: Results = None,
    workers: Workers = None,
    heldout: Annotated[
        bool, typer.Option("--heldout", help="train the held-out runs instead of the grid")
    ] = False,
    launcher: cluster.Which = cluster.Launcher.LOCAL,
    partition: cluster.Partition = None,
    gpus_per_run: cluster.GpusPerRun = None,
    cpus_per_run: cluster.CpusPerRun = None,
    nodes_per_run: cluster.NodesPerRun = None,
    time: cluster.Minutes = None,
    account: cluster.Account = None,
    wait: cluster.Wait = None,
    slurm: cluster.Further = None,
) -> None:
    """Train every run of the grid that is not done, and write the runs table.

    Interrupt it when you like: the same command goes on. `--heldout` trains the runs that test
    the law, once it has been fitted. `--launcher slurm` submits an array of jobs, each of which
    trains one run after the other, is requeued when it is pre-empted or its wall time ends, and
    goes on.

    Example: `scaling sweep run configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.ledger import standing
    from scaling.sweeps.local import launch
    from scaling.sweeps.plan import claim_results
    from scaling.sweeps.table import export as export_tables
    from scaling.training.signals import stop_requests

    by_slurm = cluster.SlurmOptions(
        partition, gpus_per_run, cpus_per_run, nodes_per_run, time, account, wait, slurm)
    if launcher is cluster.Launcher.LOCAL:
        by_slurm.refuse()
        start = launch
    else:
        start = by_slurm.train
    planned = _plan(config, overrides, runs)
    folder = _results(planned, results)
    claim_results(planned, folder)
    role = "heldout" if heldout else "grid"
    stage = planned.stage(role)
    if not stage:
        raise UserError(f"{config}: has no {role} runs; list some under `{role}`")
    name = f"{planned.sweep.name}.{role}"
    total = sum(p.facts["flops_counted"] for p in stage)
    if not all(standing(p).over for p in stage):
        with stop_requests() as requested, progress(name, total / 1e9) as bar:
            def watch(standings: Sequence[Standing]) -> None:
                done = sum(
                    p.facts["flops_counted"] * (1 if s.over else s.step / p.run.steps)
                    for p, s in zip(stage, standings, strict=True)
                )
                over = sum(s.over for s in standings)
                bar.update(done / 1e9, f"GFLOP  {over}/{len(stage)} runs")

            stopped_by = start(stage, workers, runs / "logs", name, requested, watch)
        if stopped_by:
            export_tables(planned, folder)
            if launcher is cluster.Launcher.LOCAL:
                err.print("stopped, all saved; the same command goes on from there", markup=False)
            raise typer.Exit(SIGNAL_EXIT + stopped_by)
    export_tables(planned, folder)
    _summary(stage, folder, name, runs)


def _summary(stage: Sequence[PlannedRun], folder: Path, name: str, runs: Path) -> None:
    from scaling.sweeps.ledger import standing

    standings = {p.run_id: standing(p) for p in stage}
    counts = Counter(s.state for s in standings.values())
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    out.print(f"{name}: {states}; table in {folder / 'runs.csv'}", markup=False)
    failed = {run_id: s.note for run_id, s in standings.items() if s.state == "failed"}
    for run_id, note in failed.items():
        err.print(f"{run_id} failed: {note}", markup=False)
    if failed:
        err.print("when the cause is mended: scaling sweep retry, then run again", markup=False)
        raise typer.Exit(1)
    if left := sum(not s.over for s in standings.values()):
        err.print(
            f"{left} run(s) are not over: another process trains them, or their worker died; see "
            f"{runs / 'logs'}, and run the same command again", markup=False,
        )
        raise typer.Exit(1)


@app.command()
def status(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    json_output: AsJson = False,
) -> None:
    """Show where each run stands, read from the run folders.

    Example: `scaling sweep status configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.ledger import standing

    planned = _plan(config, overrides, runs)
    rows = [(p, standing(p)) for p in planned.runs]
    if json_output:
        print_json([
            {"run_id": p.run_id, "role": p.role, "state": s.state, "step": s.step,
             "steps": p.run.steps, "loss": s.loss, "note": s.note} for p, s in rows
        ])
        return
    print_table(
        planned.sweep.name,
        ["run", "role", "d x layers", "tokens", "state", "step", "loss", "note"],
        [[
            p.run_id, p.role, f"{p.run.model.d_model} x {p.run.model.n_layers}",
            f"{p.run.trained_tokens:,}", s.state, f"{s.step}/{p.run.steps}",
            "" if s.loss is None else f"{s.loss:.4f}", s.note,
        ] for p, s in rows],
    )


@app.command()
def retry(config: SweepFile, overrides: Overrides = None, runs: RunsFolder = RUNS) -> None:
    """Let failed runs be tried again by the next `run`, under the same identity.

    A diverged run is a result, not a failure, and stays.

    Example: `scaling sweep retry configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.ledger import forgive

    forgiven = sum(forgive(p) for p in _plan(config, overrides, runs).runs)
    out.print(f"{forgiven} failed run(s) will be tried again by `scaling sweep run`", markup=False)


@app.command()
def export(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: Results = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="also write runs.parquet (needs pyarrow)")
    ] = False,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="also write the finished runs to a W&B project"),
    ] = None,
) -> None:
    """Write the runs table and the learning curves into the results folder.

    Example: `scaling sweep export configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.plan import claim_results
    from scaling.sweeps.table import export as export_tables

    planned = _plan(config, overrides, runs)
    folder = _results(planned, results)
    claim_results(planned, folder)
    for path in export_tables(planned, folder, parquet=parquet):
        out.print(str(path), markup=False)
    if wandb is not None:
        from scaling.sweeps.wandb_export import export_wandb

        count = export_wandb(planned, wandb, folder)
        out.print(f"{count} run(s) written to the W&B project {wandb}", markup=False)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
