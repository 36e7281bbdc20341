"""Figures of laws and of the runs that they are fitted to.

`Fit.plot` and the methods beside it, `plot_envelope` and `scaling plot` draw them:

    figures.py     the figures by name: in axes of the caller or of pyplot, or for a file
    fitted_law.py  measured outcomes and the law along one of its variables
    isoflop.py     loss against N at fixed compute
    allocation.py  N* and D* against compute, beside published laws
    residuals.py   residuals against N, D and C
    parameters.py  a parameter's profile, and pairs of parameters
    envelope.py    training curves and their lower envelope
    tuning.py      loss above its minimum against learning rate or batch
    kaplan.py      loss against compute, data and parameters
    surface.py     fitted loss over compute and parameters
    prediction.py  predicted against measured loss
    axes.py        axes of variables and of outcomes
    style.py       colours, legends and ticks of every figure

They import matplotlib, so `scaling.laws` imports them when something is drawn.
"""

from __future__ import annotations

from typing import Any

from scaling.laws.arguments import checked
from scaling.laws.training_curves import Curves


@checked
def plot_envelope(curves: Curves, ax: Any = None, *, smooth: float = 0.0) -> Any:
    """Loss against compute along training curves, and their lower envelope (approach 1).

    Args:
        curves: training curves, from `curves_from_frame`.
        ax: matplotlib axes to draw into; by default those of a new figure of pyplot.
        smooth: half-width in ln D over which curves are smoothed, as in `fit_approach`.

    Returns:
        The axes.

    Raises:
        DataError: the envelope passes through fewer than two sizes.
    """
    from scaling.laws.plots.envelope import draw_envelope
    from scaling.laws.plots.figures import draw_with_pyplot

    return draw_with_pyplot(lambda panels: draw_envelope(panels[0], curves, smooth=smooth), ax)
