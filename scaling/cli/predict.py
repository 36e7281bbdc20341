"""`scaling predict`: the outcome of runs under one or more laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from scaling.cli.allocate import check_given, laws_file, numbers, pairs
from scaling.cli.fit_options import SchedulesFile
from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_json, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Fit, FormChoice


def predict(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                            "a results folder with laws.json.")],
    n: Annotated[list[str] | None, typer.Option(
        "--n", metavar="N", show_default=False,
        help="Number of parameters; several as 1e8,1e9, or repeated.")] = None,
    d: Annotated[list[str] | None, typer.Option(
        "--d", metavar="D", show_default=False,
        help="Number of training tokens; one for each N, or one for all.")] = None,
    compute: Annotated[list[str] | None, typer.Option(
        metavar="FLOPS", show_default=False,
        help="Training FLOPs, instead of --n and --d: of a law of C, or at the optimal N and D.",
        )] = None,
    given: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the law, such as experts=8; may "
                                   "be repeated. The schedule is a name.", show_default=False)
                     ] = None,
    schedules: SchedulesFile = None,
    json_output: JsonSwitch = False,
) -> None:
    """Predict the loss of runs, with a 90% interval for a new run's loss.

    Example: `scaling predict results/quickstart/laws.json --n 1e6 --d 1e7,1e8`

    Example: `scaling predict besiroglu2024 --compute 1e21,1e22`

    Example: `scaling predict mixture.json --given share1=0.3`

    Example: `scaling predict laws.json --schedules rates.csv --given schedule=wsd --given
    step=24000`

    If `scaling fit` chose the form, the law that predicts larger runs best comes first, then the
    average of the forms that count N as it does; both intervals include the choice of the form.
    A law that needs other values is left out with the reason. A published law has no interval.
    """
    from scaling.laws import show

    texts, rest = _texts(given or [])
    values: dict[str, Any] = pairs(rest, "--given") | texts
    # Laws of other variables alone, such as the shares of a mixture, need no N, D or C.
    only_given = bool(values) and n is None and d is None and compute is None
    points = [{}] if only_given else points_of(n, d, compute)
    laws = [pair for name in law
            for pair in sorted(fits_named(name), key=lambda pair: pair[1].choice is None)]
    if schedules is not None:
        laws = _with_schedules(laws, schedules)
    check_given(values, [fit.law for _, fit in laws])
    rows: list[dict[str, Any]] = []
    failed: dict[str, UserError] = {}
    for name, fit in laws:
        try:
            of_law = [_row(name, fit, point, values) for point in points]
            rows += of_law
            if fit.choice is not None and len(fit.law.samples):
                rows += [_average(fit.choice.alike(), row) for row in of_law]
        except UserError as reason:
            failed[name] = reason
    if not rows:
        raise next(iter(failed.values()))
    for name, error in failed.items():
        err.print(f"not predicted: {name}: {str(error).removeprefix(f'{name}: ')}", markup=False)
    if json_output:
        print_json({"predictions": rows})
        return
    print_table("", ("law", "N", "D", "C", "predicted", "90% interval"), [
        (row["law"], show.short(row["n"]), show.short(row["d"]), show.number(row["c"]),
         show.number(row["predicted"]), show.span(row["interval"])) for row in rows])
    for warning in dict.fromkeys(f"{name}: {w}" for name, fit in laws for w in fit.warnings):
        out.print(f"warning: {warning}", style="yellow", markup=False)


def _texts(given: list[str]) -> tuple[dict[str, str], list[str]]:
    """The schedules of --given, whose values are names, and its other values.

    Raises:
        UserError: two are given.
    """
    named = [word.partition("=")[2] for word in given if word.startswith("schedule=")]
    if len(named) > 1:
        raise UserError("--given: schedule is given twice; once is expected")
    return ({"schedule": named[0]} if named else {},
            [word for word in given if not word.startswith("schedule=")])


def _with_schedules(laws: list[tuple[str, Fit]], path: Path) -> list[tuple[str, Fit]]:
    """The laws, of which those of learning rate schedules have further ones from a table.

    Raises:
        UserError: none of the laws is one of schedules, or the table holds none.
    """
    from scaling.laws import with_schedules

    if not any("schedule" in fit.law.form.labels for _, fit in laws):
        raise UserError(f"--schedules {path}: none of these laws is of learning rate schedules; "
                        "leave it out, or name a law that is")
    return [(name, with_schedules(fit, path) if "schedule" in fit.law.form.labels else fit)
            for name, fit in laws]


def points_of(
    n: list[str] | None, d: list[str] | None, compute: list[str] | None
) -> list[dict[str, float]]:
    """The values of N and D, or of C, of each prediction.

    Raises:
        UserError: no value is given, or the options do not fit each other.
    """
    if compute is not None:
        if n is not None or d is not None:
            raise UserError("--compute stands instead of --n and --d; give either")
        return [{"c": c} for c in numbers(compute, "--compute")]
    given = {name: numbers(words, f"--{name}") for name, words in (("n", n), ("d", d))
             if words is not None}
    if not given:
        raise UserError("give what to predict: --n N and --d D, or --compute FLOPS")
    try:
        arrays = np.broadcast_arrays(*given.values())
    except ValueError:
        raise UserError(f"--n has {len(given['n'])} numbers and --d has {len(given['d'])}, where "
                        "as many are expected, or one") from None
    return [dict(zip(given, map(float, point), strict=True))
            for point in zip(*arrays, strict=True)]


def fits_named(name: str) -> list[tuple[str, Fit]]:
    """A published law, or the laws of a file, each with its label.

    Raises:
        UserError: there is no such law or file, or no law in it predicts an outcome.
    """
    from scaling.laws import Fit, load
    from scaling.laws.published import published_named

    path = Path(name)
    if path.exists():
        found = [(each, fit) for each, fit in load(laws_file(path)).items()
                 if isinstance(fit, Fit)]
        if not found:
            raise UserError(f"{path}: has no law of an outcome; fit chinchilla")
        return found
    law = published_named(name).law
    if law is None:
        raise UserError(f"{name}: is a law of optimal sizes alone, without a loss to predict; use "
                        "besiroglu2024")
    return [(name, Fit(law, law.residual_loss))]


def _row(name: str, fit: Fit, point: dict[str, float], given: dict[str, Any]) -> dict[str, Any]:
    """The prediction of one law at one point.

    Raises:
        UserError: the law needs other variables, or has no optimum at this budget.
    """
    from scaling.laws import allocate
    from scaling.laws.allocation.budgets import AllocationBudget
    from scaling.laws.forms.variables import six_nd

    variables, row = {*fit.law.form.variables}, dict(point)
    if "c" in point and "c" not in variables:
        best = allocate(fit.law, AllocationBudget(c=point["c"], given=given))
        if best.n is None or best.d is None:
            raise UserError(f"{name}: has no optimum at {point['c']:g} FLOPs; give --n and --d")
        row |= {"n": best.n, "d": best.d}
    elif {"n", "d"} <= {*point}:
        row["c"] = float(six_nd(np.array([point["n"]]), np.array([point["d"]]))[0])
    inputs: dict[str, Any] = {
        v: value for v, value in {**row, **given}.items() if v in variables}
    interval = None
    if len(fit.law.samples):
        value, *interval = fit.predict(interval=True, **inputs)
    else:
        value = fit.predict(**inputs)
    return {"law": name, "n": row.get("n"), "d": row.get("d"), "c": row.get("c"),
            "predicted": value, "interval": interval}


def _average(choice: FormChoice, best: dict[str, Any]) -> dict[str, Any]:
    """The prediction of the average of forms, with the variables of the best one's row."""
    inputs = {v: best[v] for v in choice.laws[choice.best].form.variables}
    value, *interval = choice.predict(interval=True, **inputs)
    return best | {"law": "average of forms", "predicted": value, "interval": interval}
