"""`scaling allocate`: compute-optimal allocation of a budget under one or more laws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_table, print_text, tables_hidden
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Allocation, Law, Published
    from scaling.laws.allocation.allocate import FrontierLike
    from scaling.laws.allocation.budgets import AllocationBudget

_COMMAND = "scaling allocate"
_SECONDS_PER_HOUR = 3600
_MAX_NUMBERS = 1000


def allocate(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[list[str] | None, typer.Option(
        metavar="FLOPS", help="Budget in FLOPs; several as 1e18,1e20, or repeated.",
        show_default=False)] = None,
    gpu_hours: Annotated[float | None, typer.Option(
        help="Budget in hours of one accelerator, named with --gpu.", show_default=False)] = None,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Accelerator, such as H100.", show_default=False)] = None,
    mfu: Annotated[float, typer.Option(
        help="Model FLOPs utilisation: share of the accelerator's peak, from 0 to 1.")] = 0.4,
    loss: Annotated[list[str] | None, typer.Option(
        "--target-loss", metavar="NATS", show_default=False,
        help="Instead of a budget, a loss to reach with the least compute; several as 2.2,2.1, or "
             "repeated.")] = None,
    inference_tokens: Annotated[float, typer.Option(
        metavar="TOKENS", help="Tokens that the trained model will process; the budget then covers "
                               "6 N D for training and 2 N for each of these tokens.")] = 0.0,
    unique_tokens: Annotated[float | None, typer.Option(
        metavar="TOKENS", help="Unique training tokens available; needs a law of repeated data, "
                               "such as muennighoff.", show_default=False)] = None,
    fixed_n: Annotated[float | None, typer.Option(
        metavar="N", help="Fixed number of parameters.", show_default=False)] = None,
    fixed_d: Annotated[float | None, typer.Option(
        metavar="D", help="Fixed number of training tokens.", show_default=False)] = None,
    given: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the law, such as experts=8; may "
                                   "be repeated.", show_default=False)] = None,
    out_file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Write the allocations to this JSON file.",
        show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Allocate a compute budget: optimal parameters and tokens, and the predicted loss.

    Example: `scaling allocate results/quickstart/laws.json --compute 1e15,1e16`

    Example: `scaling allocate besiroglu2024 --gpu-hours 1000 --gpu H100 --mfu 0.4`

    Example: `scaling allocate besiroglu2024 --target-loss 2.2 --inference-tokens 1e12`

    Example: `scaling allocate besiroglu2024 --compute 1e22 --fixed-n 7e9`

    Example: `scaling allocate besiroglu2024 --fixed-n 7e9 --fixed-d 2e12`, for the loss of this
    model, the compute that it takes and how far it is from the best use of that compute

    Kaplan's and Hoffmann's published allocations are shown for comparison if they apply to the
    question. The exit status is 1 if none of the given laws has an answer.
    """
    from scaling.laws.allocation.allocate import allocate as allocate_law
    from scaling.laws.allocation.allocate import can_allocate, reference_laws
    from scaling.laws.allocation.budgets import AllocationBudget
    from scaling.laws.io import load_with_choice
    from scaling.outputs import json_output as json_file
    from scaling.outputs import with_command

    if out_file is not None:
        output = json_file(out_file, _COMMAND, law_files(law))
        output.check()
    targets = None if loss is None else [
        AllocationBudget(loss=value) for value in numbers(loss, "--target-loss")]
    values = pairs(given or [], "--given")
    budgets = [
        AllocationBudget(c=c, loss=target, inference_tokens=inference_tokens,
                         unique_tokens=unique_tokens, n=fixed_n, d=fixed_d, given=values)
        for c, target in _budgets(compute, gpu_hours, gpu, mfu, targets,
                                  is_prediction=fixed_n is not None and fixed_d is not None)
    ]
    named = [pair for name in law for pair in load_laws(name, budgets[0])]
    entries = [entry for _, entry in named]
    check_given(values, entries)
    published = [("", entry) for entry in reference_laws()
                 if entry not in entries and can_allocate(entry, budgets[0])]
    rows = [[allocate_law(entry, budget, source) for source, entry in [*named, *published]]
            for budget in budgets]
    compute_budgets = [budget.c for budget in budgets]
    text = with_command(
        {"compute": compute_budgets[0] if len(compute_budgets) == 1 else compute_budgets,
         "loss": [budget.loss for budget in budgets] if loss else None,
         "allocations": [row.to_json() for of_budget in rows for row in of_budget]}, _COMMAND)
    with tables_hidden(json_output):
        for budget, of_budget in zip(budgets, rows, strict=True):
            _print_allocations(budget, of_budget)
        _print_notes([row for of_budget in rows for row in of_budget])
        for file in law_files(law):
            if (choice := load_with_choice(file)[1]) is not None:
                out.print(f"{file}: {choice.verdict()}", markup=False)
    if out_file is not None:
        output.write(text)
        err.print(f"wrote {out_file}", markup=False)
    if json_output:
        print_text(text)
    requested = [row for of_budget in rows for row in of_budget[:len(named)]]
    if all(row.n is None or row.d is None or (row.fixed == "both" and row.loss is None)
           for row in requested):
        raise typer.Exit(1)  # the warnings give the reasons


def _print_allocations(budget: AllocationBudget, rows: list[Allocation]) -> None:
    from scaling.laws import show

    star = {"n": "N", "d": "D"}
    n, d = ("N" if budget.n else "N*"), ("D" if budget.d else "D*")
    print_table(
        _title(budget),
        ("law", n, "90% interval", d, "90% interval", f"{d}/{n}", "N counts"),
        [(row.source, show.short(row.n), _range(row, "n"), show.short(row.d), _range(row, "d"),
          show.number(row.d / row.n if row.d and row.n else None, 3), row.counting)
         for row in rows],
    )
    columns = ["law", "loss", "90% interval"]
    cells = [[row.source, show.number(row.loss), show.span(row.loss_interval)] for row in rows]
    extra: list[tuple[str, str, bool]] = []
    if not (budget.n or budget.d):
        extra.append(("a", "a", False))
    spends_less = any(row.total is not None and budget.c is not None and row.total < budget.c
                      for row in rows)
    if budget.c is None or budget.inference_tokens or spends_less:
        extra += [("training FLOPs", "c", False), ("all FLOPs", "total", False)]
    if budget.unique_tokens is not None:
        extra.append(("epochs", "epochs", False))
    if budget.n or budget.d:
        best = "N and D" if budget.is_prediction else star["n" if budget.n else "d"]
        extra += [(f"above the loss at the best {best}", "excess", False),
                  ("compute wasted", "waste", True)]
    for title, name, is_percentage in extra:
        columns += [title] + (["90% interval"] if name != "c" else [])
        for cell, row in zip(cells, rows, strict=True):
            value, interval = getattr(row, name), getattr(row, f"{name}_interval", None)
            text = f"{value:.1%}" if is_percentage and value is not None else show.number(value, 3)
            cell.append(text)
            if name != "c":
                spread = f"{interval[0]:.1%} to {interval[1]:.1%}" if (
                    is_percentage and interval) else show.span(interval, 3)
                cell.append(spread + ("*" if name == "a" and row.level else ""))
    print_table("", columns, cells)


def _range(row: Allocation, name: str) -> str:
    """The interval of N or D, or "fixed"."""
    from scaling.laws import show

    is_fixed = row.fixed in (name, "both")
    return "fixed" if is_fixed else show.short_span(getattr(row, f"{name}_interval"))


def _title(budget: AllocationBudget) -> str:
    from scaling.laws import show

    if budget.is_prediction:
        text = f"N {show.short(budget.n)} and D {show.short(budget.d)}"
    elif budget.c is None:
        text = f"loss {budget.loss:g}"
    else:
        text = f"{budget.c:.4g} {'' if budget.inference_tokens else 'training '}FLOPs"
    if budget.inference_tokens:
        text += f", training and inference on {show.short(budget.inference_tokens)} tokens"
    if budget.unique_tokens is not None:
        text += f", {show.short(budget.unique_tokens)} unique tokens"
    return text


def _print_notes(rows: Sequence[Allocation]) -> None:
    if any(row.a is not None for row in rows):
        out.print("a is d log N* / d log C.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses of published laws are for their own corpora and tokenizers.", markup=False)
    sources_of: dict[str, dict[str, None]] = {}  # one line for laws with the same warning
    for row in rows:
        for warning in row.warnings:
            sources_of.setdefault(warning, {})[row.source] = None
    for warning, sources in sources_of.items():
        out.print(f"warning: {'; '.join(sources)}: {warning}", style="yellow", markup=False)


def load_laws(
    name: str, budget: AllocationBudget
) -> list[tuple[str, Law | Published | FrontierLike]]:
    """A published law, or the laws of a file that apply to the budget, each with its label; first
    the one that predicts larger runs best, if the form was chosen.

    Raises:
        UserError: there is no such law or file, or no law in the file can allocate compute.
    """
    from scaling.laws import Law
    from scaling.laws.allocation.allocate import can_allocate
    from scaling.laws.allocation.budgets import divides_compute
    from scaling.laws.io import load_with_choice
    from scaling.laws.published import published_named

    path = Path(name)
    if not path.exists():
        return [("", published_named(name))]
    path = laws_file(path)
    laws, choice = load_with_choice(path)
    if choice is not None:
        best = choice.laws[choice.best]
        laws.sort(key=lambda law: law is not best)
    applicable = [law for law in laws if can_allocate(law, budget)]
    if not applicable:
        # The budget may ask for more than an allocation; the laws raise the precise error.
        applicable = [law for law in laws if not isinstance(law, Law) or divides_compute(law.form)]
    if not applicable:
        raise UserError(f"{path}: has {', '.join(law.name for law in laws)}, none of which can "
                        "allocate compute; fit chinchilla")
    label = path.resolve().parent.name if path.name == "laws.json" else path.stem
    return [(f"{label}: {law.name}", law) for law in applicable]


def laws_file(path: Path) -> Path:
    """The file of laws of a results folder; a file itself."""
    return path / "laws.json" if path.is_dir() else path


def law_files(names: Sequence[str]) -> list[Path]:
    """The files of laws among the names; the others are published laws."""
    return [laws_file(path) for path in map(Path, names) if path.exists()]


def numbers(words: Sequence[str], option: str) -> list[float]:
    """Numbers of an option that takes several, separated by commas or by repeating the option.

    Raises:
        UserError: a word is not a number.
    """
    found = []
    parts = [part.strip() for words_ in words for part in words_.split(",")]
    if len(parts) > _MAX_NUMBERS:
        raise UserError(f"{option}: {len(parts):,} numbers, where at most {_MAX_NUMBERS} are "
                        "expected")
    for word in parts:
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(f"{option} {word}: a number is expected, such as 1e20; separate "
                            "several by commas") from None
    return found


def pairs(words: Sequence[str], option: str) -> dict[str, float]:
    """Values by name from an option that takes NAME=VALUE.

    Raises:
        UserError: a word is not such a pair.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UserError(f"{option} {word}: NAME=VALUE is expected, such as experts=8")
        if name in found:
            raise UserError(f"{option}: {name} is given twice; once is expected")
        several = numbers([value], f"{option} {name}=")
        if len(several) > 1:
            raise UserError(f"{option} {word}: one number is expected, such as "
                            f"{name}={several[0]:g}")
        found[name] = several[0]
    return found


def check_given(given: Mapping[str, float], laws: Iterable[object]) -> None:
    """Check that at least one law depends on each variable of --given.

    Raises:
        UserError: no law does.
    """
    from scaling.laws import Law
    from scaling.laws.published import Published

    found = (law.law if isinstance(law, Published) else law for law in laws)
    known = {v for law in found if isinstance(law, Law) for v in law.form.variables}
    for name in given:
        if name not in known:
            raise UserError(f"--given {name}=: none of these laws depends on {name}; leave it "
                            "out, or name a law that does")


def _budgets(
    compute: list[str] | None, gpu_hours: float | None, gpu: str | None, mfu: float,
    targets: Sequence[AllocationBudget] | None, *, is_prediction: bool,
) -> list[tuple[float | None, float | None]]:
    """Pairs of FLOPs and target loss, one of which is None; both are if N and D are fixed."""
    named = {"--compute": compute, "--gpu-hours": gpu_hours, "--target-loss": targets}
    given = [name for name, value in named.items() if value is not None]
    if is_prediction and given:
        raise UserError(f"{given[0]}, --fixed-n and --fixed-d are all given, where at most two of "
                        "them are expected, since the third follows from two; leave one out")
    if len(given) != 1 and not is_prediction:
        raise UserError("give the budget either as --compute FLOPS, or as --gpu-hours H --gpu "
                        "NAME; or, instead of a budget, a loss to reach as --target-loss NATS, or "
                        "both --fixed-n N and --fixed-d D")
    if gpu_hours is None and gpu is not None:
        raise UserError("--gpu belongs to --gpu-hours; --compute and --target-loss need no "
                        "accelerator")
    if is_prediction:
        return [(None, None)]
    if targets is not None:
        return [(None, target.loss) for target in targets]
    if compute is not None:
        return [(c, None) for c in numbers(compute, "--compute")]
    if gpu is None or gpu_hours is None:
        raise UserError("--gpu-hours needs --gpu NAME, such as --gpu H100")
    if not 0 < gpu_hours < float("inf"):
        raise UserError(f"--gpu-hours {gpu_hours:g}: a positive number of hours is expected")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: a share of the peak between 0 and 1 is expected")
    from scaling.accounting.hardware import peak_flops
    from scaling.laws.forms.variables import check_amount

    c = gpu_hours * _SECONDS_PER_HOUR * peak_flops(gpu) * mfu
    check_amount(f"--gpu-hours {gpu_hours:g} at --mfu {mfu:g} make compute", c, "c", "1e21")
    return [(c, None)]
