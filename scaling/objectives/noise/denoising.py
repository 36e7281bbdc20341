"""BART's five noise functions (Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence
Pre-training", section 2.2); the targets are the uncorrupted text.

Every function takes a key for each row, token ids [B, T], and a mask [B, T] that is True up to the
length of each row; it returns corrupted ids and their mask. Positions outside the mask hold `pad`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from scaling.config.objectives import NoiseKind
from scaling.objectives.noise.keys import UInt64, below, bits, fold, uniform
from scaling.objectives.noise.rows import Bool, Ids, Integers, first, pack, ranks


def denoising(
    key_B: UInt64,
    ids_BT: Integers,
    valid_BT: Bool,
    sentence_end_BT: Bool | None,
    *,
    mask: int,
    pad: int,
    noises: Sequence[str] = ("permutation", "infilling"),
    rate: float = 0.3,
    mean_span: float = 3.0,
) -> tuple[Ids, Bool]:
    """Several noise functions in turn; by default those of BART-large (section 4.2): sentence
    permutation, and text infilling of 30% of the tokens.

    Args:
        key_B: a key for each row, from which each noise function derives its own.
        ids_BT: the text.
        valid_BT: True for text.
        sentence_end_BT: True for the last token of a sentence; needed by "permutation" alone.
        mask: id of the mask token.
        pad: id of padding.
        noises: the noise functions; they are applied in the order of `Noise`.
        rate: share of the tokens that is masked, deleted or infilled.
        mean_span: mean length of infilled spans.

    Raises:
        ValueError: a noise function is unknown, sentences are permuted and their ends not given, or
            the rate or the mean is out of range.
    """
    if unknown := set(noises) - set(get_args(NoiseKind)):
        raise ValueError(
            f"noises: {sorted(unknown)} are not among {', '.join(get_args(NoiseKind))}")
    ids, valid = ids_BT.astype(np.int32), valid_BT
    for stream, noise in enumerate(get_args(NoiseKind)):
        if noise not in noises:
            continue
        key = fold(key_B, stream)
        if noise == "permutation":
            if sentence_end_BT is None:
                raise ValueError("permutation: needs the ends of sentences")
            ids, valid = permute_sentences(key, ids, valid, sentence_end_BT, pad)
        elif noise == "masking":
            ids, valid = mask_tokens(key, ids, valid, rate, mask, pad)
        elif noise == "deletion":
            ids, valid = delete_tokens(key, ids, valid, rate, pad)
        elif noise == "infilling":
            ids, valid = infill(key, ids, valid, rate, mean_span, mask, pad)
        else:
            ids, valid = rotate(key, ids, valid, pad)
    return ids, valid


def mask_tokens(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, rate: float, mask: int, pad: int
) -> tuple[Ids, Bool]:
    """Token masking: each token is replaced by `mask` with probability `rate`."""
    masked = uniform(key_B, ids_BT.shape[1]) < np.float32(_checked(rate))
    return np.where(valid_BT, np.where(masked, mask, ids_BT), pad).astype(np.int32), valid_BT


def delete_tokens(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, rate: float, pad: int
) -> tuple[Ids, Bool]:
    """Token deletion: each token is removed with probability `rate`."""
    stays = valid_BT & (uniform(key_B, ids_BT.shape[1]) >= np.float32(_checked(rate)))
    count, width = stays.sum(axis=1), ids_BT.shape[1]
    return pack(ids_BT[stays], count, pad, width), first(count, width)


def infill(
    key_B: UInt64,
    ids_BT: Integers,
    valid_BT: Bool,
    rate: float,
    mean_span: float,
    mask: int,
    pad: int,
) -> tuple[Ids, Bool]:
    """Text infilling: spans of Poisson-distributed lengths are replaced by one `mask` each; a span
    of length 0 inserts a mask.

    The spans of a row contain round(rate * length) of its tokens: lengths are drawn until their sum
    suffices, and the last one is cut. Each span is at a uniformly random position among the tokens
    that are kept; adjacent spans have a mask each.

    Args:
        key_B: a key for each row.
        ids_BT: the text.
        valid_BT: True for text.
        rate: share of the tokens that is removed, from 0 to 1.
        mean_span: mean of the Poisson distribution, positive.
        mask: id that replaces a span.
        pad: id of padding.

    Raises:
        ValueError: the rate or the mean is out of range.
    """
    if not 0 < mean_span < math.inf:
        raise ValueError(f"mean_span = {mean_span} is not a positive number")
    width = ids_BT.shape[1]
    length = valid_BT.sum(axis=1)
    noise = np.rint(length * _checked(rate)).astype(np.int64)
    stays = length - noise
    drawn, used = _span_draws(fold(key_B, 0), noise, mean_span, width - stays)
    rows, draws = drawn.shape
    spans = used.sum(axis=1)
    # The gap of a span is the number of kept tokens before it. Spans are sorted by their gaps; the
    # index of the draw breaks ties, and identifies the length.
    gap = below(fold(key_B, 1), draws, (stays + 1)[:, None])
    order = np.where(used, gap * draws + np.arange(draws), np.iinfo(np.int64).max)
    real = first(spans, draws)
    row = np.nonzero(real)[0]
    gap, draw = np.divmod(np.sort(order, axis=1)[real], draws)
    size = drawn[row, draw]
    before = np.cumsum(size) - size - (np.cumsum(noise) - noise)[row]
    removed = np.zeros((rows, width), np.bool_)
    removed[np.repeat(row, size), np.repeat(gap + before, size) + ranks(size)] = True
    # A mask follows the kept tokens and the masks before it.
    masks = np.zeros((rows, width), np.bool_)
    masks[row, gap + ranks(spans)] = True
    valid = first(stays + spans, width)
    ids = np.full((rows, width), pad, np.int32)
    ids[valid & ~masks] = ids_BT[valid_BT & ~removed]
    ids[masks] = mask
    return ids, valid


def permute_sentences(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, sentence_end_BT: Bool, pad: int
) -> tuple[Ids, Bool]:
    """Sentence permutation: the sentences of a row in uniformly random order.

    Args:
        key_B: a key for each row.
        ids_BT: the text.
        valid_BT: True for text.
        sentence_end_BT: True for the last token of a sentence; tokens after the last one are a
            sentence too.
        pad: id of padding.
    """
    width = ids_BT.shape[1]
    length = valid_BT.sum(axis=1)
    last = first(length, width) & ~first(length - 1, width)
    closing = np.flatnonzero((sentence_end_BT & valid_BT) | last)
    row = closing // width
    # The rows concatenated: each sentence begins where the one before it ends.
    stop = closing + 1 - (row * width - (np.cumsum(length) - length)[row])
    size = np.diff(stop, prepend=0)
    sentences = np.bincount(row, minlength=len(length))
    chance = bits(key_B, int(sentences.max(initial=0)))[row, ranks(sentences)]
    order = np.lexsort((chance, row))
    size, begin = size[order], (stop - size)[order]
    text = ids_BT[valid_BT][np.repeat(begin, size) + ranks(size)]
    return pack(text, length, pad, width), valid_BT


def rotate(key_B: UInt64, ids_BT: Integers, valid_BT: Bool, pad: int) -> tuple[Ids, Bool]:
    """Document rotation: a row is rotated to begin with a uniformly random token."""
    length = np.maximum(valid_BT.sum(axis=1), 1)[:, None]
    source = (np.arange(ids_BT.shape[1]) + below(key_B, 1, length)) % length
    rotated = np.take_along_axis(ids_BT, source, axis=1)
    return np.where(valid_BT, rotated, pad).astype(np.int32), valid_BT


def _span_draws(
    key_B: UInt64, noise_B: NDArray[np.int64], mean: float, most_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Bool]:
    """Poisson lengths whose sum is `noise_B`, at most `most_B` of them.

    Returns:
        Lengths, zero for draws that are not used, and True for used draws: each [B, draws].
    """
    # The sum of the draws is Poisson-distributed; its mean is at least eight standard deviations
    # above the number needed, so the last draw is practically never used. If it is, or if there is
    # no room for more masks, the last span takes all tokens that are left.
    enough = np.ceil((noise_B + 8 * np.sqrt(noise_B) + 40) / mean).astype(np.int64)
    allowed = np.where(noise_B > 0, np.minimum(enough, most_B), 0)
    draws = int(allowed.max(initial=0))
    drawn = np.searchsorted(_poisson(mean), uniform(key_B, draws), side="right")
    left = noise_B[:, None] - (np.cumsum(drawn, axis=1) - drawn)
    index = np.arange(draws)
    used = (left > 0) & (index < allowed[:, None])
    last = index == allowed[:, None] - 1
    return np.where(used, np.where(last, left, np.minimum(drawn, left)), 0), used


def _poisson(mean: float) -> NDArray[np.float64]:
    """Cumulative probabilities of 0, 1, 2 ..., up to one in float32."""
    count = math.ceil(mean + 10 * math.sqrt(mean)) + 20
    log_mass = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count)]
    return np.cumsum(np.exp(log_mass))


def _checked(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate = {rate} is not from 0 to 1")
    return rate
