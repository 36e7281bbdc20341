"""Axes of a law's variables and of its outcome: scale, ticks, and a label with the unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from scaling.errors import DataError
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.law import Law
from scaling.laws.plots.style import count_axis, loss_axis, plain, scientific
from scaling.laws.show import number, short
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

_NAMES = {"n": "parameters", "d": "training tokens", "c": "compute"}
_MOST_CHARS = 40     # of a column's name
_LOG_FROM = 3.0      # ratio of the largest and the smallest value of a logarithmic axis
_PLAIN_BELOW = 30.0  # ratio below which a logarithmic axis of losses has plain numbers


def check_converged(law: Law) -> None:
    """Check that a law may be drawn.

    Raises:
        DataError: its fit did not converge.
    """
    if not law.converged:
        raise DataError(f"{law.name}: the fit did not converge, so it is not drawn; "
                        f"{'; '.join(law.warnings)}")


def symbol(name: str) -> str:
    """The symbol of a variable."""
    return plain(VARIABLES[name].symbol)


def n_label(law_or_table: Law | RunsTable) -> str:
    """What N counts, for a label."""
    return plain(_short(str(law_or_table.convention.get("n", ""))))


def variable_label(name: str, table: RunsTable) -> str:
    """The label of a variable: name, symbol, and unit, or what is counted."""
    if name == "n":
        return f"{_NAMES[name]} N ({n_label(table)})"
    if name in _NAMES:
        six = " = 6 N D" if name == "c" and table.convention.get("c") == "6 N D" else ""
        return f"{_NAMES[name]} {symbol(name)}{six}" + (" (FLOP)" if name == "c" else "")
    known = name in dict.keys(VARIABLES)
    unit = VARIABLES[name].unit if known else f"column {_short(table.columns.get(name, name))}"
    return f"{symbol(name)} ({plain(unit)})"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."


def outcome_label(form: Form) -> str:
    """The label of a law's outcome, such as `loss (nats per token)`."""
    name, _, unit = form.outcome.partition(", ")
    return plain(f"{name} ({unit})" if unit else name)


def value_label(name: str, value: float) -> str:
    """A variable and its value, such as `N = 12.3M`."""
    counts = VARIABLES[name].symbol in ("N", "D", "U_D", "N_e", "N_d", "D_F", "B")
    return f"{symbol(name)} = {short(value) if counts else number(value, 3)}"


def is_logarithmic(values: Sequence[float] | Array) -> bool:
    """Whether an axis of these values is logarithmic: positive, and over more than a factor of
    three."""
    return bool(np.min(values) > 0 and np.max(values) > _LOG_FROM * np.min(values))


def variable_axis(axes: Axes, name: str, low: float, high: float) -> None:
    """Scale and ticks of the x axis of a variable.

    Args:
        axes: the panel.
        name: the variable.
        low: smallest value.
        high: largest value.
    """
    if not is_logarithmic([low, high]):
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        return
    axes.set_xscale("log")
    count_axis(axes.xaxis, low, high)
    if name == "c":
        axes.xaxis.set_major_formatter(FuncFormatter(
            lambda value, _: "$" + scientific(value, 1).replace(r"1\times", "") + "$"))


def outcome_axis(axes: Axes, form: Form, outcomes: Array) -> None:
    """Scale, ticks and label of the y axis of a law's outcome.

    Args:
        axes: the panel.
        form: the law's form.
        outcomes: values that the axis must contain.
    """
    low, high = float(np.min(outcomes)), float(np.max(outcomes))
    axes.set_ylabel(outcome_label(form))
    if form.link == "log" and 0 < low < high < _PLAIN_BELOW * low:
        loss_axis(axes, [low, high])
    elif form.link == "log" and 0 < low < high:
        axes.set_yscale("log")


def fitted_runs_label(form: Form, table: RunsTable) -> str:
    """Which runs of a table a form is fitted to, and what the other variables of these are."""
    rows = form.fitted_rows(table)
    counted = f"{len(rows)} of {table.loss.size} runs"
    if form.envelope is None:
        return f"all {counted}" if len(rows) < table.loss.size else f"all {len(rows)} runs"

    def span(name: str) -> str:
        values = table.values[name][rows]
        if np.isnan(values).any():
            return f"any {symbol(name)}"
        low, high = float(values.min()), float(values.max())
        if low == high:
            return f"{symbol(name)} = {short(low)}"
        return f"{symbol(name)} {short(low)} to {short(high)}"

    if form.envelope == "n":
        same = np.ptp(table.d[rows]) == 0
        return f"{counted}: {'every' if same else 'lowest loss of each'} N, at {span('d')}"
    if form.envelope == "d":
        return f"{counted}: lowest loss up to each D, {span('n')}"
    return f"{counted}: lowest loss up to each C, {span('n')}"
