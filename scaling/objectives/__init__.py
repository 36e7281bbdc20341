"""What a model learns to do: from tokens to losses."""

from scaling.objectives.causal import Said, causal_losses, causal_objective

__all__ = ["Said", "causal_losses", "causal_objective"]
