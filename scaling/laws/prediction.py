"""Predictions as a notebook asks for them: of numbers, of arrays, or of the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.law import LEVEL, Interval, Law, check_level
from scaling.laws.table import RunsTable
from scaling.laws.values import broadcast, coded, variables_of

Array = NDArray[np.float64]
IntervalKind = Literal["prediction", "confidence"]


class Prediction(NamedTuple):
    """A predicted outcome with the ends of its interval, which is a 90% one by default."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Inputs:
    """The values that a law is asked to predict for.

    Attributes:
        values: of the law's variables, [R] each.
        shape: the shape that they were given in.
        index: that of a data frame or a series; None for numbers and arrays.
    """

    values: Mapping[str, Array]
    shape: tuple[int, ...]
    index: pd.Index | None

    def result(self, value: Array, ends: tuple[Array, Array] | None) -> Any:
        """Predictions, [R], as they were asked for: a float, an array of the same shape or a
        series; with the ends of their intervals a `Prediction`, or a data frame with `value`, `low`
        and `high`."""
        if ends is None:
            if self.index is not None:
                return pd.Series(value, index=self.index, name="predicted")
            return float(value[0]) if self.shape == () else value.reshape(self.shape)
        low, high = ends
        if self.shape == ():
            return Prediction(float(value[0]), float(low[0]), float(high[0]))
        return pd.DataFrame({"value": value, "low": low, "high": high}, index=self.index)


def interval_asked_for(
    interval: bool | IntervalKind, level: float | None
) -> tuple[IntervalKind | None, float]:
    """The kind of interval and its coverage; None for no interval. A level alone asks for that of a
    new run's outcome.

    Raises:
        UserError: the level is no coverage.
    """
    if level is not None:
        check_level(level)
    wanted = interval or level is not None
    kind: IntervalKind = "confidence" if interval == "confidence" else "prediction"
    return kind if wanted else None, LEVEL if level is None else level


def inputs_of(
    form: Form, columns: Mapping[str, str], data: Sequence[Any],
    values: Mapping[str, ArrayLike],
) -> Inputs:
    """The values of a law's variables from one table, or from values by name.

    Args:
        form: the law's form.
        columns: columns of the runs by variable, under which values may be given, too.
        data: at most one table, with these columns or with the variables' own names.
        values: numbers or arrays by variable or column.

    Raises:
        UserError: a variable is missing, unknown, given twice or impossible.
    """
    if len(data) + bool(values) > 1 or not all(isinstance(d, pd.DataFrame) for d in data):
        example = ", ".join(f"{name}=..." for name in form.variables)
        raise UserError("predict: one data frame, or values by name, are expected, as in "
                        f"predict({example})")
    arrays, shape = broadcast(coded(form, _of_frame(form, columns, data[0]) if data
                                    else by_variable(values, columns, form.variables)))
    index = next((each.index for each in (*data, *values.values())
                  if isinstance(each, pd.DataFrame | pd.Series)), None)
    index = index if index is not None and shape == (len(index),) else None
    return Inputs(variables_of(form, arrays), shape, index)


def by_variable(
    given: Mapping[str, Any], columns: Mapping[str, str], variables: Sequence[str]
) -> dict[str, Any]:
    """Values by variable, from values by variable or by column of the runs.

    Raises:
        UserError: a variable is given under both names.
    """
    variable_of = {column: variable for variable, column in columns.items()
                   if column not in (*variables, "n", "d", "c")}
    found: dict[str, Any] = {}
    for name, value in given.items():
        variable = variable_of.get(name, name)
        if variable in found:
            raise UserError(f"{variable} is given twice, as {variable}= and as "
                            f"{columns[variable]}=; give it once")
        found[variable] = value
    return found


def columns_of(law: Law, table: RunsTable | None) -> dict[str, str]:
    """The columns that a law's variables were read from, by variable."""
    if table is not None:
        return {name: column for name, column in table.columns.items() if name != "loss"}
    return {name: str(text).removeprefix("column ") for name, text in law.convention.items()
            if name != "loss" and str(text).startswith("column ")}


def _of_frame(form: Form, columns: Mapping[str, str], frame: pd.DataFrame) -> dict[str, ArrayLike]:
    """The law's variables in a table, under the columns of the runs or their own names."""
    found: dict[str, ArrayLike] = {}
    names = {*map(str, frame.columns)}
    for name in (*form.variables, "n", "d"):
        for column in (columns.get(name), name, VARIABLES[name].column):
            if column is not None and column in names:
                cells = frame.loc[:, [str(each) == column for each in frame.columns]]
                if cells.shape[1] > 1:
                    raise UserError(f"predict: the data frame has {cells.shape[1]} columns "
                                    f"{column}, where one is expected")
                found[name] = cells.iloc[:, 0].to_numpy(dtype=object)
                break
    return {name: each for name, each in found.items()
            if name in form.variables or "c" in form.variables}


def ends_of(
    inputs: Inputs, interval: Callable[[Mapping[str, Array]], Interval | None]
) -> tuple[Array, Array]:
    """The ends of the intervals of each input, [R] each; NaN where there is none.

    Args:
        inputs: R of them.
        interval: the ends of one, from variables of shape [1].
    """
    count = len(next(iter(inputs.values.values())))
    ends = [interval({name: each[i:i + 1] for name, each in inputs.values.items()})
            or (np.nan, np.nan) for i in range(count)]
    low, high = np.array(ends, dtype=float).reshape(-1, 2).T
    return low, high
