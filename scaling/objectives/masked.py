"""Masked language modelling, and classification of sentence pairs (BERT, RoBERTa, ALBERT,
SpanBERT)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Key
from numpy.typing import NDArray

from scaling.config.objectives import MASK_SHARE, RANDOM_SHARE, Masked
from scaling.config.objectives.masked import MaskedObjective
from scaling.config.spans import n_masked
from scaling.data.batches import DocumentChunks, SequenceBatch, SequenceDataset
from scaling.data.random import UInt64, fold
from scaling.models import States, Tokens, Transformer, at_positions, cross_entropy
from scaling.objectives.base import Arrays, ExampleContext, LossTerms, ObjectiveFunctions, weighted
from scaling.objectives.noise.masking import choose_tokens, choose_words, corrupt
from scaling.objectives.noise.pairs import Pairs, next_sentence, sentence_order
from scaling.objectives.noise.rows import pack
from scaling.objectives.noise.spanbert import ALBERT, SPANBERT, boundaries, choose_spans

_CHOICE, _CORRUPTION, _PAIRS, _OTHERS = range(4)  # streams of a sequence's key
_LENGTHS = {"span": SPANBERT, "ngram": ALBERT}


def with_cls_sep(
    context: ExampleContext[Any], drawn: SequenceBatch
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """`<cls> text <sep>`, and True for its text tokens; ends of documents are not text."""
    B, L = drawn.ids_BL.shape
    ids_BT = np.empty((B, L + 2), np.int32)
    ids_BT[:, 0], ids_BT[:, 1:-1], ids_BT[:, -1] = (
        context.special.id("cls"), drawn.ids_BL, context.special.id("sep"))
    return ids_BT, context.is_text_V[ids_BT]


def mask_tokens(
    context: ExampleContext[MaskedObjective], key_B: UInt64, ids_BT: NDArray[np.int32],
    maskable_BT: NDArray[np.bool_], mask_share: float = MASK_SHARE,
    random_share: float = RANDOM_SHARE, unit: str = "token",
) -> Arrays:
    """A batch with some tokens masked: the corrupted `ids`, and the `positions`, `targets` and
    `weights` of the masked tokens, [B, M], padded with the first position at a weight of 0.

    Args:
        context: the objective's masking rate, and the vocabulary.
        key_B: a key for each sequence.
        ids_BT: the text.
        maskable_BT: True for tokens that may be masked.
        mask_share: share of the masked tokens that become <mask>.
        random_share: share that become a random token; the rest stay as they are.
        unit: what is masked as a whole: "token", "word", "span" or "ngram".
    """
    rate, choice_B = context.objective.rate, fold(key_B, _CHOICE)
    span_BT = None
    if unit == "token":
        chosen_BT = choose_tokens(choice_B, maskable_BT, rate)
    elif unit == "word":
        chosen_BT = choose_words(choice_B, maskable_BT, _word_starts(context, ids_BT), rate)
    else:
        chosen_BT, span_BT = choose_spans(
            choice_B, maskable_BT, _word_starts(context, ids_BT), rate, _LENGTHS[unit])
    corrupted_BT = corrupt(
        fold(key_B, _CORRUPTION), ids_BT, chosen_BT, mask=context.special.id("mask"),
        replacements=context.replacements, mask_share=mask_share, random_share=random_share,
        unit_BT=span_BT,
    )
    most = n_masked(context.objective.text_tokens(context.model), rate)
    count_B, place = chosen_BT.sum(axis=1), np.nonzero(chosen_BT)[1]
    batch: Arrays = {
        "ids": corrupted_BT,
        "positions": pack(place, count_B, 0, most),
        "targets": pack(ids_BT[chosen_BT], count_B, 0, most),
        "weights": {"masked": (np.arange(most) < count_B[:, None]).astype(np.float32)},
    }
    if span_BT is not None and (max_span := _max_span(context)):
        batch["spans"], _, predicted_BM = boundaries(span_BT, most, max_span)
        batch["weights"]["span_boundary"] = predicted_BM
    return batch


def _word_starts(
    context: ExampleContext[MaskedObjective], ids_BT: NDArray[np.int32]
) -> NDArray[np.bool_]:
    assert context.starts_V is not None  # the objective needs them (`needs_word_starts`)
    return context.starts_V[ids_BT]


def _max_span(context: ExampleContext[MaskedObjective]) -> int | None:
    """Positions in a span that the model's span-boundary head has embeddings of; None without the
    head."""
    return next((head.max_span for head in context.model.outputs if head.kind == "span_boundary"),
                None)


def _examples(
    context: ExampleContext[Masked], sequences: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    objective = context.objective
    mask_B = drawn.epoch_B % objective.static_masks if objective.static_masks else None
    key_B = context.keys(drawn, mask_B)
    segments: Arrays = {}
    if isinstance(sequences, DocumentChunks):
        pairs = _pairs(context, sequences, drawn, fold(key_B, _PAIRS))
        ids_BT, maskable_BT = pairs.ids_BT, pairs.maskable_BT
        segments = {"documents": pairs.documents_BT, "types": pairs.types_BT,
                  "labels": pairs.labels_B}
    else:
        ids_BT, maskable_BT = with_cls_sep(context, drawn)
    return segments | mask_tokens(
        context, key_B, ids_BT, maskable_BT, objective.mask_share, objective.random_share,
        objective.unit,
    )


def _pairs(
    context: ExampleContext[Masked], pieces: DocumentChunks, drawn: SequenceBatch, key_B: UInt64
) -> Pairs:
    special, width = context.special, context.model.context
    marks = {role: special.id(role) for role in ("cls", "sep", "pad")}
    if context.objective.pairs == "sentence_order":
        return sentence_order(key_B, drawn.ids_BL, drawn.length_B, width, **marks)
    other_BL, length_B = pieces.from_other_documents(fold(key_B, _OTHERS), drawn.sequence_B)
    return next_sentence(
        key_B, drawn.ids_BL, drawn.length_B, other_BL, length_B, width, **marks)


def _parts(objective: Masked) -> dict[str, float]:
    further = ["span_boundary"] if objective.span_boundary else []
    further += [objective.pairs] if objective.pairs != "none" else []
    return {"masked": 1.0} | dict.fromkeys(further, 1.0)


def _terms(
    objective: Masked, model: Transformer, batch: Arrays, keys_B: Key[Array, " B"] | None
) -> LossTerms:
    tokens = Tokens(batch["ids"], batch.get("documents"), types_BT=batch.get("types"))
    states, weights = model.states(tokens, keys_B=keys_B), batch["weights"]
    masked = States(at_positions(states.x_BTD, batch["positions"]), tokens, None)
    losses: dict[str, Any] = {"masked": weighted(
        model.losses("masked_lm", masked, batch["targets"]), weights["masked"])}
    if objective.span_boundary:
        losses["span_boundary"] = weighted(
            model.losses("span_boundary", states, batch["targets"], batch["spans"]),
            weights["span_boundary"])
    if objective.pairs != "none":
        logits_BN = model.head(objective.pairs, states)
        losses[objective.pairs] = cross_entropy(logits_BN, batch["labels"])
    return LossTerms(losses, states.routing)


MASKED = ObjectiveFunctions(_parts, _examples, _terms)
