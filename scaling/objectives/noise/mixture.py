"""Mixture of denoisers: each text is corrupted by one of several denoisers, whose mode is given by
its first token (Tay et al. 2022, "UL2: Unifying Language Learning Paradigms", section 3.1, table
1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.config.spans import UL2, Denoiser, Mode, max_suffix, mixture_lengths
from scaling.objectives.noise.keys import UInt64, below, fold, uniform
from scaling.objectives.noise.rows import Bool, Ids, Integers
from scaling.objectives.noise.spans import corrupt_spans, noise_mask

_WHICH, _HOW = 0, 1  # streams of a row's key


class SourceAndTarget(NamedTuple):
    """Token ids for an encoder and a decoder, padded on the right."""

    source: Ids
    """Shape [B, S]."""
    source_valid: Bool
    """True where it is not padding, shape [B, S]."""
    target: Ids
    """Shape [B, O]."""
    target_valid: Bool
    """True where it is not padding, shape [B, O]."""


def choose_denoisers(key_B: UInt64, denoisers: Sequence[Denoiser] = UL2) -> NDArray[np.int64]:
    """Index of a denoiser for each row, drawn by their shares, shape [B]."""
    shares = np.cumsum([denoiser.share for denoiser in denoisers])
    chance = uniform(fold(key_B, _WHICH), 1)[:, 0]
    return np.searchsorted(shares[:-1] / shares[-1], chance, side="right")


def mix_denoisers(
    key_B: UInt64,
    ids_BT: Integers,
    sentinels: Integers,
    modes: Mapping[Mode, int],
    eos: int,
    pad: int,
    denoisers: Sequence[Denoiser] = UL2,
) -> SourceAndTarget:
    """Corrupt each row by a denoiser that is drawn by its key.

    All denoisers are span corruptions; those of mode S remove one span at the end of the text,
    whose length is uniform from 1 to twice its mean, less one.

    Args:
        key_B: a key for each row.
        ids_BT: the texts, all of T tokens.
        sentinels: their ids, in the order of the spans.
        modes: id of the first token of sources, by mode.
        eos: id at the end of source and target.
        pad: id of padding, which no text contains.
        denoisers: the denoisers with their shares.

    Returns:
        Sources and targets of the lengths of `mixture_lengths`.

    Raises:
        UserError: there are too few sentinels.
    """
    length = ids_BT.shape[1]
    chosen = choose_denoisers(key_B, denoisers)
    key = fold(key_B, _HOW)
    mask = np.empty(ids_BT.shape, np.bool_)
    mode = np.empty((len(key_B), 1), np.int32)
    for index, denoiser in enumerate(denoisers):
        rows = chosen == index
        mode[rows] = modes[denoiser.mode]
        if denoiser.mean_span is None:
            mask[rows] = _end_mask(key[rows], length, denoiser.rate)
        else:
            mask[rows] = noise_mask(key[rows], length, denoiser.rate, denoiser.mean_span)
    source_width, target_width = mixture_lengths(length, denoisers)
    source, target = corrupt_spans(
        ids_BT, mask, sentinels, eos, pad, widths=(source_width - 1, target_width)
    )
    source = np.concatenate([mode, source], axis=1)
    return SourceAndTarget(source, source != pad, target, target != pad)


def _end_mask(key_B: UInt64, length: int, rate: float) -> Bool:
    """True for a suffix of random length, shape [B, length]."""
    noise = 1 + below(key_B, 1, max_suffix(length, rate))
    return np.arange(length) >= length - noise
