"""`scaling sweep plan`: what a sweep costs, and what of it is there already."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.sweep_options import (
    RUNS,
    AsJson,
    Overrides,
    Results,
    RunsFolder,
    SweepFile,
    Workers,
    clock,
    open_plan,
    results_folder,
)
from scaling.cli.terminal import err, out, print_json, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.sweeps.cost import Pace
    from scaling.sweeps.plan import Plan

_MB, _GB = 1e6, 1e9


def plan(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: Results = None,
    workers: Workers = None,
    measure: Annotated[
        bool, typer.Option(help="time a step of the smallest and the largest model")
    ] = True,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Instead of timing a step, an accelerator to plan for, such as H100.",
        show_default=False)] = None,
    mfu: Annotated[float, typer.Option(help="Share of its peak that training reaches.")] = 0.4,
    figure: Annotated[Path | None, typer.Option(
        metavar="FILE.png", help="Draw the grid: FILE.png, and the same as SVG and CSV.",
        show_default=False)] = None,
    json_output: AsJson = False,
) -> None:
    """Show every run of a sweep: size, tokens, FLOPs, memory, estimated time, and what of it is
    done already, changed, shared with other sweeps or over budget, and why.

    Example: `scaling sweep plan configs/sweeps/quickstart.yaml`

    Example: `scaling sweep plan configs/sweeps/quickstart.yaml --gpu H100 --mfu 0.3 --figure
    grid.png`
    """
    from scaling.sweeps.cost import Pace, within_hours
    from scaling.sweeps.local import shares
    from scaling.sweeps.planning.memory import device_bytes

    if figure is not None and figure.suffix != ".png":
        raise UserError(f"--figure {figure}: a name that ends in .png is expected")
    planned = open_plan(config, overrides, runs)
    parts = shares(workers, len(planned.stage("grid")))
    pace = Pace.modelled(gpu, mfu) if gpu else (
        Pace.measure(
            planned.runs, parts[0], planned.sweep.pack, len(parts)) if measure else None)
    if pace is not None:
        planned = within_hours(planned, pace)
    elif planned.sweep.max_device_hours is not None:
        err.print("max_device_hours is left aside: it needs a step's time; leave --no-measure out, "
                  "or give --gpu", markup=False)
    room = device_bytes(gpu, parts[0].gpu, len(parts))
    rows = _rows(planned, pace, room, runs, results_folder(planned, results).parent)
    totals = _totals(planned, rows, pace, None if gpu else len(parts))
    if figure is not None:
        _draw(planned, rows, figure)
    if json_output:
        print_json({"runs": rows, **totals, "device_memory_bytes": room, "workers": len(parts)})
        return
    _print_rows(planned, rows)
    _print_totals(planned, rows, totals, room, gpu)


def _rows(
    planned: Plan, pace: Pace | None, room: float | None, runs: Path, results_root: Path
) -> list[dict[str, Any]]:
    from scaling.accounting import count_parameters
    from scaling.sweeps.planning.memory import bytes_of
    from scaling.sweeps.planning.outlook import outlooks

    rows: list[dict[str, Any]] = []
    memory: dict[tuple[Any, int], int] = {}
    for p, outlook in zip(planned.runs, outlooks(planned, runs, results_root), strict=True):
        model, shape = p.run.model, (p.run.model, p.run.batch_sequences)
        if shape not in memory:
            memory[shape] = bytes_of(p.run)
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
            "steps": p.run.steps, "memory_bytes": memory[shape],
            "fits": None if room is None else memory[shape] <= room,
            "state": outlook.state, "why": outlook.why, "shared_with": list(outlook.shared),
            "seconds": pace.seconds_of_step(p) * p.run.steps if pace else None,
            "seconds_left": pace.seconds_left(p, outlook.now) * paid_for if pace else None,
        })
    return rows


def _totals(
    planned: Plan, rows: list[dict[str, Any]], pace: Pace | None, workers: int | None
) -> dict[str, Any]:
    from scaling.sweeps.cost import SECONDS_PER_HOUR

    kept = [row for row in rows if row["run_id"] not in planned.over_budget]
    left = sum(row["seconds_left"] for row in kept) if pace else None
    return {
        "states": Counter(row["state"] for row in rows),
        "flops_counted": planned.flops,
        "paid_flops": planned.paid_flops,
        "device_hours": sum(r["seconds"] for r in kept) / SECONDS_PER_HOUR if pace else None,
        "seconds_left": left,
        "wall_seconds_left": None if left is None else left / (workers or 1),
    }


def _print_rows(planned: Plan, rows: list[dict[str, Any]]) -> None:
    varied = [", ".join(f"{key}={_brief(value)}" for key, value in row["varied"].items())
              for row in rows]
    columns = ["run", "role", "d x layers", "N (no emb.)", "N (all)", "tokens", "D/N", "epochs",
               "lr", "6ND", "FLOPs", "MB", "time", "state", "why"]
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
            clock(row["seconds_left"]), row["state"], _why(row),
        ] for row, text in zip(rows, varied, strict=True)],
    )


def _brief(value: Any) -> str:
    """What a varied key is set to; of a mapping with a kind, the kind."""
    return str(value.get("kind", value) if isinstance(value, dict) else value)


def _why(row: dict[str, Any]) -> str:
    shared = f"shared with {', '.join(row['shared_with'])}" if row["shared_with"] else ""
    return "; ".join(text for text in (shared, row["why"]) if text)


def _print_totals(
    planned: Plan, rows: list[dict[str, Any]], totals: dict[str, Any], room: float | None,
    gpu: str | None,
) -> None:
    states = ", ".join(f"{count} {state}" for state, count in sorted(totals["states"].items()))
    flops, paid = totals["flops_counted"], totals["paid_flops"]
    out.print(f"{states}; {flops:.3g} counted FLOPs in separate runs", markup=False)
    if paid < flops:
        out.print(f"{paid:.3g} FLOPs ({paid / flops:.0%}) where runs that differ only in tokens "
                  "share a trunk", markup=False)
    tight = [row for row in rows if row["fits"] is False]
    if tight and room is not None:
        most = max(row["memory_bytes"] for row in tight)
        err.print(
            f"{len(tight)} run(s) marked ! need up to {most / _GB:.3g} GB of the {room / _GB:.3g} "
            "GB of a device: choose execution.microbatch_sequences, remat or a mesh for them",
            style="yellow", markup=False)
    if totals["seconds_left"] is None:
        return
    if gpu:
        out.print(f"{totals['device_hours']:.3g} {gpu}-hours in all, "
                  f"{clock(totals['seconds_left'])} left on one device, by the model", markup=False)
        return
    out.print(
        f"{totals['device_hours']:.3g} device-hours in all; about "
        f"{clock(totals['wall_seconds_left'])} left, all workers busy, from a step timed alone "
        "(workers side by side are slower)", markup=False,
    )


def _draw(planned: Plan, rows: list[dict[str, Any]], path: Path) -> None:
    import pandas as pd

    from scaling.config.grids import IsoFlop
    from scaling.figures.grid import planned_grid
    from scaling.figures.style import write

    budgets = [b for grid in planned.sweep.grids if isinstance(grid, IsoFlop) for b in grid.budgets]
    drawing = planned_grid(pd.DataFrame(rows), budgets, planned.sweep.name)
    for written in write(drawing, path.with_suffix("")):
        err.print(f"wrote {written}", markup=False)
