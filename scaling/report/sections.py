"""What stands on the page: headline, warnings, figures, laws, allocation, runs, how to repeat."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from platform import python_version

import pandas as pd

from scaling.figures.results import FIGURES, Results
from scaling.laws import Law, allocate
from scaling.laws.planning.allocate import side_by_side
from scaling.laws.show import (
    NOT_DETERMINED,
    PARAMETER_COLUMNS,
    convention,
    count,
    counted,
    equation,
    evidence,
    left_side,
    number,
    parameters,
    percent,
    span,
)
from scaling.report.page import card, figure, table, text, warnings

_RUN_COLUMNS = ("run_id", "role", "status", "params_total", "params_non_embedding", "tokens",
                "flops_6nd", "epochs", "lr", "seed", "loss", "loss_se", "bits_per_byte")
_LIBRARIES = ("scaling", "numpy", "scipy", "pandas", "matplotlib", "jax", "flax", "optax")
_BUDGET = 10  # times the largest fitted compute, for the table of allocations


def headline(results: Results, law: Law) -> str:
    """The law, its exponent beside the published ones, and what it foretold."""
    a = law.exponents.get("a")
    spread = law.intervals.get("a")
    others = [f"{e.title}: {number(_exponent(e.law, e.sizes), 3)}" for e in side_by_side()]
    cards = [f'<div class="card wide"><div class="name">fitted law ({text(law.name)}), loss in '
             f'nats per token, N {text(law.convention["n"])}</div>'
             f'<div class="equation">{text(equation(law))}</div>'
             f'<div class="muted">{text(_intervals(law))}</div></div>']
    if law.form.allocation_exponent(law.point) is not None:
        value = NOT_DETERMINED if a is None else number(a, 3)
        own = [f"90%: {span(spread, 3)}"] if spread else []
        cards.append(card("a = d log N* / d log C", value, [*own, *others]))
    for run, row in law.heldout.items():
        expected = f"predicted {number(row['predicted'])} (90%: {span(row['interval'])})"
        if row["measured"] is None:
            cards.append(card(f"held out: {run}", number(row["predicted"]),
                              [expected, "not measured yet"]))
        else:
            cards.append(card(f"held out: {run}", f"{percent(row['relative_error'])} error",
                              [expected, f"measured {number(row['measured'])}, "
                                         f"{_inside(row)} the interval"]))
    return '<div class="cards">' + "\n".join(cards) + "</div>"


def all_warnings(results: Results, laws: Sequence[Law], left_out: dict[str, str]) -> str:
    """Everything that a reader must know before believing a number."""
    lines = [f"{name}: runs.csv holds other numbers than this law was fitted to; fit again"
             for name in results.stale]
    lines += [f"{law.name}: {warning}" for law in laws for warning in law.warnings]
    lines += [f"figure {name}: not drawn, {why}" for name, why in left_out.items()]
    return warnings("Warnings", lines)


def figures(folder: Path, left_out: dict[str, str]) -> str:
    """Every figure that was drawn, with its caption."""
    shown = [figure(folder / "figures" / f"{name}.svg", caption)
             for name, caption in FIGURES.items() if name not in left_out]
    return "<h2>Figures</h2>\n" + "\n".join(shown)


def law_tables(laws: Sequence[Law]) -> str:
    """One table of parameters for each law, with its evidence under it."""
    blocks = ["<h2>Laws</h2>"]
    for law in laws:
        blocks.append(f"<h3>{text(law.name)}: <code>{text(left_side(law.form))} = "
                      f"{text(law.form.formula)}</code></h3>")
        blocks.append(f'<p class="muted">{text(law.form.source)}. {text(counted(law))}. '
                      f"{text(convention(law))}. {text(evidence(law))}.</p>")
        blocks.append(table(PARAMETER_COLUMNS, parameters(law)))
        if law.heldout:
            rows = [(run, count(r["n"]), count(r["d"]), number(r["predicted"]),
                     span(r["interval"]), number(r["measured"]), percent(r["relative_error"]))
                    for run, r in law.heldout.items()]
            blocks.append(table(("held-out run", "N", "D", "predicted", "90% interval",
                                 "measured", "error"), rows))
        blocks.append(warnings("Warnings", law.warnings))
    return "\n".join(block for block in blocks if block)


def allocations(laws: Sequence[Law]) -> str:
    """How ten times the largest fitted compute would be spent, law by law."""
    able = [law for law in laws if law.form.allocation_exponent(law.point) is not None]
    if not able:
        return ""
    c = _BUDGET * max(law.convention["range"]["c"][1] for law in able)
    rows = []
    for entry in [*(allocate(law, c) for law in able), *(allocate(e, c) for e in side_by_side())]:
        ratio = entry.d / entry.n if entry.n and entry.d else None
        rows.append((entry.source, entry.counting, count(entry.n), span(entry.n_interval),
                     count(entry.d), number(ratio, 3), number(entry.loss), number(entry.a, 3)))
    return "<h2>Allocation</h2>\n" + table(
        ("law", "N counts", "N*", "90% interval", "D*", "D*/N*", "loss", "a"), rows,
        caption=f"The best use of {c:.3g} FLOP, {_BUDGET} times the largest fitted compute. "
                "Published laws foretell the loss on their own corpora and tokenizers.",
    )


def runs(frame: pd.DataFrame) -> str:
    """The runs table, as measured."""
    columns = [name for name in _RUN_COLUMNS if name in frame]
    rows = [[_cell(value) for value in row] for row in frame[columns].itertuples(index=False)]
    return "<h2>Runs</h2>\n" + table(columns, rows)


def reproduce(folder: Path, laws: Sequence[Law]) -> str:
    """The commands that make this page again, and with what it was made."""
    # A path of this machine is nobody else's business, nor of use to them.
    place = shlex.quote(folder.name if folder.is_absolute() else folder.as_posix())
    boot = next((law.bootstrap for law in laws if law.bootstrap), None)
    options = f" --bootstrap {boot.resamples} --seed {boot.seed}" if boot else ""
    commands = [f"scaling fit {place}{options} --json {place}/laws.json",
                f"scaling plot {place}", f"scaling report {place}"]
    versions = [("python", python_version())]
    for library in _LIBRARIES:
        try:
            versions.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:
            continue
    hashes = [(law.name, law.data_sha256 or "-") for law in laws]
    return "\n".join((
        "<h2>How to repeat this</h2>",
        f"<pre>{text(chr(10).join(commands))}</pre>",
        table(("library", "version"), versions),
        table(("law", "SHA-256 of the fitted numbers"), hashes),
    ))


def _cell(value: object) -> str:
    """One cell of the runs table: whole numbers below a billion in full, others to five digits."""
    if not isinstance(value, int | float):
        return str(value)
    if value != value:  # NaN: nothing was measured
        return ""
    whole = float(value).is_integer() and value < 1e9
    return f"{value:,.0f}" if whole else number(value, 5)


def _intervals(law: Law) -> str:
    known = [f"{p} {span(law.intervals[p])}" for p in law.form.parameters
             if law.intervals.get(p)]
    return "90%: " + ", ".join(known) if known else "no intervals"


def _inside(row: object) -> str:
    assert isinstance(row, dict)
    if row["interval"] is None:
        return "without"
    low, high = row["interval"]
    return "inside" if low <= row["measured"] <= high else "OUTSIDE"


def _exponent(law: Law | None, sizes: object) -> float | None:
    return law.exponents.get("a") if law else getattr(sizes, "exponent", None)
