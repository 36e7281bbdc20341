"""Evidence for fitted laws in `scaling fit`: profiles, comparisons, forecasts, checklists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scaling import console
from scaling.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Fit, Form, ResidualLoss, RunsTable
    from scaling.laws.form_choice import FormChoice

RollingVariable = Literal["n", "d", "c"]
_MAX_DROPPED = 0.2  # share of the runs that a sensitivity test may drop


class EvidenceOptions(NamedTuple):
    """The requested evidence."""

    profiles: Sequence[str]
    compare: bool
    rolling: RollingVariable | None
    sensitivity: bool
    checklist: bool


def check(requested: EvidenceOptions, forms: Sequence[Form]) -> None:
    """Check, before the fit, that the parameters to be profiled exist.

    Raises:
        UserError: none of the forms has one of them.
    """
    parameters = dict.fromkeys(p for form in forms for p in form.parameters)
    for name in requested.profiles:
        if name not in parameters and name not in ("a", "b"):
            raise UserError(f"--profile {name}: no fitted law has such a parameter; one of "
                            f"{', '.join(parameters)}, a or b is expected")


def show(
    fitted: Sequence[Fit], frame: pd.DataFrame, requested: EvidenceOptions,
    choice: FormChoice | None = None,
) -> dict[str, Any]:
    """Print the requested evidence.

    Args:
        fitted: the fitted laws.
        frame: the table that they were fitted to, as read.
        requested: what is shown.
        choice: the choice between the laws, if there was one, for the checklists.

    Returns:
        The same as plain data.

    Raises:
        UserError: the laws cannot be compared.
    """
    content: dict[str, Any] = {}
    if requested.profiles:
        content["profiles"] = [shown for name in requested.profiles
                               for shown in _profiles(name, fitted)]
    if requested.compare and len(fitted) < 2:
        console.err.print("--compare: not shown, fewer than two laws were fitted", markup=False)
    elif requested.compare:
        from scaling.laws.evidence.comparison import compare_forms

        table, forms, robust = _common_table(fitted)
        content["comparison"] = print_result(compare_forms(table, forms, robust=robust))
    if requested.rolling is not None:
        content["rolling"] = _rolling(requested.rolling, fitted)
    if requested.sensitivity:
        content["sensitivity"] = {each.law.name: _sensitivity(each) for each in fitted}
    if requested.checklist:
        from scaling.laws.evidence.checklist import as_text, checklist

        chosen = {} if choice is None else {
            "choice": {"forms": [*choice.laws], "verdict": choice.verdict()}}
        known = content | chosen
        content["checklists"] = {}
        for each in fitted:
            rows = checklist(each.law, each.runs, frame, evidence=known)
            console.out.print(f"{each.law.name}: checklist\n{as_text(rows)}\n", markup=False)
            content["checklists"][each.law.name] = [
                {"section": section, "question": question, "answer": answer}
                for section, question, answer in rows
            ]
    return content


def _sensitivity(fitted: Fit) -> dict[str, Any]:
    """Sensitivity of the law to the objective, the largest losses and each size; its residuals."""
    from scaling.laws.evidence.residuals import residuals
    from scaling.laws.evidence.sensitivity import (
        DROPS,
        leave_one_size_out,
        objective_sensitivity,
        outlier_sensitivity,
    )

    form, n_runs = fitted.law.form, fitted.law.n_runs or 0
    drops = [drop for drop in DROPS if drop <= _MAX_DROPPED * n_runs]
    tests: dict[str, Callable[[], Any]] = {
        "objective": lambda: objective_sensitivity(fitted.runs, form, robust=fitted.objective),
        "outliers": lambda: outlier_sensitivity(fitted.runs, form, drops, robust=fitted.objective),
        "sizes": lambda: leave_one_size_out(fitted.runs, form, robust=fitted.objective),
        "residuals": lambda: residuals(fitted.law, fitted.runs),
    }
    content: dict[str, Any] = {}
    for name, test in tests.items():
        try:
            content[name] = print_result(test())
        except UserError as reason:  # too few runs to drop one
            console.err.print(f"{name}: not shown, {reason}", markup=False)
    return content


def _profiles(name: str, fitted: Sequence[Fit]) -> list[Any]:
    with_parameter = [each for each in fitted if name in each.law.params
                      or each.law.exponents.get(name) is not None]
    if not with_parameter:  # the law that has it was not fitted, or has no such exponent
        console.err.print(f"--profile {name}: not shown, no fitted law has it", markup=False)
    return _for_each(f"--profile {name}", with_parameter,
                     lambda each: each.profile(name))


def _rolling(by: RollingVariable, fitted: Sequence[Fit]) -> list[Any]:
    from scaling.laws.evidence.rolling import rolling_origin

    return _for_each(f"--rolling {by}", fitted, lambda each: rolling_origin(
        each.runs, [each.law.form], by, robust=each.objective))


def _for_each(
    option: str, fitted: Sequence[Fit], evaluate: Callable[[Fit], Any]
) -> list[Any]:
    """Evaluate and print something for each law; a failure does not hide the other laws.

    Raises:
        UserError: it failed for all laws; the reason of the last.
    """
    shown, failed = [], {}
    for each in fitted:
        try:
            shown.append(print_result(evaluate(each)))
        except UserError as error:
            failed[each.law.name] = error
    if failed and not shown:
        raise failed.popitem()[1]
    for name, reason in failed.items():
        console.err.print(f"{option}: not shown for {name}, {reason}", markup=False)
    return shown


def _common_table(fitted: Sequence[Fit]) -> tuple[RunsTable, list[Any], ResidualLoss]:
    """The common table of the laws, their forms, and their common objective."""
    first = fitted[0]
    for other in fitted[1:]:
        if other.runs is not first.runs:
            raise UserError(f"--compare: {first.law.name} and {other.law.name} read different "
                            "columns, where the same are expected; give --n-convention, and laws "
                            "of the same variables with --law")
        both_adapt = first.objective.kind == other.objective.kind == "adaptive"
        if other.objective != first.objective and not both_adapt:
            raise UserError(f"--compare: {first.law.name} and {other.law.name} minimise different "
                            "objectives, where one is expected; give --objective")
    return first.runs, [each.law.form for each in fitted], first.objective


def print_result(item: Any) -> dict[str, Any]:
    """Print a result.

    Returns:
        The same as plain data.
    """
    for part in item.parts():
        if isinstance(part, str):
            console.out.print(part, markup=False)
        else:
            console.print_table("", part.columns, part.rows, part.left_aligned)
    console.out.print()
    content: dict[str, Any] = item.to_json()
    return content
