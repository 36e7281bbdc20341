"""`scaling compare`: laws side by side, under their own conventions or a common one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.allocate import check_given, law_files, load_laws, numbers, pairs
from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_table, print_text, tables_hidden
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws.conventions.compare import Agreement, ComparedLaw
    from scaling.laws.conventions.recount import Relation

_COMMAND = "scaling compare"
_BUDGETS = "1e18,1e20,1e22,1e24"
_NAMES = {"a": "a", "n": "N*", "d": "D*", "loss": "loss"}


def compare(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[list[str] | None, typer.Option(
        metavar="FLOPS", help="Budgets in training FLOPs, separated by commas or repeated; "
                              f"{_BUDGETS} by default.", show_default=False)] = None,
    convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Parameters that N (and so C = 6 N D) counts in all laws; by default each law's own "
             "convention.", show_default=False)] = None,
    models: Annotated[Path | None, typer.Option(
        metavar="TABLE", help="CSV or Parquet table of your models with params_total and "
                              "params_non_embedding, to convert one count to the other; by default "
                              "Pearce and Song's relation.", show_default=False)] = None,
    omega: Annotated[float | None, typer.Option(
        help="Coefficient of N_total = N + omega N^(1/3), for a vocabulary or shape that differs "
             "from Chinchilla's; by default Chinchilla's.", show_default=False)] = None,
    given: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the laws, such as experts=8; may "
                                   "be repeated.", show_default=False)] = None,
    out_file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Write the comparison to this JSON file.",
        show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Compare published and fitted laws: their formulas and their compute-optimal allocations.

    Example: `scaling compare besiroglu2024 kaplan2020 --convention non-embedding`

    Example: `scaling compare results/quickstart/laws.json hoffmann2022-3 --compute 1e14,1e16`

    With --convention, each law's optimum is computed under that convention: the loss stays a
    function of the model and its tokens, and only the definitions of N and C change.
    """
    from scaling.laws.allocation.budgets import AllocationBudget
    from scaling.laws.conventions.compare import agreements
    from scaling.laws.conventions.compare import compare as compare_laws
    from scaling.outputs import json_output as json_file
    from scaling.outputs import with_command

    if out_file is not None:
        output = json_file(
            out_file, _COMMAND, [*law_files(law), *([models] if models else [])])
        output.check()
    budgets = numbers(compute or [_BUDGETS], "--compute")
    values = pairs(given or [], "--given")
    checked = [AllocationBudget(c=c, given=values) for c in budgets]
    relation = _relation(models, omega)
    laws = [pair for name in law for pair in load_laws(name, checked[0])]
    check_given(values, [entry for _, entry in laws])
    entries = compare_laws(laws, budgets, convention, relation, values)
    found = agreements(entries)
    with tables_hidden(json_output):
        _print_laws(entries)
        for place, c in enumerate(budgets):
            _print_budget(entries, place, c)
        _print_agreements(found, len(budgets))
        _print_notes(entries, convention, relation)
    text = with_command(
        {"compute": budgets, "convention": convention,
         "relation": relation.source if convention else None,
         "laws": [entry.to_json() for entry in entries],
         "agreements": [pair.to_json() for pair in found]}, _COMMAND)
    if out_file is not None:
        output.write(text)
        err.print(f"wrote {out_file}", markup=False)
    if json_output:
        print_text(text)


def _relation(models: Path | None, omega: float | None) -> Relation:
    import numpy as np

    from scaling.laws.columns import numeric_column as numbers_of
    from scaling.laws.columns import require_column
    from scaling.laws.conventions.recount import published_relation, relation_between
    from scaling.laws.forms.variables import N_COLUMNS
    from scaling.laws.frames import read_frame, table_path

    if models is None:
        return published_relation(omega)
    if omega is not None:
        raise UserError("--models and --omega both relate the two counts; give only one")
    frame = read_frame(table_path(models))
    total, non_embedding = (
        numbers_of(frame, str(models), require_column(frame, str(models), column, "another name"),
                   np.arange(len(frame)), None)
        for column in (N_COLUMNS["total"], N_COLUMNS["non-embedding"]))
    return relation_between(total, non_embedding, str(models))


def _print_laws(entries: Sequence[ComparedLaw]) -> None:
    from scaling.laws import show

    print_table("", ("law", "formula", "N counts", "C", "runs", "a by Kaplan's method",
                     "90% interval"), [
        (entry.source, show.equation(entry.law) if entry.law else "-",
         entry.convention["n"] + (f", from {entry.convention['from']}"
                                  if "from" in entry.convention else ""),
         entry.convention["c"], str(entry.law.n_runs or "-") if entry.law else "-",
         show.number(entry.kaplan.exponent if entry.kaplan else None, 3),
         show.span(entry.kaplan.interval if entry.kaplan else None, 3))
        for entry in entries
    ])


def _print_budget(entries: Sequence[ComparedLaw], place: int, c: float) -> None:
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
    """One row for each pair of laws: the number of budgets at which each quantity agrees."""
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
        print_table(f"agreement: number of {budgets} budgets at which intervals overlap, or "
                    "contain the value of a law without one", ("laws", *_NAMES.values()), rows)


def _print_notes(
    entries: Sequence[ComparedLaw], convention: str | None, relation: Relation
) -> None:
    rows = [row for entry in entries for row in entry.allocations]
    out.print("a is d log N* / d log C at that budget.", markup=False)
    if any(entry.kaplan for entry in entries):
        out.print("a by Kaplan's method: the exponent that a study of Kaplan's sizes, counting "
                  f"neither embeddings nor their compute, would find if the law were true; "
                  f"{relation.source}.", markup=False)
    if convention:
        out.print(f"N and C = 6 N D are {convention}; {relation.source}.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses on different corpora or tokenizers cannot be compared.", markup=False)
    for line in dict.fromkeys(f"{r.source}: {w}" for r in rows for w in r.warnings):
        out.print(f"warning: {line}", style="yellow", markup=False)
