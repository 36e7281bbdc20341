"""What a model is trained to do: tokens in, losses out."""

from scaling.objectives.causal import causal_losses

__all__ = ["causal_losses"]
