"""Objectives: from text to (inputs, targets, weights), and their losses.

    base.py          `ObjectiveFunctions`; batches and losses of all objectives
    registry.py      FUNCTIONS: the functions of every objective, by its `kind`
    causal.py        causal and prefix language modelling
    masked.py, replaced.py, distillation.py
                     masked language modelling, ELECTRA, DistilBERT
    sequences.py     encoder-decoders: span corruption, denoising, mixtures of denoisers
    noise            corruption, masking and pairing of text, in numpy
    examples.py      the batches of a run, and statistics of their targets

An objective consists of functions (`scaling.objectives.base.ObjectiveFunctions`): the parts of its
loss and their weights, the batch of some sequences of text (numpy, a function of seed, sequence and
epoch), and the losses of a model on a batch. Its configuration, with what it needs of model and
text, is in scaling/config/objectives.
"""

from scaling.objectives.base import Arrays, LossTerms, ObjectiveFunctions, normalised, weight_sums
from scaling.objectives.causal import causal_losses
from scaling.objectives.distillation import with_teacher
from scaling.objectives.examples import Examples, bytes_per_prediction, heldout, target_entropy
from scaling.objectives.registry import FUNCTIONS

__all__ = [
    "FUNCTIONS",
    "Arrays",
    "Examples",
    "LossTerms",
    "ObjectiveFunctions",
    "bytes_per_prediction",
    "causal_losses",
    "heldout",
    "normalised",
    "target_entropy",
    "weight_sums",
    "with_teacher",
]
