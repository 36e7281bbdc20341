"""A model's settings between another library's configuration and ours: one table read both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scaling.config import ModelConfig, validate
from scaling.errors import UserError

Settings = dict[str, Any]

REQUIRED = object()
"""The default of a setting that has none."""

ACTIVATIONS = {
    "gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu",
    "relu2": "squared_relu",
}
"""Their names of activations and ours; of several that are the same, the first is written."""


class Pair(NamedTuple):
    """One setting under both names."""

    theirs: str
    ours: str
    default: Any = REQUIRED
    """What theirs is where it is not given, or is null."""
    values: Mapping[Any, Any] | None = None
    """Their values and ours, where the two differ."""


def _nothing(_: Any) -> Settings:
    return {}


@dataclass(frozen=True)
class Fields:
    """The settings of a class of theirs."""

    model_type: str
    """As in config.json."""
    pairs: tuple[Pair, ...]
    ours: Mapping[str, Any] = field(default_factory=dict)
    """What our settings are, whatever theirs say."""
    demands: Mapping[str, Any] = field(default_factory=dict)
    """Settings of theirs that must have this value, or be missing or null: we have no other."""
    to_ours: Callable[[Settings], Settings] = _nothing
    """Further settings of ours from theirs, which win over the tables."""
    to_theirs: Callable[[ModelConfig], Settings] = _nothing
    """Further settings of theirs from ours."""


def to_ours(fields: Fields, architecture: str, theirs: Settings) -> ModelConfig:
    """Our configuration of their model.

    Raises:
        UserError: a setting is missing, or has a value that our model cannot have.
    """
    values: Settings = dict(fields.ours)
    for name, wanted in fields.demands.items():
        if theirs.get(name) is not None and theirs[name] != wanted:
            raise UserError(f"{architecture}: {name} is {theirs[name]!r}, and only {wanted!r} can "
                            "be converted; choose another model, or extend scaling.models")
    for pair in fields.pairs:
        value = theirs.get(pair.theirs)
        value = pair.default if value is None else value
        if value is REQUIRED:
            raise UserError(f"{architecture}: its configuration lacks {pair.theirs}; give "
                            "config.json as the model was saved with it")
        if pair.values is not None:
            if value not in pair.values:
                raise UserError(f"{architecture}: {pair.theirs} is {value!r}; those that can be "
                                f"converted are {', '.join(map(repr, pair.values))}")
            value = pair.values[value]
        values[pair.ours] = value
    std = theirs.get("initializer_range")
    init = {"init": {"std": std, "residual": "plain"}} if std else {}
    return validate(ModelConfig, {**init, **values, **fields.to_ours(theirs)}, architecture)


def to_theirs(fields: Fields, architecture: str, config: ModelConfig) -> Settings:
    """Their configuration of our model.

    Raises:
        UserError: theirs cannot say what ours does.
    """
    values = resolved(config)
    theirs: Settings = {"architectures": [architecture], "model_type": fields.model_type}
    theirs |= dict(fields.demands)
    if config.init.std is not None:
        theirs["initializer_range"] = config.init.std
    for pair in fields.pairs:
        value = values[pair.ours]
        if pair.values is not None:
            theirs_by_ours = {ours: name for name, ours in reversed(list(pair.values.items()))}
            if value not in theirs_by_ours:
                raise UserError(f"{architecture} has no {pair.ours}: {value}; it has "
                                f"{', '.join(map(str, theirs_by_ours))}")
            value = theirs_by_ours[value]
        theirs[pair.theirs] = value
    theirs |= fields.to_theirs(config)
    known, again = effective(config), effective(to_ours(fields, architecture, theirs))
    for name in known:
        if again[name] != known[name]:
            raise UserError(f"{architecture} cannot be a model with {name}: {known[name]}; its own "
                            f"is {again[name]}. Name another architecture, or change the model")
    return theirs


_RESOLVED = {
    "d_head": "head_width", "n_kv_heads": "kv_heads", "d_ff": "ff_width",
    "d_embedding": "embedding_width", "attention_dropout": "attention_dropout_rate",
    "n_encoder_layers": "encoder_layers", "source_context": "source_length", "attention": "sees",
    "final_norm": "has_final_norm", "heads": "outputs",
}
"""Fields whose default follows from others, and the property that knows it."""

_NO_MATTER = {
    "rotary": ("rotary_base", "rotary_fraction", "rotary_pairs"),
    "relative": ("relative_buckets", "relative_max_distance"),
}
"""Fields that only one kind of positions reads."""


def resolved(config: ModelConfig) -> Settings:
    """What a model is, with every default worked out."""
    return {name: getattr(config, _RESOLVED.get(name, name))
            for name in type(config).model_fields if name not in ("preset", "init")}


def effective(config: ModelConfig) -> Settings:
    """What a model computes: two models are the same function of their parameters if these
    agree. What only training knows of is not among them."""
    known = resolved(config)
    for name in ("dropout", "attention_dropout"):
        del known[name]
    for positions, names in _NO_MATTER.items():
        if config.positions != positions:
            for name in names:
                known[name] = None
    if config.embedding_width == config.d_model:
        known["embedding_map"] = None
    # How long sequences may be is remembered by a table of positions and by nothing else.
    if config.positions != "learned":
        known["context"] = None
    if config.positions != "learned" or config.mode != "encoder-decoder":
        known["source_context"] = None
    return known
