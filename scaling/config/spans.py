"""How many tokens a text with spans taken out has: what decides how much text fits a model."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import model_validator

from scaling.config.base import Config, Fraction, Positive, field_error

Mode = Literal["R", "S", "X"]
"""Regular, sequential and extreme denoising."""


class Denoiser(Config):
    """One way to spoil a text: what is taken out of it."""

    mode: Mode
    """R: short spans. S: the end of the text. X: long spans, or half of the text."""
    rate: Fraction
    """Part of the tokens that is taken out; in mode S on average."""
    mean_span: Positive | None = None
    """Tokens in a span on average; None in mode S, which takes one span from the end."""
    share: Positive = 1.0
    """Of the texts, relative to the other denoisers'."""

    @model_validator(mode="after")
    def _consistent(self) -> Denoiser:
        if not 0 < self.rate < 1:
            raise field_error("rate", f"{self.rate} is not between 0 and 1")
        if self.mode == "S" and self.rate > 0.5:
            raise field_error("rate", f"mode S takes at most half of the text, not {self.rate}")
        if self.mode == "S" and self.mean_span is not None:
            raise field_error("mean_span", "mode S takes one span from the end; leave it out")
        if self.mode != "S" and (self.mean_span is None or self.mean_span < 1):
            raise field_error("mean_span", f"mode {self.mode} needs a number from 1 on")
        return self


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

_SHORTEST = 2  # a token that stays and one that goes


def hidden_tokens(tokens: int, rate: float) -> int:
    """How many of so many tokens are hidden from a masked language model: at least one."""
    return min(max(round(tokens * rate), 1), tokens)


def noise_counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Tokens of noise in a text of `length` tokens, and the spans that they come in (T5's rule).

    At least one token stays and, unless the rate is zero, at least one goes; a span has at least
    one token and another that stays before it.

    Raises:
        ValueError: the rate or the mean is out of range, or the text is shorter than two tokens.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate = {rate} is not from 0 to below 1")
    if not 1 <= mean_span < math.inf:
        raise ValueError(f"mean_span = {mean_span} is not a number from 1 on")
    if length < _SHORTEST:
        raise ValueError(f"length = {length} has no room for a token that stays and one that goes")
    if rate == 0:
        return 0, 0
    noise = min(max(round(length * rate), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return noise, spans


def span_lengths(inputs_length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """The longest text whose corrupted inputs fit, and its targets.

    Each span costs one sentinel on either side, and each side ends with one `eos`. T5's standard
    is (512, 0.15, 3.0) -> (568, 114).

    Args:
        inputs_length: tokens that the encoder reads.
        rate: part of the text that is noise, from 0 to below 1.
        mean_span: tokens in a span of noise on average, at least 1.

    Returns:
        Tokens of the text, and tokens of its targets.

    Raises:
        ValueError: no text fits, or the rate or the mean is out of range.
    """

    def sides(text_length: int) -> tuple[int, int]:
        noise, spans = noise_counts(text_length, rate, mean_span)
        return text_length - noise + spans + 1, noise + spans + 1

    if sides(_SHORTEST)[0] > inputs_length:
        raise ValueError(f"inputs_length = {inputs_length} holds no text with a span and an end")
    # A token more of text never makes the inputs shorter, and they hold all but `rate` of it.
    longest = math.ceil((inputs_length + 1) / (1 - rate)) + 1
    text_length = _longest(longest, lambda length: sides(length)[0] <= inputs_length)
    targets_length = sides(text_length)[1]
    if rate == 0.5 and targets_length > inputs_length:
        # T5 gives one token up here, so that both sides have the length that was asked for.
        text_length -= 1
        targets_length = sides(text_length)[1]
    return text_length, targets_length


def mixture_widths(length: int, denoisers: Sequence[Denoiser] = UL2) -> tuple[int, int]:
    """Tokens of the longest source and of the longest target for texts of `length` tokens, with
    the mode's token and the `eos` of both."""
    sizes = []
    for denoiser in denoisers:
        if denoiser.mean_span is None:
            sizes.append((length, longest_end(length, denoiser.rate) + 1))
        else:
            noise, spans = noise_counts(length, denoiser.rate, denoiser.mean_span)
            sizes.append((length - noise + spans, noise + spans))
    return max(source for source, _ in sizes) + 2, max(target for _, target in sizes) + 1


def mixture_text(source: int, target: int, denoisers: Sequence[Denoiser] = UL2) -> int:
    """Tokens of the longest text that fits so many of source and target, however it is spoilt.

    Raises:
        ValueError: no text fits.
    """
    def fits(length: int) -> bool:
        widths = mixture_widths(length, denoisers)
        return widths[0] <= source and widths[1] <= target

    if not fits(_SHORTEST):
        raise ValueError(f"sources of {source} and targets of {target} tokens hold no text")
    return _longest(source + target, fits)


def longest_end(length: int, rate: float) -> int:
    """The most tokens that mode S takes from the end: twice the mean less one, and never all."""
    noise, _ = noise_counts(length, rate, 1)
    return min(max(2 * noise - 1, 1), length - 1)


def _longest(most: int, fits: Callable[[int], bool]) -> int:
    """The longest text that fits, where a longer one than one that does not does not either."""
    lengths = range(_SHORTEST, most + 1)
    return lengths[bisect_right(lengths, False, key=lambda length: not fits(length)) - 1]
