"""`scaling sweep plan`: the runs of a sweep, their cost and their state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.options import JsonSwitch
from scaling.cli.sweep_options import (
    Overrides,
    ResultsFolder,
    RunsFolder,
    SweepFile,
    Workers,
    check_runs_exist,
    open_plan,
    results_folder,
)
from scaling.console import clock, err, notice, out, print_json, print_table, progress, warn
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    from scaling.launch.local import Share
    from scaling.sweeps.cost import StepTimeModel
    from scaling.sweeps.plan import Plan

_MB, _GB = 1e6, 1e9
_MFU = 0.4


def plan(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: ResultsFolder = None,
    workers: Workers = None,
    measure: Annotated[bool, typer.Option(
        help="Measure a step of the smallest model and of the largest possible one, within 20 s; "
             "other times are estimated from FLOPs.")] = True,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Accelerator to plan for, such as H100, instead of measuring a step.",
        show_default=False)] = None,
    mfu: Annotated[float | None, typer.Option(
        help="With --gpu: model FLOPs utilisation, from 0 to 1; 0.4 by default.",
        show_default=False)] = None,
    figure: Annotated[Path | None, typer.Option(
        metavar="FILE.png", help="Draw the grid to FILE.png, with the same as SVG and CSV.",
        show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Show every run of a sweep: size, tokens, FLOPs, memory, time and state.

    The state is new, partial, running, done, diverged, failed, not readable, changed or over
    budget, with the reason; runs shared with other sweeps are marked.

    Example: `scaling sweep plan configs/sweeps/quickstart.yaml`

    Example: `scaling sweep plan configs/sweeps/quickstart.yaml --gpu H100 --mfu 0.3 --figure
    grid.png`
    """
    from scaling.accounting.run_memory import device_bytes
    from scaling.launch.local import shares
    from scaling.sweeps.cost import within_hours

    if figure is not None and figure.suffix != ".png":
        raise UserError(f"--figure {figure}: a name that ends in .png is expected")
    if mfu is not None and gpu is None:
        raise UserError(f"--mfu {mfu:g}: needs an accelerator; name it with --gpu, such as --gpu "
                        "H100")
    planned = open_plan(config, overrides, runs)
    if runs != RUNS:  # the default folder does not exist before the first run
        check_runs_exist(runs)
    folder = results_folder(planned, results)
    _warn_of_results(planned, folder)
    worker_shares = shares(workers, len(planned.runs_of_role("grid")))
    step_times = _step_times(planned, worker_shares, measure, gpu, mfu)
    if step_times is not None:
        planned = within_hours(planned, step_times)
    elif planned.sweep.max_device_hours is not None:
        notice("max_device_hours is ignored: it needs step times; plan without --no-measure, or "
               "with --gpu")
    device_memory = device_bytes(gpu, worker_shares[0].gpu, len(worker_shares))
    rows = _rows(planned, step_times, device_memory, runs, folder.parent)
    totals = _totals(planned, rows, step_times, None if gpu is not None else len(worker_shares))
    if figure is not None:
        _draw(planned, rows, figure)
    if json_output:
        print_json({"runs": rows, **totals, "device_memory_bytes": device_memory,
                    "workers": len(worker_shares), "warnings": planned.warnings})
        return
    _print_rows(planned, rows)
    _print_totals(planned, rows, totals, device_memory, gpu)
    for warning in planned.warnings:
        warn(warning)


def _warn_of_results(planned: Plan, folder: Path) -> None:
    from scaling.sweeps.plan import check_results

    try:
        check_results(planned, folder)
    except UserError as error:
        warn(f"`scaling sweep run` will not write there: {error}")


def _step_times(
    planned: Plan, worker_shares: Sequence[Share], measure: bool, gpu: str | None,
    mfu: float | None,
) -> StepTimeModel | None:
    """The step times of the runs; None if unknown."""
    from scaling.sweeps.cost import StepTimeModel
    from scaling.sweeps.measure import BUDGET_SECONDS

    if gpu is not None:
        return StepTimeModel.from_peak(gpu, _MFU if mfu is None else mfu)
    if not measure:
        return None
    with progress("timing a step", BUDGET_SECONDS, counted=False) as bar:
        step_times = StepTimeModel.measure(
            planned.runs, worker_shares[0], planned.sweep.pack, len(worker_shares),
            watch=lambda seconds, model: bar.update(seconds, model))
    if step_times is None:
        notice(f"no step of the smallest model finished within {BUDGET_SECONDS:.0f} s, so times "
               "are unknown; --gpu NAME estimates them for another machine")
    return step_times


def _rows(
    planned: Plan, step_times: StepTimeModel | None, device_memory: float | None, runs: Path,
    results_root: Path,
) -> list[dict[str, Any]]:
    from scaling.accounting import count_parameters
    from scaling.accounting.run_memory import estimate_run_bytes
    from scaling.sweeps.planning.run_status import planned_statuses

    rows: list[dict[str, Any]] = []
    statuses = planned_statuses(planned, runs, results_root)
    for p, status in zip(planned.runs, statuses, strict=True):
        model, memory = p.run.model, estimate_run_bytes(p.run)
        params = count_parameters(model)
        paid_for = p.run_id not in planned.over_budget
        rows.append({
            "run_id": p.run_id, "role": p.role, "grids": list(p.grids), "varied": p.choice,
            "d_model": model.d_model, "n_layers": model.n_layers,
            "params_active": params.active, "params_kaplan": params.kaplan,
            **{k: p.facts[k] for k in (
                "params_non_embedding", "params_total", "tokens", "epochs", "batch_tokens", "lr",
                "seed", "flops_6nd", "flops_counted")},
            "tokens_per_parameter": p.facts["tokens"] / params.total,
            "steps": p.run.steps, "memory_bytes": memory,
            "fits": None if device_memory is None else memory <= device_memory,
            "state": status.state, "why": status.reason, "shared_with": list(status.shared_with),
            "seconds": step_times.seconds_of_step(p) * p.run.steps if step_times else None,
            "seconds_measured": (
                step_times.is_measured(p) if step_times and step_times.measured else None),
            "seconds_left": (
                step_times.seconds_left(p, status.run_state) * paid_for if step_times else None),
        })
    return rows


def _totals(
    planned: Plan, rows: list[dict[str, Any]], step_times: StepTimeModel | None,
    workers: int | None,
) -> dict[str, Any]:
    from scaling.sweeps.cost import SECONDS_PER_HOUR

    kept = [row for row in rows if row["run_id"] not in planned.over_budget]
    left = sum(row["seconds_left"] for row in kept) if step_times else None
    return {
        "states": Counter(row["state"] for row in rows),
        "flops_counted": planned.flops,
        "paid_flops": planned.paid_flops,
        "device_hours": sum(r["seconds"] for r in kept) / SECONDS_PER_HOUR if step_times else None,
        "seconds_left": left,
        "wall_seconds_left": None if left is None else left / (workers or 1),
    }


def _print_rows(planned: Plan, rows: list[dict[str, Any]]) -> None:
    varied = [", ".join(f"{key}={_brief(value)}" for key, value in row["varied"].items())
              for row in rows]
    columns = ["run", "role", "d x layers", "N (no emb.)", "N (all)", "tokens", "D/N", "epochs",
               "lr", "6ND", "FLOPs", "MB", "time", "state", "reason"]
    print_table(
        f"{planned.sweep.name}: {len(rows)} runs on {planned.store.path}",
        [*columns[:3], *(["varied"] if planned.sweep.vary else []), *columns[3:]],
        [[
            row["run_id"], row["role"], f"{row['d_model']} x {row['n_layers']}",
            *([text] if planned.sweep.vary else []),
            f"{row['params_non_embedding']:,}", f"{row['params_total']:,}", f"{row['tokens']:,}",
            f"{row['tokens_per_parameter']:.3g}", f"{row['epochs']:.3f}", f"{row['lr']:.2e}",
            f"{row['flops_6nd']:.2e}", f"{row['flops_counted']:.2e}",
            f"{row['memory_bytes'] / _MB:,.1f}{'' if row['fits'] in (None, True) else ' !'}",
            _time(row), row["state"], _reason(row),
        ] for row, text in zip(rows, varied, strict=True)],
    )


def _time(row: dict[str, Any]) -> str:
    """The time left; with ~ if it is an estimate from FLOPs."""
    estimated = row["seconds_left"] and row["seconds_measured"] is False
    return ("~" if estimated else "") + clock(row["seconds_left"])


def _brief(value: Any) -> str:
    """The value of a varied key; the kind of a mapping that has one."""
    return str(value.get("kind", value) if isinstance(value, dict) else value)


def _reason(row: dict[str, Any]) -> str:
    shared = f"shared with {', '.join(row['shared_with'])}" if row["shared_with"] else ""
    return "; ".join(text for text in (shared, row["why"]) if text)


def _print_totals(
    planned: Plan, rows: list[dict[str, Any]], totals: dict[str, Any],
    device_memory: float | None, gpu: str | None,
) -> None:
    states = ", ".join(f"{count} {state}" for state, count in sorted(totals["states"].items()))
    flops, paid = totals["flops_counted"], totals["paid_flops"]
    out.print(f"{states}; {flops:.3g} counted FLOPs in separate runs", markup=False)
    if paid < flops:
        out.print(f"{paid:.3g} FLOPs ({paid / flops:.0%}) with shared trunks of runs that differ "
                  "only in tokens", markup=False)
    too_large = [row for row in rows if row["fits"] is False]
    if too_large and device_memory is not None:
        most = max(row["memory_bytes"] for row in too_large)
        err.print(
            f"{len(too_large)} run(s) marked ! need up to {most / _GB:.3g} GB of the "
            f"{device_memory / _GB:.3g} GB of a device: set execution.microbatch_sequences, remat "
            "or a mesh for them",
            style="yellow", markup=False)
    if totals["seconds_left"] is None:
        return
    if gpu is not None:
        from scaling.accounting.hardware import accelerator_named

        out.print(f"{totals['device_hours']:.3g} {accelerator_named(gpu).name}-hours in total, "
                  f"{clock(totals['seconds_left'])} left on one device, estimated from its peak",
                  markup=False)
        return
    timed = {f"{row['d_model']} x {row['n_layers']}": None
             for row in rows if row["seconds_measured"]}
    out.print(
        f"{totals['device_hours']:.3g} device-hours in total; about "
        f"{clock(totals['wall_seconds_left'])} left with all workers busy, from a step of "
        f"{' and '.join(timed)} timed alone (concurrent workers are slower); ~ marks estimates "
        "from FLOPs", markup=False,
    )


def _draw(planned: Plan, rows: list[dict[str, Any]], path: Path) -> None:
    import pandas as pd

    from scaling.config.grids import IsoFlop
    from scaling.figures.files import write
    from scaling.figures.grid import planned_grid

    budgets = [b for grid in planned.sweep.grids if isinstance(grid, IsoFlop) for b in grid.budgets]
    drawing = planned_grid(pd.DataFrame(rows), budgets, planned.sweep.name)
    for written in write(drawing, path.with_suffix("")):
        err.print(f"wrote {written}", markup=False)
