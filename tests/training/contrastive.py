"""A toy objective whose loss compares the sequences of a batch: the halves of a sequence are each
other's positive, those of the other sequences the negatives (InfoNCE, van den Oord et al. 2018)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling.objectives import FUNCTIONS
from scaling.objectives.base import ObjectiveFunctions

TEMPERATURE = 0.2
USUAL = FUNCTIONS["causal"]


def terms(objective, model, batch, keys_B):
    """The usual terms, and a vector for each half of each sequence."""
    usual = USUAL.terms(objective, model, batch, keys_B)
    x_BTD = model.states(batch["ids"][:, :-1], keys_B=keys_B).x_BTD
    half = x_BTD.shape[1] // 2
    return usual._replace(features={
        "left": unit(x_BTD[:, :half].mean(axis=1)), "right": unit(x_BTD[:, half:].mean(axis=1))})


def unit(x_BD):
    return x_BD / jnp.sqrt(jnp.square(x_BD).sum(axis=-1, keepdims=True))


def batch_terms(objective, features):
    logits_BB = features["left"] @ features["right"].T / TEMPERATURE
    return {"contrast": -jnp.diagonal(jax.nn.log_softmax(logits_BB)).mean()}


CONTRASTIVE = ObjectiveFunctions(
    lambda objective: {"causal": 1.0, "contrast": 0.5}, USUAL.examples, terms,
    batch_terms)
