"""The variables of laws: symbol, unit, and column of this package's runs tables.

Runs tables and forms both refer to variables by the names in `VARIABLES`; to add a variable, add an
entry there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Counting = Literal["total", "non-embedding"]

FLOPS_PER_PARAMETER_TOKEN = 6
"""Training FLOPs per parameter and token: 2 forward, 4 backward (Kaplan et al. 2020, 2.1)."""

N_COLUMNS: dict[Counting, str] = {
    "total": "params_total", "non-embedding": "params_non_embedding",
}
"""Column of N in this package's runs tables, by what N counts."""

SIX_ND = "6 N D"
"""Name of the convention C = 6 N D in laws and tables."""


@dataclass(frozen=True)
class Variable:
    """A quantity of a run that laws are functions of."""

    symbol: str
    unit: str
    column: str | None = None
    """Its column in this package's runs tables; None if only users' tables have it."""
    may_be_zero: bool = False


UNIT_FACTORS = {"PF-days": 1e15 * 24 * 3600, "GMACs": 2e9}
"""FLOP per unit of compute: a day at one petaFLOP/s (Kaplan et al. 2020), and a billion
multiply-adds."""

class _Variables(dict[str, "Variable"]):
    """Variables by name. Another name is a variable of a user's own law."""

    def __missing__(self, name: str) -> Variable:
        return Variable(name, "as in its column", may_be_zero=True)


VARIABLES: dict[str, Variable] = _Variables({
    "n": Variable("N", "parameters"),
    "d": Variable("D", "tokens", "tokens"),
    "c": Variable("C", "FLOP"),
    "u": Variable("U_D", "unique tokens", "unique_tokens"),
    "s": Variable("S", "optimizer steps"),
    "batch": Variable("B", "tokens in a batch", "batch_tokens"),
    "lr": Variable("eta", "peak learning rate", "lr"),
    "l": Variable("L", "nats per token", "loss"),
    "experts": Variable("E", "experts"),
    "granularity": Variable("G", "times finer than a feed-forward layer"),
    "sparsity": Variable("S", "share of the parameters that is not active", may_be_zero=True),
    "bits": Variable("P", "bits of weights, activations and cache in training"),
    "encoder": Variable("N_e", "parameters of the encoder"),
    "decoder": Variable("N_d", "parameters of the decoder"),
    "finetuning": Variable("D_F", "tokens of the target in fine-tuning"),
    "n_average": Variable("N_avg", "parameters, on average over training"),
    "streams": Variable("P", "parallel streams"),
    "vocabulary": Variable("N_v", "vocabulary parameters"),
    "share1": Variable("r_1", "share of the training tokens", may_be_zero=True),
    "share2": Variable("r_2", "share of the training tokens", may_be_zero=True),
    "share3": Variable("r_3", "share of the training tokens", may_be_zero=True),
    "lr_area": Variable("S_1", "sum of learning rates over steps"),
    "drop_area": Variable("S_2", "sum of decayed drops of the learning rate", may_be_zero=True),
    "step": Variable("t", "steps of the schedule"),
    "schedule": Variable("eta", "name of the learning rate schedule", may_be_zero=True),
})
"""Variables by name, as in `--column NAME=COLUMN`; N, D and C have options of their own. Any other
name is a variable of a user's own law."""


_AMOUNTS = {"n": ("parameters", 1.0, 1e18), "d": ("tokens", 1.0, 1e20), "c": ("FLOPs", 6.0, 1e36)}
"""Unit and bounds of N, D and C in a plan: from one parameter on one token to a million times the
largest training runs of today and the near future."""
MOST_LOSS = math.log(1e6)
"""Loss of a uniform prediction over a vocabulary of a million tokens, larger than any, in nats."""


def check_amount(name: str, value: float, variable: str, example: str) -> None:
    """Check that a planned number of parameters, tokens or FLOPs is plausible.

    Args:
        name: the quantity's name in the message.
        value: the number.
        variable: n, d or c.
        example: a valid number, for the message.

    Raises:
        UserError: the number is NaN, infinite, negative, too small for any model, or too large.
    """
    unit, least, most = _AMOUNTS[variable]
    if not least <= value <= most:
        raise UserError(f"{name} {value:g}: a positive number of {unit} is expected, from "
                        f"{least:g} to {most:g}, such as {example}")


def six_nd(n: Array, d: Array) -> Array:
    """Training FLOPs 6 N D of N parameters on D tokens; infinite on overflow."""
    with np.errstate(over="ignore"):
        return FLOPS_PER_PARAMETER_TOKEN * n * d
