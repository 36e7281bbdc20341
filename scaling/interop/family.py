"""What a class of another library is, as data: its settings, and rules from its tensors to our
parameters.

    Rule("model.embed.weight", "embedding", TABLE)
    Rule("model.layers.{layer}.attn.q.weight", "decoder.stack.{layer}.attention.query.weight")
    Rule("h.{layer}.attn.c_attn.weight", ("decoder.stack.{layer}.attention.query.weight",
         "decoder.stack.{layer}.attention.key.weight", ...), fused(CONV1D))
    Rule("block.{layer}.mlp.experts.expert_{expert}.wi.weight",
         "decoder.stack.{layer}.feed_forward.up", per_expert(LINEAR))
    *linear("model.layers.{layer}.attn.q", "decoder.stack.{layer}.attention.query")  # weight + bias
    *norm("model.norm", "decoder.norm")                                              # gain + bias

`{layer}` runs over the layers of that side; ours are stacked by kind, and the engine
(`scaling.interop.convert`) finds the place. What all layers share is written
`encoder.stack.shared.attention...`. `{expert}` stands in their names only.

**A rule holds where our model has its parameters** and is passed over elsewhere: one table serves
models with and without biases, ties, experts in every other layer, or heads. It is safe because
nothing may be left over: a tensor that no rule reads (and is not named in `copies`, `spares`,
`noughts` or `ignored`) is an error, and so is a parameter that no rule fills (and is not in
`drawn`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from scaling.interop.fields import Fields, Settings
from scaling.interop.layouts import LINEAR, TABLE, VECTOR, Layout, Tensor

Tensors = dict[str, Tensor]


class Rule(NamedTuple):
    """Tensors of theirs, and the parameters of ours that they are."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    layout: Layout = LINEAR
    unless: str | None = None
    """A parameter of ours; where the model has it this rule does not hold."""


def linear(theirs: str, ours: str, layout: Layout = LINEAR) -> tuple[Rule, Rule]:
    """A linear map: its weight in the layout, and its bias."""
    return (Rule(f"{theirs}.weight", f"{ours}.weight", layout),
            Rule(f"{theirs}.bias", f"{ours}.bias", VECTOR))


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A norm: what they call its weight is our gain."""
    return (Rule(f"{theirs}.weight", f"{ours}.gain", TABLE),
            Rule(f"{theirs}.bias", f"{ours}.bias", TABLE))


def _as_they_stand(settings: Settings, _: Mapping[str, Tensor]) -> Settings:
    return settings


@dataclass(frozen=True)
class Family:
    """One class of the other library."""

    architecture: str
    """Its name, as in `architectures` of config.json."""
    fields: Fields
    """Its settings, and ours."""
    rules: tuple[Rule, ...]
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are another one under a second name: where both are there they must agree, and
    either may be missing."""
    spares: Mapping[str, str] = field(default_factory=dict)
    """Tensors that stand in for another where that is missing, and that nothing reads where it is
    there."""
    noughts: Mapping[str, Any] = field(default_factory=dict)
    """Tensors that must be nought, with a function of our configuration that gives their shape."""
    ignored: tuple[str, ...] = ()
    """Patterns of names (re.fullmatch) that hold no parameters: buffers of older versions."""
    older: Mapping[str, str] = field(default_factory=dict)
    """Names in older files: patterns (re.sub), and what stands in their place now."""
    drawn: tuple[str, ...] = ()
    """Beginnings of our paths that the class need not have: where the tensors lack them they are
    drawn at random."""
    amended: Callable[[Settings, Mapping[str, Tensor]], Settings] = _as_they_stand
    """Settings as they are to be read beside these tensors, where they say less than those."""

    @property
    def second_names(self) -> dict[str, str]:
        """Tensors that are another one under a second name, and that one."""
        return {**self.copies, **self.spares}

    def trunk(self, architecture: str, prefix: str, drawn: tuple[str, ...]) -> Family:
        """The class without heads: the tensors whose names have the prefix, under the rest of the
        name."""
        def bare(name: str) -> str:
            return name.removeprefix(prefix)

        rules = tuple(
            rule._replace(theirs=bare(rule.theirs) if isinstance(rule.theirs, str)
                          else tuple(map(bare, rule.theirs)))
            for rule in self.rules
            if all(name.startswith(prefix) for name in names_of(rule.theirs))
        )
        ignored = tuple(pattern.removeprefix(re.escape(prefix)) for pattern in self.ignored)
        return replace(self, architecture=architecture, rules=rules, copies={}, spares={},
                       noughts={}, ignored=ignored, drawn=drawn)


def names_of(side: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names on one side of a rule."""
    return (side,) if isinstance(side, str) else side
