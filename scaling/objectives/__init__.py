"""Objectives: from text to (inputs, targets, weights), and their losses.

An objective is three functions (`scaling.objectives.base.Kind`): the batch of some sequences of
text (numpy, a function of seed, sequence and epoch), the parts of its loss, and the losses of a
model on a batch. Its configuration, with what it needs of model and text, is in
scaling/config/objectives.py.
"""

from scaling.objectives.base import Arrays, Kind, Terms, normalised, weight_sums
from scaling.objectives.causal import causal_losses
from scaling.objectives.distillation import with_teacher
from scaling.objectives.examples import Examples, bytes_per_prediction, heldout, target_entropy
from scaling.objectives.kinds import KINDS

__all__ = [
    "KINDS", "Arrays", "Examples", "Kind", "Terms", "bytes_per_prediction", "causal_losses",
    "heldout", "normalised", "target_entropy", "weight_sums", "with_teacher",
]
