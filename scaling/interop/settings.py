"""Conversion of settings between Hugging Face's config.json (theirs) and our model configuration,
with one table for both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scaling.config import ModelConfig, validate
from scaling.errors import UserError

Settings = dict[str, Any]

REQUIRED = object()
"""Marks a setting without default."""

ACTIVATIONS = {
    "gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu",
    "relu2": "squared_relu",
}
"""Their names of activations and ours; of several equal ones, the first is written."""
MAX_NUMBER = 2**31
"""Exclusive bound on the numbers of a configuration, above every width and vocabulary size."""
MAX_LAYERS = 10_000
"""Largest number of layers of an encoder or decoder."""


class HFSetting(NamedTuple):
    """A setting under both names."""

    theirs: str
    ours: str
    default: Any = REQUIRED
    """Their default if the setting is missing or null."""
    values: Mapping[Any, Any] | None = None
    """Their values and ours, if these differ."""


def _no_settings(_: Any) -> Settings:
    return {}


def number(
    theirs: Settings, name: str, default: Any = REQUIRED, largest: float = MAX_NUMBER
) -> Any:
    """A numeric setting with an absolute value below `largest`, or the default if it is missing.

    Raises:
        UserError: it is missing without default, or is not a number in range.
    """
    value = theirs.get(name)
    if value is None:
        value = default
    if value is REQUIRED:
        raise UserError(f"its configuration lacks {name}; give config.json as it was saved with "
                        "the model")
    if value is not default and not (_is_number(value) and abs(value) < largest):
        raise UserError(f"{name} is {value!r:.40}, where a number below {largest:,} is expected; "
                        "give config.json as it was saved with the model")
    return value


def positive_integer(theirs: Settings, name: str, default: Any = REQUIRED) -> int:
    """A setting that is a positive integer, or the default if it is missing.

    Raises:
        UserError: it is not a positive integer.
    """
    value = number(theirs, name, default)
    if value != int(value) or value < 1:
        raise UserError(f"{name} is {value!r:.40}, where a positive integer is expected; give "
                        "config.json as it was saved with the model")
    return int(value)


def flag(theirs: Settings, name: str, default: bool | None = None) -> bool | None:
    """A boolean setting, or the default if it is missing.

    Raises:
        UserError: it is not a boolean.
    """
    value = theirs.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{name} is {value!r:.40}, where true or false is expected; give "
                        "config.json as it was saved with the model")
    return default if value is None else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


@dataclass(frozen=True)
class SettingsTable:
    """The settings of a Hugging Face class."""

    model_type: str
    """`model_type` in config.json."""
    entries: tuple[HFSetting, ...]
    """Settings that both sides have."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Our settings that are the same for all models of the class."""
    required: Mapping[str, Any] = field(default_factory=dict)
    """Their settings that must have this value, or be missing or null, since no other value is
    supported."""
    extra_config: Callable[[Settings], Settings] = _no_settings
    """Computes further values of our configuration from their settings; they override the table."""
    extra_settings: Callable[[ModelConfig], Settings] = _no_settings
    """Computes further settings from our configuration."""


def to_model_config(table: SettingsTable, architecture: str, theirs: Settings) -> ModelConfig:
    """Our configuration of a model with their settings.

    Raises:
        UserError: a setting is missing, or has a value that is not supported.
    """
    values: Settings = dict(table.fixed)
    try:
        for name, expected in table.required.items():
            if theirs.get(name) is not None and theirs[name] != expected:
                raise UserError(f"{name} is {theirs[name]!r:.40}, and only {expected!r} can be "
                                "converted; choose another model, or extend scaling.models")
        for setting in table.entries:
            values[setting.ours] = _value(setting, theirs)
        std = number(theirs, "initializer_range", 0)
        init = {"init": {"std": std, "residual": "plain"}} if std else {}
        values = {**init, **values, **table.extra_config(theirs)}
        for side in ("n_layers", "n_encoder_layers"):
            if (values.get(side) or 0) > MAX_LAYERS:
                raise UserError(f"it has {values[side]:,} layers, and at most {MAX_LAYERS:,} are "
                                "allowed; give config.json as it was saved with the model")
    except UserError as error:
        raise UserError(f"{architecture}: {error}") from None
    return validate(ModelConfig, values, architecture)


def _value(setting: HFSetting, theirs: Settings) -> Any:
    """Our value of one setting."""
    value = theirs.get(setting.theirs)
    value = setting.default if value is None else value
    if setting.values is not None:
        if not isinstance(value, str | bool) or value not in setting.values:
            raise UserError(f"{setting.theirs} is {value!r:.40}; values that can be converted are "
                            f"{', '.join(map(repr, setting.values))}")
        return setting.values[value]
    if isinstance(setting.default, bool):
        return flag(theirs, setting.theirs, setting.default)
    return number(theirs, setting.theirs, setting.default)


def to_settings(table: SettingsTable, architecture: str, config: ModelConfig) -> Settings:
    """Their settings of our model.

    Raises:
        UserError: their class does not support our configuration.
    """
    values = resolved_values(config)
    theirs: Settings = {"architectures": [architecture], "model_type": table.model_type}
    theirs |= dict(table.required)
    if config.init.std is not None:
        theirs["initializer_range"] = config.init.std
    for setting in table.entries:
        value = values[setting.ours]
        if setting.values is not None:
            theirs_by_ours = {ours: name for name, ours in reversed(list(setting.values.items()))}
            if value not in theirs_by_ours:
                raise UserError(f"{architecture} does not support {setting.ours}: {value}; it "
                                f"supports {', '.join(map(str, theirs_by_ours))}")
            value = theirs_by_ours[value]
        theirs[setting.theirs] = value
    theirs |= table.extra_settings(config)
    ours = effective_values(config)
    again = effective_values(to_model_config(table, architecture, theirs))
    for name, value in ours.items():
        if again[name] != value:
            raise UserError(f"{architecture} does not support {name}: {value}, only {again[name]}; "
                            "choose another architecture, or change the model")
    return theirs


_RESOLVED_BY = {
    "d_head": "head_width", "n_kv_heads": "kv_heads", "d_ff": "ff_width",
    "d_embedding": "embedding_width", "attention_dropout": "attention_dropout_rate",
    "n_encoder_layers": "encoder_layers", "source_context": "source_length",
    "attention": "attention_mask",
    "final_norm": "has_final_norm", "heads": "outputs",
}
"""Fields whose default depends on other fields, and the properties with their resolved values."""

_UNUSED_UNLESS = {
    "rotary": ("rotary_base", "rotary_fraction", "rotary_pairs"),
    "relative": ("relative_buckets", "relative_max_distance"),
}
"""Fields that only one kind of positions uses."""


def resolved_values(config: ModelConfig) -> Settings:
    """The values of a model configuration with resolved defaults."""
    return {name: getattr(config, _RESOLVED_BY.get(name, name))
            for name in type(config).model_fields if name not in ("preset", "init")}


def effective_values(config: ModelConfig) -> Settings:
    """The values that determine what a model computes: two models with equal values are the same
    function of their parameters. Values that only training uses are left out."""
    known = resolved_values(config)
    for name in ("dropout", "attention_dropout"):
        del known[name]
    for positions, names in _UNUSED_UNLESS.items():
        if config.positions != positions:
            for name in names:
                known[name] = None
    if config.embedding_width == config.d_model:
        known["embedding_projection"] = None
    # Only a table of learned positions limits the length of sequences.
    if config.positions != "learned":
        known["context"] = None
    if config.positions != "learned" or config.mode != "encoder-decoder":
        known["source_context"] = None
    return known
