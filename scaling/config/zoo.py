"""Configurations of published models."""

from __future__ import annotations

from typing import Any

from scaling.config.load import validate
from scaling.config.model import ModelConfig
from scaling.config.presets import preset_values


def preset_config(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a published model.

    Args:
        name: family and size, such as gpt2/124M.
        changes: keys that override those of the preset.

    Raises:
        UserError: there is no such preset, or the changes contradict it.
    """
    preset_values(name)  # an unknown name gives a message about the name alone
    return validate(ModelConfig, {"preset": name, **changes}, name)
