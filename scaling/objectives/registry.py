"""The functions of every objective, by the `kind` of its configuration."""

from __future__ import annotations

from scaling.objectives.base import ObjectiveFunctions
from scaling.objectives.causal import CAUSAL, PREFIX
from scaling.objectives.distillation import DISTILLATION
from scaling.objectives.masked import MASKED
from scaling.objectives.replaced import REPLACED_TOKENS
from scaling.objectives.sequences import DENOISING, MIXTURE, SPAN_CORRUPTION

FUNCTIONS: dict[str, ObjectiveFunctions] = {
    "causal": CAUSAL,
    "prefix": PREFIX,
    "masked": MASKED,
    "span_corruption": SPAN_CORRUPTION,
    "denoising": DENOISING,
    "mixture": MIXTURE,
    "replaced_tokens": REPLACED_TOKENS,
    "distillation": DISTILLATION,
}
