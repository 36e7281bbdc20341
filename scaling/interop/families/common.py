"""What several families have in common."""

from __future__ import annotations

from scaling.config import ModelConfig
from scaling.interop.family import Rule
from scaling.interop.fields import Settings
from scaling.interop.layouts import TABLE

TORCH_EPSILON = 1e-5
"""Of torch's LayerNorm, where a class has no setting for it."""
OFFSET = 2
"""Rows of the tables of positions of OPT and BART before the first that is read."""
LEARNED = {
    "positions": "learned", "norm": "layer", "biases": True, "scale_embedding": False,
}
HEAD = "lm_head.weight"
OWN_HEAD = Rule(HEAD, "heads.lm.vocabulary.own", TABLE)
"""The vocabulary's matrix where it is not the embedding."""


def init_std(theirs: Settings) -> Settings:
    """The spread at the start, where a class calls it so."""
    std = theirs.get("init_std")
    return {"init": {"std": std, "residual": "plain"}} if std else {}


def init_std_back(config: ModelConfig) -> Settings:
    """The other way."""
    return {} if config.init.std is None else {"init_std": config.init.std}
