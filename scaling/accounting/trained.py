"""Parameters by part, role and layer, as the filter of trained parameters names them, and the
training FLOPs of a model of which only some parameters are trained. Both come from the
configuration; no array is created.

Training a part of a model takes

- the forward pass of the whole model;
- the gradients of the activations above the lowest trained parameter: they flow through frozen
  layers too, but nothing below needs them;
- the gradients of the trained matrices.

Of a product of activations and weights, each of these is as large as its forward pass; of the
products of attention, which have no weights, the gradient of both operands is twice that. If all
parameters are trained the sum is three times the forward pass, as in flops.py. The lowest block
with trained parameters is counted in full, so the gradient of its input is too, which is an upper
bound. Matrices of heads and projections of embeddings are counted one by one.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from scaling.accounting.flops import (
    FORWARD_AND_BACKWARD,
    forward_flops_per_sequence,
    head_flops,
    stack_flops,
)
from scaling.accounting.shapes import (
    VOCABULARY_HEADS,
    MatrixShape,
    StackShape,
    attention_width,
    feed_forward_weights,
    head_matrices,
    head_norms,
    key_value_weights,
    kv_width,
    query_output_weights,
    stacks,
)
from scaling.config import EVERYTHING, ModelConfig, ParamSelection, is_trained
from scaling.config.parts import Head, SpanBoundary
from scaling.config.trainable import Part, Role

Roles = Counter[Role]
"""Number of parameters of each role."""


class ParamGroup(NamedTuple):
    """Parameters of one part, role and layer."""

    part: Part
    role: Role
    layer: int | None
    """The layer; None outside the layers, or if all layers share them."""
    size: int
    """Number of parameters."""


@functools.lru_cache(maxsize=1024)  # a sweep has few models and thousands of calls
def param_groups(model: ModelConfig) -> tuple[ParamGroup, ...]:
    """The parameters of a model with a known vocabulary size; their sizes add up to the total of
    `count_parameters`."""
    groups = [ParamGroup("embedding", "embedding", None, model.vocabulary * model.embedding_width)]
    for stack in stacks(model):
        groups += _of(stack.name, None, _outside_layers(model, stack))
        shared = {"none": (), "all": ("attention", "feed_forward")}.get(
            model.share_layers, (model.share_layers,))
        for layer in range(stack.layers):
            for branch, roles in _layer(model, stack, layer).items():
                if branch not in shared:
                    groups += _of(stack.name, layer, roles)
                elif layer == 0:
                    groups += _of(stack.name, None, roles)
    for head in model.outputs:
        groups += _of("head", None, _head(model, head))
    if model.has_pooler:
        D = model.d_model
        groups += _of("head", None, Counter({"hidden": D * D, "bias": model.use_bias * D}))
    return tuple(groups)


@functools.lru_cache(maxsize=1024)
def trained_parameters(model: ModelConfig, trainable: tuple[ParamSelection, ...]) -> int:
    """Number of parameters that are trained.

    Args:
        model: a model with a known vocabulary size.
        trainable: RunConfig.trainable.
    """
    return sum(group.size for group in param_groups(model)
               if is_trained(trainable, model, group.part, group.role, group.layer))


@functools.lru_cache(maxsize=1024)
def training_flops_per_sequence(
    model: ModelConfig, trainable: tuple[ParamSelection, ...], predictions: int | None = None
) -> int:
    """Training FLOPs of one full sequence (see above).

    Args:
        model: a model with a known vocabulary size.
        trainable: RunConfig.trainable.
        predictions: as in `forward_flops_per_sequence`.
    """
    total = sum(forward_flops_per_sequence(model, predictions).values())
    if trainable == EVERYTHING:
        return FORWARD_AND_BACKWARD * total
    trained = {(group.part, group.role, group.layer) for group in param_groups(model)
               if group.size and is_trained(
                   trainable, model, group.part, group.role, group.layer)}
    table = ("embedding", "embedding", None) in trained
    below = table
    for stage in _stages(model, predictions or model.context):
        roles = {role for part, role, layer in trained
                 if part == stage.part and layer in stage.layers
                 and (role in stage.weights or role not in ("hidden", "readout"))}
        total += sum(flops for role, flops in stage.weights.items() if role in roles)
        total += stage.tied if table else 0
        if below or (roles and stage.is_layer):
            total += sum(stage.weights.values()) + stage.tied + 2 * stage.products
        below = below or bool(roles)
    return total


class _Stage(NamedTuple):
    """FLOPs of a part of the forward pass."""

    part: Part
    layers: tuple[int | None, ...]
    """Layers whose parameters it uses; None for those outside the layers."""
    weights: dict[Role, int]
    """Of products with its matrices, by their role."""
    products: int = 0
    """Of the products of attention."""
    tied: int = 0
    """Of products with the embedding table."""
    is_layer: bool = False
    """Whether it is a whole layer, not a single matrix."""


def _stages(model: ModelConfig, predictions: int) -> Iterator[_Stage]:
    """The stages of a model from its input to its output; heads one after another."""
    for stack in stacks(model):
        one = stack_flops(model, stack._replace(layers=0, expert_layers=0))
        yield _Stage(stack.name, (None,), {"hidden": one.get("embedding_projection", 0)})
        for layer in range(stack.layers):
            routed = int(model.has_experts(layer))
            flops = stack_flops(model, stack._replace(layers=1, expert_layers=routed))
            flops.pop("embedding_projection", 0)
            products = sum(flops.pop(part) for part in [*flops] if part.endswith("_products"))
            router = flops.pop("router", 0)
            yield _Stage(stack.name, (layer, None) if model.share_layers != "none" else (layer,),
                         {"hidden": sum(flops.values()), "readout": router}, products,
                         is_layer=True)
    if model.has_pooler:
        yield _Stage("head", (None,), {"hidden": 2 * model.d_model**2})
    for head in model.outputs:
        whole = head_flops(model, head, predictions)
        over_vocabulary = head.kind in VOCABULARY_HEADS
        last = (2 * predictions * model.embedding_width * model.vocabulary if over_vocabulary
                else _last_flops(whole, head_matrices(model, head)))
        yield _Stage("head", (None,), {"hidden": whole - last})
        tied = over_vocabulary and model.tied_head
        yield _Stage("head", (None,), {} if tied else {"readout": last}, tied=last if tied else 0)


def _outside_layers(model: ModelConfig, stack: StackShape) -> Roles:
    """Parameters of a stack outside its layers."""
    D, P = model.d_model, model.embedding_width
    width = P if model.embedding_projection == "last" else D
    roles: Roles = Counter()
    if model.positions == "learned":
        roles["position"] += (stack.tokens + model.position_offset) * width
    if model.positions == "relative":
        roles["bias"] += model.relative_buckets * model.n_heads
    roles["embedding"] += model.n_token_types * width
    if P != D:
        roles += {"hidden": P * D, "bias": model.embedding_projection_bias * D}
    if model.embedding_norm:
        roles += _norm(model, width)
    if model.has_final_norm:
        roles += _norm(model, D)
    return roles


def _layer(model: ModelConfig, stack: StackShape, layer: int) -> dict[str, Roles]:
    """Parameters of a layer: those of its attention and of its feed-forward branch, with norms."""
    D, A, F = model.d_model, attention_width(model), model.ff_width
    norm = _norm(model, D) if model.norm_place != "none" else Counter()
    attention: Roles = Counter()
    for _ in range(2 if stack.source_tokens else 1):
        attention["hidden"] += query_output_weights(model) + key_value_weights(model)
        attention["bias"] += model.use_bias * (A + 2 * kv_width(model) + D)
        attention += norm
    if model.positions == "transformer_xl":
        attention += {"hidden": D * A, "bias": 2 * A}
    feed_forward: Roles = Counter()
    if model.experts is not None and model.has_experts(layer):
        count = model.experts.count
        feed_forward += {"readout": D * count, "hidden": count * feed_forward_weights(model),
                         "bias": count * model.use_bias * (F + D)}
    else:
        feed_forward += {"hidden": feed_forward_weights(model),
                         "bias": model.use_bias * ((1 + model.gated) * F + D)}
    if model.parallel != "one_norm":
        feed_forward += norm
    return {"attention": attention, "feed_forward": feed_forward}


def _head(model: ModelConfig, head: Head) -> Roles:
    """Parameters of a head, without the pooler."""
    roles: Roles = Counter()
    over_vocabulary = head.kind in VOCABULARY_HEADS
    matrices = head_matrices(model, head)
    biased = model.use_bias and model.pooling(head) != "last" and head.kind != "lm"
    for place, (n_in, n_out) in enumerate(matrices):
        last = place == len(matrices) - 1 and not over_vocabulary
        roles += {"readout" if last else "hidden": n_in * n_out, "bias": biased * n_out}
    for width in head_norms(model, head):
        roles += _norm(model, width)
    if isinstance(head, SpanBoundary):
        roles["position"] += head.max_span * head.d_position
    if over_vocabulary:
        roles["readout"] += 0 if model.tied_head else model.vocabulary * model.embedding_width
        roles["bias"] += model.vocabulary * (head.kind != "lm" or head.bias)
    return roles


def _last_flops(flops: int, matrices: list[MatrixShape]) -> int:
    """FLOPs of the last matrix of a head, of those of all."""
    sizes = [n_in * n_out for n_in, n_out in matrices]
    return flops * sizes[-1] // sum(sizes)


def _norm(model: ModelConfig, width: int) -> Roles:
    return Counter({"gain": width, "bias": width * (model.use_bias and model.norm == "layer")})


def _of(part: Part, layer: int | None, roles: Roles) -> list[ParamGroup]:
    return [ParamGroup(part, role, layer, count) for role, count in roles.items() if count]
