"""`scaling sweep`: an index of its commands, and `run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import slurm as cluster
from scaling.cli.suggest import suggest
from scaling.cli.sweep_export import export
from scaling.cli.sweep_options import (
    RUNS,
    Overrides,
    Results,
    RunsFolder,
    SweepFile,
    Workers,
    open_plan,
    results_folder,
)
from scaling.cli.sweep_plan import plan
from scaling.cli.sweep_status import log, status
from scaling.cli.sweep_upkeep import cancel, prune, retry
from scaling.cli.terminal import err, out, progress
from scaling.cli.train import SIGNAL_EXIT
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.sweeps.ledger import Standing
    from scaling.sweeps.plan import PlannedRun

app = typer.Typer(
    help="Plan a grid of runs, train it, and gather the losses.", no_args_is_help=True
)
app.command()(plan)


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
    from scaling.sweeps.cost import Pace, within_hours
    from scaling.sweeps.ledger import standing
    from scaling.sweeps.local import launch, shares
    from scaling.sweeps.plan import claim_results
    from scaling.sweeps.table import export as export_tables
    from scaling.sweeps.units import clear_trunks, units_of
    from scaling.training.signals import stop_requests

    by_slurm = cluster.SlurmOptions(
        partition, gpus_per_run, cpus_per_run, nodes_per_run, time, account, wait, slurm)
    if launcher is cluster.Launcher.LOCAL:
        by_slurm.refuse()
        start = launch
    else:
        start = by_slurm.train
    planned = open_plan(config, overrides, runs)
    folder = results_folder(planned, results)
    claim_results(planned, folder)
    if planned.sweep.max_device_hours is not None:
        parts = shares(workers, len(planned.stage("grid")))
        planned = within_hours(planned, Pace.measure(
            planned.runs, parts[0], planned.sweep.pack, len(parts)))
    role = "heldout" if heldout else "grid"
    stage = planned.stage(role)
    if not stage:
        left_out = any(p.role == role for p in planned.runs)
        raise UserError(f"{config}: the budgets pay for no {role} run; raise max_flops or "
                        "max_device_hours" if left_out else
                        f"{config}: has no {role} runs; list some under `{role}`")
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

            stopped_by = start(
                stage, workers, runs / "logs", name, requested, watch, planned.sweep.pack)
        if stopped_by:
            export_tables(planned, folder)
            if launcher is cluster.Launcher.LOCAL:
                err.print("stopped, all saved; the same command goes on from there", markup=False)
            raise typer.Exit(SIGNAL_EXIT + stopped_by)
    else:
        clear_trunks(units_of(stage))  # the launcher of the last of them may have been killed
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
        err.print("scaling sweep log RUN shows more; when the cause is mended: scaling sweep "
                  "retry, then run again", markup=False)
        raise typer.Exit(1)
    if left := sum(not s.over for s in standings.values()):
        err.print(
            f"{left} run(s) are not over: another process trains them, or their worker died; see "
            f"{runs / 'logs'}, and run the same command again", markup=False,
        )
        raise typer.Exit(1)


for command in (status, log, retry, cancel, prune, export, suggest):
    app.command()(command)
