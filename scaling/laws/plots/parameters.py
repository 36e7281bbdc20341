"""A parameter's profile, and pairs of parameters over the resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scaling.errors import UserError
from scaling.laws.evidence.profile import Profile
from scaling.laws.law import Law
from scaling.laws.plots.axes import is_logarithmic
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    MUTED,
    count_axis,
    legend,
    plain,
    scientific,
    set_titles,
    size_colours,
)
from scaling.laws.show import is_undetermined, number

_LOG_FROM = 10.0  # ratio of a parameter's values from which its axis is logarithmic
_MARGIN = 0.06    # of a panel beyond its points
_BINS = 20


def draw_profile(axes: Axes, profile: Profile, law: Law) -> pd.DataFrame:
    """The lowest objective at each value of a parameter, and its interval: where the objective
    rises by no more than the critical rise.

    Args:
        axes: the panel.
        profile: from `Fit.profile`.
        law: the law that is profiled.

    Returns:
        The values and their objectives.
    """
    values, objectives = np.array(profile.values), np.array(profile.objectives)
    ok = np.array(profile.converged)
    colour = next(iter(size_colours([1.0]).values()))
    axes.plot(values, objectives, color=colour, lw=1.3, zorder=2)
    axes.plot(values[ok], objectives[ok], "o", ms=4, color=colour, mec="white", mew=0.5, zorder=3)
    axes.plot(values[~ok], objectives[~ok], "o", ms=4, color="white", mec=ACCENT, zorder=3)
    axes.axhline(profile.objective + profile.critical_rise, color=MUTED, ls="--", lw=0.9, zorder=1)
    axes.axvline(profile.best, color=INK, lw=0.9, zorder=1)
    if is_logarithmic(values) and values.max() > _LOG_FROM * values.min():
        axes.set_xscale("log")
        count_axis(axes.xaxis, float(values.min()), float(values.max()))
        axes.xaxis.set_major_formatter(FuncFormatter(
            lambda value, _: "$" + scientific(value, 1).replace(r"1\times", "") + "$"))
    low, high = (end if end is not None else edge for end, edge in zip(
        profile.interval, (values.min(), values.max()), strict=True))
    axes.axvspan(low, high, color=INK, alpha=0.1, lw=0, zorder=0)
    unit = law.form.units.get(profile.name, "")
    axes.set_xlabel(plain(profile.name) + (f" ({plain(unit)})" if unit else ""))
    loss = law.residual_loss
    quantity = "log-outcome" if law.form.link == "log" else "outcome"
    axes.set_ylabel(f"lowest objective ({loss.kind} loss of the {quantity})")
    ends = ["open" if end is None else number(end) for end in profile.interval]
    set_titles(axes, f"{law.name}: profile of {plain(profile.name)}",
               f"{profile.level:.0%} interval {ends[0]} to {ends[1]}", 70)
    handles = [
        Line2D([], [], color=colour, lw=1.3, marker="o", ms=4, mec="white", label="profile"),
        Line2D([], [], color=INK, lw=0.9, label=f"best: {number(profile.best)}"),
        Line2D([], [], color=MUTED, ls="--", lw=0.9, label="critical rise"),
        Patch(color=INK, alpha=0.1, lw=0, label=f"{profile.level:.0%} interval")]
    if not ok.all():
        handles.append(Line2D([], [], ls="", marker="o", ms=4, color="white", mec=ACCENT,
                              label="not converged"))
    legend(axes, handles)
    return pd.DataFrame({"value": values, "objective": objectives, "converged": ok})


def varying_parameters(law: Law) -> list[str]:
    """The parameters that the runs determine and that differ between the resamples, so not those
    that are fixed.

    Raises:
        UserError: the law has no resamples, or no such parameter.
    """
    if not len(law.samples):
        raise UserError(f"{law.name}: has no resamples whose parameters could be drawn; fit it "
                        "with resamples=1000")
    names = [name for name, values in zip(law.form.parameters, law.samples.T, strict=True)
             if np.isfinite(values).all() and np.ptp(values) > 0
             and not is_undetermined(law, name)]
    if not names:
        raise UserError(f"{law.name}: the runs determine no parameter, or the resamples agree in "
                        "all, so there is nothing to draw; fit it to more runs, or fix fewer "
                        "parameters")
    return names


def draw_pairs(panels: Sequence[Axes], law: Law) -> pd.DataFrame:
    """The resamples' parameters: a histogram of each on the diagonal, and below it every pair, with
    the point estimate.

    Args:
        panels: P x P panels row by row, for P parameters of `varying_parameters`.
        law: a law with resamples.

    Returns:
        The parameters of every resample.

    Raises:
        UserError: the law has no resamples.
    """
    names = varying_parameters(law)
    places = [law.form.parameters.index(name) for name in names]
    samples = law.samples[:, places]
    samples = samples[np.isfinite(samples).all(axis=1)]
    logged = [bool(column.min() > 0 and column.max() > _LOG_FROM * column.min())
              for column in samples.T]
    colour = next(iter(size_colours([1.0]).values()))
    for place, axes in enumerate(panels):
        row, column = divmod(place, len(names))
        if column > row:
            axes.set_axis_off()
            continue
        x, y = samples[:, column], samples[:, row]
        best = law.params[names[column]]
        if row == column:
            space = np.geomspace if logged[row] else np.linspace
            axes.hist(x, bins=list(space(x.min(), x.max(), _BINS + 1)), color=colour, alpha=0.6)
            axes.axvline(best, color=ACCENT, lw=1.2)
        else:
            axes.plot(x, y, "o", ms=1.8, color=colour, mew=0, alpha=0.35, rasterized=True)
            axes.plot(best, law.params[names[row]], "P", ms=7, color=ACCENT, mec="white", mew=0.8)
            _parameter_axis(axes, "y", y, logged[row])
        _parameter_axis(axes, "x", x, logged[column])
        axes.tick_params(axis="x", labelbottom=row == len(names) - 1)
        axes.tick_params(axis="y", labelleft=column == 0 and row > 0)
        if row == len(names) - 1:
            axes.set_xlabel(_label(law, names[column]))
        if column == 0:
            axes.set_ylabel(_label(law, names[row]) if row else "resamples")
    panels[0].tick_params(axis="y", labelleft=True)
    set_titles(panels[0], f"{law.name}: parameters of {len(samples)} resamples",
               "orange: the fit to all runs")
    return pd.DataFrame(samples, columns=names)


def _label(law: Law, name: str) -> str:
    unit = law.form.units.get(name, "")
    return plain(name + (f" ({unit})" if unit else ""))


def _power(value: float) -> str:
    """A power of ten as mathtext, shorter than `scientific` has it."""
    return scientific(value, 1).replace(r"1\times", "")


def _parameter_axis(axes: Axes, which: str, values: np.ndarray, logged: bool) -> None:
    """Limits, scale and a few ticks of an axis of a parameter."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = float(values.min()), float(values.max())
    if logged:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        ratio = (high / low) ** _MARGIN
        low, high = low / ratio, high * ratio
        axis.set_major_locator(LogLocator(numticks=4))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"${_power(value)}$"))
        axis.set_minor_formatter(NullFormatter())
    else:
        margin = _MARGIN * (high - low)
        low, high = low - margin, high + margin
        axis.set_major_locator(MaxNLocator(3))
        axis.set_major_formatter(FuncFormatter(
            lambda value, _: number(value) if abs(value) < 1e4 else f"${scientific(value)}$"))
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
