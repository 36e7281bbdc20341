"""Objectives of encoder-decoders, which reconstruct a text from a corrupted one: span corruption
(T5), denoising (BART) and mixtures of denoisers (UL2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Key
from numpy.typing import NDArray

from scaling.config.objectives import Denoising, Mixture, SpanCorruption
from scaling.config.spans import MODES
from scaling.data.batches import SequenceBatch, SequenceDataset
from scaling.models import Tokens, Transformer
from scaling.objectives.base import Arrays, ExampleContext, LossTerms, ObjectiveFunctions, weighted
from scaling.objectives.noise.denoising import denoising
from scaling.objectives.noise.mixture import mix_denoisers
from scaling.objectives.noise.spans import corrupt_spans, noise_mask


def _span_examples(
    context: ExampleContext[SpanCorruption], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    """Inputs and targets have a fixed length, so nothing is padded."""
    objective, special = context.objective, context.special
    pad = special.id("pad")
    ids_BT = drawn.ids_BL
    mask_BT = noise_mask(
        context.keys(drawn), ids_BT.shape[1], objective.rate, objective.mean_span)
    source_BS, target_BT = corrupt_spans(
        ids_BT, mask_BT, np.array(special.sentinels), special.eos, pad)
    return {"source": source_BS, "ids": _shifted(target_BT, pad), "targets": target_BT}


def _denoising_examples(
    context: ExampleContext[Denoising], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    objective, special, ends_V = context.objective, context.special, context.sentence_ends_V
    pad = special.id("pad")
    ids_BT, (B, T) = drawn.ids_BL.astype(np.int32), drawn.ids_BL.shape
    corrupted_BT, valid_BT = denoising(
        context.keys(drawn), ids_BT, np.ones((B, T), np.bool_),
        None if ends_V is None else ends_V[ids_BT], mask=special.id("mask"), pad=pad,
        noises=objective.noises, rate=objective.rate, mean_span=objective.mean_span,
    )
    # <cls> text <eos>, the input of BART's encoder; noise leaves at most T tokens.
    width = context.model.source_length
    length_B1 = valid_BT.sum(axis=1, keepdims=True) + 1
    source_BS = np.full((B, width), pad, np.int32)
    source_BS[:, 0] = special.id("cls")
    source_BS[:, 1:T + 1] = corrupted_BT
    np.put_along_axis(source_BS, length_B1, special.eos, axis=1)
    documents_BS = (np.arange(width) <= length_B1).astype(np.int32)
    target_BT = np.concatenate([ids_BT, np.full((B, 1), special.eos, np.int32)], axis=1)
    return {"source": source_BS, "source_documents": documents_BS,
            "ids": _shifted(target_BT, special.eos), "targets": target_BT}


def _mixture_examples(
    context: ExampleContext[Mixture], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    special, denoisers = context.special, context.objective.denoisers
    pad = special.id("pad")
    # The last sentinels stand for the modes of denoising.
    sentinels, modes = special.sentinels[:-len(MODES)], special.sentinels[-len(MODES):]
    pair = mix_denoisers(
        context.keys(drawn), drawn.ids_BL, np.array(sentinels),
        dict(zip(MODES, modes, strict=True)), special.eos, pad, denoisers)
    model, target_BT = context.model, _widened(pair.target, context.model.context, pad)
    source_BS = _widened(pair.source, model.source_length, pad)
    source_valid_BS = _widened(pair.source_valid, model.source_length, False)
    return {
        "source": source_BS, "source_documents": source_valid_BS.astype(np.int32),
        "ids": _shifted(target_BT, pad), "targets": target_BT,
        "weights": {"mixture":
                    _widened(pair.target_valid, model.context, False).astype(np.float32)},
    }


def _widened(rows_BT: NDArray[Any], width: int, fill: Any) -> NDArray[Any]:
    return np.pad(rows_BT, ((0, 0), (0, width - rows_BT.shape[1])), constant_values=fill)


def _shifted(target_BT: NDArray[np.int32], start: int) -> NDArray[np.int32]:
    """Inputs of the decoder: `start`, then all targets but the last (teacher forcing)."""
    ids_BT = np.empty_like(target_BT)
    ids_BT[:, 0], ids_BT[:, 1:] = start, target_BT[:, :-1]
    return ids_BT


def _terms(
    objective: SpanCorruption | Denoising | Mixture, model: Transformer, batch: Arrays,
    keys_B: Key[Array, " B"] | None,
) -> LossTerms:
    source = Tokens(batch["source"], batch.get("source_documents"))
    states = model.states(batch["ids"], source, keys_B)
    losses_BT = model.losses("lm", states, batch["targets"])
    weights_BT = batch.get("weights", {}).get(objective.kind)
    return LossTerms({objective.kind: weighted(losses_BT, weights_BT)}, states.routing)


SPAN_CORRUPTION = ObjectiveFunctions(
    lambda objective: {"span_corruption": 1.0}, _span_examples, _terms)
DENOISING = ObjectiveFunctions(lambda objective: {"denoising": 1.0}, _denoising_examples, _terms)
MIXTURE = ObjectiveFunctions(lambda objective: {"mixture": 1.0}, _mixture_examples, _terms)
