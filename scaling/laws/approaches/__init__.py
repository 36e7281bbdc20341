"""N*(C) without a law of the loss: Hoffmann's approaches 1 and 2, and Porian's variant of 2.

`fit_approach` fits a table of runs, or training curves, and returns a `Frontier`:

    fit_approach.py   the entry point
    isoflop.py        runs grouped by compute, in the convention in which they share budgets
    parabola.py       approach 2: the minimum of each profile by a parabola or a cubic
    akima.py          approach 2: the minimum by interpolation, with a bootstrap of the noise
    envelope.py       approach 1: the lower envelope of training curves
    optima.py         the minima, and the criteria for using them
    tuning.py         the best learning rate and batch of each N and D, by quadratics
    line.py           power laws by least squares
    frontier.py       the result
    agreement.py      the optima compared with those of a law of the same runs
"""

from scaling.laws.approaches.agreement import disagreement
from scaling.laws.approaches.fit_approach import fit_approach
from scaling.laws.approaches.frontier import APPROACHES, Frontier, frontier_from_json
from scaling.laws.approaches.isoflop import IsoFlopProfile, group_by_budget
from scaling.laws.approaches.optima import Optima, Screen
from scaling.laws.training_curves import Curves, curves_from_frame

__all__ = [
    "APPROACHES", "Curves", "Frontier", "IsoFlopProfile", "Optima", "Screen", "curves_from_frame",
    "disagreement", "fit_approach", "frontier_from_json", "group_by_budget",
]
