"""Pictures of runs and laws: PNG, SVG, and the numbers beside them. Reproducible byte for byte."""

from scaling.figures.kaplan import three_panels
from scaling.figures.prediction import predicted_against_measured
from scaling.figures.results import FIGURES, Results, open_results, plot
from scaling.figures.style import Drawing, write
from scaling.figures.surface import loss_surface
from scaling.figures.tokens import loss_against_tokens

__all__ = [
    "FIGURES", "Drawing", "Results", "loss_against_tokens", "loss_surface", "open_results", "plot",
    "predicted_against_measured", "three_panels", "write",
]
