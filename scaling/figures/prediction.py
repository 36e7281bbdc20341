"""What a law predicted against what was measured: the runs that it saw, and those it did not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.figures.style import (
    ACCENT,
    INK,
    MUTED,
    Drawing,
    canvas,
    in_style,
    size_colours,
    some,
)
from scaling.laws import LEVEL, Law, RunsTable
from scaling.laws.show import short


@in_style
def predicted_against_measured(table: RunsTable, law: Law) -> Drawing:
    """Left: measured against predicted loss. Right: what is left over, in percent, by compute.

    Held-out runs carry the 90% prediction interval; one that is not measured yet shows its
    interval alone.

    Args:
        table: the runs, with N counted as the law counts it.
        law: any fitted law.
    """
    figure, (left, right) = canvas(9.2, 3.7, columns=2)
    colours = size_colours(list(table.n))
    rows = law.form.rows(table)
    fitted = table.take(rows)
    predicted = law.loss({"n": fitted.n, "d": fitted.d, "c": fitted.c})
    percent = 100 * (fitted.loss / predicted - 1)
    labelled = some(fitted.n)
    for size, colour in colours.items():
        at = fitted.n == size
        if at.any():
            left.plot(predicted[at], fitted.loss[at], "o", ms=4.5, color=colour, mec="white",
                      mew=0.6, zorder=3, label=short(size) if size in labelled else None)
            right.plot(fitted.c[at], percent[at], "o", ms=4.5, color=colour, mec="white", mew=0.6,
                       zorder=3)
    drawn = [pd.DataFrame({
        "series": "fitted", "run_id": fitted.run_id, "c": fitted.c, "n": fitted.n, "d": fitted.d,
        "predicted": predicted, "measured": fitted.loss, "residual_percent": percent,
    })]
    ends = [*predicted, *fitted.loss]
    for run in table.heldout:
        values = {"n": np.array([run.n]), "d": np.array([run.d]), "c": np.array([run.c])}
        guess = float(law.loss(values)[0])
        low, high = law.prediction_interval(run.values) or (guess, guess)
        left.plot([guess, guess], [low, high], color=ACCENT, lw=2, alpha=0.5, zorder=2,
                  solid_capstyle="butt")
        right.plot([run.c, run.c], [100 * (low / guess - 1), 100 * (high / guess - 1)],
                   color=ACCENT, lw=2, alpha=0.5, zorder=2, solid_capstyle="butt")
        off = np.nan
        if run.loss is not None:
            off = 100 * (run.loss / guess - 1)
            left.plot(guess, run.loss, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
            right.plot(run.c, off, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
        ends += [guess, low, high, *([run.loss] if run.loss is not None else [])]
        drawn.append(pd.DataFrame({
            "series": ["heldout"], "run_id": [run.run_id], "c": [run.c], "n": [run.n],
            "d": [run.d], "predicted": [guess],
            "measured": [np.nan if run.loss is None else run.loss],
            "residual_percent": [off], "low": [low], "high": [high],
        }))
    edge = 0.03 * (max(ends) - min(ends))
    ends = [min(ends) - edge, max(ends) + edge]
    left.plot(ends, ends, color=MUTED, lw=0.9, zorder=1)
    left.set_xlim(*ends)
    left.set_ylim(*ends)
    left.set_xlabel("predicted loss (nats per token)")
    left.set_ylabel("measured loss (nats per token)")
    left.set_title(f"Predicted and measured: {law.name}")
    right.set_xscale("log")
    right.axhline(0, color=MUTED, lw=0.9, zorder=1)
    right.set_xlabel("training compute C (FLOP)")
    right.set_ylabel("measured / predicted - 1 (%)")
    right.set_title("Residuals")
    far = max(abs(value) for value in right.get_ylim())
    right.set_ylim(-far, far)

    if table.heldout:
        left.plot([], [], color=ACCENT, lw=2, alpha=0.5, marker="D", ms=6, mec="white",
                  label=f"held out, {LEVEL:.0%}\nprediction interval")
    legend = left.legend(loc="upper left", title=f"N ({table.convention['n']})",
                         handlelength=1.2, labelspacing=0.35)
    legend.set_alignment("left")
    legend.get_title().set(color=INK, fontsize=8)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))
