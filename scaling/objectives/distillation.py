"""Knowledge distillation from a masked language model (DistilBERT, Sanh et al. 2019, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from scaling.config.objectives import Distillation
from scaling.data.batches import SequenceBatch, SequenceDataset
from scaling.models import States, Tokens, Transformer, at_positions, cross_entropy
from scaling.objectives.base import Arrays, ExampleContext, LossTerms, ObjectiveFunctions, weighted
from scaling.objectives.masked import mask_tokens, with_cls_sep


def _examples(
    context: ExampleContext[Distillation], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    batch = mask_tokens(context, context.keys(drawn), *with_cls_sep(context, drawn))
    weights_BM = batch["weights"]["masked"]
    return batch | {"weights": {"masked": weights_BM, "soft": weights_BM}}


def with_teacher(teacher: Transformer, batch: Arrays) -> Arrays:
    """The batch with the teacher's logits at the masked positions and its hidden states at all."""
    states_BTD, logits_BMV = _outputs(teacher, batch, None)
    return batch | {"teacher_states": states_BTD, "teacher_logits": logits_BMV}


def _terms(
    objective: Distillation, model: Transformer, batch: Arrays, keys_B: Key[Array, " B"] | None
) -> LossTerms:
    """Predictions are compared at the masked positions, directions of hidden states at all."""
    weights, temperature = batch["weights"], objective.temperature
    x_BTD, logits_BMV = _outputs(model, batch, keys_B)
    teacher_BMV = jax.nn.log_softmax(batch["teacher_logits"] / temperature)
    student_BMV = jax.nn.log_softmax(logits_BMV / temperature)
    # Gradients of softened logits shrink as 1 / temperature^2 (Hinton et al. 2015, section 2).
    soft_BM = temperature**2 * (jnp.exp(teacher_BMV) * (teacher_BMV - student_BMV)).sum(axis=-1)
    losses = {
        "masked": weighted(cross_entropy(logits_BMV, batch["targets"]), weights["masked"]),
        "soft": weighted(soft_BM, weights["soft"]),
    }
    if objective.cosine_weight:
        losses["cosine"] = weighted(1 - _cosine(x_BTD, batch["teacher_states"]), None)
    return LossTerms(losses)


def _outputs(
    model: Transformer, batch: Arrays, keys_B: Key[Array, " B"] | None
) -> tuple[jax.Array, jax.Array]:
    states = model.states(Tokens(batch["ids"]), keys_B=keys_B)
    masked = States(at_positions(states.x_BTD, batch["positions"]), states.tokens, None)
    return states.x_BTD, model.head("masked_lm", masked)


def _cosine(left_BTD: jax.Array, right_BTD: jax.Array) -> jax.Array:
    def unit(x_BTD: jax.Array) -> jax.Array:
        return x_BTD * jax.lax.rsqrt(jnp.maximum((x_BTD**2).sum(axis=-1, keepdims=True), 1e-12))

    return (unit(left_BTD) * unit(right_BTD)).sum(axis=-1)


def _parts(objective: Distillation) -> dict[str, float]:
    parts = {"masked": objective.masked_weight, "soft": objective.soft_weight}
    return parts | ({"cosine": objective.cosine_weight} if objective.cosine_weight else {})


DISTILLATION = ObjectiveFunctions(_parts, _examples, _terms)
