"""Format the numbers of a law as text, for the terminal and for reports."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.laws.forms.form import Form
from scaling.laws.forms.hyperparameters import BATCH, LEARNING_RATE
from scaling.laws.law import Law
from scaling.laws.table import excluded_text

NOT_DETERMINED = "not determined"
_EXPONENTS = {"a": "a (N* ~ C^a)", "b": "b (D* ~ C^b)"}


def number(value: float | None, digits: int = 4) -> str:
    """A number with four significant digits by default; a dash for None or NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}g}"


_LEFT_SIDES = {LEARNING_RATE: "lr*", BATCH: "batch*"}


def count(value: float | None) -> str:
    """Parameters or tokens: all digits below a billion, four significant ones above."""
    return f"{value:,.0f}" if value is not None and value < 1e9 else number(value)


def span(interval: Sequence[float] | None, digits: int = 4) -> str:
    """An interval as `low to high`; a dash for None."""
    if interval is None:
        return "-"
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def short(value: float | None) -> str:
    """At most three digits and a suffix for the power of a thousand: 12_345_678 is 12.3M."""
    if value is None or math.isnan(value):
        return "-"
    if value <= 0 or value >= 1e15 or not math.isfinite(value):
        return f"{value:.3g}"
    power = min(4, max(0, math.floor(math.log10(value) / 3 + 1e-9)))
    scaled = float(f"{value / 1000**power:.3g}")
    if scaled >= 1000 and power < 4:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:g}{['', 'k', 'M', 'B', 'T'][power]}"


def short_span(interval: Sequence[float] | None) -> str:
    """An interval as `1.2M to 3M`; a dash for None."""
    return "-" if interval is None else f"{short(interval[0])} to {short(interval[1])}"


def percent(value: float | None) -> str:
    """A relative error in percent with its sign; a dash for None."""
    return "-" if value is None else f"{100 * value:+.2f}%"


def left_side(form: Form) -> str:
    """The left side of a form's equation, such as `L(N, D)`, or `accuracy(L)` for an outcome that
    is not a loss."""
    outcome = form.outcome.partition(",")[0].replace(" ", "_")
    name = "L" if "loss" in form.outcome else _LEFT_SIDES.get(form.outcome, outcome)
    return f"{name}({', '.join(v.upper() for v in form.variables)})"


def equation(law: Law) -> str:
    """The formula with its parameters as numbers; undetermined ones are question marks."""
    names = "|".join(sorted(map(re.escape, law.form.parameters), key=len, reverse=True))
    shown = {name: "?" if is_undetermined(law, name) else number(value)
             for name, value in law.params.items()}
    formula, _, constraints = law.form.formula.partition(" with ")
    formula = re.sub(rf"\b({names})\b", lambda m: shown[m.group()], formula)
    return f"{left_side(law.form)} = {formula}" + (f" with {constraints}" if constraints else "")


def is_undetermined(law: Law, name: str) -> bool:
    """Whether the runs leave a parameter undetermined."""
    return name in law.se and law.se[name] is None


def title(law: Law) -> str:
    """Name, formula and source of a law."""
    return f"{law.name}: {left_side(law.form)} = {law.form.formula}  ({law.form.source})"


def parameter_table(law: Law) -> TextTable:
    """The parameters and the exponents a and b; the first standard error is the bootstrap's."""
    exponents = {name: law.exponents[name] for name in ("a", "b") if name in law.exponents
                 and (law.exponents[name] is not None or name in law.se)}
    rows = []
    for name, value in {**law.params, **exponents}.items():
        full_name = _EXPONENTS[name] if name in exponents else name
        shown = NOT_DETERMINED if value is None or is_undetermined(law, name) else number(value)
        rows.append((full_name, shown, number(law.se.get(name), 3),
                     number(law.se_delta.get(name), 3), span(law.intervals.get(name)),
                     law.form.units.get(name, "")))
    columns = ("parameter", "value", "se", "se by delta", "90% interval", "unit")
    return TextTable(columns, tuple(rows), ("parameter", "unit"))


def heldout_table(law: Law) -> TextTable:
    """The held-out runs, with the predicted and the measured outcome."""
    columns = ("held out", "N", "D", "predicted", "90% interval", "measured", "error")
    return TextTable(columns, tuple(
        (run, count(row["n"]), count(row["d"]), number(row["predicted"]), span(row["interval"]),
         number(row["measured"]), percent(row["relative_error"]))
        for run, row in law.heldout.items()), ("held out",))


def run_counts(law: Law) -> str:
    """The number of fitted runs, those left out by reason, and those that count less."""
    out = excluded_text(law.excluded)
    noisy = law.convention.get("noisy")
    return (f"{law.n_runs} runs" + (f"; left out: {out}" if out else "; none left out")
            + (f"; {noisy} with standard errors above the noise count less" if noisy else ""))


def convention(law: Law) -> str:
    """What N, D and C count, and the objective that was minimised."""
    c = law.convention
    text = f"N {c['n']}, D {c['d']}, C {c['c']}; {c['loss']}"
    if "objective" in c:
        delta = f", delta {c['delta']:.4g}" if "delta" in c else ""
        quantity = "its logarithm" if law.form.link == "log" else "the outcome itself"
        named = "adaptive Huber" if c["objective"] == "adaptive" else c["objective"]
        text += f"; {named} loss of {quantity}{delta}"
    return text


def convergence(law: Law) -> str:
    """One line of convergence diagnostics."""
    c = law.convergence
    text = "converged" if c.get("converged") else "NOT CONVERGED"
    text += (f"; {100 * float(c.get('start_agreement') or 0):.0f}% of starts agree; objective "
             f"{number(law.objective, 6)}; gradient {number(c.get('grad_norm'), 2)}; condition "
             f"{number(c.get('condition'), 2)}")
    if law.bootstrap:
        text += f"; {law.bootstrap.converged} of {law.bootstrap.resamples} resamples converged"
    return text


@dataclass(frozen=True)
class TextTable:
    """A table of formatted cells; numbers have four significant digits."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_aligned: tuple[str, ...]
    """Names of the columns of text, which are left-aligned."""

    def text(self) -> str:
        """The table with its columns aligned."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(
            cell.ljust(width) if name in self.left_aligned else cell.rjust(width)
            for name, cell, width in zip(self.columns, line, widths, strict=True)).rstrip()
            for line in lines)


class PrintableResult:
    """Base class of frozen dataclasses that print as text and serialise to JSON."""

    def parts(self) -> list[str | TextTable]:
        """Lines and tables to print, in order."""
        raise NotImplementedError

    def text(self) -> str:
        """The parts as plain text, without wrapping."""
        return "\n".join(part if isinstance(part, str) else part.text() for part in self.parts())

    def __repr__(self) -> str:
        return self.text()

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON-serialisable data; NaN and infinity become None."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: to_plain(getattr(self, field.name)) for field in fields}


def to_plain(value: Any) -> Any:
    """A value converted to lists, dictionaries, strings and finite numbers; NaN and infinity become
    None."""
    if isinstance(value, PrintableResult):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def rows_frame(rows: Sequence[PrintableResult]) -> pd.DataFrame:
    """Results of one kind as a data frame: a row for each, a column for each field."""
    return pd.DataFrame([{field.name: getattr(row, field.name)
                          for field in dataclasses.fields(row)}  # type: ignore[arg-type]
                         for row in rows])


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> TextTable:
    """A table of these values; columns that contain strings are left-aligned."""
    left_aligned = tuple(name for place, name in enumerate(columns)
                 if any(isinstance(row[place], str) for row in rows))
    return TextTable(tuple(columns), tuple(tuple(map(_cell, row)) for row in rows), left_aligned)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int) else number(float(value))
