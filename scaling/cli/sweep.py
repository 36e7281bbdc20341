"""`scaling sweep`: its commands, and `scaling sweep run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import launchers
from scaling.cli.suggest import suggest
from scaling.cli.sweep_export import export
from scaling.cli.sweep_options import (
    Overrides,
    ResultsFolder,
    RunsFolder,
    SweepFile,
    Workers,
    open_plan,
    results_folder,
)
from scaling.cli.sweep_plan import plan
from scaling.cli.sweep_status import log, status
from scaling.cli.sweep_upkeep import cancel, prune, retry
from scaling.cli.train import SIGNAL_EXIT
from scaling.console import err, notice, out, progress, warn
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    from scaling.runs.planned import PlannedRun
    from scaling.runs.state import RunState
    from scaling.sweeps.plan import Plan

app = typer.Typer(
    help="Plan and train a grid of runs, and collect the losses.", no_args_is_help=True
)
app.command()(plan)


@app.command()
def run(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: ResultsFolder = None,
    workers: Workers = None,
    heldout: Annotated[
        bool, typer.Option("--heldout", help="Train the held-out runs instead of the grid.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(
        "--only", metavar="RUN", show_default=False,
        help="Train only this run of them, named by its identity or the first digits; may be "
             "repeated.")] = None,
    launcher: launchers.LauncherName = launchers.LOCAL,
    launcher_option: launchers.LauncherSettings = None,
    partition: launchers.Partition = None,
    gpus_per_run: launchers.GpusPerRun = None,
    cpus_per_run: launchers.CpusPerRun = None,
    nodes_per_run: launchers.NodesPerRun = None,
    time: launchers.Minutes = None,
    account: launchers.Account = None,
    wait: launchers.Wait = None,
    slurm: launchers.SbatchOptions = None,
) -> None:
    """Train the runs of the grid that are not done, and write the runs table.

    It can be interrupted at any time; the same command continues. `--heldout` trains the runs that
    test a fitted law. `--launcher slurm` submits an array of jobs; each job trains one run after
    another, and is requeued and continues when it is pre-empted or its wall time ends. The exit
    status is 1 if runs failed, or if all of them diverged.

    Example: `scaling sweep run configs/sweeps/quickstart.yaml`

    Example: `scaling sweep run SWEEP.yaml --only 9af4e9a9 --only c92bfce0`
    """
    from scaling.launch.jobs import clear_trunks, jobs_of
    from scaling.launch.train import train_runs
    from scaling.runs.lease import lease_seconds
    from scaling.runs.state import run_state
    from scaling.sweeps.plan import claim_results
    from scaling.sweeps.table import check_tables
    from scaling.sweeps.table import export as export_tables
    from scaling.training.signals import stop_requests

    lease_seconds()
    launched_by = launchers.open_launcher(launcher, launcher_option, {
        "partition": partition, "gpus_per_run": gpus_per_run, "cpus_per_run": cpus_per_run,
        "nodes_per_run": nodes_per_run, "time": time, "account": account, "slurm": slurm})
    if wait is False and not launched_by.detached:
        raise UserError(f"--no-wait: the workers of --launcher {launcher} end with this command; "
                        "choose --launcher slurm, or leave it out")
    planned = open_plan(config, overrides, runs)
    if launched_by.detached and planned.sweep.max_device_hours is not None:
        raise UserError(f"max_device_hours: step times are measured on this machine, and "
                        f"--launcher {launcher} trains on others; set max_flops instead")
    folder = results_folder(planned, results)
    claim_results(planned, folder)
    finished = check_tables(folder)  # before training, which may take days
    if planned.sweep.max_device_hours is not None:
        planned = _within_hours(planned, workers)
    for warning in planned.warnings:
        warn(warning)
    role = "heldout" if heldout else "grid"
    stage = planned.runs_of_role(role)
    if not stage:
        over_budget = any(p.role == role for p in planned.runs)
        raise UserError(f"{config}: the budgets cover no {role} run; raise max_flops or "
                        "max_device_hours" if over_budget else
                        f"{config}: has no {role} runs; list some under `{role}`")
    stage = _only(stage, only or [], config)
    name = f"{planned.sweep.name}.{role}"
    if lost := sum(p.run_id in finished and not run_state(p).over for p in stage):
        notice(f"{lost} finished run(s) of {folder / 'runs.csv'} are not in {runs} and are trained "
               "again; if their folders are elsewhere, stop this command and use --runs")
    if not all(run_state(p).over for p in stage):
        detached = launched_by.detached
        with stop_requests() as requested, _progress_bar(name, stage) as watch:
            stopped_by = train_runs(
                stage, workers, runs / "logs", name,
                requested if detached else _announced(requested), watch, planned.sweep.pack,
                launched_by, wait=wait is not False, notify=launchers.show)
        if wait is False:
            launchers.show("`scaling sweep status` shows their progress")
            raise typer.Exit
        if stopped_by:
            export_tables(planned, folder, notify=notice)
            launchers.show(
                "the jobs continue without this command; run it again to wait for them" if detached
                else "stopped; all runs are saved, and the same command continues")
            raise typer.Exit(SIGNAL_EXIT + stopped_by)
    else:
        clear_trunks(jobs_of(stage))  # the launcher of the last run may have been killed
    export_tables(planned, folder, notify=notice)
    _summary(stage, folder, name, runs)


def _only(stage: list[PlannedRun], only: list[str], config: Path) -> list[PlannedRun]:
    """The runs of `--only`, in the order of the stage; all without the option.

    Raises:
        UserError: no run has an identity that begins so, or several do.
    """
    chosen = set()
    for prefix in only:
        found = [run.run_id for run in stage if run.run_id.startswith(prefix)]
        if len(found) != 1:
            problem = ("no run to train has an identity that begins with it; see `scaling sweep "
                       "status`" if not found else
                       f"{len(found)} runs begin with it; give more digits")
            raise UserError(f"--only {prefix}: {problem} ({config})")
        chosen.update(found)
    return [run for run in stage if run.run_id in chosen] if only else stage


def _announced(requested: Callable[[], int | None]) -> Callable[[], int | None]:
    """`requested`, with a message at the first stop request, because saving may take a while."""
    announced = False

    def check() -> int | None:
        nonlocal announced
        number = requested()
        if number and not announced:
            announced = True
            err.print("stopping: every run is saved first", markup=False)
        return number

    return check


def _within_hours(planned: Plan, workers: int | None) -> Plan:
    """The plan limited to max_device_hours, from a measured step time without a time limit."""
    from scaling.launch.local import shares
    from scaling.sweeps.cost import StepTimeModel, within_hours

    worker_shares = shares(workers, len(planned.runs_of_role("grid")))
    notice("timing a step, for max_device_hours")
    step_times = StepTimeModel.measure(
        planned.runs, worker_shares[0], planned.sweep.pack, len(worker_shares), budget=None)
    assert step_times is not None
    return within_hours(planned, step_times)


_Watch = Callable[["Sequence[RunState]"], None]


@contextmanager
def _progress_bar(name: str, stage: Sequence[PlannedRun]) -> Iterator[_Watch]:
    """A progress bar of a launch; yields a function that updates it from the states of the runs."""
    from scaling.sweeps.launch_progress import LaunchProgress

    launch = LaunchProgress(stage)
    with progress(name, 1.0, counted=False) as bar:
        def watch(run_states: Sequence[RunState]) -> None:
            now, counts = launch.measure(run_states), Counter(s.state for s in run_states)
            parts = [f"of {now.flops_total:.3g} FLOPs",
                     f"{counts['done']} of {len(stage)} runs done",
                     *(f"{counts[s]} {s}" for s in ("diverged", "failed") if counts[s])]
            if now.tokens_per_second:
                parts.append(f"{now.tokens_per_second:,.0f} tokens/s")
            bar.update(now.flops_done, ", ".join(parts), now.flops_total)

        yield watch


def _summary(stage: Sequence[PlannedRun], folder: Path, name: str, runs: Path) -> None:
    from scaling.runs.state import UNREADABLE, run_state

    run_states = {p.run_id: run_state(p) for p in stage}
    counts = Counter(s.state for s in run_states.values())
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    out.print(f"{name}: {states}; table in {folder / 'runs.csv'}", markup=False)
    failed = {run_id: s.note for run_id, s in run_states.items() if s.state == "failed"}
    for run_id, note in failed.items():
        err.print(f"{run_id} failed: {note}", markup=False)
    if failed:
        err.print("`scaling sweep log RUN SWEEP` shows more; when the cause is fixed, run `scaling "
                  "sweep retry SWEEP` and this command again", markup=False)
    unreadable = {run_id: s.note for run_id, s in run_states.items() if s.state == UNREADABLE}
    for run_id, note in unreadable.items():
        err.print(f"{run_id} is not readable and was skipped: {note}", markup=False)
    if unreadable:
        err.print("`scaling sweep retry SWEEP` renames such files, and the next `scaling sweep "
                  "run` trains these runs", markup=False)
    if failed or unreadable:
        raise typer.Exit(1)
    if counts.keys() == {"diverged"}:
        err.print("every run diverged, so there is no loss to fit: choose smaller rates in "
                  "learning_rate, or a longer schedule.warmup_steps", markup=False)
        raise typer.Exit(1)
    if left := sum(not s.over for s in run_states.values()):
        err.print(
            f"{left} run(s) are not over: another process is training them, or their worker died; "
            f"see {runs / 'logs'}, and run the same command again", markup=False,
        )
        raise typer.Exit(1)


for command in (status, log, retry, cancel, prune, export, suggest):
    app.command()(command)
