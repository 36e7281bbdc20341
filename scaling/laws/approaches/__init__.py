"""N*(C) without a law of the loss: Hoffmann's approaches 1 and 2, and Porian's variant of 2.

A table of runs, or of training curves, goes through `fit_approach` and comes out as a `Frontier`:

    fit.py        the one entry
    budgets.py    runs grouped by compute
    parabola.py   approach 2: the minimum of each budget by a parabola
    akima.py      approach 2: the minimum by interpolation, with a bootstrap of noise
    envelope.py   approach 1: the lower envelope of training curves
    optima.py     the minima, and which of them count
    line.py       power laws by least squares
    frontier.py   what comes out
"""

from scaling.laws.approaches.budgets import Budget, group
from scaling.laws.approaches.envelope import Curves, curves_from_frame
from scaling.laws.approaches.fit import fit_approach
from scaling.laws.approaches.frontier import APPROACHES, Frontier, frontier_from_json
from scaling.laws.approaches.optima import Optima, Screen

__all__ = [
    "APPROACHES", "Budget", "Curves", "Frontier", "Optima", "Screen", "curves_from_frame",
    "fit_approach", "frontier_from_json", "group",
]
