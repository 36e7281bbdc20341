"""How much memory training takes on one device that holds all of a model.

What the state takes is exact. What the activations take is an estimate, derived from what the
backward pass reads of the forward pass and checked against XLA's own account of compiled programs:
it is within a factor of 1.5 (tests/accounting/test_memory.py) of a program whose layers are
unrolled, or scanned and rematerialised. Layers that are scanned and not rematerialised keep up to
twice as much, because XLA then cannot choose what to compute again. XLA's CPU backend undoes the
rematerialisation of unrolled layers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from scaling.accounting.params import count_parameters
from scaling.accounting.shapes import (
    WITH_VOCABULARY,
    Side,
    attention_width,
    kv_width,
    sides,
)
from scaling.config import ModelConfig

WORD = 4
"""Bytes of a number of the state, whatever the precision: parameters stay in float32."""

_NARROW = {"float32": 0, "bfloat16": 2}
"""Bytes of the second copy of an operand that is read in a narrower type."""

_HIDDEN_COPIES = {"relu": 2, "squared_relu": 2, "gelu": 3, "gelu_exact": 3, "swiglu": 5, "geglu": 5}
"""Arrays as wide as the feed-forward layer is inside that its backward pass reads: what goes into
the activation and what comes out, its slope where that is no comparison, and with a gate the other
factor and the product."""


class _Block(NamedTuple):
    """Numbers that a block's backward pass reads of one sequence."""

    kept: int
    narrow: int
    """Those of them that are kept in the narrower type as well."""
    products: int
    """What comes out of products with weights, less the last, which nothing reads."""


def training_memory(
    model: ModelConfig,
    *,
    sequences: int,
    precision: Literal["float32", "bfloat16"] = "float32",
    remat: Literal["none", "full", "dots"] = "none",
    microbatch: int | None = None,
) -> dict[str, int]:
    """Bytes of a training step with AdamW, by part: `parameters`, `gradients`, `moments` (two), all
    in float32, and `activations`.

    Args:
        model: a model whose vocabulary is known; dropout is not counted.
        sequences: full sequences in a batch.
        precision: type in which products read their operands.
        remat: what is computed again in the backward pass (ExecutionConfig.remat).
        microbatch: sequences that are worked on at once, whose gradients are added to those of the
            ones before: two sets of gradients are then held. By default all.
    """
    state = WORD * count_parameters(model).total
    at_once = min(microbatch or sequences, sequences)
    return {
        "parameters": state,
        "gradients": state * (2 if at_once < sequences else 1),
        "moments": 2 * state,
        "activations": at_once * _activations(model, precision, remat),
    }


def _activations(model: ModelConfig, precision: str, remat: str) -> int:
    """Bytes for one sequence, when the last block's backward pass begins."""
    kept, again = _above(model), 0
    for side in sides(model):
        blocks = [_block(model, side, routed=False)] * side.dense_layers
        blocks += [_block(model, side, routed=True)] * side.expert_layers
        whole = [WORD * block.kept + _NARROW[precision] * block.narrow for block in blocks]
        if remat == "none":
            kept += sum(whole)
        else:
            # Each block keeps what came into it; the one that is worked on has all else again.
            saved = sum(block.products for block in blocks) if remat == "dots" else 0
            kept += WORD * (side.layers * side.tokens * model.d_model + saved)
            again = max(again, *whole)
    return kept + again


def _above(model: ModelConfig) -> int:
    """Bytes of logits and of the gradients that go back into the last block."""
    T, D, last = model.context, model.d_model, sides(model)[-1]
    numbers = 2 * T * D + _rows(model, last, routed=last.expert_layers > 0) * model.ff_width
    for head in model.outputs:
        if head.kind in WITH_VOCABULARY:  # logits and their gradient
            numbers += 2 * T * model.vocabulary
    return WORD * numbers


def _rows(model: ModelConfig, side: Side, *, routed: bool) -> int:
    """Rows that a feed-forward layer reads: tokens, or slots of experts."""
    if not routed or model.experts is None:
        return side.tokens
    return model.experts.count * model.experts.room(side.tokens)


def _block(model: ModelConfig, side: Side, *, routed: bool) -> _Block:
    D, A, F = model.d_model, attention_width(model), model.ff_width
    n, m = side.tokens, side.source_tokens
    # Each branch reads the stream and, where that is normed, its normed form before and after the
    # gains; a layer norm the centred one, too.
    forms = 1 if model.norm_place == "none" else 3 if model.norm == "rms" else 4
    branches = 2 + (m > 0) - (model.parallel == "one_norm")
    # Queries, and what they gathered before and after it is divided by its sum; keys and values,
    # which stand there once for each head of queries; and the weights.
    attentions = [n, m] if m else [n]
    arrays = sum(3 * n * A + 2 * keys * A for keys in attentions)
    weights = model.n_heads * n * sum(attentions)
    if model.positions == "transformer_xl":
        arrays += 2 * n * A  # queries with either of their biases
    hidden = _rows(model, side, routed=routed) * F
    kept = branches * forms * n * D + arrays + weights + _HIDDEN_COPIES[model.activation] * hidden
    products = sum(n * (A + D) + 2 * keys * kv_width(model) for keys in attentions)
    if routed and model.experts is not None:
        # Into the slots, out of them, and back to the tokens.
        kept += 2 * _rows(model, side, routed=True) * D + model.experts.top_k * n * D
    else:
        products += (1 + model.gated) * hidden
    return _Block(kept, weights + hidden, products)
