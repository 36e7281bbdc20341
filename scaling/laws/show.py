"""How the numbers of a law are written for people: on the terminal and on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from scaling.laws.forms.form import Form
from scaling.laws.law import Law

NOT_DETERMINED = "not determined"


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits, or a dash where there is no value."""
    return "-" if value is None else f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """Parameters or tokens: every digit below a billion, four above."""
    return f"{value:,.0f}" if value is not None and value < 1e9 else number(value)


def span(interval: Sequence[float] | None, digits: int = 4) -> str:
    """`low to high`, or a dash."""
    if interval is None:
        return "-"
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def short(value: float | None) -> str:
    """12_345_678 as 12.3M: three digits at most, and a letter for the power of a thousand."""
    if value is None:
        return "-"
    if value <= 0 or value >= 1e15 or not math.isfinite(value):
        return f"{value:.3g}"
    power = min(4, max(0, math.floor(math.log10(value) / 3 + 1e-9)))
    scaled = float(f"{value / 1000**power:.3g}")
    if scaled >= 1000 and power < 4:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:g}{['', 'k', 'M', 'B', 'T'][power]}"


def short_span(interval: Sequence[float] | None) -> str:
    """`1.2M to 3M`, or a dash."""
    return "-" if interval is None else f"{short(interval[0])} to {short(interval[1])}"


def percent(value: float | None) -> str:
    """A relative error, with its sign."""
    return "-" if value is None else f"{100 * value:+.2f}%"


def left_side(form: Form) -> str:
    """`L(N, D)`."""
    return f"L({', '.join(v.upper() for v in form.variables)})"


def equation(law: Law) -> str:
    """The formula with its numbers in it, and a question mark for each that is not determined."""
    names = "|".join(sorted(map(re.escape, law.form.parameters), key=len, reverse=True))
    shown = {name: "?" if unknown(law, name) else number(law.params[name]) for name in law.params}
    filled = re.sub(rf"\b({names})\b", lambda m: shown[m.group()], law.form.formula)
    return f"{left_side(law.form)} = {filled}"


def unknown(law: Law, name: str) -> bool:
    """Whether the runs leave a parameter undetermined."""
    return name in law.se and law.se[name] is None


PARAMETER_COLUMNS = ("parameter", "value", "se", "se by delta", "90% interval", "unit")


def parameters(law: Law) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of name, value, standard errors by the bootstrap and by the delta method, 90% interval
    and unit, with the exponents a and b."""
    exponents = {name: law.exponents[name] for name in ("a", "b") if name in law.exponents
                 and (law.exponents[name] is not None or name in law.se)}
    rows = []
    for name, value in {**law.params, **exponents}.items():
        shown = NOT_DETERMINED if value is None or unknown(law, name) else number(value)
        rows.append((_long(name), shown, number(law.se.get(name), 3),
                     number(law.se_delta.get(name), 3), span(law.intervals.get(name)),
                     law.form.units.get(name, "")))
    return rows


def counted(law: Law) -> str:
    """How many runs were fitted, and what was left out."""
    out = ", ".join(f"{count} {reason.replace('_', ' ')}"
                    for reason, count in law.excluded.items() if count)
    return f"{law.n_runs} runs" + (f"; left out: {out}" if out else "; none left out")


def convention(law: Law) -> str:
    """What was counted, and what was minimised."""
    c = law.convention
    text = f"N {c['n']}, D {c['d']}, C {c['c']}; {c['loss']}"
    if "objective" in c:
        delta = f", delta {c['delta']:g}" if "delta" in c else ""
        of = "its logarithm" if law.form.link == "log" else "the outcome itself"
        text += f"; {c['objective']} loss of {of}{delta}"
    return text


def evidence(law: Law) -> str:
    """The convergence line."""
    c = law.convergence
    text = "converged" if c.get("converged") else "NOT CONVERGED"
    text += (f"; {100 * float(c.get('start_agreement') or 0):.0f}% of starts agree; objective "
             f"{number(law.objective, 6)}; gradient {number(c.get('grad_norm'), 2)}; condition "
             f"{number(c.get('condition'), 2)}")
    if law.bootstrap:
        text += f"; {law.bootstrap.converged} of {law.bootstrap.resamples} resamples converged"
    return text


def _long(name: str) -> str:
    return {"a": "a (N* ~ C^a)", "b": "b (D* ~ C^b)"}.get(name, name)
