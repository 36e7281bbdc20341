"""Memory of a training step on one device that holds the whole model.

The memory of the state is exact. The memory of the activations is an estimate, derived from what
the backward pass reads of the forward pass and checked against XLA's memory analysis of compiled
programs: it is within a factor of 1.5 (tests/accounting/test_memory.py) for layers that are
unrolled, or scanned and rematerialised. Layers that are scanned without rematerialisation keep up
to twice as much, because XLA cannot choose what to recompute. XLA's CPU backend undoes the
rematerialisation of unrolled layers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from scaling.accounting.params import count_parameters
from scaling.accounting.shapes import (
    VOCABULARY_HEADS,
    StackShape,
    attention_width,
    kv_width,
    stacks,
)
from scaling.accounting.trained import trained_parameters
from scaling.config import EVERYTHING, AdamW, ModelConfig, ParamSelection
from scaling.config.kernels import (
    ATTENTION_TRAITS,
    CROSS_ENTROPY_TRAITS,
    AttentionName,
    AttentionTraits,
    CrossEntropyName,
)

FLOAT32_BYTES = 4
"""Bytes of a value of the state, which is float32 whatever the precision."""

_NARROW = {"float32": 0, "bfloat16": 2}
"""Bytes per value of the second copy of an operand that is cast to a narrower type."""

_HIDDEN_COPIES = {"relu": 2, "squared_relu": 2, "gelu": 3, "gelu_exact": 3, "swiglu": 5, "geglu": 5}
"""Number of arrays of the hidden feed-forward width that the backward pass reads: the input and
output of the activation, its derivative unless that is a comparison, and with a gate the other
factor and the product."""


class _Block(NamedTuple):
    """Numbers of values that the backward pass of a block reads for one sequence."""

    kept: int
    """All values."""
    narrow: int
    """Values that are also stored in the narrower type."""
    products: int
    """Outputs of products with weights, except the last, which is not read."""


def training_memory(
    model: ModelConfig,
    *,
    sequences: int,
    precision: Literal["float32", "bfloat16"] = "float32",
    remat: Literal["none", "full", "dots"] = "none",
    microbatch: int | None = None,
    moments: int = AdamW.moments,
    attention: AttentionName = "plain",
    cross_entropy: CrossEntropyName = "plain",
    trainable: tuple[ParamSelection, ...] = EVERYTHING,
) -> dict[str, int]:
    """Bytes of a training step, by part: `parameters`, `gradients` and `moments` (the state of the
    optimizer), all in float32, and `activations`.

    Gradients and moments are those of the trained parameters. Activations are counted as if all
    were trained, which is an upper bound.

    Args:
        model: a model with a known vocabulary size; dropout is not counted.
        sequences: number of full sequences in a batch.
        precision: type of the operands of matrix products.
        remat: activations that are recomputed in the backward pass (ExecutionConfig.remat).
        microbatch: number of sequences in a microbatch; by default all. With several microbatches
            two sets of gradients are held, since gradients are accumulated.
        moments: arrays of optimizer state per parameter; by default those of AdamW.
        attention: attention kernel (ExecutionConfig.attention), which stores the weights of all
            pairs of positions, or recomputes those of a block of keys.
        cross_entropy: kernel of the loss (ExecutionConfig.cross_entropy), which stores all logits,
            or recomputes those of a chunk of predictions.
        trainable: the parameters that are trained (RunConfig.trainable).
    """
    state = FLOAT32_BYTES * count_parameters(model).total
    trained = FLOAT32_BYTES * trained_parameters(model, trainable)
    at_once = min(microbatch or sequences, sequences)
    return {
        "parameters": state,
        "gradients": trained * (2 if at_once < sequences else 1),
        "moments": moments * trained,
        "activations": at_once * (
            _activations(model, precision, remat, ATTENTION_TRAITS[attention])
            + _output_bytes(model, CROSS_ENTROPY_TRAITS[cross_entropy].chunk, at_once)),
    }


def _activations(
    model: ModelConfig, precision: str, remat: str, attention: AttentionTraits
) -> int:
    """Bytes of the activations of all blocks for one sequence when the backward pass of the last
    one begins."""
    kept, recomputed = 0, 0
    for stack in stacks(model):
        blocks = [_block(model, stack, attention, routed=False)] * stack.dense_layers
        blocks += [_block(model, stack, attention, routed=True)] * stack.expert_layers
        block_bytes = [FLOAT32_BYTES * block.kept + _NARROW[precision] * block.narrow
                       for block in blocks]
        if remat == "none":
            kept += sum(block_bytes)
        else:
            # Each block keeps its input; one block at a time recomputes everything else.
            saved = sum(block.products for block in blocks) if remat == "dots" else 0
            kept += FLOAT32_BYTES * (stack.layers * stack.tokens * model.d_model + saved)
            recomputed = max(recomputed, *block_bytes)
    if attention.block:
        recomputed += FLOAT32_BYTES * max(
            model.n_heads * stack.tokens * min(keys, attention.block)
            for stack in stacks(model) for keys in _attention_keys(stack))
    return kept + recomputed


def _attention_keys(stack: StackShape) -> list[int]:
    """Number of keys of each attention of a block."""
    return [stack.tokens, stack.source_tokens] if stack.source_tokens else [stack.tokens]


def _output_bytes(model: ModelConfig, chunk: int | None, sequences: int) -> int:
    """Bytes per sequence of the logits, of at most `chunk` predictions at a time, and of the
    gradients that enter the last block, in a microbatch of `sequences`."""
    T, D, decoder = model.context, model.d_model, stacks(model)[-1]
    values = 2 * T * D + _rows(model, decoder, routed=decoder.expert_layers > 0) * model.ff_width
    predictions = T if chunk is None else max(1, min(T, chunk // sequences))
    for head in model.outputs:
        if head.kind in VOCABULARY_HEADS:  # logits and their gradient
            values += 2 * predictions * model.vocabulary
    return FLOAT32_BYTES * values


def _rows(model: ModelConfig, stack: StackShape, *, routed: bool) -> int:
    """Number of rows that a feed-forward layer processes: tokens, or slots of experts."""
    if not routed or model.experts is None:
        return stack.tokens
    return model.experts.count * model.experts.slots(stack.tokens)


def _block(
    model: ModelConfig, stack: StackShape, attention: AttentionTraits, *, routed: bool
) -> _Block:
    D, A, F = model.d_model, attention_width(model), model.ff_width
    n, m = stack.tokens, stack.source_tokens
    # Each branch reads the residual stream and, with a norm, the normalised values before and after
    # the gains; a layer norm also reads the centred values.
    forms = 1 if model.norm_place == "none" else 3 if model.norm == "rms" else 4
    branches = 2 + (m > 0) - (model.parallel == "one_norm")
    # Queries, and attention outputs before and after division by the sum; keys and values, repeated
    # for each query head; and the attention weights.
    attentions = _attention_keys(stack)
    arrays = sum(3 * n * A + 2 * keys * A for keys in attentions)
    weights = model.n_heads * n * sum(attentions) if attention.block is None else 0
    if model.positions == "transformer_xl":
        arrays += 2 * n * A  # queries with each of the two biases
    hidden = _rows(model, stack, routed=routed) * F
    kept = branches * forms * n * D + arrays + weights + _HIDDEN_COPIES[model.activation] * hidden
    products = sum(n * (A + D) + 2 * keys * kv_width(model) for keys in attentions)
    if routed and model.experts is not None:
        # Inputs of the slots, outputs of the slots, and outputs gathered by token.
        kept += 2 * _rows(model, stack, routed=True) * D + model.experts.top_k * n * D
    else:
        products += (1 + model.gated) * hidden
    return _Block(kept, weights + hidden, products)
