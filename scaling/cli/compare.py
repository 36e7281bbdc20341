"""`scaling compare`: laws side by side, under their own conventions or under one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.allocate import laws_called, numbers, pairs
from scaling.cli.terminal import err, finite, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws.planning.compare import Agreement, Entry
    from scaling.laws.planning.counting import Relation

_BUDGETS = "1e18,1e20,1e22,1e24"
_NAMES = {"a": "a", "n": "N*", "d": "D*", "loss": "loss"}


def compare(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW...", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[list[str] | None, typer.Option(
        metavar="FLOPS", help=f"Budgets in training FLOPs, with commas or given again; {_BUDGETS} "
                              "by default.", show_default=False)] = None,
    convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Which parameters N, and C = 6 N D with it, counts in all laws; by default what each "
             "law counts.", show_default=False)] = None,
    models: Annotated[Path | None, typer.Option(
        metavar="TABLE", help="CSV or Parquet of your models, with params_total and "
                              "params_non_embedding, to go from one count to the other; by default "
                              "Pearce and Song's relation.", show_default=False)] = None,
    omega: Annotated[float | None, typer.Option(
        help="Of N_total = N + omega N^(1/3), for another vocabulary or shape than "
             "Chinchilla's.", show_default=False)] = None,
    at: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the laws, such as experts=8; may "
                                   "be given again.", show_default=False)] = None,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the comparison to this file.",
        show_default=False)] = None,
) -> None:
    """Set published and fitted laws side by side: what they are, and what they allot.

    Example: `scaling compare besiroglu2024 kaplan2020 --convention non-embedding`

    Example: `scaling compare results/quickstart/laws.json hoffmann2022-3 --compute 1e14,1e16`

    With a convention, each law's optimum is found anew under it: the loss is a function of the
    model and its tokens, and only what is called N and C changes.
    """
    from scaling.files import write_atomically
    from scaling.laws.planning.budgets import Budget
    from scaling.laws.planning.compare import agreements
    from scaling.laws.planning.compare import compare as compare_laws

    budgets = numbers(compute or [_BUDGETS], "--compute")
    given = pairs(at or [], "--at")
    questions = [Budget(c=c, given=given) for c in budgets]
    relation = _relation(models, omega)
    laws = [pair for name in law for pair in laws_called(name, questions[0])]
    entries = compare_laws(laws, budgets, convention, relation, given)
    found = agreements(entries)
    _print_laws(entries)
    for place, c in enumerate(budgets):
        _print_budget(entries, place, c)
    _print_agreements(found, len(budgets))
    _print_notes(entries, convention, relation)
    if json_file is not None:
        content = {"compute": budgets, "convention": convention,
                   "relation": relation.source if convention else None,
                   "laws": [entry.to_json() for entry in entries],
                   "agreements": [pair.to_json() for pair in found]}
        write_atomically(json_file, json.dumps(finite(content), indent=2) + "\n")
        err.print(f"wrote {json_file}", markup=False)


def _relation(models: Path | None, omega: float | None) -> Relation:
    from scaling.laws.planning.counting import published_relation, relation_between
    from scaling.laws.runs.table import N_COLUMNS, file_of, read_frame

    if models is None:
        return published_relation(omega)
    if omega is not None:
        raise UserError("--models and --omega both say how the two counts are related; give one")
    frame = read_frame(file_of(models))
    for column in N_COLUMNS.values():
        if column not in frame:
            raise UserError(f"{models}: has no column {column}; it has "
                            f"{', '.join(map(str, frame.columns))}")
        if not (frame[column].dtype.kind in "iuf" and (frame[column] > 0).all()):
            raise UserError(f"{models}, column {column}: positive numbers are expected in every "
                            "row")
    total, bare = (frame[N_COLUMNS[name]].to_numpy(float) for name in ("total", "non-embedding"))
    return relation_between(total, bare, str(models))


def _print_laws(entries: Sequence[Entry]) -> None:
    from scaling.laws import show

    print_table("", ("law", "formula", "N counts", "C", "runs", "a by Kaplan's method",
                     "90% interval"), [
        (entry.source, show.equation(entry.law) if entry.law else "-",
         entry.convention["n"] + (f", from {entry.convention['from']}"
                                  if "from" in entry.convention else ""),
         entry.convention["c"], str(entry.law.n_runs or "-") if entry.law else "-",
         show.number(entry.study.exponent if entry.study else None, 3),
         show.span(entry.study.interval if entry.study else None, 3))
        for entry in entries
    ])


def _print_budget(entries: Sequence[Entry], place: int, c: float) -> None:
    from scaling.laws import show

    columns = ["law"]
    for name in ("a", "N*", "D*", "loss"):
        columns += [name, "90% interval"]
    rows = []
    for entry in entries:
        row = entry.allocations[place]
        rows.append((entry.source,
                     show.number(row.a, 3), show.span(row.a_interval, 3) + "*" * bool(row.level),
                     show.short(row.n), show.short_span(row.n_interval),
                     show.short(row.d), show.short_span(row.d_interval),
                     show.number(row.loss), show.span(row.loss_interval)))
    print_table(f"{c:.4g} training FLOPs", columns, rows)


def _print_agreements(agreements: Sequence[Agreement], budgets: int) -> None:
    """One row for a pair: at how many budgets the two can be the same, by quantity."""
    grouped: dict[tuple[str, str], list[Agreement]] = {}
    for pair in agreements:
        grouped.setdefault((pair.first, pair.second), []).append(pair)
    rows = []
    for (first, second), found in grouped.items():
        cells = []
        for name in _NAMES:
            verdicts = [pair.verdicts[name] for pair in found if pair.verdicts[name]]
            agree = sum(verdict in ("overlap", "inside") for verdict in verdicts)
            cells.append(f"{agree} of {len(verdicts)}" if verdicts else "-")
        rows.append((f"{first} | {second}", *cells))
    if rows:
        print_table(f"agreement: at how many of {budgets} budgets intervals overlap, or hold the "
                    "value of a law without one", ("laws", *_NAMES.values()), rows)


def _print_notes(entries: Sequence[Entry], convention: str | None, relation: Relation) -> None:
    rows = [row for entry in entries for row in entry.allocations]
    out.print("a is d log N* / d log C at that budget.", markup=False)
    if any(entry.study for entry in entries):
        out.print("a by Kaplan's method: what counting neither embeddings nor their compute, on "
                  f"Kaplan's sizes, would find were the law true; {relation.source}.", markup=False)
    if convention:
        out.print(f"N and C = 6 N D are {convention}; {relation.source}.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses on different corpora or tokenizers cannot be compared.", markup=False)
    for line in dict.fromkeys(f"{r.source}: {w}" for r in rows for w in r.warnings):
        out.print(f"warning: {line}", style="yellow", markup=False)
