"""Figure of loss against training tokens, by model size."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.laws import Law, RunsTable
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    MUTED,
    Drawing,
    Size,
    canvas,
    count_axis,
    in_style,
    labelled_sizes,
    loss_axis,
    size_colours,
    spread_labels,
)
from scaling.laws.show import short

_CURVE_POINTS = 120


@in_style
def loss_against_tokens(
    table: RunsTable, curves: pd.DataFrame | None = None, law: Law | None = None,
    beside: Law | None = None, *, inches: Size = (6.6, 4.2),
) -> Drawing:
    """Learning curves as thin lines, final held-out losses as points, and the law at each size as
    dashed lines, beside another as dotted lines.

    Args:
        table: the runs, with N counted as the law counts it.
        curves: learning curves with columns `run_id, tokens, loss`, in nats per token; other
            columns are ignored.
        law: a law of N and D, or None.
        beside: another law that counts N as it does, or None.
        inches: width and height of the figure.
    """
    figure, (axes,) = canvas(*inches)
    colours = size_colours(list(table.n))
    size_of = dict(zip(table.run_id, table.n, strict=True))
    drawn: list[pd.DataFrame] = []

    heldout = [(run, run.loss) for run in table.heldout if run.loss is not None]
    all_d = [*table.d, *(run.d for run in table.heldout)]
    largest = {"n": np.array([max([*table.n, *(run.n for run in table.heldout)])]),
               "d": np.array([max(all_d)])}
    axes.set_xscale("log")
    loss_axis(axes, [*table.loss, *(loss for _, loss in heldout),
                     *([] if law is None else law.loss(largest))], headroom=1.12)

    if curves is not None:
        for name, curve in curves[curves["run_id"].isin(size_of)].groupby("run_id", sort=True):
            curve, size = _thinned(curve.sort_values("tokens")), size_of[str(name)]
            axes.plot(curve["tokens"], curve["loss"], color=colours[size], lw=0.5, alpha=0.35,
                      zorder=2)
            drawn.append(_rows("curve", str(name), size, curve["tokens"], curve["loss"]))
    for size, colour in colours.items():
        at = table.n == size
        axes.plot(table.d[at], table.loss[at], "o", ms=4.5, color=colour, mec="white", mew=0.6,
                  zorder=4)
        drawn.append(_rows("final", np.array(table.run_id)[at], size, table.d[at],
                           table.loss[at]))

    for run, loss in heldout:
        axes.plot(run.d, loss, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
        drawn.append(_rows("heldout", run.run_id, run.n, [run.d], [loss]))

    tokens = np.geomspace(min(all_d), max(all_d), 80)
    axes.set_xlim(min(all_d) * 0.7, max(all_d) * 1.12)
    count_axis(axes.xaxis, *axes.get_xlim())
    labels = []
    lines = [(size, colours[size]) for size in labelled_sizes(table.n)]
    if law is None:
        labels = [(float(table.loss[table.n == size].min()), short(size), colour)
                  for size, colour in lines]
    else:
        lines += [(size, ACCENT) for size in sorted({run.n for run in table.heldout})]
        for size, colour in lines:
            fitted = law.loss({"n": np.full_like(tokens, size), "d": tokens})
            axes.plot(tokens, fitted, "--", color=colour, lw=1.1, zorder=3)
            drawn.append(_rows("law", "", size, tokens, fitted))
            labels.append((float(fitted[-1]), short(size), colour))
            if beside is not None:
                other = beside.loss({"n": np.full_like(tokens, size), "d": tokens})
                axes.plot(tokens, other, ":", color=colour, lw=1.0, zorder=3)
                drawn.append(_rows(f"law {beside.name}", "", size, tokens, other))
    axes.set_xlabel("training tokens D")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.set_title("Loss against training tokens")
    figure.draw_without_rendering()  # places the labels in the final layout
    spread_labels(axes, 1.015, labels)
    axes.text(1.015, 1.02, "N", transform=axes.transAxes, color=MUTED, fontsize=8, va="bottom")

    handles = [axes.plot([], [], "o", ms=4.5, color=INK, mec="white", label="finished run")[0]]
    if law is not None:
        handles += axes.plot([], [], "--", color=INK, lw=1.1, label=f"law: {law.form.name}")
    if law is not None and beside is not None:
        handles += axes.plot([], [], ":", color=INK, lw=1.0, label=f"beside it: {beside.name}")
    if curves is not None:
        handles += axes.plot([], [], color=INK, lw=0.6, alpha=0.5, label="learning curve")
    if heldout:
        handles += axes.plot([], [], "D", ms=6, color=ACCENT, mec="white", label="held-out run")
    axes.legend(handles=handles, loc="lower left")
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most `_CURVE_POINTS` points of a curve, evenly spaced in log tokens, including the
    last."""
    if len(curve) <= _CURVE_POINTS:
        return curve
    log_tokens = np.log(np.maximum(curve["tokens"].to_numpy(dtype=float), 1.0))
    targets = np.linspace(log_tokens[0], log_tokens[-1], _CURVE_POINTS)
    indices = np.searchsorted(log_tokens, targets)
    return curve.iloc[np.unique(np.clip(indices, 0, len(log_tokens) - 1))]


def _rows(series: str, run: object, n: float, tokens: object, loss: object) -> pd.DataFrame:
    return pd.DataFrame({"series": series, "run_id": run, "n": n, "tokens": tokens, "loss": loss})
