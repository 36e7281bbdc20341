"""Figures of results folders and planned sweeps, and figures as files.

    results.py  reads a results folder, and draws its figures
    tokens.py   loss against training tokens, with learning curves
    grid.py     the grid of a planned sweep
    files.py    PNG, SVG, PDF and the CSV of a figure's data, reproducible byte for byte

Figures of a law and its runs are in `scaling.laws.plots`.
"""

from scaling.figures.files import write
from scaling.figures.results import FIGURES, ResultsFolder, open_results, plot
from scaling.figures.tokens import loss_against_tokens

__all__ = [
    "FIGURES", "ResultsFolder", "loss_against_tokens", "open_results", "plot", "write",
]
