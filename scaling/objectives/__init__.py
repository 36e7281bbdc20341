"""What a model learns to do: from tokens to (inputs, targets, weights), and the loss of each.

An objective is three functions (`scaling.objectives.base.Kind`): what becomes of a sequence of text
in a batch (numpy, a function of seed, sequence and epoch), which parts its loss has, and what a
model loses on a batch.
"""

from scaling.objectives.base import Arrays, Terms, normalised, weight_sums
from scaling.objectives.causal import causal_losses
from scaling.objectives.distillation import taught
from scaling.objectives.examples import Examples, heldout, target_entropy
from scaling.objectives.kinds import KINDS

__all__ = [
    "KINDS", "Arrays", "Examples", "Terms", "causal_losses", "heldout", "normalised",
    "target_entropy", "taught", "weight_sums",
]
