"""How much arithmetic a token of training takes.

A multiplication and an addition are two FLOPs. The backward pass takes twice the forward pass
(Kaplan et al. 2020, section 2.1), so training takes three times the forward pass.
"""

from __future__ import annotations

from scaling.config import ModelConfig

FORWARD_AND_BACKWARD = 3


def forward_flops_per_token(model: ModelConfig) -> dict[str, int]:
    """FLOPs of the forward pass for one token of a full sequence, by part.

    Counted are the matrix products that the program computes: attention over the whole context,
    whether a mask hides half of it or not, and the head. Hoffmann et al. 2022, appendix F,
    count the same and add the embedding as a product, which here it is not, and the softmax.
    """
    D, L, T = model.d_model, model.n_layers, model.context
    A, F = model.n_heads * model.head_width, model.ff_width
    matrices = 3 if model.activation == "swiglu" else 2
    return {
        "attention_projections": L * 2 * 4 * D * A,
        "attention_products": L * 2 * 2 * T * A,
        "feed_forward": L * 2 * matrices * D * F,
        "head": 2 * D * model.vocabulary,
    }


def training_flops_per_token(model: ModelConfig) -> int:
    """FLOPs for one token of training: `flops_counted` of a run is this times its tokens."""
    return FORWARD_AND_BACKWARD * sum(forward_flops_per_token(model).values())


def flops_6nd(params: int, tokens: int) -> int:
    """The usual estimate C = 6 N D (Kaplan et al. 2020, section 2.1).

    Args:
        params: N; the runs table takes all parameters (Hoffmann et al. 2022).
        tokens: D.
    """
    return 2 * FORWARD_AND_BACKWARD * params * tokens
