"""The classes of Hugging Face's `transformers` that can be converted, by name."""

from scaling.interop.families import decoders, encoder_decoders, encoders
from scaling.interop.family import Family

FAMILIES: dict[str, Family] = {
    family.architecture: family for family in (
        *encoders.FAMILIES, *decoders.FAMILIES, *encoder_decoders.FAMILIES)
}
"""Where `to_hf` is not told which, the first that fits is taken."""
