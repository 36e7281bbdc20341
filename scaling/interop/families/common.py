"""Settings, rules and names that several families share."""

from __future__ import annotations

from scaling.config import ModelConfig
from scaling.interop.architecture import Rule
from scaling.interop.layouts import TABLE
from scaling.interop.settings import Settings, number

TORCH_EPSILON = 1e-5
"""Epsilon of torch's LayerNorm, for classes that have no setting for it."""
OFFSET = 2
"""Unused rows at the beginning of the position tables of OPT and BART."""
LEARNED = {
    "positions": "learned", "norm": "layer", "use_bias": True, "scale_embedding": False,
}
HEAD = "lm_head.weight"
OWN_HEAD = Rule(HEAD, "heads.lm.vocabulary.weight", TABLE)
"""The output matrix of the vocabulary if it is not tied to the embedding."""


def init_from_std(theirs: Settings) -> Settings:
    """Our initialisation from `init_std`, for classes that have this setting."""
    std = number(theirs, "init_std", 0)
    return {"init": {"std": std, "residual": "plain"}} if std else {}


def init_std_setting(config: ModelConfig) -> Settings:
    """The setting `init_std` from our initialisation."""
    return {} if config.init.std is None else {"init_std": config.init.std}
