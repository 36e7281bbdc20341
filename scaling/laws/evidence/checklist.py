"""Reporting checklist for a scaling law, after Li, Kudugunta and Zettlemoyer 2025, "(Mis)Fitting: A
Survey of Scaling Laws" (arXiv:2502.18969): the form, the training, the collection of data points
and the fit. The survey finds that most papers omit some of it, so unknown answers are listed as
`not recorded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws import show
from scaling.laws.evidence.refit import form_label
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.frames import duplicate_columns
from scaling.laws.law import LEVEL, Law
from scaling.laws.table import RunsTable

ChecklistRow = tuple[str, str, str]
"""Section, question, answer."""

NOT_RECORDED = "not recorded"
FORM, TRAINING = "Form and units", "Training setup"
COLLECTION, FITTING = "Data collection", "Fitting algorithm"

_REFITS = {"objective": "other objectives", "outliers": "the largest losses left out",
           "sizes": "a size left out"}
_MAX_LISTED = 6  # distinct values of a column that are listed individually


@dataclass(frozen=True)
class _Inputs:
    """The sources of the answers: the law, its runs and the table as read."""

    law: Law
    table: RunsTable | None
    frame: pd.DataFrame | None
    evidence: Mapping[str, Any]

    def compared(self) -> list[Mapping[str, Any]]:
        """The law's entry in a comparison of forms, if there is one."""
        return [entry for entry in self.evidence.get("comparison", {}).get("entries", ())
                if entry["form"] == form_label(self.law.form)]

    def column(self, name: str, unit: str = "") -> str | None:
        """The distinct values of a column of the table, or their range; None if absent."""
        if self.frame is None or name not in self.frame or name in duplicate_columns(self.frame):
            return None
        column = self.frame[name]
        if "status" in self.frame:
            column = column[self.frame["status"] == "done"]
        values = column.dropna().unique()
        if not len(values):
            return None
        if len(values) <= _MAX_LISTED:
            text = ", ".join(f"{value:.6g}" if isinstance(value, float) else str(value)
                             for value in sorted(values, key=lambda v: (str(type(v)), v)))
        elif pd.api.types.is_numeric_dtype(column):
            text = f"{values.min():.4g} to {values.max():.4g}, {len(values)} distinct"
        else:
            text = f"{len(values)} distinct"
        return f"{text} {unit}".rstrip()

    def span(self, variable: str) -> str | None:
        """The fitted range of a variable, or None if not recorded."""
        ends = self.law.convention.get("range", {}).get(variable)
        if ends is None:
            return None
        return f"{show.short(ends[0])} to {show.short(ends[1])} {VARIABLES[variable].unit}"

    @property
    def fitted(self) -> RunsTable | None:
        """The runs that the form is fitted to, or None."""
        if self.table is None:
            return None
        return self.table.take(self.law.form.fitted_rows(self.table))


@dataclass(frozen=True)
class Question:
    """One question of the checklist; `answer` returns None if unknown."""

    key: str
    section: str
    text: str
    answer: Callable[[_Inputs], str | None]


def checklist(
    law: Law,
    table: RunsTable | None = None,
    frame: pd.DataFrame | None = None,
    answers: Mapping[str, str] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> list[ChecklistRow]:
    """Every question of `QUESTIONS` with its answer, in order.

    Args:
        law: a fitted or published law.
        table: the runs that it was fitted to.
        frame: the same table as read, whose columns of the package's names (family, corpus, lr and
            so on) answer what the law does not record.
        answers: answers by key of `QUESTIONS`, which replace those derived from the rest.
        evidence: plain data of the evidence about the law, as `scaling fit --evidence` writes it;
            and the `choice` between `forms`, with its `verdict`.

    Raises:
        UserError: there is no question with the key of an answer.
    """
    answers = answers or {}
    keys = [question.key for question in QUESTIONS]
    for key in answers:
        if key not in keys:
            raise UserError(f"checklist: no question has the key {key}; expected is one of "
                            f"{', '.join(keys)}")
    inputs = _Inputs(law, table, frame, evidence or {})
    return [(q.section, q.text, answers.get(q.key) or q.answer(inputs) or NOT_RECORDED)
            for q in QUESTIONS]


def as_text(rows: Sequence[ChecklistRow]) -> str:
    """Plain text: section titles, each followed by lines of a question and its answer."""
    lines = []
    for section, group in _by_section(rows):
        lines += ["", section, *(f"  {question} {answer}" for question, answer in group)]
    return "\n".join(lines[1:])


def as_markdown(rows: Sequence[ChecklistRow]) -> str:
    """Markdown: a table for each section."""
    lines = []
    for section, group in _by_section(rows):
        lines += ["", f"### {section}", "", "| Question | Answer |", "| --- | --- |"]
        lines += [f"| {_escaped(question)} | {_escaped(answer)} |" for question, answer in group]
    return "\n".join(lines[1:]) + "\n"


def _by_section(rows: Sequence[ChecklistRow]) -> list[tuple[str, list[tuple[str, str]]]]:
    sections = dict.fromkeys(section for section, _, _ in rows)
    return [(section, [(q, a) for s, q, a in rows if s == section]) for section in sections]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("*", "\\*")


def _variables(k: _Inputs) -> str:
    return ", ".join(f"{VARIABLES[v].symbol} ({VARIABLES[v].unit})" for v in k.law.form.variables)


def _parameters(k: _Inputs) -> str:
    form = k.law.form
    return ", ".join(f"{p} ({form.units[p]})" if p in form.units else p for p in form.parameters)


def _counting(k: _Inputs) -> str | None:
    counts = [f"{v.upper()}: {k.law.convention[v]}" for v in ("n", "d", "c")
              if k.law.convention.get(v)]
    return "; ".join(counts) or None


def _sizes(k: _Inputs) -> str | None:
    span = k.span("n")
    runs = k.fitted
    if runs is None or np.isnan(runs.n).any():
        return span
    return f"{len(np.unique(runs.n))} distinct N, {span or 'of unknown range'}"


def _ratio(k: _Inputs) -> str | None:
    runs = k.fitted
    if runs is None or np.isnan(runs.n).any() or np.isnan(runs.d).any():
        return None
    ratio: NDArray[np.float64] = runs.d / runs.n
    return f"{ratio.min():.3g} to {ratio.max():.3g}, median {np.median(ratio):.3g}"


def _repeated(k: _Inputs) -> str | None:
    return k.column("epochs", "epochs") or (
        None if k.table is None or "u" not in k.table.extra else
        f"{float((k.table.d / k.table.extra['u']).max()):.3g} epochs at most")


def _excluded(k: _Inputs) -> str | None:
    if k.law.n_runs is None:
        return None
    excluded = ", ".join(f"{count} {reason.replace('_', ' ')}"
                         for reason, count in k.law.excluded.items() if count)
    return f"left out: {excluded}" if excluded else "all finished runs are fitted"


def _points(k: _Inputs) -> str:
    envelope = k.law.form.envelope
    done = [] if k.table is None else [*k.table.selection]
    if envelope is not None:
        done.append(f"only the lower envelope along {VARIABLES[envelope].symbol} is fitted")
    return "; ".join(done) or "not by the fit: every run is one point, with the loss from the table"


def _checkpoints(k: _Inputs) -> str | None:
    if k.table is None:
        return None
    if "earlier_rows" in k.table.excluded:
        return "the last row of each run; its schedule is not known to end there"
    if k.table.cluster.size:
        rows, runs = k.table.cluster.size, len(np.unique(k.table.cluster))
        return f"{rows} rows of {runs} runs, which are checkpoints or repeated measurements"
    return None


def _objective(k: _Inputs) -> str | None:
    kind = k.law.convention.get("objective")
    if kind is None:
        return None
    delta = k.law.convention.get("delta")
    target = "the logarithm of the outcome" if k.law.form.link == "log" else "the outcome"
    minimum = "" if k.law.objective is None else f"; its minimum is {k.law.objective:.6g}"
    return (f"{kind} loss{'' if delta is None else f', delta {delta:g},'} of residuals of "
            f"{target}, summed over runs{minimum}")


def _algorithm(k: _Inputs) -> str | None:
    if "converged" not in k.law.convergence:
        return None
    c = k.law.convergence
    verdict = "converged" if c["converged"] else "NOT converged"
    return (f"damped Newton's method with exact derivatives; {verdict}, gradient "
            f"{show.number(c.get('grad_norm'), 2)}, condition of the Hessian "
            f"{show.number(c.get('condition'), 2)}")


def _starts(k: _Inputs) -> str | None:
    agreement = k.law.convergence.get("start_agreement")
    if agreement is None:
        return None
    runs = k.fitted
    count = ""
    if runs is not None:
        x = k.law.form.coordinates(runs.values)
        count = f"{len(k.law.form.starts(x, runs.loss))} points of "
    return (f"{count}a fixed grid of exponents, with coefficients by linear projection; "
            f"{float(agreement):.0%} of the starts end at the best optimum")


def _values(k: _Inputs) -> str:
    return "; ".join(f"{name} {value}" + (f" ({span})" if span != "-" else "")
                     for name, value, *_, span, _ in show.parameter_table(k.law).rows)


def _intervals(k: _Inputs) -> str | None:
    boot = k.law.bootstrap
    if boot is None:
        return None
    text = (f"{LEVEL:.0%} {boot.method} intervals of a {boot.by} bootstrap: {boot.converged} of "
            f"{boot.resamples} resamples converged, seed {boot.seed}")
    for profile in k.evidence.get("profiles", ()):
        if profile["form"] != form_label(k.law.form):
            continue
        low, high = ("open" if end is None else f"{end:.4g}" for end in profile["interval"])
        text += f"; profile of {profile['name']}: {low} to {high}"
    return text


def _percent(error: float) -> str:
    return f"{100 * error:.2f}%"


def _heldout(k: _Inputs) -> str | None:
    errors = [row["relative_error"] for row in k.law.heldout.values()
              if row.get("relative_error") is not None]
    found = []
    if errors:
        worst = max(errors, key=abs)
        s = "s" * (len(errors) > 1)
        found.append(f"predictions of {len(errors)} held-out run{s}: mean relative error "
                     f"{_percent(float(np.mean(np.abs(errors))))}, worst {show.percent(worst)}")
    for rolling in k.evidence.get("rolling", ()):
        means = [each["mean"] for each in rolling["forecasts"]
                 if each["form"] == form_label(k.law.form) and each["mean"] is not None]
        if means:
            found.append(f"runs above {len(means)} cut{'s' * (len(means) > 1)} of "
                         f"{VARIABLES[rolling['by']].symbol}: mean relative error "
                         + " to ".join(dict.fromkeys(map(_percent, (min(means), max(means))))))
    found += [f"sizes left out one by one: mean relative error {_percent(entry['held_out'])}"
              for entry in k.compared() if entry["held_out"] is not None]
    return "; ".join(found) or None


def _choice(k: _Inputs) -> str | None:
    """How the form compares with others."""
    choice = k.evidence.get("choice", {})
    found = [choice["verdict"]] if k.law.name in choice.get("forms", ()) else []
    found += [f"by sizes left out: {entry['verdict']}" for entry in k.compared()]
    return "; ".join(found) or None


def _sensitivity(k: _Inputs) -> str | None:
    """The range of one exponent over refits: a of the optimum, or the first one of the law."""
    name = "a" if k.law.exponents.get("a") is not None else next(iter(k.law.form.exponents), None)
    tests = k.evidence.get("sensitivity", {}).get(k.law.name, {})
    found = []
    for kind, what in _REFITS.items():
        values = [each["a"] if name == "a" else each["params"].get(name)
                  for each in tests.get(kind, {}).get("refits", ()) if each["converged"]
                  and (kind == "objective" or each["n_runs"] < (k.law.n_runs or 0))]
        values = [value for value in values if value is not None]
        if values:
            found.append(f"{name} {min(values):.3g} to {max(values):.3g} with {what}")
    return "; ".join(found) or None


QUESTIONS: tuple[Question, ...] = (
    Question("form", FORM, "What is the form of the law?",
             lambda k: f"{show.left_side(k.law.form)} = {k.law.form.formula}"),
    Question("source", FORM, "Where does the form come from?", lambda k: k.law.form.source),
    Question("variables", FORM, "Which variables does it relate, in which units?", _variables),
    Question("outcome", FORM, "What does it predict, in which unit?",
             lambda k: k.law.form.outcome),
    Question("parameters", FORM, "Which parameters are fitted or held, in which units?",
             _parameters),
    Question("counting", FORM, "How are N, D and C counted?", _counting),
    Question("choice", FORM, "Was the form compared with others?", _choice),
    Question("models", TRAINING, "How many models, of which sizes?", _sizes),
    Question("tokens", TRAINING, "On how many tokens is each trained?", lambda k: k.span("d")),
    Question("ratio", TRAINING, "Which range of tokens a parameter, D/N, is covered?", _ratio),
    Question("compute", TRAINING, "Which range of compute is covered?", lambda k: k.span("c")),
    Question("corpus", TRAINING, "On which data?", lambda k: k.column("corpus")),
    Question("repeated", TRAINING, "Is any data repeated within a run?", _repeated),
    Question("architecture", TRAINING, "Which architecture?",
             lambda k: ", ".join(filter(None, (k.column("mode"), k.column("family")))) or None),
    Question("task", TRAINING, "Which objective are models trained with?",
             lambda k: k.column("objective")),
    Question("shape", TRAINING, "How are width and depth chosen at each size?", lambda k: None),
    Question("lr", TRAINING, "Which learning rates?", lambda k: k.column("lr")),
    Question("schedule", TRAINING, "Which learning-rate schedule, and does its length match D?",
             lambda k: None),
    Question("batch", TRAINING, "Which batch sizes?",
             lambda k: k.column("batch_tokens", "tokens")),
    Question("optimizer", TRAINING,
             "Which optimizer, with which other hyperparameters, and how were they tuned?",
             lambda k: None),
    Question("seeds", TRAINING, "Which seeds?", lambda k: k.column("seed")),
    Question("code", TRAINING, "Is the training code open?", lambda k: None),
    Question("runs", COLLECTION, "How many data points is the law fitted to?",
             lambda k: None if k.law.n_runs is None else f"{k.law.n_runs} runs"),
    Question("excluded", COLLECTION, "Which points were collected and not fitted, and why?",
             _excluded),
    Question("metric", COLLECTION, "Which loss is measured, and on what?",
             lambda k: k.law.convention.get("loss")),
    Question("noise", COLLECTION, "How large is the error of one measurement?",
             lambda k: k.column("loss_se", "nats per token, standard error")),
    Question("points", COLLECTION, "Were points selected or altered after the measurement?",
             _points),
    Question("checkpoints", COLLECTION,
             "Are points the ends of their schedules, or intermediate checkpoints?",
             _checkpoints),
    Question("data", COLLECTION, "Exactly which numbers were fitted?",
             lambda k: None if k.law.data_sha256 is None else f"SHA-256 {k.law.data_sha256}"),
    Question("open", COLLECTION, "Are checkpoints or points publicly available?", lambda k: None),
    Question("objective", FITTING, "Which objective does the fit minimise?", _objective),
    Question("algorithm", FITTING, "Which algorithm is used, and did it converge?", _algorithm),
    Question("starts", FITTING, "From which starts, and do they agree?", _starts),
    Question("values", FITTING, "What are the fitted values?", _values),
    Question("intervals", FITTING, "How are intervals computed?", _intervals),
    Question("sensitivity", FITTING, "How much do the values depend on the choices of the fit?",
             _sensitivity),
    Question("heldout", FITTING, "How well does it predict held-out runs?", _heldout),
    Question("warnings", FITTING, "Which warnings does the fit give?",
             lambda k: "; ".join(k.law.warnings) if k.law.warnings else
             (None if k.law.n_runs is None else "none")),
)
