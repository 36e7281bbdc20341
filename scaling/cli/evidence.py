"""What stands behind laws, for `scaling fit`: profiles, comparisons, forecasts, checklists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scaling.cli import terminal
from scaling.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Law, Robust, RunsTable

Variable = Literal["n", "d", "c"]
_SPARE = 0.2  # of the runs, at most, are dropped to see what hangs on them


class Fitted(NamedTuple):
    """A law, the runs that it was fitted to, and what residuals cost."""

    law: Law
    table: RunsTable
    robust: Robust


class Wanted(NamedTuple):
    """What is asked for beside the laws."""

    profiles: Sequence[str]
    compare: bool
    rolling: Variable | None
    sensitivity: bool
    checklist: bool


def show(fitted: Sequence[Fitted], frame: pd.DataFrame, wanted: Wanted) -> dict[str, Any]:
    """Print what is asked for; the same as plain data.

    Raises:
        UserError: no law has a parameter that is to be profiled, or the laws cannot be compared.
    """
    content: dict[str, Any] = {}
    if wanted.profiles:
        content["profiles"] = [_shown(found) for name in wanted.profiles
                               for found in _profiles(name, fitted)]
    if wanted.compare:
        from scaling.laws.evidence.comparison import compare_forms

        table, forms, robust = _one_table(fitted)
        content["comparison"] = _shown(compare_forms(table, forms, robust=robust))
    if wanted.rolling is not None:
        from scaling.laws.evidence.rolling import rolling_origin

        content["rolling"] = [
            _shown(rolling_origin(one.table, [one.law.form], wanted.rolling, robust=one.robust))
            for one in fitted
        ]
    if wanted.sensitivity:
        content["sensitivity"] = {one.law.name: _sensitivity(one) for one in fitted}
    if wanted.checklist:
        from scaling.laws.evidence.checklist import as_text, checklist

        content["checklists"] = {}
        for one in fitted:
            rows = checklist(one.law, one.table, frame)
            terminal.out.print(f"{one.law.name}: checklist\n{as_text(rows)}\n", markup=False)
            content["checklists"][one.law.name] = [
                {"section": section, "question": question, "answer": answer}
                for section, question, answer in rows
            ]
    return content


def _sensitivity(one: Fitted) -> dict[str, Any]:
    """How the law moves with the objective, the largest losses and each size; its residuals."""
    from scaling.laws.evidence.residuals import residuals
    from scaling.laws.evidence.sensitivity import (
        DROPS,
        leave_one_size_out,
        to_objective,
        to_outliers,
    )

    form, runs = one.law.form, one.law.n_runs or 0
    drops = [drop for drop in DROPS if drop <= _SPARE * runs]
    asked: dict[str, Callable[[], Any]] = {
        "objective": lambda: to_objective(one.table, form, robust=one.robust),
        "outliers": lambda: to_outliers(one.table, form, drops, robust=one.robust),
        "sizes": lambda: leave_one_size_out(one.table, form, robust=one.robust),
        "residuals": lambda: residuals(one.law, one.table),
    }
    content: dict[str, Any] = {}
    for name, ask in asked.items():
        try:
            content[name] = _shown(ask())
        except UserError as reason:  # a law of a few runs has none to spare
            terminal.err.print(f"{name}: not shown, {reason}", markup=False)
    return content


def _profiles(name: str, fitted: Sequence[Fitted]) -> list[Any]:
    from scaling.laws.evidence.profile import profile

    having = [one for one in fitted if name in one.law.params
              or one.law.exponents.get(name) is not None]
    if not having:
        there = dict.fromkeys(p for one in fitted for p in one.law.params)
        raise UserError(f"--profile {name}: no law that was fitted has such a parameter; expected "
                        f"is one of {', '.join(there)}, or a or b")
    return [profile(one.table, one.law.form, name, robust=one.robust) for one in having]


def _one_table(fitted: Sequence[Fitted]) -> tuple[RunsTable, list[Any], Robust]:
    """The laws' forms, and the table and the objective that they have in common."""
    first = fitted[0]
    for one in fitted[1:]:
        if one.table is not first.table:
            raise UserError(f"--compare: {first.law.name} and {one.law.name} read other columns, "
                            "where the same runs are expected; give --n-convention, and laws of "
                            "the same variables with --law")
        if one.robust != first.robust:
            raise UserError(f"--compare: {first.law.name} and {one.law.name} minimise other "
                            "objectives, where one is expected; give --objective")
    return first.table, [one.law.form for one in fitted], first.robust


def _shown(item: Any) -> dict[str, Any]:
    terminal.out.print(item.text(), markup=False)
    terminal.out.print()
    content: dict[str, Any] = item.to_json()
    return content
