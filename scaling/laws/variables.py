"""What laws are functions of: symbol, unit, and the column of our own runs tables.

The table of runs and the forms of laws meet here; a new variable is one entry.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """A quantity of a run."""

    symbol: str
    unit: str
    column: str | None = None
    """Where our own tables have it; None where only a user's do."""
    may_be_zero: bool = False


UNIT_FACTORS = {"PF-days": 1e15 * 24 * 3600, "GMACs": 2e9}
"""FLOP in other units of compute: a day at a petaFLOP/s (Kaplan et al. 2020), and a billion
multiplications with their additions."""

VARIABLES: dict[str, Variable] = {
    "n": Variable("N", "parameters"),
    "d": Variable("D", "tokens", "tokens"),
    "c": Variable("C", "FLOP"),
    "u": Variable("U_D", "unique tokens", "unique_tokens"),
    "s": Variable("S", "optimizer steps"),
    "batch": Variable("B", "tokens in a batch", "batch_tokens"),
    "l": Variable("L", "nats per token", "loss"),
    "experts": Variable("E", "experts"),
    "granularity": Variable("G", "times finer than a feed-forward layer"),
    "sparsity": Variable("S", "share of the parameters that is not active", may_be_zero=True),
    "bits": Variable("P", "bits of weights, activations and cache in training"),
    "encoder": Variable("N_e", "parameters of the encoder"),
    "decoder": Variable("N_d", "parameters of the decoder"),
    "finetuning": Variable("D_F", "tokens of the target in fine-tuning"),
    "lr_area": Variable("S_1", "sum of learning rates over steps"),
    "drop_area": Variable("S_2", "sum of decayed drops of the learning rate", may_be_zero=True),
}
"""By the name that `--column NAME=COLUMN` uses; N, D and C have options of their own."""
