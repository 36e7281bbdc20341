"""Values of a law's variables, from what a user gives: numbers, arrays, or columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError, option
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, VARIABLES, six_nd

Array = NDArray[np.float64]


def broadcast(values: Mapping[str, ArrayLike]) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Values as arrays [R] of the same length, and the shape that they have together.

    Raises:
        UserError: a value is not a number, an array is empty, or shapes do not fit.
    """
    arrays = {}
    for name, value in values.items():
        try:
            arrays[name] = np.asarray(value, dtype=float)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name}={value!r:.60}: a number or an array of numbers is expected"
                            ) from None
    try:
        shape = np.broadcast_shapes(*(each.shape for each in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {each.shape}" for name, each in arrays.items())
        raise UserError(f"predict: arrays of one shape, or numbers, are expected, not of {shapes}"
                        ) from None
    if 0 in shape:
        raise UserError(f"{', '.join(arrays)}: at least one value is expected, and the array or "
                        "the data frame has none")
    return {name: np.broadcast_to(each, shape).ravel() for name, each in arrays.items()}, shape


def coded(form: Form, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in which texts, such as the names of schedules, are replaced by their indices.

    Raises:
        UserError: a text is unknown.
    """
    found = dict(values)
    for variable, names in form.labels.items():
        if variable not in found:
            continue
        cells = np.asarray(found[variable], dtype=object)
        number = {name: float(i) for i, name in enumerate(names)}
        for cell in cells.ravel():
            if str(cell) not in number:
                raise UserError(
                    f"{variable} {str(cell)[:40]!r}: the {variable}s of this law are "
                    f"{', '.join(names) or 'none'}; name one, or give a new one with "
                    + option("with_schedules(fit, {NAME: RATES})", "--schedules RATES.csv"))
        found[variable] = np.array([number[str(cell)] for cell in cells.ravel()],
                                   dtype=float).reshape(cells.shape)
    return found


def variables_of(form: Form, values: Mapping[str, Array]) -> dict[str, Array]:
    """The variables of a form, [R] each; of N, D and C = 6 N D two give the third.

    Raises:
        UserError: a variable is missing, unknown or impossible.
    """
    arrays = dict(values)
    if "c" in form.variables and "c" not in arrays and {"n", "d"} <= {*arrays}:
        arrays["c"] = six_nd(arrays["n"], arrays["d"])
    elif "c" in arrays and "c" not in form.variables and len({"n", "d"} & {*arrays}) == 1:
        known_one, third = ("n", "d") if "n" in arrays else ("d", "n")
        if third in form.variables:
            arrays[third] = arrays.pop("c") / (FLOPS_PER_PARAMETER_TOKEN * arrays[known_one])
    known = {*form.variables, *(("n", "d") if "c" in form.variables else ())}
    for name in arrays:
        if name not in known:
            meant = f"; did you mean {name.lower()}?" if name.lower() in known else ""
            raise UserError(f"{form.name}: {name} is not among its variables, which are "
                            f"{', '.join(form.variables)}{meant}")
    missing = [name for name in form.variables if name not in arrays]
    if missing:
        lacking = " and ".join(f"{VARIABLES[name].symbol} ({VARIABLES[name].unit})"
                               for name in missing)
        example = ", ".join(f"{name}=..." for name in form.variables)
        options = {"n": "--n N", "d": "--d D", "c": "--compute FLOPS"}
        give = option(f"predict({example}) or a data frame with these columns", " and ".join(
            options.get(name, f"--given {name}=VALUE") for name in missing))
        raise UserError(f"{form.name}: needs {lacking}; give {give}")
    for name in form.variables:
        least_is_zero = VARIABLES[name].may_be_zero
        wrong = ~(np.isfinite(arrays[name]) & (
            (arrays[name] >= 0) if least_is_zero else (arrays[name] > 0)))
        if wrong.any():
            place = int(np.argmax(wrong))
            where = f", at place {place}" if wrong.size > 1 else ""
            lowest = "of at least zero" if least_is_zero else "above zero"
            raise UserError(f"{name} {arrays[name][place]:g}: a number {lowest} is expected "
                            f"({VARIABLES[name].unit}){where}")
    return {name: arrays[name] for name in form.variables}
