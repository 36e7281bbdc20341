"""Learn from a larger model what it has learnt (DistilBERT, Sanh et al. 2019, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from scaling.config.objectives import Distillation
from scaling.data.batches import Drawn, Sequences
from scaling.models import Tokens, Transformer
from scaling.models.transformer import States
from scaling.objectives.base import Arrays, Kind, Setting, Terms, cross_entropy, weighted
from scaling.objectives.masked import at_places, framed, hidden


def _examples(setting: Setting, _: Sequences, drawn: Drawn) -> Arrays:
    batch = hidden(setting, setting.keys(drawn), *framed(setting, drawn))
    found_BM = batch["weights"]["masked"]
    return batch | {"weights": {"masked": found_BM, "soft": found_BM}}


def taught(teacher: Transformer, batch: Arrays) -> Arrays:
    """The batch with what the teacher says of it: its logits at the hidden tokens and its hidden
    states everywhere."""
    states_BTD, logits_BMV = _outputs(teacher, batch, None)
    return batch | {"teacher_states": states_BTD, "teacher_logits": logits_BMV}


def _terms(
    objective: Distillation, model: Transformer, batch: Arrays, keys_B: PRNGKeyArray | None
) -> Terms:
    """Both models are compared at the hidden tokens, where there is something to be learnt of
    words that are not seen; the directions of hidden states everywhere."""
    weights, heat = batch["weights"], objective.temperature
    x_BTD, logits_BMV = _outputs(model, batch, keys_B)
    teacher_BMV = jax.nn.log_softmax(batch["teacher_logits"] / heat)
    student_BMV = jax.nn.log_softmax(logits_BMV / heat)
    # Gradients of softened logits shrink as 1 / heat^2 (Hinton et al. 2015, section 2).
    soft_BM = heat**2 * (jnp.exp(teacher_BMV) * (teacher_BMV - student_BMV)).sum(axis=-1)
    losses = {
        "masked": weighted(cross_entropy(logits_BMV, batch["targets"]), weights["masked"]),
        "soft": weighted(soft_BM, weights["soft"]),
    }
    if objective.cosine_weight:
        losses["cosine"] = weighted(1 - _cosine(x_BTD, batch["teacher_states"]), None)
    return Terms(losses)


def _outputs(
    model: Transformer, batch: Arrays, keys_B: PRNGKeyArray | None
) -> tuple[jax.Array, jax.Array]:
    states = model.states(Tokens(batch["ids"]), keys_B=keys_B)
    there = States(at_places(states.x_BTD, batch["places"]), states.tokens, None)
    return states.x_BTD, model.head("masked_lm", there)


def _cosine(left_BTD: jax.Array, right_BTD: jax.Array) -> jax.Array:
    def unit(x_BTD: jax.Array) -> jax.Array:
        return x_BTD * jax.lax.rsqrt(jnp.maximum((x_BTD**2).sum(axis=-1, keepdims=True), 1e-12))

    return (unit(left_BTD) * unit(right_BTD)).sum(axis=-1)


def _parts(objective: Distillation) -> dict[str, float]:
    parts = {"masked": objective.masked_weight, "soft": objective.soft_weight}
    return parts | ({"cosine": objective.cosine_weight} if objective.cosine_weight else {})


DISTILLATION = Kind(_parts, _examples, _terms)
