"""The `sweep` family: a shape from one dial, the number of parameters outside embeddings."""

from __future__ import annotations

import math
import re

from scaling.errors import UserError

DEPTH_FACTOR, DEPTH_EXPONENT = 0.122, 0.256
"""Layers = factor * N ** exponent, fitted by least squares in the logarithms to the 50 models of
Hoffmann et al. 2022, table A9, with N the matrices of attention and feed-forward (25M to 15B
parameters, 8 to 49 layers); layers scatter about it with a standard deviation of 10%."""

FEWEST_LAYERS = 2
"""The fit, carried on down to SMALLEST, says 2.3 layers there: no fewer than two."""

TOLERANCE = 0.02
"""Relative error of the size up to which shapes count as equally large."""

FARTHEST = 1.6
"""Ratio of a shape's depth to the fitted one, or the reverse, that is not exceeded: no size is met
by a model of a few numbers' width and a hundred layers."""

SMALLEST, LARGEST = 1e5, 1e14
"""Sizes that the rule is good for; beyond 15B and below 25M it carries the fit on."""

_STEPS = {0: 8, 128: 16, 256: 32, 512: 64}
"""Distance from a width to the next, from a width on."""

_HEADS = (128, 64, 32, 16, 8)
_FEWEST_HEADS = 8
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_UNITS)}])")


def from_words(text: str) -> float | None:
    """The number that 124M or 2.5B stand for; None where the text is no such size."""
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None


def in_words(number: float) -> str:
    """124M or 2.5B: three digits, with the letter of the power of a thousand."""
    for letter, unit in reversed(_UNITS.items()):
        if number >= unit:
            return f"{float(f'{number / unit:.3g}'):g}{letter}"
    return f"{number:.3g}"


def sweep_values(size: str) -> dict[str, int]:
    """Model keys of a size of the family.

    Raises:
        UserError: the size is no number with a unit, or outside SMALLEST and LARGEST.
    """
    params = from_words(size)
    if params is None or not SMALLEST <= params <= LARGEST:
        raise UserError(f"sweep/{size}: a number of parameters outside embeddings is expected, "
                        f"from {in_words(SMALLEST)} to {in_words(LARGEST)}, such as sweep/124M")
    return sweep_shape(params)


def sweep_shape(params: float) -> dict[str, int]:
    """Width, depth and heads of a model of `params` parameters outside embeddings and head.

    Depth is sought at DEPTH_FACTOR * N ** DEPTH_EXPONENT, two layers at least, and kept within a
    ratio of FARTHEST of it. Widths are multiples of 8, beyond 128 of 16, 256 of 32 and 512 of 64.
    Of the shapes within TOLERANCE of N the one is taken whose depth is nearest in ratio, and where
    there is none, the shape that is nearest to N: within 5% from 2M on, within 10% below. Heads are
    as wide as the widest of 128, 64, 32, 16 and 8 that leaves eight of them, or else 8 wide.

    A layer has 12 d^2 parameters in its matrices and 2 d in its two RMS norms; d more are the
    final norm's.
    """
    depth = max(FEWEST_LAYERS, DEPTH_FACTOR * params**DEPTH_EXPONENT)
    shapes: list[tuple[bool, float, float, int, int]] = []
    width = _STEPS[0]
    while not shapes or FEWEST_LAYERS * 12 * width**2 < (1 + TOLERANCE) * params:
        layers = max(FEWEST_LAYERS, round((params - width) / _per_layer(width)))
        error = abs((layers * _per_layer(width) + width) / params - 1)
        stray = abs(math.log(layers / depth))
        shapes.append((stray > math.log(FARTHEST), max(error, TOLERANCE), stray, width, layers))
        width += _STEPS[max(start for start in _STEPS if start <= width)]
    *_, width, layers = min(shapes)
    fitting = (head for head in _HEADS
               if width % head == 0 and (width // head >= _FEWEST_HEADS or head == _HEADS[-1]))
    return {"d_model": width, "n_layers": layers, "n_heads": width // next(fitting)}


def _per_layer(width: int) -> int:
    """Parameters of a layer: attention and feed-forward without biases, and two norms."""
    return 12 * width**2 + 2 * width
