"""Find hidden tokens from all that is left, and beside it say how two segments belong together
(BERT, RoBERTa, ALBERT, SpanBERT)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from scaling.config.objectives import MASK_SHARE, RANDOM_SHARE, Masked, text_tokens
from scaling.config.spans import hidden_tokens
from scaling.data.batches import Drawn, Pieces, Sequences
from scaling.data.random import UInt64, fold
from scaling.models import States, Tokens, Transformer
from scaling.objectives.base import Arrays, Kind, Setting, Terms, cross_entropy, weighted
from scaling.objectives.noise.masking import choose_tokens, choose_words, corrupt
from scaling.objectives.noise.pairs import Pairs, next_sentence, sentence_order
from scaling.objectives.noise.rows import pack
from scaling.objectives.noise.spanbert import ALBERT, SPANBERT, boundaries, choose_spans

_CHOICE, _CORRUPTION, _PAIRS, _OTHERS = range(4)  # streams of a sequence's key
_LENGTHS = {"span": SPANBERT, "ngram": ALBERT}


def framed(
    setting: Setting, drawn: Drawn
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """`<cls> text <sep>`, and which of it is text; ends of documents within are not."""
    B, L = drawn.ids_BL.shape
    ids_BT = np.empty((B, L + 2), np.int32)
    ids_BT[:, 0], ids_BT[:, 1:-1], ids_BT[:, -1] = (
        setting.special.cls, drawn.ids_BL, setting.special.sep)
    return ids_BT, setting.is_text_V[ids_BT]


def hidden(
    setting: Setting, key_B: UInt64, ids_BT: NDArray[np.int32], maskable_BT: NDArray[np.bool_],
    mask_share: float = MASK_SHARE, random_share: float = RANDOM_SHARE, unit: str = "token",
) -> Arrays:
    """A batch with some tokens hidden: `ids` as they are seen, and `places`, `targets` and
    `weights` of the hidden ones, [B, M], filled up with the first place at a weight of 0.

    Args:
        setting: the objective's rate, and the vocabulary.
        key_B: a key for each sequence.
        ids_BT: the text.
        maskable_BT: what may be hidden.
        mask_share: the part of the hidden tokens that <mask> stands for.
        random_share: the part that a random token stands for.
        unit: what is hidden together: "token", "word", "span" or "ngram".
    """
    rate, choice_B = setting.objective.rate, fold(key_B, _CHOICE)
    starts_BT = None if setting.starts_V is None else setting.starts_V[ids_BT]
    span_BT = None
    if unit == "token":
        chosen_BT = choose_tokens(choice_B, maskable_BT, rate)
    elif unit == "word":
        chosen_BT = choose_words(choice_B, maskable_BT, starts_BT, rate)
    else:
        chosen_BT, span_BT = choose_spans(
            choice_B, maskable_BT, starts_BT, rate, _LENGTHS[unit])
    seen_BT = corrupt(
        fold(key_B, _CORRUPTION), ids_BT, chosen_BT, mask=setting.special.mask,
        replacements=setting.replacements, mask_share=mask_share, random_share=random_share,
        unit_BT=span_BT,
    )
    most = hidden_tokens(text_tokens(setting.objective, setting.model), rate)
    count_B, place = chosen_BT.sum(axis=1), np.nonzero(chosen_BT)[1]
    batch: Arrays = {
        "ids": seen_BT,
        "places": pack(place, count_B, 0, most),
        "targets": pack(ids_BT[chosen_BT], count_B, 0, most),
        "weights": {"masked": (np.arange(most) < count_B[:, None]).astype(np.float32)},
    }
    if span_BT is not None and (longest := _longest(setting)):
        batch["spans"], _, predicted_BM = boundaries(span_BT, most, longest)
        batch["weights"]["span_boundary"] = predicted_BM
    return batch


def _longest(setting: Setting) -> int | None:
    """Places in a span that the model's head knows, where it has one."""
    return next((head.longest for head in setting.model.outputs if head.kind == "span_boundary"),
                None)


def at_places(x_BTD: Float[Array, "B T D"], place_BM: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """The states at some places of each sequence."""
    return jax.vmap(lambda x_TD, place_M: x_TD[place_M])(x_BTD, place_BM)


def _examples(setting: Setting, sequences: Sequences, drawn: Drawn) -> Arrays:
    objective = setting.objective
    turn_B = drawn.epoch_B % objective.static_masks if objective.static_masks else None
    key_B = setting.keys(drawn, turn_B)
    beside: Arrays = {}
    if isinstance(sequences, Pieces):
        pairs = _pairs(setting, sequences, drawn, fold(key_B, _PAIRS))
        ids_BT, maskable_BT = pairs.ids_BT, pairs.maskable_BT
        beside = {"documents": pairs.documents_BT, "types": pairs.types_BT,
                  "labels": pairs.labels_B}
    else:
        ids_BT, maskable_BT = framed(setting, drawn)
    return beside | hidden(
        setting, key_B, ids_BT, maskable_BT, objective.mask_share, objective.random_share,
        objective.unit,
    )


def _pairs(setting: Setting, pieces: Pieces, drawn: Drawn, key_B: UInt64) -> Pairs:
    special, context = setting.special, setting.model.context
    marks = {"cls": special.cls, "sep": special.sep, "pad": special.pad}
    if setting.objective.pairs == "sentence_order":
        return sentence_order(key_B, drawn.ids_BL, drawn.length_B, context, **marks)
    others = pieces.of_others(fold(key_B, _OTHERS), drawn.sequence_B)
    return next_sentence(key_B, drawn.ids_BL, drawn.length_B, *others, context, **marks)


def _parts(objective: Masked) -> dict[str, float]:
    beside = ["span_boundary"] if objective.boundary else []
    beside += [objective.pairs] if objective.pairs != "none" else []
    return {"masked": 1.0} | dict.fromkeys(beside, 1.0)


def _terms(
    objective: Masked, model: Transformer, batch: Arrays, keys_B: PRNGKeyArray | None
) -> Terms:
    tokens = Tokens(batch["ids"], batch.get("documents"), types_BT=batch.get("types"))
    states, weights = model.states(tokens, keys_B=keys_B), batch["weights"]
    there = States(at_places(states.x_BTD, batch["places"]), tokens, None)
    losses: dict[str, Any] = {"masked": weighted(
        cross_entropy(model.head("masked_lm", there), batch["targets"]), weights["masked"])}
    if objective.boundary:
        logits_BMV = model.head("span_boundary", states, batch["spans"])
        losses["span_boundary"] = weighted(
            cross_entropy(logits_BMV, batch["targets"]), weights["span_boundary"])
    if objective.pairs != "none":
        logits_BN = model.head(objective.pairs, states)
        losses[objective.pairs] = cross_entropy(logits_BN, batch["labels"])
    return Terms(losses, states.routing)


MASKED = Kind(_parts, _examples, _terms)
