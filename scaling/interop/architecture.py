"""The description of a Hugging Face class as data: a table of its settings, and rules that map its
tensors to our parameters. In all names here, `theirs` is Hugging Face's and `ours` this package's.

    Rule("model.embed.weight", "embedding", TABLE)
    Rule("model.layers.{layer}.attn.q.weight", "decoder.layers.{layer}.attention.query.weight")
    Rule("h.{layer}.attn.c_attn.weight", ("decoder.layers.{layer}.attention.query.weight",
         "decoder.layers.{layer}.attention.key.weight", ...), fused(CONV1D))
    Rule("block.{layer}.mlp.experts.expert_{expert}.wi.weight",
         "decoder.layers.{layer}.feed_forward.up", per_expert(LINEAR))
    *linear("model.layers.{layer}.attn.q", "decoder.layers.{layer}.attention.query")  # and bias
    *norm("model.norm", "decoder.norm")                                              # gain + bias

`{layer}` runs over the layers of the encoder or decoder. Our layers are stacked by kind, and the
engine (`scaling.interop.convert`) finds the index. Parameters that all layers share are named
`encoder.layers.shared.attention...`. `{expert}` occurs only in their names.

**A rule applies if our model has its parameters**, and is skipped otherwise, so that one table
serves models with and without biases, tied embeddings, experts in every second layer, or heads.
This is safe since nothing may be left over: a tensor that no rule reads (and is not in `aliases`,
`fallbacks`, `zeros` or `ignored`) is an error, and so is a parameter that no rule sets (and is not
in `optional`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from scaling.interop.layouts import LINEAR, TABLE, VECTOR, Layout, NumpyArray
from scaling.interop.settings import Settings, SettingsTable

Tensors = dict[str, NumpyArray]


class Rule(NamedTuple):
    """A mapping between their tensors and our parameters."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    layout: Layout = LINEAR
    """Conversion between the two memory layouts."""
    unless: str | None = None
    """One of our parameters; if the model has it, the rule does not apply."""


def linear(theirs: str, ours: str, layout: Layout = LINEAR) -> tuple[Rule, Rule]:
    """Rules for the weight and bias of a linear layer."""
    return (Rule(f"{theirs}.weight", f"{ours}.weight", layout),
            Rule(f"{theirs}.bias", f"{ours}.bias", VECTOR))


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Rules for the gain (their weight) and bias of a norm."""
    return (Rule(f"{theirs}.weight", f"{ours}.gain", TABLE),
            Rule(f"{theirs}.bias", f"{ours}.bias", TABLE))


def _unchanged(settings: Settings, _: Mapping[str, NumpyArray]) -> Settings:
    return settings


@dataclass(frozen=True)
class HFArchitecture:
    """A model class of Hugging Face's `transformers`."""

    name: str
    """Name of the class, as in `architectures` of config.json."""
    settings: SettingsTable
    """Mapping between its settings and our model configuration."""
    rules: tuple[Rule, ...]
    """Mapping between its tensors and our parameters."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Second names of tensors: alias to original. If both are present they must be equal; either
    may be missing."""
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    """Tensors that replace another one if it is missing, and are ignored if it is present."""
    zeros: Mapping[str, Any] = field(default_factory=dict)
    """Tensors that must be zero, with a function of our configuration that gives their shape."""
    ignored: tuple[str, ...] = ()
    """Patterns (re.fullmatch) of names without parameters, such as buffers of older versions."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Patterns (re.sub) of names in older files, with their replacements."""
    optional: tuple[str, ...] = ()
    """Prefixes of our parameter paths that the class may lack; if the tensors are missing, these
    parameters are drawn at random."""
    adjust_settings: Callable[[Settings, Mapping[str, NumpyArray]], Settings] = _unchanged
    """Corrects settings from the tensors, if these have more information."""

    @property
    def reads_tensors(self) -> bool:
        """Whether its settings depend on the tensors."""
        return self.adjust_settings is not _unchanged

    @property
    def alternatives(self) -> dict[str, str]:
        """Aliases and fallbacks with the tensors that they replace."""
        return {**self.aliases, **self.fallbacks}

    def without_heads(self, name: str, prefix: str, optional: tuple[str, ...]) -> HFArchitecture:
        """The class without heads: only tensors whose names have the prefix, which is removed.

        Args:
            name: name of the class without heads.
            prefix: prefix of the names to keep.
            optional: prefixes of our parameters that this class may lack.
        """
        def bare(name: str) -> str:
            return name.removeprefix(prefix)

        rules = tuple(
            rule._replace(theirs=bare(rule.theirs) if isinstance(rule.theirs, str)
                          else tuple(map(bare, rule.theirs)))
            for rule in self.rules
            if all(theirs.startswith(prefix) for theirs in as_names(rule.theirs))
        )
        ignored = tuple(pattern.removeprefix(re.escape(prefix)) for pattern in self.ignored)
        return replace(self, name=name, rules=rules, aliases={}, fallbacks={},
                       zeros={}, ignored=ignored, optional=optional)


def as_names(side: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names on one side of a rule as a tuple."""
    return (side,) if isinstance(side, str) else side
