"""`scaling allocate`: how to spend a budget under one law or another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.terminal import err, finite, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Allocation, Law, Published

_SECONDS_PER_HOUR = 3600


def allocate(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW...", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Budget in training FLOPs.", show_default=False)] = None,
    gpu_hours: Annotated[float | None, typer.Option(
        help="Budget in hours of one accelerator; with --gpu.", show_default=False)] = None,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Accelerator, such as H100.", show_default=False)] = None,
    mfu: Annotated[float, typer.Option(help="Share of its peak that training reaches.")] = 0.4,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the allocations to this file.",
        show_default=False)] = None,
) -> None:
    """Say how to spend a budget: parameters, tokens, and the loss to expect.

    Example: `scaling allocate results/quickstart/laws.json --compute 1e15`

    Example: `scaling allocate besiroglu2024 --gpu-hours 1000 --gpu H100 --mfu 0.4`

    Kaplan's and Hoffmann's published allocations stand beside every law.
    """
    from scaling.files import write_atomically
    from scaling.laws import allocate as allocate_law
    from scaling.laws.allocate import side_by_side

    budget = _budget(compute, gpu_hours, gpu, mfu)
    found: list[tuple[str, Law | Published]] = [
        pair for name in law for pair in _laws_called(name)
    ]
    named = [entry for _, entry in found]
    beside = [("", entry) for entry in side_by_side() if entry not in named]
    rows = [allocate_law(entry, budget, source) for source, entry in [*found, *beside]]
    _print_allocations(budget, rows)
    if json_file is not None:
        content = {"compute": budget, "allocations": [row.to_json() for row in rows]}
        write_atomically(json_file, json.dumps(finite(content), indent=2) + "\n")
        err.print(f"wrote {json_file}", markup=False)


def _print_allocations(budget: float, rows: list[Allocation]) -> None:
    from scaling.laws import show

    print_table(
        f"{budget:.4g} training FLOPs",
        ("law", "N*", "90% interval", "D*", "D*/N*", "N counts"),
        [(row.source, show.short(row.n), show.short_span(row.n_interval),
          show.short(row.d), show.number(row.d / row.n if row.d and row.n else None, 3),
          row.counting)
         for row in rows],
    )
    print_table("", ("law", "loss", "90% interval", "a", "90% interval"), [
        (row.source, show.number(row.loss), show.span(row.loss_interval),
         show.number(row.a, 3), show.span(row.a_interval, 3) + ("*" if row.level else ""))
        for row in rows
    ])
    out.print("a is d log N* / d log C.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses of published laws are on their own corpora and tokenizers.", markup=False)
    for row in rows:
        for warning in row.warnings:
            out.print(f"warning: {row.source}: {warning}", style="yellow", markup=False)


def _laws_called(name: str) -> list[tuple[str, Law | Published]]:
    """Published laws by name, or those of a file that divide compute, with what to call them."""
    from scaling.laws import load
    from scaling.laws.published import published_named

    path = Path(name)
    if not path.exists():
        return [("", published_named(name))]
    path = path / "laws.json" if path.is_dir() else path
    laws = load(path)
    able = [law for law in laws if law.form.allocation_exponent(law.point) is not None]
    if not able:
        raise UserError(f"{path}: holds {', '.join(law.name for law in laws)}, none of which says "
                        "how to divide compute; fit chinchilla")
    called = path.resolve().parent.name if path.name == "laws.json" else path.stem
    return [(f"{called}: {law.name}", law) for law in able]


def _budget(
    compute: float | None, gpu_hours: float | None, gpu: str | None, mfu: float
) -> float:
    """Training FLOPs, given as such or as hours of an accelerator."""
    if (compute is None) == (gpu_hours is None):
        raise UserError("give the budget either as --compute FLOPS, or as --gpu-hours H --gpu NAME")
    if compute is not None:
        if gpu is not None:
            raise UserError("--gpu goes with --gpu-hours; --compute needs no accelerator")
        return compute
    if gpu is None:
        raise UserError("--gpu-hours needs --gpu NAME, such as --gpu H100")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: a share of the peak between 0 and 1 is expected")
    from scaling.accounting.hardware import peak_flops

    assert gpu_hours is not None
    return gpu_hours * _SECONDS_PER_HOUR * peak_flops(gpu) * mfu
