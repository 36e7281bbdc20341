"""Mixtures of denoisers: each text is spoiled in one of several ways, and its first token says in
which (Tay et al. 2022, "UL2: Unifying Language Learning Paradigms", section 3.1, table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.config.spans import UL2, Denoiser, Mode, longest_end, mixture_widths
from scaling.objectives.noise.random import UInt64, below, fold, uniform
from scaling.objectives.noise.rows import Bool, Ids, Integers
from scaling.objectives.noise.spans import corrupt_spans, noise_mask

_WHICH, _HOW = 0, 1  # streams of a row's key


class Pair(NamedTuple):
    """Texts for an encoder and a decoder, padded at the right."""

    source: Ids
    """Shape [B, S]."""
    source_valid: Bool
    """Which of it is no padding, shape [B, S]."""
    target: Ids
    """Shape [B, O]."""
    target_valid: Bool
    """Which of it is no padding, shape [B, O]."""


def choose_denoisers(key_B: UInt64, denoisers: Sequence[Denoiser] = UL2) -> NDArray[np.int64]:
    """Which denoiser each row's key chooses, by their shares, shape [B]."""
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
) -> Pair:
    """Every row spoiled by the denoiser that its key chooses.

    All denoisers take spans out as span corruption does; those of mode S take out one span at the
    end of the text, of a length that is uniform from 1 to twice its mean, less one.

    Args:
        key_B: a key for each row.
        ids_BT: the texts, all of T tokens.
        sentinels: their ids, the first span's first.
        modes: the token that begins the sources of each mode.
        eos: ends both sides.
        pad: fills both sides up at the right; an id that no text has.
        denoisers: which ones, with their shares.

    Returns:
        Sources and targets of the widths of `mixture_widths`.

    Raises:
        UserError: there are too few sentinels.
    """
    length = ids_BT.shape[1]
    chosen = choose_denoisers(key_B, denoisers)
    key = fold(key_B, _HOW)
    mask = np.empty(ids_BT.shape, np.bool_)
    mode = np.empty((len(key_B), 1), np.int32)
    for number, denoiser in enumerate(denoisers):
        rows = chosen == number
        mode[rows] = modes[denoiser.mode]
        if denoiser.mean_span is None:
            mask[rows] = _end_mask(key[rows], length, denoiser.rate)
        else:
            mask[rows] = noise_mask(key[rows], length, denoiser.rate, denoiser.mean_span)
    source_width, target_width = mixture_widths(length, denoisers)
    source, target = corrupt_spans(
        ids_BT, mask, sentinels, eos, pad, widths=(source_width - 1, target_width)
    )
    source = np.concatenate([mode, source], axis=1)
    return Pair(source, source != pad, target, target != pad)


def _end_mask(key_B: UInt64, length: int, rate: float) -> Bool:
    """True for a last part of the text, shape [B, length]."""
    noise = 1 + below(key_B, 1, longest_end(length, rate))
    return np.arange(length) >= length - noise
