"""Figures of runs and laws as PNG, SVG and the CSV of their data, reproducible byte for byte.

    results.py     reads a results folder, and draws its figures
    tokens.py      loss against training tokens
    kaplan.py      loss against compute, data and parameters
    surface.py     fitted loss over compute and parameters
    prediction.py  predicted against measured loss
    grid.py        the grid of a planned sweep
    style.py       the style of every figure, and its files
"""

from scaling.figures.kaplan import three_panels
from scaling.figures.prediction import predicted_against_measured
from scaling.figures.results import FIGURES, ResultsFolder, open_results, plot
from scaling.figures.style import Drawing, write
from scaling.figures.surface import loss_surface
from scaling.figures.tokens import loss_against_tokens

__all__ = [
    "FIGURES", "Drawing", "ResultsFolder", "loss_against_tokens", "loss_surface", "open_results",
    "plot", "predicted_against_measured", "three_panels", "write",
]
