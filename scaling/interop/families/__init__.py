"""The classes of Hugging Face's `transformers` that can be converted, by name."""

from scaling.interop.architecture import HFArchitecture
from scaling.interop.families import decoders, encoder_decoders, encoders

ARCHITECTURES: dict[str, HFArchitecture] = {
    architecture.name: architecture for architecture in (
        *encoders.ARCHITECTURES, *decoders.ARCHITECTURES, *encoder_decoders.ARCHITECTURES)
}
"""Supported classes by name; without a given name `to_hf` uses the first that fits."""
