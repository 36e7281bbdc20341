"""Lengths of texts before and after spans are removed (T5, UL2), from which the amount of text that
fits a model follows."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

from scaling.config.base import Config, Fraction, Positive, Problem

Mode = Literal["R", "S", "X"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""UL2's modes, each of which is marked by one of the last sentinels of the vocabulary."""
"""Regular, sequential and extreme denoising."""


class Denoiser(Config):
    """A denoiser of UL2: which part of a text is removed."""

    mode: Mode
    """Mode: R removes short spans, S the end of the text, X long spans or half of the text."""
    rate: Fraction
    """Fraction of the tokens that is removed; in mode S on average."""
    mean_span: Positive | None = None
    """Mean length of a span in tokens; null in mode S, which removes one span at the end."""
    share: Positive = 1.0
    """Share of the texts, relative to the other denoisers."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._rate()
        yield self._span()

    def _rate(self) -> Iterator[Problem]:
        if not 0 < self.rate < 1:
            yield "rate", f"{self.rate} is not between 0 and 1; choose a number that is"
        elif self.mode == "S" and self.rate > 0.5:
            yield "rate", f"mode S removes at most half of the text, not {self.rate}; lower it"

    def _span(self) -> Iterator[Problem]:
        if self.mode == "S" and self.mean_span is not None:
            yield "mean_span", "mode S removes one span at the end; leave it out"
        if self.mode != "S" and (self.mean_span is None or self.mean_span < 1):
            yield "mean_span", f"mode {self.mode} needs a number of at least 1; give one"


UL2 = (
    Denoiser(mode="R", mean_span=3, rate=0.15),
    Denoiser(mode="R", mean_span=8, rate=0.15),
    Denoiser(mode="S", rate=0.25),
    Denoiser(mode="X", mean_span=3, rate=0.5),
    Denoiser(mode="X", mean_span=8, rate=0.5),
    Denoiser(mode="X", mean_span=64, rate=0.15),
    Denoiser(mode="X", mean_span=64, rate=0.5),
)
"""The seven denoisers of UL2 (Tay et al. 2022, table 1), in equal shares."""

_MIN_TEXT = 2  # one token that is kept and one that is removed
_MAX_TEXT = 2**31  # the text of one sequence: no array is longer


def n_masked(tokens: int, rate: float) -> int:
    """Number of masked tokens among the given number of tokens: at least one."""
    return min(max(round(tokens * rate), 1), tokens)


def noise_counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Number of noise tokens, and of noise spans, in a text of `length` tokens (T5's rule).

    At least one token is kept and, unless the rate is zero, at least one is removed; a span has at
    least one token and follows at least one that is kept.

    Raises:
        ValueError: the rate or the mean is out of range, or the text is shorter than two tokens.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate = {rate} is not at least 0 and below 1")
    if not 1 <= mean_span < math.inf:
        raise ValueError(f"mean_span = {mean_span} is not a finite number of at least 1")
    if length < _MIN_TEXT:
        raise ValueError(f"length = {length} is too short: at least one token is kept and one "
                         "removed")
    if rate == 0:
        return 0, 0
    noise = min(max(round(length * rate), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return noise, spans


def span_lengths(inputs_length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Length of the longest text whose corrupted inputs fit, and of its targets.

    Each span adds one sentinel to the inputs and one to the targets, and both end with one `eos`.
    T5's standard is (512, 0.15, 3.0) -> (568, 114).

    Args:
        inputs_length: length in tokens of the encoder's sequence.
        rate: fraction of the text that is noise, at least 0 and below 1.
        mean_span: mean length of a noise span in tokens, at least 1.

    Returns:
        Length of the text and of its targets, in tokens.

    Raises:
        ValueError: no text fits, or the rate or the mean is out of range.
    """

    def lengths(text_length: int) -> tuple[int, int]:
        noise, spans = noise_counts(text_length, rate, mean_span)
        return text_length - noise + spans + 1, noise + spans + 1

    if lengths(_MIN_TEXT)[0] > inputs_length:
        raise ValueError(f"inputs_length = {inputs_length} is too short for a text with a span and "
                         "an eos")
    # One more token of text never makes the inputs shorter, and they hold all but `rate` of it.
    upper = min(math.ceil((inputs_length + 1) / (1 - rate)) + 1, _MAX_TEXT)
    text_length = _longest_fitting(upper, lambda length: lengths(length)[0] <= inputs_length)
    targets_length = lengths(text_length)[1]
    if rate == 0.5 and targets_length > inputs_length:
        # T5 drops one token here, so that inputs and targets have the requested length.
        text_length -= 1
        targets_length = lengths(text_length)[1]
    return text_length, targets_length


def mixture_lengths(length: int, denoisers: Sequence[Denoiser] = UL2) -> tuple[int, int]:
    """Length in tokens of the longest source and of the longest target for texts of `length`
    tokens, including the mode token and the `eos` of both."""
    lengths = []
    for denoiser in denoisers:
        if denoiser.mean_span is None:
            lengths.append((length, max_suffix(length, denoiser.rate) + 1))
        else:
            noise, spans = noise_counts(length, denoiser.rate, denoiser.mean_span)
            lengths.append((length - noise + spans, noise + spans))
    return max(source for source, _ in lengths) + 2, max(target for _, target in lengths) + 1


def mixture_text_length(source: int, target: int, denoisers: Sequence[Denoiser] = UL2) -> int:
    """Length in tokens of the longest text that fits the given lengths of source and target under
    every denoiser.

    Raises:
        ValueError: no text fits.
    """
    def fits(length: int) -> bool:
        lengths = mixture_lengths(length, denoisers)
        return lengths[0] <= source and lengths[1] <= target

    if not fits(_MIN_TEXT):
        raise ValueError(f"sources of {source} and targets of {target} tokens are too short for "
                         "any text")
    return _longest_fitting(source + target, fits)


def max_suffix(length: int, rate: float) -> int:
    """Largest number of tokens that mode S removes: twice the mean less one, and never all."""
    noise, _ = noise_counts(length, rate, 1)
    return min(max(2 * noise - 1, 1), length - 1)


def _longest_fitting(upper: int, fits: Callable[[int], bool]) -> int:
    """The longest text length up to `upper` that fits. `fits` must be monotone: true up to some
    length and false beyond it."""
    lengths = range(_MIN_TEXT, upper + 1)
    return lengths[bisect_right(lengths, False, key=lambda length: not fits(length)) - 1]
