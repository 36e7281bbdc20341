"""The `sweep` family: a model shape from the number of non-embedding parameters."""

from __future__ import annotations

import math
import re

from scaling.config.text import one_line
from scaling.errors import UserError

DEPTH_FACTOR, DEPTH_EXPONENT = 0.122, 0.256
"""Number of layers = factor * N ** exponent, fitted by least squares in the logarithms to the 50
models of Hoffmann et al. 2022, table A9, where N is the parameters of the attention and
feed-forward matrices (25M to 15B parameters, 8 to 49 layers). The standard deviation of the numbers
of layers about the fit is 10%."""

MIN_LAYERS = 2
"""Smallest number of layers; the fit extrapolated to SMALLEST gives 2.3."""

TOLERANCE = 0.02
"""Relative error of the number of parameters below which shapes count as equally large."""

MAX_DEPTH_RATIO = 1.6
"""Largest ratio between the depth of a shape and the fitted depth, in either direction; it excludes
very narrow models with a hundred layers."""

SMALLEST, LARGEST = 1e5, 1e14
"""Range of sizes; below 25M and above 15B the fit is extrapolated."""

_STEPS = {0: 8, 128: 16, 256: 32, 512: 64}
"""Step between widths, by the width from which it applies."""

_HEADS = (128, 64, 32, 16, 8)
_MIN_HEADS = 8
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_UNITS)}])")


def parse_count(text: str) -> float | None:
    """Parse a number such as 124M or 2.5B; None if the text is not one."""
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None


def format_count(number: float) -> str:
    """Format a number as 124M or 2.5B: three digits and the letter of a power of a thousand."""
    for letter, unit in reversed(_UNITS.items()):
        if number >= unit:
            return f"{float(f'{number / unit:.3g}'):g}{letter}"
    return f"{number:.3g}"


def sweep_values(size: str) -> dict[str, int]:
    """Model keys of a size of the `sweep` family.

    Raises:
        UserError: the size is not a number with a unit, or not between SMALLEST and LARGEST.
    """
    params = parse_count(size)
    if params is None or not SMALLEST <= params <= LARGEST:
        raise UserError(f"sweep/{one_line(size)}: a number of non-embedding parameters from "
                        f"{format_count(SMALLEST)} to {format_count(LARGEST)} is expected, such as "
                        "sweep/124M")
    return sweep_shape(params)


def sweep_shape(params: float) -> dict[str, int]:
    """Width, depth and heads of a model with `params` parameters without embeddings and head.

    The target depth is DEPTH_FACTOR * N ** DEPTH_EXPONENT, at least two layers, and the depth
    deviates from it by at most a factor of MAX_DEPTH_RATIO. Widths are multiples of 8, beyond 128
    of 16, beyond 256 of 32 and beyond 512 of 64. Among the shapes within TOLERANCE of N, the one
    with the smallest ratio to the target depth is chosen; if there is none, the shape nearest to N,
    which is within 5% from 2M on and within 10% below. The head width is the largest of 128, 64,
    32, 16 and 8 that gives at least eight heads, or else 8.

    A layer has 12 d^2 parameters in its matrices and 2 d in its two RMS norms; the final norm has
    d more.
    """
    depth = max(MIN_LAYERS, DEPTH_FACTOR * params**DEPTH_EXPONENT)
    shapes: list[tuple[bool, float, float, int, int]] = []
    width = _STEPS[0]
    while not shapes or MIN_LAYERS * 12 * width**2 < (1 + TOLERANCE) * params:
        layers = max(MIN_LAYERS, round((params - width) / _per_layer(width)))
        error = abs((layers * _per_layer(width) + width) / params - 1)
        deviation = abs(math.log(layers / depth))
        shapes.append((deviation > math.log(MAX_DEPTH_RATIO), max(error, TOLERANCE), deviation,
                       width, layers))
        width += _STEPS[max(start for start in _STEPS if start <= width)]
    *_, width, layers = min(shapes)
    fitting = (head for head in _HEADS
               if width % head == 0 and (width // head >= _MIN_HEADS or head == _HEADS[-1]))
    return {"d_model": width, "n_layers": layers, "n_heads": width // next(fitting)}


def _per_layer(width: int) -> int:
    """Parameters of a layer: attention and feed-forward without biases, and two norms."""
    return 12 * width**2 + 2 * width
