"""`scaling allocate`: how to spend a budget under one law or another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.terminal import err, finite, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Allocation, Law, Published
    from scaling.laws.planning.allocate import Sizes
    from scaling.laws.planning.budgets import Budget

_SECONDS_PER_HOUR = 3600


def allocate(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW...", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[list[str] | None, typer.Option(
        metavar="FLOPS", help="Budget in FLOPs; several as 1e18,1e20 or given again.",
        show_default=False)] = None,
    gpu_hours: Annotated[float | None, typer.Option(
        help="Budget in hours of one accelerator; with --gpu.", show_default=False)] = None,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Accelerator, such as H100.", show_default=False)] = None,
    mfu: Annotated[float, typer.Option(help="Share of its peak that training reaches.")] = 0.4,
    loss: Annotated[list[str] | None, typer.Option(
        metavar="NATS", help="Instead of a budget, a loss to reach as cheaply as can be.",
        show_default=False)] = None,
    inference_tokens: Annotated[float, typer.Option(
        metavar="TOKENS", help="Tokens that the trained model will process; the budget then pays "
                               "6 N D for training and 2 N for each of them.")] = 0.0,
    unique_tokens: Annotated[float | None, typer.Option(
        metavar="TOKENS", help="Distinct training tokens that there are; needs a law of repeated "
                               "data, such as muennighoff.", show_default=False)] = None,
    fixed_n: Annotated[float | None, typer.Option(
        metavar="N", help="Parameters, where the size is fixed.", show_default=False)] = None,
    fixed_d: Annotated[float | None, typer.Option(
        metavar="D", help="Training tokens, where they are fixed.", show_default=False)] = None,
    at: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the law, such as experts=8; may "
                                   "be given again.", show_default=False)] = None,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the allocations to this file.",
        show_default=False)] = None,
) -> None:
    """Say how to spend a budget: parameters, tokens, and the loss to expect.

    Example: `scaling allocate results/quickstart/laws.json --compute 1e15,1e16`

    Example: `scaling allocate besiroglu2024 --gpu-hours 1000 --gpu H100 --mfu 0.4`

    Example: `scaling allocate besiroglu2024 --loss 2.2 --inference-tokens 1e12`

    Example: `scaling allocate besiroglu2024 --compute 1e22 --fixed-n 7e9`

    Kaplan's and Hoffmann's published allocations stand beside every law, where they have an
    answer to what is asked.
    """
    from scaling.files import write_atomically
    from scaling.laws.planning.allocate import allocate as allocate_law
    from scaling.laws.planning.allocate import answers, side_by_side
    from scaling.laws.planning.budgets import Budget

    targets = None if loss is None else [Budget(loss=value) for value in numbers(loss, "--loss")]
    given = pairs(at or [], "--at")
    questions = [
        Budget(c=c, loss=target, inference_tokens=inference_tokens, unique_tokens=unique_tokens,
               n=fixed_n, d=fixed_d, given=given)
        for c, target in _budgets(compute, gpu_hours, gpu, mfu, targets)
    ]
    found = [pair for name in law for pair in laws_called(name, questions[0])]
    named = [entry for _, entry in found]
    beside = [("", entry) for entry in side_by_side()
              if entry not in named and answers(entry, questions[0])]
    rows = [[allocate_law(entry, question, source) for source, entry in [*found, *beside]]
            for question in questions]
    for question, answer in zip(questions, rows, strict=True):
        _print_allocations(question, answer)
    _print_notes([row for answer in rows for row in answer])
    if json_file is not None:
        asked = [question.c for question in questions]
        content = {"compute": asked[0] if len(asked) == 1 else asked,
                   "loss": [question.loss for question in questions] if loss else None,
                   "allocations": [row.to_json() for answer in rows for row in answer]}
        write_atomically(json_file, json.dumps(finite(content), indent=2) + "\n")
        err.print(f"wrote {json_file}", markup=False)


def _print_allocations(question: Budget, rows: list[Allocation]) -> None:
    from scaling.laws import show

    star = {"n": "N", "d": "D"}
    n, d = ("N" if question.n else "N*"), ("D" if question.d else "D*")
    print_table(
        _title(question),
        ("law", n, "90% interval", d, "90% interval", f"{d}/{n}", "N counts"),
        [(row.source, show.short(row.n), _range(row, "n"), show.short(row.d), _range(row, "d"),
          show.number(row.d / row.n if row.d and row.n else None, 3), row.counting)
         for row in rows],
    )
    columns = ["law", "loss", "90% interval"]
    cells = [[row.source, show.number(row.loss), show.span(row.loss_interval)] for row in rows]
    extra: list[tuple[str, str, bool]] = []
    if not (question.n or question.d):
        extra.append(("a", "a", False))
    if question.loss is not None or question.inference_tokens:
        extra += [("training FLOPs", "c", False), ("all FLOPs", "total", False)]
    if question.unique_tokens is not None:
        extra.append(("epochs", "epochs", False))
    if question.n or question.d:
        extra += [(f"above the loss at the best {star['n' if question.n else 'd']}", "excess",
                   False), ("compute wasted", "waste", True)]
    for title, name, share in extra:
        columns += [title] + (["90% interval"] if name != "c" else [])
        for cell, row in zip(cells, rows, strict=True):
            value, interval = getattr(row, name), getattr(row, f"{name}_interval", None)
            text = f"{value:.1%}" if share and value is not None else show.number(value, 3)
            cell.append(text)
            if name != "c":
                spread = f"{interval[0]:.1%} to {interval[1]:.1%}" if share and interval else (
                    show.span(interval, 3))
                cell.append(spread + ("*" if name == "a" and row.level else ""))
    print_table("", columns, cells)


def _range(row: Allocation, name: str) -> str:
    """An interval of N or D, unless it is the one that was fixed."""
    from scaling.laws import show

    return "fixed" if row.fixed == name else show.short_span(getattr(row, f"{name}_interval"))


def _title(question: Budget) -> str:
    from scaling.laws import show

    text = f"loss {question.loss:g}" if question.c is None else (
        f"{question.c:.4g} {'' if question.inference_tokens else 'training '}FLOPs")
    if question.inference_tokens:
        text += f", training and inference on {show.short(question.inference_tokens)} tokens"
    if question.unique_tokens is not None:
        text += f", {show.short(question.unique_tokens)} unique tokens"
    return text


def _print_notes(rows: Sequence[Allocation]) -> None:
    if any(row.a is not None for row in rows):
        out.print("a is d log N* / d log C.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses of published laws are on their own corpora and tokenizers.", markup=False)
    lines = dict.fromkeys(f"{row.source}: {warning}" for row in rows for warning in row.warnings)
    for line in lines:
        out.print(f"warning: {line}", style="yellow", markup=False)


def laws_called(name: str, question: Budget) -> list[tuple[str, Law | Published | Sizes]]:
    """Published laws by name, or those of a file that can answer, with what to call them.

    Raises:
        UserError: there is no such law or file, or none in the file divides compute.
    """
    from scaling.laws import Law, load
    from scaling.laws.planning.allocate import answers
    from scaling.laws.planning.budgets import divides
    from scaling.laws.published import published_named

    path = Path(name)
    if not path.exists():
        return [("", published_named(name))]
    path = path / "laws.json" if path.is_dir() else path
    laws = load(path)
    able = [law for law in laws if answers(law, question)]
    if not able:
        # What is asked may be more than dividing compute; the laws themselves say what.
        able = [law for law in laws if not isinstance(law, Law) or divides(law.form)]
    if not able:
        raise UserError(f"{path}: holds {', '.join(law.name for law in laws)}, none of which says "
                        "how to divide compute; fit chinchilla")
    called = path.resolve().parent.name if path.name == "laws.json" else path.stem
    return [(f"{called}: {law.name}", law) for law in able]


def numbers(words: Sequence[str], option: str) -> list[float]:
    """Numbers of an option that takes several, with commas or given again.

    Raises:
        UserError: a word is no number.
    """
    found = []
    for word in (part.strip() for words_ in words for part in words_.split(",")):
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(f"{option} {word}: a number is expected, such as 1e20; several are "
                            "divided by commas") from None
    return found


def pairs(words: Sequence[str], option: str) -> dict[str, float]:
    """Values by name from an option that takes NAME=VALUE.

    Raises:
        UserError: a word is no such pair.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UserError(f"{option} {word}: NAME=VALUE is expected, such as experts=8")
        found[name] = numbers([value], f"{option} {name}=")[0]
    return found


def _budgets(
    compute: list[str] | None, gpu_hours: float | None, gpu: str | None, mfu: float,
    targets: Sequence[Budget] | None,
) -> list[tuple[float | None, float | None]]:
    """Pairs of FLOPs and loss, one of which is given."""
    if sum(given is not None for given in (compute, gpu_hours, targets)) != 1:
        raise UserError("give the budget either as --compute FLOPS, or as --gpu-hours H --gpu "
                        "NAME; or, instead of a budget, a loss to reach as --loss NATS")
    if gpu_hours is None and gpu is not None:
        raise UserError("--gpu goes with --gpu-hours; --compute and --loss need no accelerator")
    if targets is not None:
        return [(None, target.loss) for target in targets]
    if compute is not None:
        return [(c, None) for c in numbers(compute, "--compute")]
    if gpu is None:
        raise UserError("--gpu-hours needs --gpu NAME, such as --gpu H100")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: a share of the peak between 0 and 1 is expected")
    from scaling.accounting.hardware import peak_flops

    assert gpu_hours is not None
    return [(gpu_hours * _SECONDS_PER_HOUR * peak_flops(gpu) * mfu, None)]
