"""Sections of the report: headline, warnings, figures, laws, allocation, runs, reproduction."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd

from scaling.figures.results import CHINCHILLA, FIGURES, ResultsFolder
from scaling.laws import FormChoice, Law, allocate
from scaling.laws.allocation.allocate import reference_laws
from scaling.laws.frames import duplicate_columns
from scaling.laws.show import (
    NOT_DETERMINED,
    convention,
    convergence,
    count,
    equation,
    left_side,
    number,
    parameter_table,
    percent,
    run_counts,
    span,
)
from scaling.report.page import card, figure, table, text, warnings

_RUN_COLUMNS = ("run_id", "role", "status", "params_total", "params_non_embedding", "tokens",
                "flops_6nd", "epochs", "lr", "seed", "loss", "loss_se", "bits_per_byte")
_LIBRARIES = ("scaling", "numpy", "scipy", "pandas", "matplotlib", "jax", "flax", "optax")
_BUDGET = 10  # budget of the allocation table, as a multiple of the largest fitted compute


def headline(chosen: FormChoice | None, law: Law, laws: Sequence[Law] = ()) -> str:
    """Cards with the law, its exponent and published ones, and its held-out predictions beside
    those of Chinchilla's law and of the average of forms."""
    a = law.exponents.get("a")
    interval = law.intervals.get("a")
    published = [f"{e.title}: {number(_exponent(e.law, e.sizes), 3)}" for e in reference_laws()]
    why = "" if chosen is None else (
        f'<div class="muted">{text(chosen.verdict())}</div>')
    cards = [f'<div class="card wide"><div class="name">fitted law ({text(law.name)}), loss in '
             f'nats per token, N {text(law.convention["n"])}</div>'
             f'<div class="equation">{text(equation(law))}</div>'
             f'<div class="muted">{text(_intervals(law))}</div>{why}</div>']
    others = [each for each in laws if each.name == CHINCHILLA and each is not law]
    if law.form.allocation_exponent(law.point) is not None:
        value = NOT_DETERMINED if a is None else number(a, 3)
        own = [f"90%: {span(interval, 3)}"] if interval else []
        own += [f"{each.name} here: {number(each.exponents['a'], 3)}" for each in others
                if each.exponents.get("a") is not None]
        cards.append(card("a = d log N* / d log C", value, [*own, *published]))
    rows = {each.name: each.heldout for each in others}
    if chosen is not None:
        rows["average of forms"] = chosen.heldout
    for run, row in law.heldout.items():
        beside = [_beside(name, of[run]) for name, of in rows.items() if run in of]
        expected = f"predicted {number(row['predicted'])} (90%: {span(row['interval'])})"
        if row["measured"] is None:
            cards.append(card(f"held out: {run}", number(row["predicted"]),
                              [expected, *beside, "not measured yet"]))
        else:
            cards.append(card(f"held out: {run}", f"{percent(row['relative_error'])} error",
                              [expected, f"measured {number(row['measured'])}, "
                                         f"{_inside(row)} the interval", *beside,
                               "error: predicted / measured - 1"]))
    return '<div class="cards">' + "\n".join(cards) + "</div>"


def all_warnings(results: ResultsFolder, laws: Sequence[Law], not_drawn: dict[str, str]) -> str:
    """All warnings: stale laws, warnings of the fits, and figures that are not drawn."""
    lines = [f"{name}: was fitted to other data than runs.csv now has; fit again"
             for name in results.stale]
    lines += [f"{name}: not shown, {reason}" for name, reason in results.others.items()]
    lines += [f"{law.name}: {warning}" for law in laws for warning in law.warnings]
    lines += [f"figure {name}: not drawn, {reason}" for name, reason in not_drawn.items()]
    return warnings("Warnings", lines)


def figures(folder: Path, not_drawn: dict[str, str]) -> str:
    """Every figure that was drawn, with its caption."""
    drawn = [figure(folder / "figures" / f"{name}.svg", caption)
             for name, caption in FIGURES.items() if name not in not_drawn]
    return "<h2>Figures</h2>\n" + "\n".join(drawn)


def choice(results: ResultsFolder) -> str:
    """How well each form predicts larger runs; empty if the laws were named."""
    if results.choice is None:
        return ""
    first, *parts = results.choice.parts()
    blocks = [f"<h2>Choice of the form</h2>\n<p>{text(first)}</p>"]
    blocks += [f"<p>{text(part)}</p>" if isinstance(part, str) else table(part.columns, part.rows)
               for part in parts]
    return "\n".join(blocks)


def law_tables(laws: Sequence[Law]) -> str:
    """A table of parameters for each law, with the evidence of its fit."""
    blocks = ["<h2>Laws</h2>"]
    for law in laws:
        blocks.append(f"<h3>{text(law.name)}: <code>{text(left_side(law.form))} = "
                      f"{text(law.form.formula)}</code></h3>")
        blocks.append(f'<p class="muted">{text(law.form.source)}. {text(run_counts(law))}. '
                      f"{text(convention(law))}. {text(convergence(law))}.</p>")
        parameters = parameter_table(law)
        blocks.append(table(parameters.columns, parameters.rows))
        if law.heldout:
            rows = [(run, count(r["n"]), count(r["d"]), number(r["predicted"]),
                     span(r["interval"]), number(r["measured"]), percent(r["relative_error"]))
                    for run, r in law.heldout.items()]
            blocks.append(table(("held-out run", "N", "D", "predicted", "90% interval",
                                 "measured", "predicted / measured - 1"), rows))
        blocks.append(warnings("Warnings", law.warnings))
    return "\n".join(block for block in blocks if block)


def allocations(laws: Sequence[Law], first: str = "") -> str:
    """Allocations of ten times the largest fitted compute, by fitted and published laws; the law
    of the name `first` comes first."""
    laws = sorted(laws, key=lambda law: law.name != first)
    with_optimum = [law for law in laws if law.form.allocation_exponent(law.point) is not None
                    and "c" in law.convention.get("range", {})]
    if not with_optimum:
        return ""
    c = _BUDGET * max(law.convention["range"]["c"][1] for law in with_optimum)
    rows = []
    for entry in [*(allocate(law, c) for law in with_optimum),
                  *(allocate(e, c) for e in reference_laws())]:
        ratio = entry.d / entry.n if entry.n and entry.d else None
        rows.append((entry.source, entry.counting, count(entry.n), span(entry.n_interval),
                     count(entry.d), number(ratio, 3), number(entry.loss), number(entry.a, 3)))
    return "<h2>Allocation</h2>\n" + table(
        ("law", "N counts", "N*", "90% interval", "D*", "D*/N*", "loss", "a"), rows,
        caption=f"Optimal allocations of {c:.3g} FLOP, {_BUDGET} times the largest fitted compute. "
                "Losses of published laws are on their own corpora and tokenizers.",
    )


def runs(frame: pd.DataFrame) -> str:
    """The runs table, as measured."""
    columns = [name for name in _RUN_COLUMNS
               if name in frame and name not in duplicate_columns(frame)]
    rows = [[_cell(value) for value in row] for row in frame[columns].itertuples(index=False)]
    return "<h2>Runs</h2>\n" + table(columns, rows)


def reproduce(folder: Path, laws: Sequence[Law]) -> str:
    """The commands that reproduce the page, library versions, and hashes of the fitted data."""
    # Absolute paths of this machine are not published.
    path = shlex.quote(folder.name if folder.is_absolute() else folder.as_posix())
    boot = next((law.bootstrap for law in laws if law.bootstrap), None)
    options = f" --bootstrap {boot.resamples} --seed {boot.seed}" if boot else ""
    commands = [f"scaling fit {path}{options} --save {path}/laws.json",
                f"scaling plot {path}", f"scaling report {path}"]
    versions = [("python", python_version())]
    for library in _LIBRARIES:
        try:
            versions.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:
            continue
    hashes = [(law.name, law.data_sha256 or "-") for law in laws]
    return "\n".join((
        "<h2>How to reproduce this</h2>",
        f"<pre>{text(chr(10).join(commands))}</pre>",
        table(("library", "version"), versions),
        table(("law", "SHA-256 of the fitted data"), hashes),
    ))


def _cell(value: object) -> str:
    """A cell of the runs table: integers below a billion in full, other numbers to five digits."""
    if not isinstance(value, int | float):
        return str(value)
    if value != value:  # NaN: not measured
        return ""
    whole = float(value).is_integer() and value < 1e9
    return f"{value:,.0f}" if whole else number(value, 5)


def _intervals(law: Law) -> str:
    intervals = [f"{p} {span(law.intervals[p])}" for p in law.form.parameters
                 if law.intervals.get(p)]
    return "90%: " + ", ".join(intervals) if intervals else "no intervals"


def _beside(name: str, row: Mapping[str, Any]) -> str:
    """What another law predicts of a held-out run."""
    error = row["relative_error"]
    return f"{name}: {number(row['predicted'])}" + (
        "" if error is None else f", {percent(error)} error")


def _inside(row: object) -> str:
    assert isinstance(row, dict)
    if row["interval"] is None:
        return "without"
    low, high = row["interval"]
    return "inside" if low <= row["measured"] <= high else "OUTSIDE"


def _exponent(law: Law | None, sizes: object) -> float | None:
    return law.exponents.get("a") if law else getattr(sizes, "exponent", None)
