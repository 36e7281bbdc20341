"""Loss against compute along training curves, with their lower envelope (approach 1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaling.laws.approaches.envelope import envelope
from scaling.laws.plots.style import (
    ACCENT,
    labelled_sizes,
    legend,
    loss_axis,
    set_titles,
    size_colours,
)
from scaling.laws.show import number, short
from scaling.laws.training_curves import Curves

_HEADROOM = 1.6  # of the y axis over the envelope: the beginnings of curves are much higher


def draw_envelope(axes: Axes, curves: Curves, *, smooth: float = 0.0) -> pd.DataFrame:
    """Training curves in the colour of their size, and the lowest loss at each compute where both
    smaller and larger sizes have a curve.

    Args:
        axes: the panel.
        curves: training curves of several sizes.
        smooth: half-width in ln D over which curves are smoothed for the envelope, as in
            `fit_approach`.

    Returns:
        The points of the curves and of the envelope.

    Raises:
        DataError: the envelope passes through fewer than two sizes.
    """
    found = envelope(curves, smooth=smooth, resamples=0)
    lowest = found.optima.kept
    colour_of = size_colours(list(curves.n))
    drawn = []
    for run, name in enumerate(curves.run_id):
        rows = curves.rows(run)
        n = float(curves.n[rows[0]])
        axes.plot(curves.c[rows], curves.loss[rows], color=colour_of[n], lw=0.8, alpha=0.8,
                  zorder=2)
        drawn.append(pd.DataFrame({"series": "curve", "run_id": name, "n": n, "c": curves.c[rows],
                                   "loss": curves.loss[rows]}))
    # A point for each compute: the envelope has gaps, over which a line would pass.
    axes.plot(lowest.c, lowest.loss, ".", ms=3, color=ACCENT, zorder=4)
    drawn.append(pd.DataFrame({"series": "envelope", "run_id": "", "n": lowest.n, "c": lowest.c,
                               "loss": lowest.loss}))
    axes.set_xscale("log")
    highest = float(np.percentile(curves.loss, 95))
    low = float(min(curves.loss.min(), lowest.loss.min()))
    loss_axis(axes, [low, max(low * 1.05, min(highest, float(lowest.loss.max()) * _HEADROOM))])
    axes.set_xlabel("training compute C = 6 N D (FLOP)")
    axes.set_ylabel("loss (nats per token)")
    set_titles(axes, "Training curves and their lower envelope",
               f"N* ~ C^{number(found.n.exponent, 3)} along the envelope")
    handles: list[Artist] = [Line2D([], [], color=colour_of[n], lw=1.6, label=f"N = {short(n)}")
                             for n in labelled_sizes(curves.n)]
    handles.append(Line2D([], [], ls="", marker=".", ms=6, color=ACCENT, label="lower envelope"))
    legend(axes, handles)
    return pd.concat(drawn, ignore_index=True)
